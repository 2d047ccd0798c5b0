"""The command line as a user meets it: what it says, what it refuses, what it leaves behind."""

from __future__ import annotations

import ast
import csv
import fcntl
import hashlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
from launch import JOB_ENVIRONMENT, launch, launch_serial

from mpinewton.cli import COMMANDS, run_command_line
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.launcher import END_VARIABLE, tell_launcher
from mpinewton.losses import LOSSES
from mpinewton.methods import METHODS
from mpinewton.runs.model import read_model

ROOT = Path(__file__).parents[2]
HISTORY = (
    "iteration rounds floats_down floats_up bits_down bits_up wire_bytes seconds "
    "loss grad_norm step gap test_accuracy test_loss note"
)
LEDGER = "round iteration direction kind task workers floats indices bits bits_total wire control seconds compute"
RESULT = (
    "method loss l2 workers ranks converged reason iterations rounds bits_up_total seconds objective grad_norm "
    "w_sha256 history_sha256 data_sha256 versions"
)


class Terminal:
    """Runs commands and keeps what they print."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture, self.out, self.err = capture, "", ""

    def __call__(self, *arguments: object) -> int:
        code = run_command_line(LocalSession(), [str(a) for a in arguments])
        self.out, self.err = self.capture.readouterr()
        return code


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(capsys)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 handwritten digits on 3 workers."""
    folder = tmp_path_factory.mktemp("digits") / "shards"
    arguments = ["pack", "sklearn:digits", "-o", folder, "--workers", 3, "--rows", 400, "--scale", "1/16"]
    assert run_command_line(LocalSession(), [str(a) for a in arguments]) == 0
    return folder


