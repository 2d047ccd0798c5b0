"""Whatever goes wrong in a job, it ends soon, with the right exit code, says why once, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from launch import Finished, Job, launch_serial, mpiexec, rows_of

import mpinewton
from mpinewton.data.pack import pack

pytestmark = pytest.mark.slow

LIMIT = 15.0  # seconds of own time a job may take to start, fail and end
ABORTED = "application called MPI_Abort", "MPI_ABORT was invoked"
TRACEBACK = "Traceback (most recent call last)"
OPEN_MPI = "Open MPI" in subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=False).stdout

# A method as a user may write one, and the faults that can be planted in it.
METHOD = """
import os
from dataclasses import dataclass, replace
from mpinewton.methods import State, Method

def divide(): return 1 // 0
def drop(): os._exit(5)
def nothing(): pass

@dataclass(frozen=True)
class Planted(Method):
    fault: str
    worker: int
    name = "planted"

    def start(self, fleet, w):
        return State(w, *fleet.mean(self.evaluate, w))

    def step(self, fleet, now):
        return replace(now, loss=fleet.mean(self.work, float(fleet.iteration)))

    def evaluate(self, worker, w):
        worker.move_to(w)
        return worker.value(), worker.gradient()

    def work(self, worker, iteration):
        if iteration == 3 and worker.index == self.worker:
            globals()[self.fault]()
        return worker.value()
"""
HEAD = """
import sys
import mpinewton
from mpinewton.fleet import host
from mpinewton.fleet.transport import driver, mpi
from planted import Planted
data, fault, worker = sys.argv[1], sys.argv[2], int(sys.argv[3])
"""
TAIL = """
mpinewton.minimize(Planted(fault, worker), data, loss="squared", l2=0.1, tol=0.0, max_iterations=10, callback=callback)
"""
# Starts the job, and looks for processes of it that outlive it, before `launch` clears them away.
WATCH = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(Path(__file__).parents[1] / "support")!r})
import launch
code = subprocess.call(sys.argv[1:])
mark = os.environ[launch.MARK]
clock = launch.OwnTime(mark)
while (left := set(launch.marked(mark)) - {{os.getpid()}}) and not clock.late(2):
    time.sleep(0.05)
print("left behind:", len(left))
sys.exit(code if code >= 0 else 128 - code)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four workers; so ill-conditioned that gradient descent goes on for ever."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(2)
    X = rng.standard_normal((40, 8)) * 10.0 ** np.linspace(0, -4, 8)
    np.savez(folder / "rows.npz", X=X, y=rng.standard_normal(40))
    pack(str(folder / "rows.npz"), folder / "p", 4)
    return folder / "p"


def run(*command: str | Path, env: dict[str, str] | None = None) -> Finished:
    """Run a command to its end; within the limit, or it is killed and the test fails."""
    return launch_serial(["-c", WATCH, *command], timeout=LIMIT, env=env)


def run_ranks(*program: str | Path) -> Finished:
    """The same Python on a driver and two ranks, each of which hosts two of the four workers."""
    return run(mpiexec(), "-n", "3", sys.executable, *program)


def run_planted(folder: Path, shards: Path, fault: str, worker: int, code: str = "callback = None") -> Finished:
    (folder / "planted.py").write_text(METHOD)
    (folder / "main.py").write_text(HEAD + code + TAIL)
    return run_ranks(folder / "main.py", shards, fault, str(worker))


def tracebacks(finished: Finished) -> int:
    return (finished.stdout + finished.stderr).count(TRACEBACK)


def assert_ended(finished: Finished, code: int, said: Sequence[str], count: int) -> None:
    """The exit code, each of the sentences once, so many tracebacks, and no process left."""
    assert finished.returncode == code, str(finished)
    for sentence in said:
        assert finished.stderr.count(sentence) == 1, f"{sentence!r} once\n{finished}"
    assert tracebacks(finished) == count, str(finished)
    assert "left behind: 0" in finished.stdout, str(finished)


def test_an_exception_in_a_task(tmp_path: Path, shards: Path) -> None:
    """After a run without one. Of any worker, and that the fleet stays usable: tests/mpi/test_fleet_mpi.py."""
    code = """
