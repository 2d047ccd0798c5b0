"""Networks and minibatches under mpiexec: the bits of one process, and of an undisturbed run after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import launch, launch_serial

NETWORK = ["--loss", "mlp:hidden=16-8", "--l2", "1e-4", "--seed", "5", "--tol", "0"]
CELLS = {
    "nsisa": ["--set", "sigma=20", "--set", "schulz.other_sigma=1", "--set", "batch=12", "--set", "sampling=epochs"],
    "scaffold": ["--set", "batch=16"],
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "digits"
    options = ["--workers", "4", "--partition", "label-skew:3", "--scale", "1/16", "--dtype", "float32"]
    packed = launch_serial(["-m", "mpinewton", "pack", "sklearn:digits", "-o", folder, *options])
    assert packed.returncode == 0, str(packed)
    return folder


def trained(ranks: int, method: str, digits: Path, out: Path, iterations: int) -> dict:
    """What a run says in the end; the same folder goes on."""
    command = ["-m", "mpinewton", "run", method, digits, "-o", out, *NETWORK, *CELLS.get(method, [])]
    command += ["--max-iterations", str(iterations)]
    ended = launch_serial(command) if ranks == 1 else launch(ranks, command)
    assert ended.returncode == 0, str(ended)
    result = json.loads((out / "result.json").read_text())
    assert (result["ranks"], result["iterations"]) == (ranks, iterations)
    return {name: result[name] for name in ("history_sha256", "w_sha256", "objective", "floats_up_total")} | {
        "output": ended.stdout + ended.stderr
    }


def bits(result: dict) -> tuple[str, str]:
    return result["history_sha256"], result["w_sha256"]


@pytest.mark.parametrize("method", CELLS)
def test_the_same_bits_on_one_and_three_ranks_and_after_a_stop(method, digits, tmp_path):
    one = trained(1, method, digits, tmp_path / "one", 8)
    assert bits(trained(3, method, digits, tmp_path / "three", 8)) == bits(one)
    half = trained(3, method, digits, tmp_path / "halves", 5)
    assert bits(half) != bits(one)
    assert bits(trained(1, method, digits, tmp_path / "halves", 8)) == bits(one)
    assert ("orthogonalises its own momentum" in one["output"]) is (method == "nsisa")


def test_a_network_that_was_trained_predicts(digits, tmp_path):
    trained(5, "lbfgs", digits, tmp_path / "run", 5)
    command = ["-m", "mpinewton", "evaluate", tmp_path / "run" / "model.h5", digits]
    ended = launch_serial(command)
    assert ended.returncode == 0, str(ended)
    assert "accuracy" in ended.stdout
