"""Jobs started from a test, on n ranks under mpiexec or in one process: never left behind, never waited for in vain."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# More ranks than cores, as root, on one machine: each library has its own way of allowing that and of not spinning.
JOB_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_threads_pthreads_yield_strategy": "nanosleep",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
WIDE = ["bash", str(Path(__file__).parents[2] / "scripts" / "wan.sh")]
# What an outer mpiexec or srun told its own children; a job that inherits it would try to join the outer one.
OUTER_LAUNCHER = ("PMI", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_", "SLURM_")


@dataclass(frozen=True)
class Finished:
    """How a job ended; `seconds` is wall time."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        ended = f"ended with {self.returncode} after {self.seconds:.1f} s"
        return f"{ended}\n--- stdout\n{self.stdout[-8000:]}\n--- stderr\n{self.stderr[-8000:]}"


def mpiexec() -> str:
    """The mpiexec of $MPIEXEC, else the one installed beside this Python, else the first on the PATH.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    beside = Path(sys.executable).with_name("mpiexec")
    found = os.environ.get("MPIEXEC") or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if not found:
        raise FileNotFoundError(f"no mpiexec: MPIEXEC is not set, {beside} does not exist, and the PATH has none")
    return found


def launch(
    n: int,
    program: str | Sequence[str | Path],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run Python on n ranks: `program` is code, or the arguments of the interpreter.

    Raises
    ------
    AssertionError
        If the job still runs after `timeout` seconds; it is killed, and the message has all it printed.
    """
    return _run([mpiexec(), "-n", str(n), *_python(program)], timeout, env, cwd)


def launch_serial(
    program: str | Sequence[str | Path],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """As `launch`, in one process without mpiexec."""
    return _run(_python(program), timeout, env, cwd)


def launch_wide(n: int, program: str | Sequence[str | Path], timeout: float = 60, cwd: Path | None = None) -> Finished:
    """As `launch`, every rank in a network namespace of its own, 2 ms from the others."""
    return _run([*WIDE, "-n", str(n), "-d", "2", *_python(program)], timeout, {"MPIEXEC": mpiexec()}, cwd)


def launch_tests(n: int, folder: Path, timeout: float, env: Mapping[str, str] | None = None) -> Finished:
    """Run the MPI tests in `folder` on n ranks, by mpi4py's runner: a rank that leaves pytest early ends the job."""
    options = ["-m", "mpi4py.run", "-m", "pytest", "-x", "--only-mpi", "--color=no", "-p", "no:cacheprovider"]
    return launch(n, [*options, "-c", Path(__file__).parents[2] / "setup.cfg", folder], timeout, env)


def under_mpi(config: pytest.Config) -> bool:
    """Whether this pytest is one of the ranks that `launch_tests` starts."""
    return bool(config.getoption("only_mpi") or config.getoption("with_mpi"))


def _python(program: str | Sequence[str | Path]) -> list[str]:
    return [sys.executable, *(["-c", program] if isinstance(program, str) else map(str, program))]


def _run(command: list[str], timeout: float, env: Mapping[str, str] | None, cwd: Path | None) -> Finished:
    mark = uuid.uuid4().hex
    own = {name: value for name, value in os.environ.items() if not name.startswith(OUTER_LAUNCHER)}
    own = {"HOME": tempfile.gettempdir(), **own, **JOB_ENVIRONMENT, **(env or {}), "MPINEWTON_TEST_JOB": mark}
    start = time.monotonic()
    # Files, not pipes: a stray rank that outlives its launcher would keep a pipe open, and us waiting.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        job = subprocess.Popen(
            command, env=own, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        late = False
        try:
            job.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(job, mark)
        out.seek(0), err.seek(0)
        stdout, stderr = (stream.read().decode(errors="replace") for stream in (out, err))
    finished = Finished(job.returncode, stdout, stderr, time.monotonic() - start)
    assert not late, f"killed, since it still ran after {timeout:g} s: {' '.join(command)}\n{finished}"
    return finished


def _end(job: subprocess.Popen[bytes], mark: str) -> None:
    """Leave no process of the job alive: first the launcher, which cleans up after its ranks, then what is left."""
    if job.poll() is None:
        job.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(2)
    while left := _marked(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    job.wait()


def _marked(mark: str) -> list[int]:
    """Processes that inherited the mark; a group or a session would not do, as MPICH gives every rank its own."""
    pids = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
            if mark.encode() in environ.read_bytes():
                pids.append(int(environ.parent.name))
    return pids