callback = None
mpinewton.minimize(Planted("nothing", 0), data, loss="squared", l2=0.1, tol=0.0, max_iterations=10)
print("the planted method does no harm by itself")
"""
    finished = run_planted(tmp_path, shards, "divide", 3, code)
    said = ["WorkerError: worker 3 (rank 2) failed in work:", "ZeroDivisionError: "]
    assert_ended(finished, 1, said, 2)  # the driver's, and in its message that of the worker
    assert "no harm" in finished.stdout, str(finished)
    assert not [text for text in ABORTED if text in finished.stderr]  # in good order


def test_a_rank_that_dies_in_a_task(tmp_path: Path, shards: Path) -> None:
    finished = run_planted(tmp_path, shards, "drop", 1)
    assert_ended(finished, finished.returncode or -1, [], 0)


def test_an_exception_on_a_rank_outside_the_tasks(tmp_path: Path, shards: Path) -> None:
    code = """
callback, original = None, host.Host.sum
def broken(self, call, arrays):
    if call.iteration == 3 and self.workers[0].index == 2:
        raise KeyError("planted")
    return original(self, call, arrays)
host.Host.sum = broken
"""
    finished = run_planted(tmp_path, shards, "nothing", 0, code)
    assert_ended(finished, 1, ["mpinewton: rank 2 on ", "failed serving the driver", "KeyError: 'planted'"], 1)


def test_a_package_that_one_host_lacks(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '1':\n"
        "    sys.modules['h5py'] = None\n"
    )
    command = [mpiexec(), "-n", "3", sys.executable, *endless(shards, tmp_path / "run")]
    finished = run(*command, env={"PYTHONPATH": str(tmp_path)})
    assert_ended(finished, 1, ["mpinewton: rank 1 on ", "failed loading mpinewton", "import of h5py halted"], 1)


def test_an_exception_of_the_callback(tmp_path: Path, shards: Path) -> None:
    code = """
def callback(row, w):
    if row.iteration == 3:
        raise KeyError("planted")
"""
    finished = run_planted(tmp_path, shards, "nothing", 0, code)
    assert_ended(finished, 1, ["KeyError: 'planted'"], 1)
    assert not [text for text in ABORTED if text in finished.stderr]


def test_an_exception_on_the_driver_in_the_middle_of_a_call(tmp_path: Path, shards: Path) -> None:
    code = """
rounds, original = [], mpi.Link.sum
def callback(row, w):
    rounds.append(row)
def broken(self, *arguments):
    if len(rounds) == 3:  # on the driver alone: the others are in the reduction
        raise KeyError("planted")
    return original(self, *arguments)
mpi.Link.sum = broken
"""
    finished = run_planted(tmp_path, shards, "nothing", 0, code)
    assert_ended(finished, 1, ["mpinewton: rank 0 on ", "failed driving the run", "KeyError: 'planted'"], 1)


# -- the command ----------------------------------------------------------------------------------------------------


def endless(shards: Path, folder: Path) -> list[str | Path]:
    options = ["--tol", "1e-300", "--max-iterations", "100000000", "--l2", "0"]
    return ["-m", "mpinewton", "run", "gradient-descent", shards, "-o", folder, *options]


def test_a_damaged_shard(tmp_path: Path, shards: Path) -> None:
    """Of any rank: tests/mpi/test_fleet_mpi.py."""
    for path in shards.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == "shard-0003.h5":
            content[len(content) // 2] ^= 1
        (tmp_path / path.name).write_bytes(content)
    finished = run(sys.executable, *endless(tmp_path, tmp_path / "run"), "--nproc", "2")
    assert_ended(finished, 2, ["mpinewton: ", "shard-0003.h5"], 0)


def with_own(folder: Path) -> dict[str, str]:
    """Variables by which Python finds a sitecustomize in this folder, and that finds this package."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(mpinewton.__file__).parents[1])])}


def killed(
    run_folder: Path, rank: int, *command: str | Path, by: int = signal.SIGKILL, env: dict[str, str] | None = None
) -> Finished:
    """How a command ends one of whose ranks gets a signal once its run is under way; -1 is the process it starts."""
    with Job([sys.executable, "-c", WATCH, *command], timeout=LIMIT, env=env) as job:
        job.until(lambda: rows_of(run_folder) > 5)
        os.kill(pid_of(run_folder, rank), by)
        return job.wait()


