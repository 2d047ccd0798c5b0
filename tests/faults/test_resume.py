"""Killed in mid-run, resumed by the same command on another number of ranks: the bits of the undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from launch import Job, mpiexec, rows_of

from mpinewton.cli import run_command_line
from mpinewton.data.pack import pack
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.runs.history import COLUMNS, history_sha256, read_history

pytestmark = pytest.mark.slow

# Long enough to be killed in the middle, every iterate saved.
RUNS = {
    "dino": ["dino", "--set", "solver=lanczos", "--tol", "1e-13", "--max-iterations", "25"],
    "lbfgs": ["lbfgs", "--tol", "1e-13", "--max-iterations", "70"],
    "ranl": ["ranl", "--set", "policy=resources", "--set", "budget=640,99", "--tol", "1e-13", "--max-iterations", "40"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    pack("sklearn:digits", folder, 7, scale="1/16")
    return folder


def command(method: str, shards: Path, out: Path) -> list[str]:
    name, *options = RUNS[method]
    return ["-m", "mpinewton", "run", name, str(shards), "-o", str(out), "--checkpoint-seconds", "0", *options]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a run of the method in this process."""

    @cache
    def folder(method: str) -> Path:
        out = tmp_path_factory.mktemp("undisturbed") / method
        assert run_command_line(LocalSession(), command(method, shards, out)[2:]) == 0
        return out

    return folder


def outcome(out: Path) -> tuple[dict, list[str]]:
    """The result, and the ledger without what depends on time and layout."""
    lines = (out / "ledger.csv").read_text().splitlines()
    keep = [i for i, name in enumerate(lines[0].split(",")) if name not in ("wire", "control", "seconds", "compute")]
    return json.loads((out / "result.json").read_text()), [",".join(line.split(",")[i] for i in keep) for line in lines]


def killed_in_mid_run(arguments: list[str], ranks: int, victim: int, out: Path, rows: int) -> None:
    """Start a job, and SIGKILL one of its ranks once so many iterates are recorded."""
    with Job([mpiexec(), "-n", str(ranks), sys.executable, *arguments]) as job:
        job.until(lambda: rows_of(out) > rows)
        os.kill(json.loads((out / "env.json").read_text())["ranks"][victim]["pid"], signal.SIGKILL)
        assert job.wait().returncode != 0, "the run was over before it was killed: the test says nothing"
    assert not (out / "result.json").exists()


def resume(method: str, shards: Path, out: Path) -> None:
    """The same command again, in this process."""
    assert run_command_line(LocalSession(), command(method, shards, out)[2:]) == 0
    assert "resuming from the checkpoint" in (out / "log.txt").read_text()


@pytest.mark.parametrize(
    ("method", "kills"),
    [("dino", [(2, 0), (3, 1)]), ("ranl", [(3, 2)])],
)  # other methods and numbers of ranks: tests/mpi/test_methods_mpi.py, without a kill
def test_killed_and_resumed_on_other_ranks(method, kills, shards, undisturbed, tmp_path):
    """Once, or again and again on other layouts, one run."""
    whole, out = undisturbed(method), tmp_path / "killed"
    for kill, (ranks, victim) in enumerate(kills):
        killed_in_mid_run(command(method, shards, out), ranks, victim, out, rows=3 + 7 * kill)
    resume(method, shards, out)
    (result, ledger), (expected, expected_ledger) = outcome(out), outcome(whole)
    assert result["history_sha256"] == expected["history_sha256"]
    assert result["w_sha256"] == expected["w_sha256"]
    assert ledger == expected_ledger
    rows = read_history(out / "history.csv")
    assert history_sha256(rows) == result["history_sha256"]
    assert [row.iteration for row in rows] == list(range(len(rows)))
    assert (out / "history.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_a_checkpoint_and_code_3(number, shards, undisturbed, tmp_path):
    whole, out = undisturbed("lbfgs"), tmp_path / "stopped"
    with Job([sys.executable, *command("lbfgs", shards, out)]) as job:
        job.until(lambda: rows_of(out) >= 5)
        job.process.send_signal(number)
        stopped = job.wait()
    assert stopped.returncode == 3, str(stopped)
    assert "run the same command again" in stopped.stdout
    assert json.loads((out / "result.json").read_text())["kind"] == "interrupted"
    resume("lbfgs", shards, out)
    assert outcome(out)[0]["history_sha256"] == outcome(whole)[0]["history_sha256"]


def test_a_signal_to_a_worker_rank_stops_the_run_too(shards, tmp_path):
    out = tmp_path / "stopped"
    with Job([mpiexec(), "-n", "3", sys.executable, *command("lbfgs", shards, out)]) as job:
        job.until(lambda: rows_of(out) >= 5)
        os.kill(json.loads((out / "env.json").read_text())["ranks"][2]["pid"], signal.SIGUSR1)
        stopped = job.wait()
    assert stopped.returncode == 3, str(stopped)
    assert json.loads((out / "result.json").read_text())["kind"] == "interrupted"