def table(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def named(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


# -- what it says -------------------------------------------------------------------------------------------------


def test_help_names_every_command(terminal: Terminal) -> None:
    assert terminal("--help") == 0
    for name, summary in COMMANDS.items():
        assert f"{name} " in terminal.out
        assert summary.split()[-1] in terminal.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, terminal: Terminal) -> None:
    assert terminal(name, "--help") == 0
    assert terminal.out.startswith(f"Usage: mpinewton {name} ")
    assert len(terminal.out.splitlines()) > 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text_of_its_own(name: str) -> None:
    options = [
        p for p in importlib.import_module(f"mpinewton.cli.{name}").command.params if isinstance(p, click.Option)
    ]
    texts = [(option.help or "").partition("  [default")[0] for option in options]
    for option, text in zip(options, texts):
        assert re.fullmatch(r"[A-Za-z].{8,}\.|[^ ]+, .*\.", text), (option.name, text)
    assert len(set(texts)) == len(texts)


# Phrases that a reader of scikit-learn's documentation would have to read twice.
BANNED = re.compile(
    r"wanted (is|are)|has no say|comes? no closer|(was|were) asked for|were allowed|there are: |go(es|ing)? on from|"
    r"never arrived|cannot be told|there is no such"
)


def visible_texts(source: str) -> Iterator[str]:
    """All text in a module: docstrings, messages, help."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield " ".join(node.value.split())


@pytest.mark.parametrize("room", ["runs", "report", "experiments", "cli"])
def test_no_text_has_a_phrase_that_is_banned(room: str) -> None:
    paths = sorted((ROOT / "mpinewton" / room).glob("*.py"))
    assert paths
    for path in paths:
        for text in visible_texts(path.read_text()):
            assert not BANNED.search(text), f"{path.name}: {text}"


def test_the_readme_lists_the_methods_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "scripts" / "readme.py")
    assert spec is not None and spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = readme.README.read_text()
    assert readme.renew(text) == text, "run `make readme`"
    assert all(f"`{name}`" in readme.table() for name in METHODS)
    assert readme.renew(text.replace("`dino`", "`dni`")) == text


def test_help_loads_little_and_no_numpy() -> None:
    code = (
        "import sys; sys.argv = ['mpinewton', '--help']\n"
        "from mpinewton.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    finished = launch_serial(code)
    assert finished.returncode == 0, str(finished)
    code_and_modules = finished.stdout.splitlines()[-1].split()
    assert code_and_modules[0] == "0"
    assert not {"numpy", "scipy", "h5py", "mpi4py", "matplotlib"} & set(code_and_modules)
    assert len(code_and_modules) < 250  # 145 were, and half of them are click's


def test_lists(terminal: Terminal) -> None:
    assert terminal("methods") == 0
    for name in METHODS:
        assert f"\n{name} " in terminal.out
    assert terminal("losses") == 0
    for name in LOSSES:
        assert name in terminal.out
    assert terminal("methods", "dino") == 0
    assert "theta = 0.0001" in terminal.out
    assert "search.rho = 0.0001" in terminal.out


# -- what it refuses ----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str]] = {
    "command": ("rnu dino DIGITS", "did you mean 'run'"),
    "option": ("run dino DIGITS --max-iteration 3", "--max-iterations"),
    "no-method": ("run", "METHOD is missing"),
    "no-data": ("run dino", "DATA is missing"),
    "method": ("run dinno DIGITS", "did you mean 'dino'"),
    "setting": ("run dino DIGITS --set thet=1", "did you mean 'theta'"),
    "setting-of-a-part": ("run dino DIGITS --set search.roh=1", "did you mean 'rho'"),
    "range": ("run dino DIGITS --set theta=-1", "theta = -1.0: expected a value greater than 0"),
    "range-of-a-part": (
        "run dino DIGITS --set search.rho=2",
        "rho = 2.0: expected a value greater than 0 and less than 1",
    ),
    "kind": ("run dino DIGITS --set theta=much", "theta: expected `float`"),
    "choice": ("run dino DIGITS --set solver=lsrm", "'lsrm'; choose from lsmr, lanczos"),
    "part": ("run dino DIGITS --set search=3", "search is a part with settings of its own: search.rho"),
    "pair": ("run dino DIGITS --set theta", "write it as key=value"),
    "loss": ("run dino DIGITS --loss softmx", "did you mean 'softmax'"),
    "loss-setting": ("run dino DIGITS --loss huber:delt=1", "delt"),
    "loss-of-other-labels": ("run dino DIGITS --loss logistic", "logistic: expected labels of 2 classes"),
    "l2": ("run dino DIGITS --l2=-1", "--l2 -1.0: expected a number of at least 0"),
    "l2-nan": ("run dino DIGITS --l2=nan", "--l2 nan"),
    "l2-word": ("run dino DIGITS --l2=small", "'small' is not a valid float"),
    "tol": ("run dino DIGITS --tol=-1", "--tol -1.0"),
    "tol-nan": ("run dino DIGITS --tol=nan", "--tol nan"),
    "budget": ("run dino DIGITS --max-iterations=-1", "--max-iterations"),
    "seed": ("run dino DIGITS --seed=-1", "--seed -1"),
    "hours": ("run dino DIGITS --max-hours=-1", "--max-hours -1"),
    "checkpoints": ("run dino DIGITS --checkpoint-seconds=nan", "--checkpoint-seconds nan"),
    "gap": ("run dino DIGITS --gap 1e-3", "--reference"),
    "reference": ("run dino DIGITS --reference best", "--reference 'best'"),
    "reference-nan": ("run dino DIGITS --reference nan", "--reference 'nan'"),
    "start": ("run dino DIGITS --start nowhere.h5", "nowhere.h5"),
    "start-optimum": ("run dino DIGITS --start optimum+0.1", "add --reference auto"),
    "start-optimum-value": ("run dino DIGITS --start optimum+0.1 --reference 0.1", "add --reference auto"),
    "start-optimum-nan": ("run dino DIGITS --start optimum+nan", "expected optimum+C with a number C"),
    "test": ("run dino DIGITS --test nowhere", "nowhere: no such file"),
    "missing": ("run dino nowhere", "mpinewton pack"),
    "not-packed": ("run dino rows.csv", "mpinewton pack"),
    "config": ("run --config nowhere.toml", "no such file"),
    "config-key": ("run --config wrong.toml", "did you mean 'method'"),
    "config-folder": ("run --config .", "cannot be read"),
    "config-syntax": ("run --config rows.csv", "not a TOML file"),
    "output-is-a-file": ("run dino DIGITS -o rows.csv", "not a run folder; choose another folder with -o"),
    "methods": ("methods dinno", "did you mean 'dino'"),
    "check": ("check nowhere", "nowhere"),
    "info": ("info nowhere", "nowhere"),
    "predict": ("predict nowhere.h5 DIGITS", "nowhere.h5"),
    "predict-no-model": ("predict rows.csv DIGITS", "not a mpinewton-model/2 file"),
    "predict-folder": ("predict . DIGITS", "give the model file, model.h5"),
    "evaluate": ("evaluate nowhere.h5 DIGITS", "nowhere.h5"),
    "plot": ("plot nowhere", "nowhere"),
    "report": ("report nowhere", "nowhere"),
    "pack": ("pack nowhere -o p --workers 2", "nowhere"),
    "pack-workers": ("pack rows.csv -o p --workers 0", "at least 1 worker"),
    "pack-partition": ("pack rows.csv -o p --workers 1 --partition idd", "did you mean 'iid'"),
    "pack-folder": ("pack . -o p --workers 2", "is a folder"),
    "pack-format": ("pack sklearn:iris -o p --workers 2 --format cvs", "did you mean 'csv'"),
    "pack-storage": ("pack rows.csv -o p --workers 2 --dense --sparse", "contradict each other"),
    "pack-seed": ("pack rows.csv -o p --workers 2 --partition blocks --seed 3", "--seed has no effect"),
    "pack-weights": ("pack rows.csv -o p --workers 2 --weight-column 3", "is the label column, too"),
    "compare": ("compare nowhere.toml -o c", "no such file"),
    "compare-key": ("compare wrong.toml -o c", "metod"),
    "doctor": ("doctor nowhere", "nowhere"),
}


@pytest.mark.parametrize(("line", "words"), WRONG.values(), ids=WRONG.keys())
def test_refuses(line: str, words: str, terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2,0\n3,4,1\n")
    (tmp_path / "wrong.toml").write_text('metod = "dino"\n')
    before, names = contents(tmp_path), sorted(tmp_path.rglob("*"))
    assert terminal(*line.replace("DIGITS", str(digits)).split()) == 2, terminal.err
    *usage, sentence = terminal.err.splitlines()
    assert words in sentence
    assert sentence.startswith("Error: " if usage else "mpinewton: ")
    assert "Traceback" not in terminal.out + terminal.err
    assert contents(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == names


def test_refuses_the_folder_of_another_run(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    assert terminal("run", "newton", digits, "-o", "r", "--max-iterations", 1) == 0
    before = contents(tmp_path)
    assert terminal("run", "newton", digits, "-o", "r", "--l2", 0.5, "--set", "search.first=9") == 2
    assert "l2 was 0.0025, now 0.5" in terminal.err
    assert "settings.search.first was 8, now 9" in terminal.err
    assert "settings.search.rho" not in terminal.err
    assert "--fresh" in terminal.err
    assert contents(tmp_path) == before
    assert terminal("run", "newton", digits, "-o", "r", "--l2", 0.5, "--max-iterations", 1, "--fresh") == 0
    moved = {name.replace("r/", "r.old-1/"): content for name, content in before.items()}
    assert moved.items() <= contents(tmp_path).items()
    assert result_of(tmp_path / "r")["l2"] == 0.5


@pytest.mark.parametrize("more", [[], ["--fresh"]])
def test_leaves_the_files_of_strangers_alone(more: list[str], terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("five years of work")
    assert terminal("run", "newton", digits, "-o", "r", *more) == 2
    assert "is not a run folder" in terminal.err
    assert contents(tmp_path) == {"r/thesis.tex": b"five years of work"}


@pytest.mark.parametrize("more", [[], ["--fresh"]])
def test_a_folder_in_which_another_run_is_at_work_is_left_alone(
    more: list[str], terminal: Terminal, digits: Path, tmp_path: Path
) -> None:
    run = ["run", "newton", digits, "-o", "r", "--max-iterations"]
    assert terminal(*run, 1) == 0
    before = contents(tmp_path)
    with (tmp_path / "r" / "log.txt").open("ab") as held:  # as a run does while it goes on
        fcntl.flock(held, fcntl.LOCK_EX)
        assert terminal(*run, 2, *more) == 2
        assert "another mpinewton is running in this folder" in terminal.err
        assert contents(tmp_path) == before
    assert terminal(*run, 2, *more) == 0


def test_numbers_are_tested_by_their_loss_alone(terminal: Terminal, digits: Path) -> None:
    assert (
        terminal("run", "lbfgs", digits, "-o", "r", "--loss", "squared", "--max-iterations", 2, "--test", digits) == 0
    )
    rows = named(Path("r") / "history.csv")
    assert rows[2]["test_accuracy"] == ""
    assert 0 < float(rows[2]["test_loss"]) < float(rows[0]["test_loss"])


def test_measured_now_and_then(terminal: Terminal, digits: Path) -> None:
    """What is measured beside the method stands at every third iterate; the method does the same, after a stop too."""
    arguments = ["--set", "batch=20", "--test", digits, "--checkpoint-seconds", 0]
    for name, most in (("all", [8]), ("some", [4, 8])):
        every = ["--measure-every", 3 if name == "some" else 1]
        for iterations in most:
            assert terminal("run", "sgdm", digits, "-o", name, "--max-iterations", iterations, *arguments, *every) == 0
    full, some = (named(Path(name) / "history.csv") for name in ("all", "some"))
    for column in ("loss", "grad_norm", "test_accuracy", "test_loss"):
        assert [row[column] for row in some] == [row[column] if k % 3 == 0 else "" for k, row in enumerate(full)]
    assert [row["bits_up"] for row in some] == [row["bits_up"] for row in full]
    assert result_of(Path("all"))["w_sha256"] == result_of(Path("some"))["w_sha256"]
    assert result_of(Path("some"))["objective"] == float(full[8]["loss"])  # of the last, it is known all the same
    # A goal that the last iterate meets is met, measured before or not.
    goal = ["--tol", 1e-6, "--l2", 1.0, "--max-iterations", 12, "--measure-every", 50]
    assert terminal("run", "fednl", digits, "--loss", "squared", "-o", "goal", *goal) == 0
    assert result_of(Path("goal"))["converged"] is True
    # A method that knows its loss tells it.
    assert terminal("run", "lbfgs", digits, "-o", "known", "--max-iterations", 2, "--measure-every", 5) == 0
    assert all(row["loss"] for row in named(Path("known") / "history.csv"))


# -- what it leaves behind ----------------------------------------------------------------------------------------


def test_a_run_folder_is_complete(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    arguments = ["--test", digits, "--reference", "auto", "--checkpoint-seconds", 0]
    assert terminal("run", "dino", digits, "-o", "r", "--max-iterations", 3, *arguments) == 0
    folder = tmp_path / "r"
    files = "checkpoint-A.h5 checkpoint-B.h5 config.toml env.json history.csv ledger.csv log.txt model.h5 result.json"
    assert sorted(path.name for path in folder.iterdir()) == files.split()
    rows = named(folder / "history.csv")
    assert list(rows[0])[:15] == HISTORY.split()
    assert list(rows[0])[15:] == [f"{name}_total" for name in ("floats_down", "floats_up", "bits_down", "bits_up")]
    assert [row["iteration"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["step"] == ""
    assert float(rows[3]["gap"]) > 0
    assert 0.5 < float(rows[3]["test_accuracy"]) <= 1
    w, l2 = read_model(folder / "model.h5").w, result_of(folder)["l2"]  # tested on what it was trained on
    assert float(rows[3]["test_loss"]) == pytest.approx(float(rows[3]["loss"]) - l2 / 2 * (w @ w), rel=1e-12)
    crossings = named(folder / "ledger.csv")
    assert list(crossings[0]) == LEDGER.split()
    result = result_of(folder)
    assert set(RESULT.split()) <= set(result)
    assert (result["method"], result["workers"], result["ranks"], result["iterations"]) == ("dino", 3, 1, 3)
    assert result["converged"] is False
    assert result["reason"] == "maximum number of iterations (3) reached"
    assert result["rounds"] == int(rows[3]["rounds"])
    assert (
        result["bits_up_total"]
        == int(rows[3]["bits_up_total"])
        == sum(int(row["bits_total"]) for row in crossings if row["direction"] == "up")
    )
    with h5py.File(folder / "model.h5") as file:
        assert file["w"].shape == (64, 10)
        assert hashlib.sha256(file["w"][()].tobytes()).hexdigest() == result["w_sha256"]
    assert set(json.loads((folder / "env.json").read_text())) >= {"command", "started", "platform", "versions", "ranks"}
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["settings"]["search"]["first"] == 8
    assert config["l2"] == 1 / 400
    assert "maximum number of iterations (3) reached" in (folder / "log.txt").read_text()
    for name in ("checkpoint-A.h5", "model.h5"):
        assert terminal("info", folder / name) == 0
        assert f"mpinewton-{name[:5]}" in terminal.out


def test_a_configuration_reproduces_its_run(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    settings = ["--set", "search.first=3", "--set", "solver=lanczos"]
    options = ["--l2", 0.01, "--intercept", "--seed", 5, "--max-rounds", 40]
    assert terminal("run", "dino", digits, "-o", "a", *settings, *options) == 0
    assert terminal("run", "--config", "a/config.toml", "-o", "b") == 0
    assert (tmp_path / "a/config.toml").read_bytes() == (tmp_path / "b/config.toml").read_bytes()
    a, b = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert (a["history_sha256"], a["w_sha256"]) == (b["history_sha256"], b["w_sha256"])
    assert terminal("run", "--config", "a/config.toml", "-o", "c", "--set", "search.first=4", "--l2", 0.02) == 0
    changed = tomllib.loads((tmp_path / "c/config.toml").read_text())
    assert (changed["settings"]["search"]["first"], changed["settings"]["solver"]) == (4, "lanczos")
    assert (changed["l2"], changed["intercept"]) == (0.02, True)


def test_the_same_command_says_it_is_finished(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    command = ["run", "newton", digits, "-o", "r", "--tol", 1e-6]
    assert terminal(*command) == 0
    before = contents(tmp_path)
    assert terminal(*command) == 0
    assert "r is finished: gradient norm" in terminal.out
    assert len(terminal.out.splitlines()) == 1
    assert contents(tmp_path) == before


def test_a_step_that_led_nowhere_is_in_the_ledger_and_not_in_the_count(
    terminal: Terminal, digits: Path, tmp_path: Path
) -> None:
    command = ["run", "giant", digits, "--loss", "softplus", "--l2", 0, "-o", tmp_path / "r"]
    for more in ([], ["--max-rounds", 999]):
        assert terminal(*command, *more) == 1
        result, rows = result_of(tmp_path / "r"), named(tmp_path / "r/history.csv")
        assert result["reason"].startswith("negative curvature")
        assert result["iterations"] == int(rows[-1]["iteration"])
        crossings = named(tmp_path / "r/ledger.csv")
        assert [int(row["round"]) for row in crossings] == list(range(1, result["rounds"] + 1))


def test_asking_for_more_goes_on(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    assert terminal("run", "lbfgs", digits, "-o", "r", "--max-iterations", 3) == 0
    short = (tmp_path / "r/history.csv").read_text()
    assert terminal("run", "lbfgs", digits, "-o", "r", "--max-iterations", 8) == 0
    assert "resuming from the checkpoint at iteration 3" in terminal.out
    assert (tmp_path / "r/history.csv").read_text().startswith(short)
    assert terminal("run", "lbfgs", digits, "-o", "whole", "--max-iterations", 8) == 0
    resumed, whole = result_of(tmp_path / "r"), result_of(tmp_path / "whole")
    for name in ("w_sha256", "history_sha256", "rounds", "bits_up_total", "iterations"):
        assert resumed[name] == whole[name]
    ledgers = [table(tmp_path / name / "ledger.csv") for name in ("r", "whole")]
    assert [row[:12] for row in ledgers[0]] == [row[:12] for row in ledgers[1]]  # what follows is seconds


def test_json_is_json_only(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    command = ["run", "newton", digits, "-o", "r", "--json"]
    assert terminal(*command) == 0
    assert json.loads(terminal.out) == result_of(tmp_path / "r")
    assert "converged after" in terminal.err
    assert terminal(*command) == 0  # finished before
    assert json.loads(terminal.out) == result_of(tmp_path / "r")
    assert terminal("evaluate", "r/model.h5", digits, "--json") == 0
    assert json.loads(terminal.out)["rows"] == 400


def test_compare_and_report_print_json(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROWS_ARE_HERE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no figures: they take longer than the runs
    (tmp_path / "e.toml").write_text(
        """[[data]]
name = "iris"
source = "sklearn:iris"
workers = 2
[[data]]
name = "elsewhere"
source = "$ROWS_ARE_HERE/a9a"
workers = 2
[objective]
loss = "softmax"
l2 = 0.1
[[method]]
method = "newton"
[[claim]]
says = "Newton converges"
reaches = "newton"
grad_norm = 1e-6
[stop]
tol = 1e-8
"""
    )
    assert terminal("compare", "e.toml", "-o", "c", "--only", "iris/*", "--json") == 0
    known = json.loads(terminal.out)
    assert known.pop("exit_code") == 0
    assert "converged after" in terminal.err
    (run,) = known["problems"]["iris/softmax-l2=0.1"]
    assert (run["label"], run["ending"]) == ("newton", "converged")
    assert run["loss"] == result_of(tmp_path / "c/iris/softmax-l2=0.1/newton")["objective"]
    assert [claim["verdict"] for claim in known["claims"]] == ["holds"]
    assert terminal("report", "c", "--json") == 0
    assert json.loads(terminal.out) == known


# -- models -------------------------------------------------------------------------------------------------------


def test_predict_and_evaluate_agree_with_scikit_learn(terminal: Terminal, digits: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    X, y = load_digits(return_X_y=True)
    X, y = X[:400] / 16, y[:400]
    peer = LogisticRegression(C=1 / (400 * 0.01), fit_intercept=False, tol=1e-8, max_iter=10_000).fit(X, y)
    assert terminal("run", "newton", digits, "-o", "r", "--loss", "softmax", "--l2", 0.01) == 0
    # The whole source, most of which the training data did not have, in its own order.
    X, y = load_digits(return_X_y=True)
    X = X / 16
    assert terminal("predict", "r/model.h5", "sklearn:digits") == 0
    assert np.array_equal(np.array(terminal.out.split(), dtype=float), peer.predict(X))
    assert terminal("predict", "r/model.h5", "sklearn:digits", "-o", "said.txt") == 0
    assert len(Path("said.txt").read_text().split()) == len(y)
    assert terminal("evaluate", "r/model.h5", "sklearn:digits", "--json") == 0
    figures = json.loads(terminal.out)
    assert figures["accuracy"] == peer.score(X, y)
    assert figures["loss"] == pytest.approx(log_loss(y, peer.predict_proba(X)), rel=1e-5)


def test_classes_may_be_words(terminal: Terminal, tmp_path: Path) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    iris = load_iris()
    words = iris.target_names[iris.target]
    lines = [",".join([*map(str, row), word]) for row, word in zip(iris.data.tolist(), words.tolist())]
    (tmp_path / "iris.csv").write_text("\n".join(lines) + "\n")
    assert terminal("pack", "iris.csv", "-o", "p", "--workers", 4) == 0
    assert terminal("run", "lbfgs", "p", "-o", "r", "--l2", 0.01, "--intercept") == 0
    peer = LogisticRegression(C=1 / (150 * 0.01), tol=1e-8, max_iter=10_000).fit(iris.data, words)
    assert terminal("predict", "r/model.h5", "iris.csv") == 0
    assert terminal.out.split() == peer.predict(iris.data).tolist()
    assert terminal("evaluate", "r/model.h5", "iris.csv", "--json") == 0
    assert json.loads(terminal.out)["accuracy"] == peer.score(iris.data, words)


def test_numbers_are_predicted_as_numbers(terminal: Terminal) -> None:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    X, y = load_diabetes(return_X_y=True)
    assert terminal("pack", "sklearn:diabetes", "-o", "p", "--workers", 2) == 0
    assert terminal("run", "newton", "p", "-o", "r", "--loss", "squared", "--l2", 0.001, "--intercept") == 0
    scale = json.loads(Path("r/result.json").read_text())["objective"]
    peer = Ridge(alpha=0.001 * len(y)).fit(X, y)
    assert scale > 0
    assert terminal("predict", "r/model.h5", "sklearn:diabetes") == 0
    assert np.allclose(np.array(terminal.out.split(), dtype=float), peer.predict(X), rtol=1e-6)
    assert terminal("evaluate", "r/model.h5", "sklearn:diabetes", "--json") == 0
    figures = json.loads(terminal.out)
    assert figures["root_mean_squared_error"] == pytest.approx(np.sqrt(np.mean((peer.predict(X) - y) ** 2)))
    assert figures["r2"] == pytest.approx(peer.score(X, y))


# -- many ranks ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_worker_ranks_load_no_command_line(digits: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['mpinewton', 'run', 'newton', {str(digits)!r}, '-o', 'r']\n"
        "from mpinewton.__main__ import main\n"
        "from mpinewton.fleet.transport.session import launcher_rank\n"
        "try: main()\n"
        "except SystemExit as end: open(f'rank-{launcher_rank()}', 'w').write(' '.join([str(end.code), *sys.modules]))"
    )
    finished = launch(2, code, cwd=tmp_path)
    assert finished.returncode == 0, str(finished)
    for rank in range(2):
        exit_code, *modules = (tmp_path / f"rank-{rank}").read_text().split()
        assert exit_code == "0"
        assert ("click" in modules) == (rank == 0)
        assert not {"matplotlib", "sklearn"} & set(modules)


def test_an_exit_code_that_cannot_be_left_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, say: the driver still has to tell the other ranks that the job is over."""
    monkeypatch.setenv(END_VARIABLE, str(tmp_path / "gone" / "code"))
    tell_launcher(1)
    assert not (tmp_path / "gone").exists()
    monkeypatch.setenv(END_VARIABLE, str(tmp_path / "code"))
    tell_launcher(1)
    assert (tmp_path / "code").read_text() == "1"
    tell_launcher(134, lost=True)
    assert (tmp_path / "code").read_text() == "134 lost"


@pytest.mark.slow
def test_nproc_starts_a_driver_and_workers_to_the_same_bits(terminal: Terminal, digits: Path, tmp_path: Path) -> None:
    assert terminal("run", "newton", digits, "-o", "alone") == 0
    command = ["-m", "mpinewton", "run", "newton", digits, "-o", "many", "--nproc", "1"]
    finished = launch_serial(command, cwd=tmp_path, env=JOB_ENVIRONMENT)
    assert finished.returncode == 0, str(finished)
    alone, many = result_of(tmp_path / "alone"), result_of(tmp_path / "many")
    assert (alone["ranks"], many["ranks"]) == (1, 2)
    for name in ("w_sha256", "history_sha256", "rounds", "bits_up_total"):
        assert alone[name] == many[name]
    refused = launch_serial([*command[:-4], "-o", "bad", "--set", "x=1", "--nproc", "1"], cwd=tmp_path)
    assert refused.returncode == 2, str(refused)
    assert refused.stderr.count("newton has no setting 'x'") == 1


@pytest.mark.slow
def test_ranks_without_workers_are_named(digits: Path, tmp_path: Path) -> None:
    for workers, said in ((3, ""), (5, "2 ranks have no workers and will be idle; start at most one for each worker")):
        command = ["-m", "mpinewton", "run", "newton", digits, "-o", f"on-{workers}", "--nproc", str(workers)]
        finished = launch_serial(command, cwd=tmp_path, env=JOB_ENVIRONMENT)
        assert finished.returncode == 0, str(finished)
        assert said in finished.stdout and ("idle" in finished.stdout) == bool(said), str(finished)