def pid_of(run_folder: Path, rank: int) -> int:
    """The process of a rank; of the command with --nproc that started it, for -1."""
    pid: int = json.loads((run_folder / "env.json").read_text())["ranks"][max(rank, 0)]["pid"]
    while rank < 0 and b"--nproc" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


def test_a_rank_killed_under_mpiexec(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "run"
    finished = killed(folder, 2, mpiexec(), "-n", "3", sys.executable, *endless(shards, folder))
    assert_ended(finished, finished.returncode or -1, [], 0)


def test_the_driver_killed_under_nproc(tmp_path: Path, shards: Path) -> None:
    """Another rank: `test_a_job_that_lost_a_rank_is_restarted_to_the_same_bits`."""
    folder = tmp_path / "run"
    finished = killed(folder, 0, sys.executable, *endless(shards, folder), "--nproc", "2")
    assert_ended(finished, 1, ["mpinewton: the job died: the launcher ended with ", "the same command resumes"], 0)


def test_a_rank_that_leaves_without_a_word_is_no_success(tmp_path: Path, shards: Path) -> None:
    """MPICH's launcher ends with 0 then; the driver's own word is what counts."""
    folder = tmp_path / "run"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, threading, time\n"
        "def leave():\n"
        f"    while not os.path.exists({str(folder / 'history.csv')!r}): time.sleep(0.05)\n"
        "    os._exit(0)\n"
        "if os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '1':\n"
        "    threading.Thread(target=leave, daemon=True).start()\n"
    )
    command = [sys.executable, *endless(shards, folder), "--nproc", "2"]
    finished = run(*command, env={"PYTHONPATH": str(tmp_path)})
    assert_ended(finished, 1, ["mpinewton: the job died", "the same command resumes"], 0)


NO_MPI4PY, NO_BITS = "sys.modules['mpi4py'] = None", "sys.modules['mpinewton.bits'] = Broken()"


@pytest.mark.parametrize(("rank", "end"), [(1, NO_MPI4PY), (0, NO_BITS), (1, NO_BITS)])
def test_a_rank_that_ends_before_mpi_is_up_ends_the_others(tmp_path: Path, shards: Path, rank: int, end: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Broken:\n"
        "    def __getattr__(self, name): raise MemoryError('planted')\n"
        f"if os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '{rank}':\n"
        f"    {end}\n"
    )
    command = [mpiexec(), "-n", "3", sys.executable, *endless(shards, tmp_path / "run")]
    finished = run(*command, env={"PYTHONPATH": str(tmp_path)})
    if end == NO_MPI4PY:
        said, tracebacks = f"mpinewton: rank {rank} on ", 0
    else:  # the driver's own error is told by the command line, without a traceback
        said, tracebacks = ("mpinewton: out of memory (planted)", 0) if rank == 0 else ("MemoryError: planted", 1)
    assert_ended(finished, finished.returncode or -1, [said], tracebacks)


def test_a_rank_that_never_starts_mpi_is_waited_for_in_vain_but_not_for_ever(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from mpinewton import launcher\n"
        "launcher.PATIENCE, launcher.START_TIMEOUT = 0.5, 1.0\n"
        "if os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')) == '1': os._exit(0)\n"
    )
    command = [sys.executable, *endless(shards, tmp_path / "run"), "--nproc", "2"]
    finished = run(*command, env=with_own(tmp_path))
    assert_ended(finished, 1, ["the job died"], 0)


def test_an_exception_while_the_driver_ends_the_others(tmp_path: Path, shards: Path) -> None:
    code = """
callback = None
def broken(self, code):
    raise MemoryError("planted")
driver.MpiSession.stop = broken
"""
    finished = run_planted(tmp_path, shards, "nothing", 0, code)
    assert_ended(finished, 1, ["failed driving the run", "MemoryError: planted"], 1)


def test_a_rank_that_does_not_answer_is_named_and_ends_the_job_after_its_time(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, *endless(shards, folder), "--nproc", "2", "--rank-timeout", "5"]
    finished = killed(folder, 2, *command, by=signal.SIGSTOP)
    assert_ended(finished, 1, ["mpinewton: rank 2 on ", "(workers 2 to 3) has not answered for 5 s (--rank-timeout"], 0)


