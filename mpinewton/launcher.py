"""How this process was started, and how to start many. No MPI here: it decides whether MPI is needed at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpinewton.errors import ConfigError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
LOCAL_VARIABLES = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


# Whether the user has said how many threads the linear algebra may use; before this package says it.
chosen_by_user = any(name in os.environ for name in THREAD_VARIABLES)


def one_thread_per_rank() -> None:
    """Let the linear algebra use one thread, unless the user or SLURM said otherwise. Before numpy is imported.

    Spinning threads of many ranks on shared cores cost a factor of 4 to 66, and sums depend on their number.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads_per_rank()))


def threads_per_rank() -> int:
    """Threads for the linear algebra of this process: OMP_NUM_THREADS, else SLURM's cores a task, else 1."""
    said = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK") or "1"
    return int(said) if said.isdigit() else 1


def promised_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher says it started; 0 where no launcher is known."""
    sizes = [int(environment[name]) for name in SIZE_VARIABLES if environment.get(name, "").isdigit()]
    return max(sizes, default=0)


def number_on_host(environment: Mapping[str, str] = os.environ) -> int:
    """Which of the job's processes on this host this one is, from 0 on; 0 where no launcher says."""
    return next((int(environment[name]) for name in LOCAL_VARIABLES if environment.get(name, "").isdigit()), 0)


def refuse_singletons(promised: int, ranks: int) -> None:
    """Stop where a launcher started several processes and each believes it is alone.

    Raises
    ------
    ConfigError
        With the usual remedies.
    """
    if promised > 1 and ranks == 1:
        raise ConfigError(
            f"the launcher started {promised} processes, but MPI sees 1: every one of them would do the whole job. "
            "The launcher belongs to another MPI library than the one Python uses. Use the mpiexec beside this Python "
            f"({beside_python('mpiexec') or 'none found'}), or under SLURM `srun --mpi=pmi2` (MPICH) "
            "or `srun --mpi=pmix` (Open MPI); `mpinewton doctor` shows what is in use"
        )


def beside_python(name: str) -> str | None:
    """Path of a program: the one installed beside this Python, or the first on the PATH."""
    here = Path(sys.executable).with_name(name)
    return str(here) if here.exists() else shutil.which(name)


def mpiexec() -> str:
    """Path of the launcher: $MPIEXEC, or the one that belongs to this Python.

    Raises
    ------
    ConfigError
        If there is none.
    """
    found = os.environ.get("MPIEXEC") or beside_python("mpiexec")
    if not found:
        raise ConfigError(
            "no mpiexec found: install one with `pip install mpinewton[mpich]`, or set MPIEXEC to the site's"
        )
    return found


def launcher_environment(processes: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What mpiexec and its ranks need on one machine: every setting only where the user has not chosen one."""
    settings = dict.fromkeys(THREAD_VARIABLES, "1")
    if processes > len(os.sched_getaffinity(0)):
        # More ranks than cores: whoever waits must sleep, or it takes the core from who works.
        settings |= {
            "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1",
            "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return settings | dict(environment)


# Names the file in which the driver leaves its exit code. A launcher's own code says less: one of a rank that was
# killed, or left without a word, is 0 with some.
END_VARIABLE = "MPINEWTON_END"


def tell_launcher(code: int) -> None:
    """Leave the exit code where `start` looks for it, if it was `start` that started this job."""
    if END_VARIABLE in os.environ:
        with contextlib.suppress(OSError):  # a full disk must not keep the other ranks from being told
            Path(os.environ[END_VARIABLE]).write_text(str(code))


def start(processes: int, arguments: Sequence[str]) -> int:
    """Run `mpinewton` with these arguments on so many ranks of this machine; returns its exit code.

    SIGTERM, SIGINT and SIGUSR1 are passed on as SIGUSR1, the one signal both MPICH's and Open MPI's launcher deliver.
    """
    command = [mpiexec(), "-n", str(processes), sys.executable, "-m", "mpinewton", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder) / "code"
        # What this process has set for itself, of SLURM's cores a task, is not for each of many.
        own = () if chosen_by_user else THREAD_VARIABLES
        inherited = {name: value for name, value in os.environ.items() if name not in own}
        environment = launcher_environment(processes, inherited) | {END_VARIABLE: str(end)}
        child = subprocess.Popen(command, env=environment, process_group=0)  # noqa: S603

        def forward(number: int, frame: object) -> None:
            child.send_signal(signal.SIGUSR1)

        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, forward)
        code = child.wait()
        said = end.read_text() if end.exists() else ""
    if said.isdigit():
        return int(said)
    sys.stderr.write(
        f"mpinewton: the job died: the launcher ended with {code}, as when a rank is killed (out of memory, for one). "
        "Its output is above. If there is a checkpoint, the same command resumes from it.\n"
    )
    return 1
