"""Comparisons: what their file may say, which runs come of it, and what happens to each."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launch import launch_serial, rows_of

from mpinewton.data.manifest import read_manifest
from mpinewton.errors import ConfigError, DataError, MpinewtonError
from mpinewton.experiments import compare as comparison
from mpinewton.experiments.compare import compare
from mpinewton.experiments.grid import cells, plain, read_experiment, variants
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.report.provenance import read_settings

TEXT = """
title = "Iris"

[data]
name = "iris"
source = "sklearn:iris"
workers = 3

[objective]
loss = "softmax"
l2 = [1e-2, 0.1]

[[method]]
method = "dino"
label = "DINO"
settings = { solver = ["lsmr", "lanczos"], search = { first = 4 } }

[[method]]
method = "lbfgs"

[stop]
tol = 1e-5
max_rounds = 400
"""
NAMES = [
    f"iris/softmax-l2={l2}/{label}"
    for l2 in ("0.01", "0.1")
    for label in ("DINO-solver=lsmr", "DINO-solver=lanczos", "lbfgs")
]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no matplotlib: drawing takes longer than the runs."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged."""
    caplog.set_level(logging.INFO, "mpinewton")
    return caplog


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes the experiment, some text of it exchanged."""

    def write(*exchanged: tuple[str, str]) -> Path:
        text = TEXT
        for old, new in exchanged:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "iris.toml"
        path.write_text(text)
        return path

    return write


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("*/*/*/*")}


# -- the file -----------------------------------------------------------------------------------------------------


def test_every_list_is_a_dimension(written: Callable[..., Path], tmp_path: Path) -> None:
    found = cells(read_experiment(written()), tmp_path / "c")
    assert [cell.name for cell in found] == NAMES
    first = found[0]
    assert first.job.data == str(tmp_path / "c/data/iris")
    assert first.job.settings == {"solver": "lsmr", "search": {"first": 4}}
    assert (first.label, first.job.l2, first.job.tol, first.job.max_rounds) == ("DINO, solver=lsmr", 0.01, 1e-5, 400)
    seeded = cells(read_experiment(written(('title = "Iris"', "seeds = [0, 7]"))), tmp_path)
    assert [cell.job.seed for cell in seeded] == [0, 7] * 6
    assert [cell.series for cell in seeded[:3]] == ["DINO, solver=lsmr"] * 2 + ["DINO, solver=lanczos"]
    assert seeded[1].name == "iris/softmax-l2=0.01/DINO-solver=lsmr-seed-7"


def test_variants_of_nested_settings() -> None:
    assert variants({}) == [({}, ())]
    assert variants({"a": 1, "b": {"c": [2, 3], "d": 4}, "e": ["x", "y"]}) == [
        ({"a": 1, "b": {"c": c, "d": 4}, "e": e}, (f"b.c={c}", f"e={e}")) for c in (2, 3) for e in ("x", "y")
    ]


def test_only_picks_by_name(written: Callable[..., Path], tmp_path: Path) -> None:
    experiment = read_experiment(written())
    assert [cell.name for cell in cells(experiment, tmp_path, "l2=0.1/*lanczos")] == [NAMES[4]]
    assert [cell.name for cell in cells(experiment, tmp_path, "lbfgs")] == [NAMES[2], NAMES[5]]
    with pytest.raises(ConfigError, match="--only 'giant' matches no run; choose from: iris/softmax"):
        cells(experiment, tmp_path, "giant")


def test_paths_are_relative_to_the_file(
    written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'source = "sklearn:iris"'
    (data,) = read_experiment(written((source, 'source = "sub/rows.csv"\ntest = "../t.csv"'))).data
    assert (data.source, data.test) == (str(tmp_path / "sub/rows.csv"), str(tmp_path.parent / "t.csv"))
    variable = written((source, 'source = "$ROWS_ARE_HERE/a9a"'))
    monkeypatch.delenv("ROWS_ARE_HERE", raising=False)
    with pytest.raises(ConfigError, match="the environment variable ROWS_ARE_HERE is not set"):
        cells(read_experiment(variable), tmp_path)
    other = '[[data]]\nname = "other"\nsource = "sklearn:iris"\nworkers = 2\n\n[objective]'
    two = read_experiment(
        written((source, 'source = "$ROWS_ARE_HERE/a9a"'), ("[data]", "[[data]]"), ("[objective]", other))
    )
    assert len(cells(two, tmp_path, "other/*")) == 6  # the data that are not used need not be there
    monkeypatch.setenv("ROWS_ARE_HERE", "/somewhere")
    assert read_experiment(variable).data[0].source == "/somewhere/a9a"
    (objective,) = read_experiment(written(("l2 =", 'start = "m.h5"\nl2 ='))).objective
    assert objective.start == str(tmp_path / "m.h5")
    (objective,) = read_experiment(written(("l2 =", 'start = "optimum+0.1"\nl2 ='))).objective
    assert objective.start == "optimum+0.1"


WRONG = {
    "unknown-key": (('title = "Iris"', 'titel = "Iris"'), "unknown entry 'titel' \\(did you mean 'title'"),
    "unknown-data-key": (("workers = 3", "worker = 3"), "did you mean 'workers'"),
    "unknown-objective-key": (("l2 =", "l3 ="), r"\[\[objective\]\] number 1: unknown entry 'l3'"),
    "unknown-method-key": (('label = "DINO"', 'lable = "DINO"'), "did you mean 'label'"),
    "unknown-stop": (("tol =", "tolerance ="), r"\[stop\]: unknown entry 'tolerance'"),
    "unknown-method": (
        ('"lbfgs"', '"lbfsg"'),
        "iris/softmax-l2=0.01, lbfsg: no method is named 'lbfsg' .did you mean 'lbfgs'",
    ),
    "unknown-setting": (("first = 4", "frist = 4"), "did you mean 'first'"),
    "bad-setting": (("first = 4", "first = [4, 0]"), "first = 0: expected a value at least 1"),
    "unknown-loss": (('"softmax"', '"sotfmax"'), "did you mean 'softmax'"),
    "bad-l2": (("[1e-2, 0.1]", "[1e-2, -1]"), "--l2 -1.0: expected a number of at least 0"),
    "bad-stop": (("tol = 1e-5", "tol = -1"), "--tol -1"),
    "gap-alone": (("tol = 1e-5", "gap = 1e-5"), "--reference"),
    "no-method": (("[[method]]", "[[methods]]"), "did you mean 'method'"),
    "no-data": (("[data]", "[datum]"), "did you mean 'data'"),
    "no-name": (('name = "iris"', ""), "name"),
    "bad-name": (('"iris"', '"../iris"'), "is that of a folder"),
    "no-workers": (("workers = 3", ""), "workers is missing"),
    "bad-workers": (("workers = 3", 'workers = "3"'), "workers"),
    "folder-and-packing": (
        ('source = "sklearn:iris"', 'folder = "x"'),
        "workers has no effect on shards that are packed",
    ),
    "folder-and-source": (("workers = 3", 'folder = "x"'), "give either folder"),
    "twice": (('method = "lbfgs"', 'method = "dino"\nlabel = "DINO-solver=lsmr"'), "two runs have the name"),
    "other-data": (("l2 =", 'data = ["irsi"]\nl2 ='), "did you mean 'iris'"),
    "seeds": (('title = "Iris"', 'seeds = ["a"]'), "seeds"),
    "syntax": (("[stop]", "[stop"), "not a TOML file"),
}


@pytest.mark.parametrize(("exchanged", "words"), WRONG.values(), ids=WRONG.keys())
def test_refuses(exchanged: tuple[str, str], words: str, written: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(read_experiment(written(exchanged)), tmp_path / "c")


@pytest.mark.parametrize(
    ("data", "words"),
    [("3", "Expected `array`, got `int`"), ("[3]", "Expected `object`, got `int`"), ("[]", r"\[\[data\]\] is missing")],
)
def test_refuses_sections_that_are_none(data: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(f'data = {data}\nobjective = {{ loss = "squared" }}\nmethod = {{ method = "dino" }}\n')
    with pytest.raises(ConfigError, match=words):
        read_experiment(path)


@pytest.mark.parametrize("name", ["digits", "a9a_w8a", "pisa_quadratics", "pisa_epochs", "pisa_skew"])
def test_our_own_experiments_are_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPINEWTON_DATA", str(tmp_path))
    experiment = read_experiment(Path(__file__).parents[2] / "jobs" / f"{name}.toml")
    assert len(cells(experiment, tmp_path)) >= 6


# -- the runs -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_comparison(
    written: Callable[..., Path], tmp_path: Path, log: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    asked = 'title = "Iris"\naxes = ["bits"]\nquantity = "loss"'
    experiment, folder = read_experiment(written(('title = "Iris"', asked))), tmp_path / "c"
    assert compare(LocalSession(), experiment, folder) == 0
    for name in NAMES:
        assert result_of(folder / name)["kind"] in ("converged", "budget")
    problems = ("iris-softmax-l2=0.01", "iris-softmax-l2=0.1")
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "data",
        "iris",
        "comparison.json",
        "report.html",
        "tables.md",
        "tables.tex",
        "runs.csv",
        *(f"{p}{end}" for p in problems for end in (".png", ".csv")),
    }
    drawn = read_settings(folder / f"{problems[0]}.png")["figure"]
    assert (drawn["axes"], drawn["quantity"]) == (["bits"], "loss")
    tables = (folder / "tables.md").read_text()
    assert tables.startswith("# Iris\n\n")
    assert [line for line in tables.splitlines() if line.startswith("## ")] == [
        f"## {p.replace('iris-', 'iris/', 1)}" for p in problems
    ]
    assert tables.count("| DINO, solver=lanczos ") == 6  # three tables a problem
    assert "DINO, solver=lsmr" in (folder / "report.html").read_text()
    assert "[6 of 6] iris/softmax-l2=0.1/lbfgs" in log.messages
    log.clear()
    request.getfixturevalue("no_figures")

    before = times(folder)
    assert compare(LocalSession(), experiment, folder) == 0
    assert times(folder) == before  # nothing was run again
    assert log.text.count(" is finished: ") == 6
    log.clear()

    more = read_experiment(written(("tol = 1e-5", "tol = 1e-9")))
    assert compare(LocalSession(), more, folder, only="l2=0.1/lbfgs") == 0
    assert "resuming from the checkpoint" in log.text
    assert {name for name, time in times(folder).items() if before.get(name) != time} <= {
        f"{NAMES[5]}/{file.name}" for file in (folder / NAMES[5]).iterdir()
    }
    assert compare(LocalSession(), more, folder, only="l2=0.1/lbfgs", fresh=True) == 0
    assert (folder / f"{NAMES[5]}.old-1" / "result.json").exists()
    assert (folder / "tables.md").read_text().count("\n| lbfgs ") == 6  # the old run is in no table


@pytest.mark.usefixtures("no_figures")
def test_all_is_checked_before_the_first_run(written: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "c"
    other = written(('"lbfgs"', '"newton"'), ("l2 = [1e-2, 0.1]", "l2 = 0.1"))
    assert compare(LocalSession(), read_experiment(other), folder, only="newton") == 0
    (folder / "iris/softmax-l2=0.1/newton").rename(folder / "iris/softmax-l2=0.1/lbfgs")
    with pytest.raises(ConfigError, match=r"iris/softmax-l2=0.1/lbfgs: .*method was 'newton', now 'lbfgs'"):
        compare(LocalSession(), read_experiment(written()), folder)
    assert not list(folder.glob("*/*/DINO*"))
    misfit = written(('"softmax"', '"logistic"'))
    with pytest.raises(DataError, match="logistic: expected labels of 2 classes"):
        compare(LocalSession(), read_experiment(misfit), tmp_path / "m")


@pytest.mark.usefixtures("no_figures")
def test_data_are_packed_once(written: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "c"

    def run(*exchanged: tuple[str, str], fresh: bool = False, into: Path = folder) -> dict[str, Any]:
        experiment = read_experiment(written(("l2 = [1e-2, 0.1]", "l2 = 1e-2"), *exchanged))
        assert compare(LocalSession(), experiment, into, "lbfgs", fresh) == 0
        return result_of(into / NAMES[2])

    assert run()["workers"] == 3
    assert {path.name for path in folder.iterdir()} == {
        "data",
        "iris",
        "comparison.json",
        "report.html",
        "tables.md",
        "tables.tex",
        "runs.csv",
    }
    before = (folder / "data/iris/manifest.json").stat().st_ino
    run(fresh=True)
    assert (folder / "data/iris/manifest.json").stat().st_ino == before
    four = ("workers = 3", "workers = 4")
    with pytest.raises(ConfigError, match=r"packed with other options; --fresh"):
        run(four)
    assert run(four, fresh=True)["workers"] == 4
    packed = (("workers = 3", ""), ('source = "sklearn:iris"', f'folder = "{folder}/data/iris"'))
    assert run(*packed, into=tmp_path / "d")["workers"] == 4
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        run(("sklearn:iris", "nowhere.csv"), into=tmp_path / "e")


@pytest.mark.usefixtures("no_figures")
def test_what_another_process_runs_comes_last(
    written: Callable[..., Path], tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / NAMES[0]
    first.mkdir(parents=True)
    other = (first / "log.txt").open("a")
    fcntl.flock(other, fcntl.LOCK_EX)
    monkeypatch.setattr("mpinewton.experiments.compare.time.sleep", lambda seconds: other.close())
    experiment = read_experiment(written(("l2 = [1e-2, 0.1]", "l2 = 1e-2")))
    assert compare(LocalSession(), experiment, tmp_path) == 0
    visits = [message for message in log.messages if message.startswith(("[", "another"))]
    assert visits[1] == "another process runs it; back to it later"
    assert [visit[:8] for visit in visits if visit[0] == "["] == [
        "[1 of 3]",
        "[2 of 3]",
        "[3 of 3]",
        "[1 of 3]",
        "[1 of 3]",
    ]
    assert result_of(first)["kind"] in ("converged", "budget")
    assert not (tmp_path / ".reporting").exists()


@pytest.mark.usefixtures("no_figures")
def test_data_are_read_as_pack_reads_them(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7};{'red' if i % 3 else '?'};{i % 2}\n" for i in range(30))
    (tmp_path / "rows.csv").write_text(f"size;colour;label\n{rows}")
    options = 'delimiter = ";"\nheader = true\ncategories = "onehot"\nmissing = "indicator"\nstandardize = true'
    (tmp_path / "e.toml").write_text(
        f'[data]\nname = "rows"\nsource = "rows.csv"\nworkers = 2\n{options}\nclass_weight = "balanced"\n'
        '[objective]\nloss = "logistic"\n[method]\nmethod = "newton"\n'
    )
    assert compare(LocalSession(), read_experiment(tmp_path / "e.toml"), tmp_path / "c") == 0
    manifest = read_manifest(tmp_path / "c/data/rows")
    assert manifest.columns is not None and manifest.factor is not None and manifest.weighted
    assert manifest.columns.feature_names == ("size", "colour=red", "colour missing")


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_seeds_are_one_row_and_where_they_change_nothing_two_are_enough(
    written: Callable[..., Path], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    seeds = ('title = "Iris"', "seeds = [3, 0, 5]")
    path = written(seeds, ("l2 = [1e-2, 0.1]", "l2 = 0.1"), ('method = "dino"', 'method = "quantised-bfgs"'),
                   ("settings = { solver = [\"lsmr\", \"lanczos\"], search = { first = 4 } }", ""))  # fmt: skip
    folder = tmp_path / "c"
    assert compare(LocalSession(), read_experiment(path), folder) == 0
    names = {path.name for path in (folder / "iris/softmax-l2=0.1").iterdir()}
    assert names == {f"DINO-seed-{seed}" for seed in (0, 3, 5)} | {"lbfgs-seed-0", "lbfgs-seed-3"}
    assert "[6 of 6] iris/softmax-l2=0.1/lbfgs-seed-5 draws no random numbers: left out" in log.messages
    summary = (folder / "tables.md").read_text().splitlines()
    (lbfgs,) = (line for line in summary if line.startswith("| lbfgs ") and "converged" in line)
    assert "(" not in lbfgs
    (drawn,) = (line for line in summary if line.startswith("| DINO ") and "converged" in line)
    ends = sorted(result_of(folder / f"iris/softmax-l2=0.1/DINO-seed-{seed}")["grad_norm"] for seed in (0, 3, 5))
    rows = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("DINO", "3"),
        ("DINO", "0"),
        ("DINO", "5"),
        ("lbfgs", "3"),
        ("lbfgs", "0"),
    ]
    assert sorted(float(row["grad_norm"]) for row in rows[:3]) == ends
    assert len(set(ends)) == 3
    assert " to " in drawn
    assert (folder / "tables.tex").read_text().count(r"\begin{tabular}") == 3


@pytest.mark.usefixtures("no_figures")
def test_a_failing_run_does_not_stop_the_others(
    written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    whole = comparison.execute

    def failing(session: Any, job: Any, manifest: Any, path: Path, fresh: bool) -> dict[str, Any]:
        if job.method == "dino":
            raise MpinewtonError("the worker fell over")
        return whole(session, job, manifest, path, fresh)

    monkeypatch.setattr(comparison, "execute", failing)
    assert compare(LocalSession(), read_experiment(written()), tmp_path / "c") == 1
    assert log.messages.count("failed: the worker fell over") == 4
    assert result_of(tmp_path / "c" / NAMES[5])["converged"]
    assert (tmp_path / "c/tables.md").exists()


@pytest.mark.usefixtures("no_figures")
def test_numerical_trouble_is_a_failure(written: Callable[..., Path], tmp_path: Path) -> None:
    # Class numbers fitted by softplus: the curvature is negative at the start, where GIANT as published gives up.
    path = written(('"softmax"', '"softplus"'), ("[1e-2, 0.1]", "0.0"), ('method = "lbfgs"', 'method = "giant"'))
    assert compare(LocalSession(), read_experiment(path), tmp_path / "c", only="giant") == 1
    result = result_of(tmp_path / "c/iris/softplus-l2=0/giant")
    assert result["kind"] == "trouble"
    assert "negative curvature" in result["reason"]
    assert "giant" in (tmp_path / "c/tables.md").read_text()


def test_a_signal_stops_after_this_iteration(
    written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = comparison.execute, tmp_path / "c"
    endless = written(
        ('method = "lbfgs"', 'method = "gradient-descent"'),
        ("tol = 1e-5", "tol = 0"),
        ("max_rounds = 400", "max_seconds = 30"),
    )

    def interrupted(*arguments: Any) -> dict[str, Any]:
        over = threading.Event()

        def interrupt() -> None:
            while rows_of(folder / "iris/softmax-l2=0.01/gradient-descent") < 3:
                if over.wait(0.01):
                    return
            os.kill(os.getpid(), signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            return whole(*arguments)
        finally:
            over.set(), thread.join()

    monkeypatch.setattr(comparison, "execute", interrupted)
    assert compare(LocalSession(), read_experiment(endless), folder, only="gradient") == 3
    assert result_of(folder / "iris/softmax-l2=0.01/gradient-descent")["kind"] == "interrupted"
    assert not (folder / "iris/softmax-l2=0.1").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_signal_between_two_runs_is_heard(
    written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder, experiment = comparison.execute, tmp_path / "c", read_experiment(written())

    def interrupted(*arguments: Any) -> dict[str, Any]:
        result = whole(*arguments)
        os.kill(os.getpid(), signal.SIGUSR1)
        return result

    monkeypatch.setattr(comparison, "execute", interrupted)
    assert compare(LocalSession(), experiment, folder, only="lbfgs") == 3
    assert result_of(folder / NAMES[2])["converged"]
    assert not (folder / NAMES[5]).exists()
    monkeypatch.setattr(comparison, "execute", whole)
    assert compare(LocalSession(), experiment, folder, only="lbfgs") == 0
    assert result_of(folder / NAMES[5])["converged"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_many_ranks_give_the_same_bits(written: Callable[..., Path], tmp_path: Path) -> None:
    assert compare(LocalSession(), read_experiment(written()), tmp_path / "alone", only="l2=0.1") == 0
    command = ["-m", "mpinewton", "compare", written(), "-o", tmp_path / "many", "--only", "l2=0.1", "--nproc", "1"]
    finished = launch_serial(command)
    assert finished.returncode == 0, str(finished)
    for name in NAMES[3:]:
        alone, many = result_of(tmp_path / "alone" / name), result_of(tmp_path / "many" / name)
        assert (many["ranks"], many["w_sha256"]) == (2, alone["w_sha256"])
        assert many["history_sha256"] == alone["history_sha256"]


def test_plain_names() -> None:
    assert plain("DINO, theta=0.1 / b") == "DINO-theta=0.1-b"
    assert plain("huber:delta=1.5") == "huber-delta=1.5"
    assert plain("../..") == ""