@pytest.mark.parametrize("reason", ["signal", "time limit"])
def test_signals_and_time_limits_are_heard_while_a_rank_does_not_answer(
    tmp_path: Path, shards: Path, reason: str
) -> None:
    folder = tmp_path / "run"
    (tmp_path / "sitecustomize.py").write_text("from mpinewton.fleet.transport import watch\nwatch.GRACE = 1.0\n")
    limit = ["--max-hours", str(8 / 3600)] if reason == "time limit" else []
    command = [sys.executable, "-c", WATCH, sys.executable, *endless(shards, folder), "--nproc", "2", *limit]
    with Job(command, timeout=LIMIT, env=with_own(tmp_path)) as job:
        job.until(lambda: rows_of(folder) > 5)
        os.kill(pid_of(folder, 1), signal.SIGSTOP)
        if reason == "signal":
            os.kill(pid_of(folder, -1), signal.SIGTERM)
        finished = job.wait()
    assert_ended(finished, 3, ["(workers 0 to 1) has not answered for ", "run the same command again to continue"], 0)
    assert " s for rank 1 on " in finished.stdout, str(finished)


def test_no_rank_outlives_the_command_that_started_it(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "run"
    finished = killed(folder, -1, sys.executable, *endless(shards, folder), "--nproc", "2")
    assert_ended(finished, 128 + signal.SIGKILL, [], 0)


def test_a_job_that_lost_a_rank_is_restarted_to_the_same_bits(tmp_path: Path, shards: Path) -> None:
    once, twice = endless(shards, tmp_path / "once"), endless(shards, tmp_path / "twice")
    for command in (once, twice):
        command[command.index("100000000")] = "150"
    twice += ["--nproc", "2", "--checkpoint-seconds", "0", "--on-failure", "restart-fewer"]
    finished = killed(tmp_path / "twice", 2, sys.executable, *twice)
    assert_ended(finished, 0, ["the job died", "starting again, on 2 ranks; restarts left: 2"], 0)
    assert launch_serial(once, LIMIT).returncode == 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("once", "twice")]
    assert [result["ranks"] for result in results] == [1, 2]
    assert results[0]["history_sha256"] == results[1]["history_sha256"]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_a_signal_during_the_start_ends_the_run_with_a_checkpoint(tmp_path: Path, shards: Path, name: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from mpinewton import __main__, signals\n"
        "signals.record_signals()\n"
        f"os.kill(os.getpid(), signal.{name})\n"
        "__main__.main()\n"
    )
    finished = launch_serial(["-c", code, *endless(shards, tmp_path / "run")[2:]], LIMIT)
    assert finished.returncode == 3 and f"signal {name}" in finished.stdout, str(finished)
    assert list((tmp_path / "run").glob("checkpoint-*"))


def test_signals_are_recorded_before_anything_else_is_imported() -> None:
    code = """
import signal, sys
class First:
    def find_spec(self, name, path, target=None):
        if name.startswith("mpinewton.") and name not in ("mpinewton.__main__", "mpinewton.signals"):
            sys.exit(str(signal.getsignal(signal.SIGTERM)))
sys.meta_path.insert(0, First())
from mpinewton.__main__ import main
main()
"""
    assert "<mpinewton.signals.Signals object" in launch_serial(code, LIMIT).stderr


