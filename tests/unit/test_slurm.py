"""Job scripts: what they say, and what they do with the exit codes of a run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import slurm

from mpinewton.cli import run_command_line
from mpinewton.cli.slurm import seconds
from mpinewton.data.pack import pack
from mpinewton.fleet.transport.session import LocalSession

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack("synthetic:logistic?rows=40&features=3", Path("shards/a9a"), 8)


def script(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_command_line(LocalSession(), ["slurm", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("shards")
def test_the_script_in_jobs_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = "run dino shards/a9a --loss logistic --tol 1e-8 --max-rounds 100000 -o runs/dino-a9a"
    assert script(capsys, *run.split()) == (ROOT / "jobs" / "slurm.sbatch").read_text()


@pytest.mark.usefixtures("shards")
def test_options_stand_in_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--ntasks 5 --cpus-per-task 2 --time 1-0 --notice 60 --mpi pmix --name mine --partition p --account a"
    options += " --nodes 2-4 --mem 16G --qos long --module gcc/14 --module mpich"
    text = script(capsys, *options.split(), "run", "newton", "shards/a9a", "-o", "a folder")
    for line in (
        "ntasks=5",
        "cpus-per-task=2",
        "time=1-0",
        "signal=USR1@60",
        "job-name=mine",
        "partition=p",
        "account=a",
        "nodes=2-4",
        "mem=16G",
        "qos=long",
    ):
        assert f"#SBATCH --{line}" in text
    assert "srun --mpi=pmix --wait=60 mpinewton run newton shards/a9a -o 'a folder'\n" in text
    assert "\nmodule load gcc/14\nmodule load mpich\n" in text


def test_an_array_runs_the_cells_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The task of every cell, as the script starts it; then the same command, which finds all runs and reports."""
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(slurm.EXPERIMENT)
    text = script(capsys, "compare", "x.toml", "-o", "out")
    assert "#SBATCH --array=1-3 " in text and "#SBATCH --output=%x-%A_%a.log" in text
    assert 'mpinewton compare x.toml -o out --cell "$SLURM_ARRAY_TASK_ID"\n' in text
    command = ["compare", "x.toml", "-o", "out"]
    for cell in ("1", "2", "3"):
        assert not Path("out/tables.md").exists()
        assert run_command_line(LocalSession(), [*command, "--cell", cell]) == 0
    assert run_command_line(LocalSession(), [*command, "--cell", "4"]) == 2
    assert len(list(Path("out").glob("*/*/*/result.json"))) == 3
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/*/*/history.csv")}
    assert run_command_line(LocalSession(), command) == 0
    assert Path("out/tables.md").exists()
    assert before == {path: path.stat().st_mtime_ns for path in Path("out").glob("*/*/*/history.csv")}


# As in `man sbatch`: "Acceptable time formats".
TIMES = {"90": 5400, "90:30": 5430, "4:00:00": 14400, "1-0": 86400, "2-3:30": 185400, "1-1:1:1": 90061}


def test_time_limits_are_read_as_sbatch_reads_them() -> None:
    assert {text: seconds(text) for text in TIMES} == TIMES


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize(("code", "requeued"), [(0, ""), (1, ""), (2, ""), (3, "requeue 77\n")])
def test_only_a_run_that_was_stopped_queues_again(
    code: int, requeued: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in (("srun", f"exit {code}"), ("scontrol", "echo $@ >> said")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job").write_text(script(capsys, "run", "newton", "shards/a9a"))
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    assert subprocess.run(["bash", "job"], env=environment, timeout=60, check=False).returncode == code
    assert ((tmp_path / "said").read_text() if (tmp_path / "said").exists() else "") == requeued


@pytest.mark.usefixtures("shards")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run newtn shards/a9a", "did you mean 'newton'"),
        ("run newton shards/a8a", "shards/a8a"),
        ("run newton shards/a9a --set tau=1", "newton has no setting 'tau'"),
        ("--ntasks 10 run newton shards/a9a", "has 8 workers: give at most 9"),
        ("run newton shards/a9a --fresh", "--fresh would move the run aside each time"),
        ("run newton shards/a9a --nproc 3", "give --ntasks"),
        ("plot runs/x", "not for 'plot'"),
        ("compare no.toml -o x", "no.toml: no such file"),
        ("--time 4h run newton shards/a9a", "--time '4h': expected a time limit of SLURM: minutes,"),
        ("--time 1:2:3:4 run newton shards/a9a", "expected a time limit of SLURM"),
        ("--time 5 run newton shards/a9a", "must be longer than --notice 300"),
        ("--mem 4GB run newton shards/a9a", "--mem '4GB': expected a size, as 4000M or 16G"),
        ("run newton shards/a9a --nodes 2", "--nodes is an option of slurm: give it before `run`"),
        ("run newton shards/a9a --tool 1", "Did you mean one of: '--ftol'"),
        ("run newton shards/a9a --tol x", "Try 'mpinewton run --help'"),
        ("--nodes two run newton shards/a9a", "--nodes 'two': expected a number or a range"),
    ],
)
def test_what_run_would_refuse_is_refused_before_it_queues(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(LocalSession(), ["slurm", *arguments.split()]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert not said.out
