"""A small CNN in PyTorch: trained by first- and second-order methods, in one process and under mpiexec, to the same
bits, after a stop too; and a model file that predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from launch import Finished, launch, launch_serial
from sklearn.datasets import load_digits

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpinewton[torch]'")

CNN = "torch:module=mpinewton.losses.networks:small_cnn,arguments=side=8;channels=4,input=1x8x8"
BATCHES = {"batch": 20, "sampling": "epochs"}
METHODS = {
    "sisa": ({"sigma": 1.0, "rho": 100.0, "gamma": 1.0, **BATCHES}, 30, 1.9),
    "nsisa": ({"sigma": 20.0, "gamma": 1.0, "schulz": {"other_sigma": 1.0}, **BATCHES}, 30, 1.2),
    "muon": ({"lr": 0.02, "other_lr": 0.003, **BATCHES}, 30, 1.2),
    "dino": ({}, 8, 1.9),
    "giant": ({"negative": "abs"}, 8, 1.9),
    "lbfgs": ({}, 30, 1.2),
}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns(method):
    """All begin at 2.3, the loss of ten classes that are equally likely."""
    (X, y), classes = load_digits(return_X_y=True), tuple(map(float, range(10)))
    shards = [Shard(X[i:400:4] / 16, y[i:400:4].astype(float)) for i in range(4)]
    settings, rounds, most = METHODS[method]
    fleet, made = local_fleet(shards, make_loss(CNN), classes, 1e-4), make_method(method, settings)
    fleet.adopt(made)
    ended = run(made, fleet, fleet.problem.begin(), [Iterations(rounds)])
    assert ended.kind == "budget", ended.reason
    assert ended.row.loss < most


# -- under mpiexec ----------------------------------------------------------------------------------------------------

CELLS = {
    "nsisa": ["sigma=20", "schulz.other_sigma=1", "batch=20", "sampling=epochs"],
    "dino": [],
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "digits"
    options = ["--workers", "4", "--rows", "300", "--scale", "1/16", "--dtype", "float32"]
    packed = launch_serial(["-m", "mpinewton", "pack", "sklearn:digits", "-o", folder, *options])
    assert packed.returncode == 0, str(packed)
    return folder


def trained(processes: int, method: str, digits: Path, out: Path, iterations: int, loss: str = CNN) -> Finished:
    command = ["-m", "mpinewton", "run", method, digits, "-o", out, "--loss", loss, "--l2", "1e-4", "--tol", "0"]
    for pair in CELLS[method]:
        command += ["--set", pair]
    command += ["--max-iterations", str(iterations), "--seed", "5"]
    return launch_serial(command) if processes == 1 else launch(processes, command)


def bits(processes: int, method: str, digits: Path, out: Path, iterations: int) -> tuple[str, str]:
    ended = trained(processes, method, digits, out, iterations)
    assert ended.returncode == 0, str(ended)
    result = json.loads((out / "result.json").read_text())
    assert (result["ranks"], result["iterations"]) == (processes, iterations)
    return result["history_sha256"], result["w_sha256"]


def test_the_same_bits_in_one_process_and_three_and_after_a_stop(digits, tmp_path):
    one = bits(1, "nsisa", digits, tmp_path / "one", 6)
    assert bits(3, "nsisa", digits, tmp_path / "three", 6) == one
    assert bits(3, "nsisa", digits, tmp_path / "halves", 4) != one
    assert bits(1, "nsisa", digits, tmp_path / "halves", 6) == one


def test_second_order_to_the_same_bits_and_a_model_that_predicts(digits, tmp_path):
    one = bits(1, "dino", digits, tmp_path / "one", 2)
    assert bits(2, "dino", digits, tmp_path / "two", 2) == one
    model = tmp_path / "two" / "model.h5"
    ended = launch_serial(["-m", "mpinewton", "evaluate", model, digits, "--json"])
    assert ended.returncode == 0, str(ended)
    figures = json.loads(ended.stdout)
    ended = launch_serial(["-m", "mpinewton", "predict", model, digits])
    assert ended.returncode == 0, str(ended)
    said = np.array([float(line) for line in ended.stdout.split()])
    assert figures["rows"] == len(said) == 300
    assert set(said) <= set(range(10))


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        ("torch:module=modules:normalised", "use GroupNorm"),
        ("torch:module=mpinewton.losses.networks:small_cnn,input=1x28x28", "does not take rows of 64 features"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(loss, sentence, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=":")
    ended = trained(3, "dino", digits, tmp_path / "run", 2, loss)
    assert ended.returncode == 2, str(ended)
    assert sentence in ended.stderr
    assert not (tmp_path / "run").exists()
