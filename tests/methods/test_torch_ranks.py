"""A small CNN in PyTorch: trained by first- and second-order methods, in one process and under mpiexec, to the same
bits, after a stop too; and a model file that predicts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from launch import launch
from sklearn.datasets import load_digits

from mpinewton.cli import run_command_line
from mpinewton.data.loading import load_rows
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")

CNN = "torch:module=mpinewton.losses.torch.networks:small_cnn,arguments=side=8;channels=2,input=1x8x8"
DROPPING = f"torch:module={Path(__file__).parents[1]}/support/modules.py:dropping_cnn,input=1x8x8"  # with dropout
BATCHES = {"batch": 20, "sampling": "epochs"}
METHODS = {
    "sisa": ({"sigma": 0.3, "rho": 100.0, "gamma": 1.0, **BATCHES}, 40),
    "adamw": ({"lr": 0.02, **BATCHES}, 40),
    "dino": ({"limit": 10}, 2),
    "giant": ({"negative": "abs", "limit": 10}, 4),
    "lbfgs": ({}, 15),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_learns(method):
    (X, y), classes = load_digits(return_X_y=True), tuple(map(float, range(10)))
    shards = [Shard(X[i:240:4] / 16, y[i:240:4].astype(float)) for i in range(4)]
    settings, rounds = METHODS[method]
    fleet, made, seen = local_fleet(shards, make_loss(CNN), classes, 1e-4), make_method(method, settings), []
    fleet.adopt(made)
    ended = run(
        made, fleet, fleet.problem.initial_weights(), [Iterations(rounds)], watchers=[lambda row, _: seen.append(row)]
    )
    assert ended.kind == "budget", ended.reason
    if method == "dino":  # which goes where the gradient vanishes, a saddle point for one: downhill all the way
        assert all(after.loss < before.loss for before, after in pairwise(seen))
        assert seen[-1].grad_norm < 0.5 * seen[0].grad_norm
    else:
        assert seen[-1].loss < 0.8 * seen[0].loss


# -- under mpiexec ----------------------------------------------------------------------------------------------------

CELLS = {
    "nsisa": ["sigma=20", "schulz.other_sigma=1", "batch=20", "sampling=epochs"],
    "dino": ["limit=5"],
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "digits"
    options = ["--workers", "4", "--rows", "200", "--scale", "1/16", "--dtype", "float32"]
    assert run_command_line(LocalSession(), ["pack", "sklearn:digits", "-o", str(folder), *options]) == 0
    return folder


def options_of(method: str, digits: Path, out: Path, iterations: int, loss: str = CNN) -> list[str]:
    options = ["run", method, str(digits), "-o", str(out), "--loss", loss, "--l2", "1e-4", "--tol", "0"]
    for pair in CELLS[method]:
        options += ["--set", pair]
    return [*options, "--max-iterations", str(iterations), "--seed", "5"]


def bits(processes: int, method: str, digits: Path, out: Path, iterations: int) -> tuple[str, str]:
    options = options_of(method, digits, out, iterations, DROPPING)
    if processes == 1:  # this one, which has PyTorch loaded
        assert run_command_line(LocalSession(), options) == 0
    else:
        ended = launch(processes, ["-m", "mpinewton", *options], timeout=200)
        assert ended.returncode == 0, str(ended)
    result = json.loads((out / "result.json").read_text())
    assert (result["ranks"], result["iterations"]) == (processes, iterations)
    return result["history_sha256"], result["w_sha256"]


@pytest.mark.slow
def test_the_same_bits_in_one_process_and_two_and_after_a_stop(digits, tmp_path):
    one = bits(1, "nsisa", digits, tmp_path / "one", 6)
    assert bits(2, "nsisa", digits, tmp_path / "halves", 4) != one
    assert bits(1, "nsisa", digits, tmp_path / "halves", 6) == one


@pytest.mark.slow
def test_second_order_to_the_same_bits_after_a_stop_and_a_model_that_predicts(digits, tmp_path, capsys):
    one = bits(1, "dino", digits, tmp_path / "one", 2)
    bits(1, "dino", digits, tmp_path / "two", 1)
    assert bits(1, "dino", digits, tmp_path / "two", 2) == one
    model = str(tmp_path / "two" / "model.h5")
    capsys.readouterr()
    assert run_command_line(LocalSession(), ["evaluate", model, str(digits), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert run_command_line(LocalSession(), ["predict", model, str(digits)]) == 0
    said = np.array([float(line) for line in capsys.readouterr().out.split()])
    truth, _ = load_rows(str(digits))
    assert figures["rows"] == len(said) == 200
    assert figures["accuracy"] == np.mean(said == truth.y)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        ("torch", "no module is given"),
        ("torch:module=modules:normalised", "use GroupNorm"),
        ("torch:module=mpinewton.losses.torch.networks:small_cnn,input=1x28x28", "does not take rows of 64 features"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(loss, sentence, digits, tmp_path, capsys):
    assert run_command_line(LocalSession(), options_of("dino", digits, tmp_path / "run", 2, loss)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