@pytest.mark.parametrize("size", ["PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_do_not_see_one_another_are_refused(tmp_path: Path, shards: Path, size: str) -> None:
    command = endless(shards, tmp_path / "run")
    first = launch_serial(command, LIMIT, {size: "4", "SLURM_PROCID": "0"})
    assert first.returncode == 2, str(first)
    assert "the launcher started 4 processes, but MPI sees 1" in first.stderr, str(first)
    assert "Use the mpiexec beside this Python" in first.stderr and TRACEBACK not in first.stderr
    assert not (tmp_path / "run").exists()
    if size == "PMI_SIZE":
        second = launch_serial(command, LIMIT, {size: "4", "SLURM_PROCID": "1"})
        assert second.returncode == 2, str(second)
        assert "rank 1 of 4 processes does not see the others (see rank 0)" in second.stderr, str(second)


# -- ranks that outlive others ----------------------------------------------------------------------------------------


def surviving(shards: Path, folder: Path) -> list[str | Path]:
    """A run of 300 iterations on a driver and three ranks, which continues when ranks die."""
    command = [sys.executable, *endless(shards, folder), "--nproc", "3", "--checkpoint-seconds", "0"]
    command[command.index("100000000")] = "300"
    return [*command, "--on-failure", "continue"]


@pytest.mark.skipif(not OPEN_MPI, reason="only Open MPI has ULFM")
@pytest.mark.parametrize("dead", [[2], [1, 3]])
def test_a_run_continues_without_ranks_that_died_to_the_same_bits(
    tmp_path: Path, shards: Path, dead: list[int]
) -> None:
    folder = tmp_path / "run"
    with Job([sys.executable, "-c", WATCH, *surviving(shards, folder)], timeout=2 * LIMIT) as job:
        job.until(lambda: rows_of(folder) > 5)
        for rank in dead:
            os.kill(pid_of(folder, rank), signal.SIGKILL)
        finished = job.wait()
    assert_ended(finished, 0, [], 0)
    assert f"the run continues on the {4 - len(dead)} ranks left" in finished.stdout, str(finished)
    alone = endless(shards, tmp_path / "alone")
    alone[alone.index("100000000")] = "300"
    assert launch_serial(alone, LIMIT).returncode == 0
    results = [json.loads((path / "result.json").read_text()) for path in (folder, tmp_path / "alone")]
    assert results[0]["ranks"] == 4 - len(dead)
    assert results[0]["history_sha256"] == results[1]["history_sha256"]


@pytest.mark.skipif(not OPEN_MPI, reason="only Open MPI has ULFM")
def test_a_run_ends_when_the_driver_dies(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "run"
    finished = killed(folder, 0, *surviving(shards, folder))
    assert_ended(finished, 1, ["mpinewton: the driver died, which a run does not survive"], 0)


@pytest.mark.skipif(not OPEN_MPI, reason="only Open MPI has ULFM")
@pytest.mark.parametrize("code", [1, 3])
def test_the_driver_hears_while_the_ranks_left_come_together(tmp_path: Path, shards: Path, code: int) -> None:
    """A rank dies, and another stops on the way: --rank-timeout or a signal ends the job."""
    folder, more, stopped = tmp_path / "run", ["--rank-timeout", "15"] if code == 1 else [], tmp_path / "stopped"
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys, threading, time
from mpinewton.fleet.transport import watch
watch.GRACE = 1.0
def stop(link):
    open({str(stopped)!r}, "w").close()
    os.kill(os.getpid(), signal.SIGSTOP)
def plant():
    while not hasattr(sys.modules.get("mpinewton.fleet.transport.server"), "Server"):
        time.sleep(0.01)
    sys.modules["mpinewton.fleet.transport.mpi"].Link.shrink = stop
if os.environ.get("PMIX_RANK") == "1":
    threading.Thread(target=plant, daemon=True).start()
""")
    command = [sys.executable, "-c", WATCH, *surviving(shards, folder), *more]
    command[command.index("300")] = "100000000"
    with Job(command, timeout=2 * LIMIT, env=with_own(tmp_path)) as job:
        job.until(lambda: rows_of(folder) > 5)
        os.kill(pid_of(folder, 3), signal.SIGKILL)
        job.until(stopped.exists)
        if code == 3:
            os.kill(pid_of(folder, -1), signal.SIGTERM)
        finished = job.wait()
    assert_ended(finished, code, ["ranks 1 to 3 on ", " not answered for "], 0)


@pytest.mark.parametrize("more", [[], ["--nproc", "3"]])
def test_without_ulfm_to_continue_is_refused(tmp_path: Path, shards: Path, more: list[str]) -> None:
    if more and OPEN_MPI:
        pytest.skip("Open MPI has ULFM")
    command = [*endless(shards, tmp_path / "run"), "--on-failure", "continue", *more]
    finished = launch_serial(command, LIMIT)
    assert finished.returncode == 2 and "(ULFM)" in finished.stderr, str(finished)
    assert not (tmp_path / "run").exists()
