"""scripts/wan.sh: ranks on hosts of their own, which are there while the command runs and not a moment longer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import WIDE, Finished, Job, launch_wide, mpiexec, rows_of

from mpinewton.cli import run_command_line
from mpinewton.data.pack import pack
from mpinewton.fleet.transport.session import LocalSession

pytestmark = pytest.mark.slow


def spaces() -> set[str]:
    """The network namespaces that are there."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


@pytest.fixture(scope="module")
def permitted() -> None:
    tried = launch_wide(1, "")
    if tried.returncode == 2:
        pytest.skip(tried.stderr.strip())


@pytest.fixture
def nothing_left(permitted: None) -> Iterator[None]:
    before = spaces()
    yield
    left = {space for space in spaces() - before if not Path(f"/proc/{space.split('-')[1]}").exists()}
    assert not left  # of scripts that have ended: another one may be at work


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-n", "0", "true"], "-n 0: 1 to 250 ranks"),
        (["-d", "fast", "true"], "-d fast: a delay in milliseconds"),
        (["-r", "-1", "true"], "-r -1: Mbit/s"),
        ([], "no command was given"),
        (["-x"], "usage: scripts/wan.sh"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], why: str) -> None:
    done = subprocess.run([*WIDE, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.usefixtures("nothing_left")
def test_a_run_over_the_network_gives_the_bits_of_one_process(tmp_path: Path) -> None:
    pack("synthetic:logistic?rows=60&features=4", tmp_path / "p", 3)
    run = ["run", "giant", str(tmp_path / "p"), "--max-iterations", "3", "-o"]
    assert run_command_line(LocalSession(), [*run, str(tmp_path / "a")]) == 0
    wide = launch_wide(3, ["-m", "mpinewton", *run, tmp_path / "w"])
    assert wide.returncode == 0, str(wide)
    one, many = (json.loads((tmp_path / name / "result.json").read_text()) for name in "aw")
    assert (one["ranks"], many["ranks"]) == (1, 3)
    assert many["history_sha256"] == one["history_sha256"]
    # Of each iteration's three calls none is shorter than a message there and one back.
    assert many["seconds"] > 3 * 3 * 2 * 0.002


@pytest.mark.usefixtures("nothing_left")
def test_hosts_are_apart_and_far() -> None:
    program = (
        "import socket, time; from mpi4py import MPI; comm = MPI.COMM_WORLD; comm.Barrier(); t = time.perf_counter()\n"
        "for _ in range(5): comm.sendrecv(0, 1 - comm.rank, source=1 - comm.rank)\n"
        "taken = time.perf_counter() - t\n"
        "alone = comm.Split_type(MPI.COMM_TYPE_SHARED).size == 1\n"
        "from mpinewton.fleet.transport.mpi import Link\n"
        "apart = not Link(comm).one_host\n"
        "told = comm.gather((socket.gethostname(), alone, apart, taken >= 3 * 0.002))\n"  # who is late finds the first
        "if comm.rank == 0: print(told)"
    )
    done = launch_wide(2, program)
    assert done.returncode == 0, str(done)
    assert done.stdout.strip() == "[('h0', True, True, True), ('h1', True, True, True)]"


@pytest.mark.usefixtures("nothing_left")
def test_the_code_of_the_command_comes_through() -> None:
    assert launch_wide(1, "raise SystemExit(3)").returncode == 3


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_takes_everything_down(tmp_path: Path, number: signal.Signals, code: int) -> None:
    program = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(100)"
    command = [*WIDE, "-n", "2", sys.executable, "-c", program, str(tmp_path / "begun")]
    with Job(command, env={"MPIEXEC": mpiexec()}) as job:
        job.until((tmp_path / "begun").exists)
        job.process.send_signal(number)
        stopped = job.wait()
    assert stopped.returncode == code, str(stopped)
    assert not any(f"mpinewton-{job.process.pid}-" in name for name in spaces())


def run_with_a_cut(tmp_path: Path, *more: str, again: bool) -> tuple[Finished, Path]:
    """A run of 200 iterations on 3 hosts; after some the link of the second is cut, for 3 seconds or for ever."""
    pack("synthetic:logistic?rows=60&features=4", tmp_path / "p", 3)
    limits = ["--max-iterations", "200", "--tol", "1e-300", *more]
    run = [sys.executable, "-m", "mpinewton", "run", "gradient-descent", tmp_path / "p", *limits, "-o"]
    with Job([*WIDE, "-n", "3", "-d", "1", *run, tmp_path / "w"], 60, {"MPIEXEC": mpiexec()}) as job:
        job.until(lambda: rows_of(tmp_path / "w") > 5)
        link = ["ip", "-n", f"mpinewton-{job.process.pid}-switch", "link", "set", "link1"]
        subprocess.run([*link, "down"], check=True)
        if again:
            time.sleep(3)
            subprocess.run([*link, "up"], check=True)
        return job.wait(), tmp_path / "w"


@pytest.mark.usefixtures("nothing_left")
def test_a_run_continues_when_a_link_was_cut_for_seconds(tmp_path: Path) -> None:
    finished, out = run_with_a_cut(tmp_path, again=True)
    assert finished.returncode == 0, str(finished)
    alone = ["run", "gradient-descent", str(tmp_path / "p"), "--max-iterations", "200", "--tol", "1e-300", "-o"]
    assert run_command_line(LocalSession(), [*alone, str(tmp_path / "a")]) == 0
    one, many = (json.loads((path / "result.json").read_text()) for path in (tmp_path / "a", out))
    assert many["history_sha256"] == one["history_sha256"]


@pytest.mark.usefixtures("nothing_left")
def test_a_run_whose_link_is_cut_for_ever_ends_after_its_time_and_names_the_host(tmp_path: Path) -> None:
    finished, out = run_with_a_cut(tmp_path, "--rank-timeout", "6", again=False)
    assert finished.returncode == 1, str(finished)
    assert finished.stderr.count("mpinewton: rank 1 on h1 (workers 0 to 1) has not answered for 6 s") == 1, str(
        finished
    )
    assert "Traceback" not in finished.stderr and not (out / "result.json").exists()
