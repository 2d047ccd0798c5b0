"""Jobs started from a test, on n ranks under mpiexec or in one process: none is left behind, none waited for in vain.

Limits are in seconds of own time (`OwnTime`), so a loaded machine makes no job late.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the jobs of tests/faults import this module, and need no pytest
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
# The variable that marks the processes of a job; a job started inside another one has the marks of both.
MARK = "MPINEWTON_TEST_JOB"
POLL = 0.5  # seconds between two looks at the processes of a job
BACKSTOP = 10  # multiple of its limit, in wall time at one busy process per core, after which a job is late in any case


@dataclass(frozen=True)
class Finished:
    """How a job ended; `seconds` is its own time."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        ended = f"ended with {self.returncode} after {self.seconds:.1f} s"
        return f"{ended}\n--- stdout\n{self.stdout[-8000:]}\n--- stderr\n{self.stderr[-8000:]}"


class OwnTime:
    """Seconds that marked processes would have taken on an idle machine.

    While one of them runs or waits for a processor or a disk, the processor time of the busiest counts (ranks that hang
    in MPI spin, and use it too); while all of them sleep, wall time counts. It never runs faster than wall time.

    Parameters
    ----------
    mark : str
        What the environment of the processes contains, see `new_mark`.
    *pids : int
        Further processes, and those of the mark that run already.
    """

    def __init__(self, mark: str, *pids: int) -> None:
        self.mark, self.pids, self.seconds = mark, pids, 0.0
        self.start = self.then = time.monotonic()
        self.used, _ = self._look(set(pids))

    def read(self) -> float:
        """The own time so far. To be called every `POLL` seconds: each look stands for the time since the last one."""
        now, (used, awake) = time.monotonic(), self._look({*marked(self.mark), *self.pids})
        busiest = max((seconds - self.used.get(pid, 0.0) for pid, seconds in used.items()), default=0.0)
        self.seconds += min(busiest, now - self.then) if awake else now - self.then
        self.then, self.used = now, used
        return self.seconds

    def late(self, limit: float) -> bool:
        """Whether own time has passed the limit, or so much wall time that no load of the machine explains it."""
        load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        return self.read() > limit or self.then - self.start > BACKSTOP * load * limit

    def _look(self, pids: set[int]) -> tuple[dict[int, float], bool]:
        """Processor time of each process, and whether any of their threads, but for this one, runs or waits to run."""
        used, awake, this_thread = {}, False, str(threading.get_native_id())
        for pid in pids:
            with contextlib.suppress(OSError):  # it ended meanwhile
                used[pid] = sum(map(int, _stat(Path(f"/proc/{pid}/stat"))[11:13])) / os.sysconf("SC_CLK_TCK")
                others = (path for path in Path(f"/proc/{pid}/task").iterdir() if path.name != this_thread)
                awake = awake or any(_stat(path / "stat")[0] in "RD" for path in others)
        return used, awake


class Watchdog:
    """Calls `act` in a thread of its own once the own time of marked processes has passed the limit."""

    def __init__(self, limit: float, act: Callable[[], object], mark: str, *pids: int) -> None:
        self.clock, self.cancelled = OwnTime(mark, *pids), threading.Event()
        self.thread = threading.Thread(target=self._watch, args=(limit, act), daemon=True)
        self.thread.start()

    def cancel(self) -> None:
        self.cancelled.set()
        self.thread.join()

    def _watch(self, limit: float, act: Callable[[], object]) -> None:
        while not self.cancelled.wait(min(POLL, limit)):
            if self.clock.late(limit):
                act()
                return


