"""The harness that guards the other tests, against planted faults: each must end soon, fail, and be named."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from launch import Finished, Job, OwnTime, launch, launch_serial, launch_tests

TESTS = Path(__file__).parents[1]
HEAD = """
import os, signal, time
import numpy as np
import pytest
from mpi4py import MPI
world = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi
"""


def run_planted(folder: Path, code: str, limit: float = 2) -> Finished:
    """The planted tests on 2 ranks; within 60 s of own time, or `launch` fails."""
    shutil.copy(TESTS / "mpi" / "conftest.py", folder)
    (folder / "test_planted.py").write_text(HEAD + code)
    return launch_tests(2, folder, timeout=60, env={"MPI_TEST_TIMEOUT": str(limit)})


@pytest.mark.slow
def test_a_deadlock_of_all_ranks_is_reported_with_the_name_of_the_test(tmp_path: Path) -> None:
    finished = run_planted(tmp_path, "def test_stuck(): world.Recv(np.empty(1), (world.rank + 1) % world.size)")
    assert finished.returncode != 0
    assert "in test_stuck" in finished.stderr, str(finished)


@pytest.mark.slow
def test_a_rank_that_never_comes_is_reported_with_the_name_of_the_test(tmp_path: Path) -> None:
    code = "def test_stuck():\n    if world.rank == 1: time.sleep(1000)"
    finished = run_planted(tmp_path, code)
    assert finished.returncode != 0
    assert "in test_stuck" in finished.stderr, str(finished)


@pytest.mark.slow
def test_a_failure_on_one_rank_is_shown_although_the_others_wait_for_it(tmp_path: Path) -> None:
    code = "def test_fails():\n    assert world.rank != 1, 'planted'\n    world.Barrier()"
    finished = run_planted(tmp_path, code, limit=300)  # not the limit ends it
    assert finished.returncode != 0 and finished.seconds < 30
    assert "[rank 1]" in finished.stderr and "AssertionError: planted" in finished.stderr, str(finished)


@pytest.mark.slow
def test_a_failure_on_one_rank_stops_all_before_the_next_test(tmp_path: Path) -> None:
    code = f"""
def test_fails():
    assert world.rank != 1, 'planted'

def test_next():
    open(os.path.join({str(tmp_path)!r}, f"ran-on-{{world.rank}}"), "w").close()
"""
    finished = run_planted(tmp_path, code, limit=300)
    assert finished.returncode != 0 and finished.seconds < 30
    assert "AssertionError: planted" in finished.stderr, str(finished)
    assert not list(tmp_path.glob("ran-on-*"))


@pytest.mark.slow
def test_a_test_without_the_marker_is_refused_since_it_would_be_skipped(tmp_path: Path) -> None:
    finished = run_planted(tmp_path, "pytestmark = []\ndef test_unmarked(): pass")
    assert finished.returncode != 0
    assert "test_unmarked" in finished.stdout + finished.stderr, str(finished)


@pytest.mark.slow
def test_a_test_that_pytest_mpi_would_skip_for_the_name_of_its_parameter_is_refused(tmp_path: Path) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    code = "import pytest\n@pytest.mark.parametrize('sums', ['fixed', 'mpi'])\ndef test_sums(sums): pass"
    (tmp_path / "test_planted.py").write_text(code)
    finished = launch_serial(["-m", "pytest", "-c", TESTS.parent / "setup.cfg", tmp_path])
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_sums[mpi]" in finished.stderr and "test_sums[fixed]" not in finished.stderr, str(finished)


@pytest.mark.slow
def test_a_late_job_is_killed_to_the_last_process_and_shows_what_it_printed(tmp_path: Path) -> None:
    # Deaf to SIGTERM, and with a child in a session of its own: nothing but the mark leads to it.
    code = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
open(os.path.join({str(tmp_path)!r}, f"{{os.getpid()}} {{child.pid}}"), "w").close()
print("still here", flush=True)
time.sleep(1000)
"""
    with pytest.raises(AssertionError, match=r"(?s)still ran after 2 s.*still here"):
        launch(2, code, timeout=2)
    pids = [int(pid) for path in tmp_path.iterdir() for pid in path.name.split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if alive(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["pass", "time.sleep(1)"])
def test_a_job_that_hangs_is_late_whether_it_spins_or_sleeps(doing: str) -> None:
    with pytest.raises(AssertionError, match=r"still ran after 1\.5 s"):
        launch_serial(f"import time\nwhile True: {doing}", timeout=1.5)


@pytest.mark.slow
def test_a_job_that_waits_for_a_processor_is_not_late() -> None:
    """Five others on its core: 1 s of work takes 6 s, and is 1 s of own time."""
    core = f"import os, time; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    with contextlib.ExitStack() as jobs:
        for _ in range(5):
            jobs.enter_context(Job([sys.executable, "-c", f"{core}while True: pass"]))
        start = time.monotonic()
        finished = launch_serial(f"{core}while time.process_time() < 1: pass", timeout=2.5)
    assert finished.returncode == 0 and finished.seconds < 2.5, str(finished)
    assert time.monotonic() - start > 2.5, "it did not wait: the test says nothing"


@pytest.mark.slow
def test_own_time_is_that_of_the_busiest_process() -> None:
    """Two processes of a job, both busy; their processor times do not add up."""
    busy = "import time\nwhile time.process_time() < 1: pass\n"
    code = f"import subprocess, sys\nother = subprocess.Popen([sys.executable, '-c', {busy!r}])\n{busy}other.wait()"
    assert launch_serial(code, timeout=1.8).seconds < 1.8


@pytest.mark.slow
def test_own_time_goes_on_in_a_process_that_is_stopped() -> None:
    with Job([sys.executable, "-c", "while True: pass"]) as job:
        job.process.send_signal(signal.SIGSTOP)
        clock = OwnTime("no such mark", job.process.pid)
        before = clock.read()
        time.sleep(0.2)
        assert clock.read() - before >= 0.2


def test_waiting_for_what_a_job_does_ends_with_the_job(tmp_path: Path) -> None:
    with Job([sys.executable, "-c", "print('over')"]) as job, pytest.raises(AssertionError, match=r"(?s)early.*over"):
        job.until((tmp_path / "never").exists)
    sleeper = Job([sys.executable, "-c", "import time; time.sleep(1000)"], timeout=1)
    with sleeper as job, pytest.raises(AssertionError, match="still ran after 1 s"):
        job.until((tmp_path / "never").exists)


@pytest.mark.slow
def test_a_test_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_planted.py").write_text("import time\ndef test_stuck():\n    time.sleep(1000)")
    finished = launch_serial(["-m", "pytest", "-c", TESTS.parent / "setup.cfg", "--timeout=1", tmp_path])
    assert finished.returncode != 0 and "in test_stuck" in finished.stdout + finished.stderr, str(finished)


def test_a_job_does_not_see_the_launcher_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {
        "PMI_RANK": "7",
        "PMIX_RANK": "7",
        "OMPI_COMM_WORLD_RANK": "7",
        "SLURM_NTASKS": "9",
        "MPI_LOCALNRANKS": "9",
    }
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    finished = launch_serial("import os; print(sorted(os.environ)); print(os.environ['OMP_NUM_THREADS'])")
    assert finished.returncode == 0, str(finished)
    assert not [name for name in outer if repr(name) in finished.stdout]
    assert finished.stdout.endswith("\n1\n")


def test_the_test_process_may_not_start_mpi() -> None:
    with pytest.raises(ImportError, match=r"launch\.launch"):
        import mpi4py.MPI  # noqa: F401


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