class Job:
    """A command that runs beside the test; none of its processes outlives the block.

    Parameters
    ----------
    command : sequence of str or Path
    timeout : float
        Own time, in seconds, after which the job is late: then it is killed, and the test fails with all it printed.
    env : mapping, optional
        Variables added to the environment.
    cwd : Path, optional
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.command, self.timeout, self.cwd, self.mark = [str(word) for word in command], timeout, cwd, new_mark()
        own = {name: value for name, value in os.environ.items() if not name.startswith(OUTER_LAUNCHER)}
        self.env = {"HOME": tempfile.gettempdir(), **own, **JOB_ENVIRONMENT, **(env or {}), MARK: self.mark}

    def __enter__(self) -> Job:
        # Files, not pipes: a stray rank that outlives its launcher would keep a pipe open, and us waiting.
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err,
            start_new_session=True,
        )  # fmt: skip
        self.clock = OwnTime(self.mark)
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        self.out.close(), self.err.close()

    def wait(self) -> Finished:
        """Wait for its end. AssertionError where it is late."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL)
                self._end()
                return self._finished()
            self._check()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds. AssertionError where the job ends before, or is late."""
        while not condition():
            assert self.process.poll() is None, f"it ended too early: {self._finished()}"
            if time.monotonic() - self.clock.then > POLL:
                self._check()
            time.sleep(0.005)

    def _check(self) -> None:
        if self.clock.late(self.timeout):
            self._end()
            command = " ".join(self.command)
            raise AssertionError(f"killed, since it still ran after {self.timeout:g} s: {command}\n{self._finished()}")

    def _finished(self) -> Finished:
        self.out.seek(0), self.err.seek(0)
        stdout, stderr = (stream.read().decode(errors="replace") for stream in (self.out, self.err))
        return Finished(self.process.returncode, stdout, stderr, self.clock.seconds)

    def _end(self) -> None:
        """Leave no process alive: first the launcher, which cleans up after its ranks, then what is left."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
        while left := marked(self.mark):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()


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
        If the job still runs after `timeout` seconds of own time; it is killed, and the message has all it printed.
    """
    with Job([mpiexec(), "-n", str(n), *_python(program)], timeout, env, cwd) as job:
        return job.wait()


def launch_serial(
    program: str | Sequence[str | Path],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """As `launch`, in one process without mpiexec."""
    with Job(_python(program), timeout, env, cwd) as job:
        return job.wait()


def launch_wide(n: int, program: str | Sequence[str | Path], timeout: float = 60, cwd: Path | None = None) -> Finished:
    """As `launch`, every rank in a network namespace of its own, 2 ms from the others."""
    with Job([*WIDE, "-n", str(n), "-d", "2", *_python(program)], timeout, {"MPIEXEC": mpiexec()}, cwd) as job:
        return job.wait()


def launch_tests(n: int, folder: Path, timeout: float, env: Mapping[str, str] | None = None) -> Finished:
    """Run the MPI tests in `folder` on n ranks, by mpi4py's runner: a rank that leaves pytest early ends the job."""
    options = ["-x", "--only-mpi", "--color=no", "-p", "no:cacheprovider", "--timeout=0"]
    runner = ["-m", "mpi4py.run", "-m", "pytest", "-c", Path(__file__).parents[2] / "setup.cfg"]
    plugins = ["-p", "pytest_mpi", "-p", "pytest_timeout"]  # a quarter of the time of a short job is spent on others
    env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **(env or {})}
    return launch(n, [*runner, *plugins, *options, folder], timeout, env)


def under_mpi(config: pytest.Config) -> bool:
    """Whether this pytest is one of the ranks that `launch_tests` starts."""
    return bool(config.getoption("only_mpi") or config.getoption("with_mpi"))


def _python(program: str | Sequence[str | Path]) -> list[str]:
    return [sys.executable, *(["-c", program] if isinstance(program, str) else map(str, program))]


def rows_of(run_folder: Path) -> int:
    """Rows that a run has recorded, its heading included; 0 before there is a record."""
    history = run_folder / "history.csv"
    return len(history.read_text().splitlines()) if history.exists() else 0


def new_mark() -> str:
    """A value of `MARK` for processes to be started: it contains the marks of this process."""
    return f"{os.environ.get(MARK, '')}/{uuid.uuid4().hex}"


def marked(mark: str) -> list[int]:
    """Processes that inherited the mark; a group or a session would not do, as MPICH gives every rank its own."""
    pids = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours
            if mark.encode() in environ.read_bytes():
                pids.append(int(environ.parent.name))
    return pids


def _stat(path: Path) -> list[str]:
    """The fields of a stat file of /proc from the state on; man proc_pid_stat counts from 3 there."""
    return path.read_text().rpartition(")")[2].split()
