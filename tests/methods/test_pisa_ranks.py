"""Networks and minibatches under mpiexec: the bits of one process, and of an undisturbed run after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import launch

from mpinewton.cli import run_command_line
from mpinewton.fleet.transport.session import LocalSession

NETWORK = ["--loss", "mlp:hidden=16-8", "--l2", "1e-4", "--seed", "5", "--tol", "0"]
NSISA = ["--set", "sigma=20", "--set", "schulz.other_sigma=1", "--set", "batch=12", "--set", "sampling=epochs"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "digits"
    options = ["--workers", "4", "--partition", "label-skew:3", "--scale", "1/16", "--dtype", "float32"]
    assert run_command_line(LocalSession(), ["pack", "sklearn:digits", "-o", str(folder), *options]) == 0
    return folder


def trained(ranks: int, method: str, digits: Path, out: Path, iterations: int) -> dict:
    """What a run says in the end; the same folder goes on."""
    command = ["run", method, str(digits), "-o", str(out), *NETWORK, *(NSISA if method == "nsisa" else [])]
    command += ["--max-iterations", str(iterations)]
    if ranks == 1:
        assert run_command_line(LocalSession(), command) == 0
    else:
        ended = launch(ranks, ["-m", "mpinewton", *command])
        assert ended.returncode == 0, str(ended)
    result = json.loads((out / "result.json").read_text())
    assert (result["ranks"], result["iterations"]) == (ranks, iterations)
    return result


def bits(result: dict) -> tuple[str, str]:
    return result["history_sha256"], result["w_sha256"]


@pytest.mark.slow
def test_the_same_bits_after_a_stop_on_two_ranks(digits, tmp_path, capsys):
    """Other methods: on the ranks of tests/mpi, and on simulated ones in `check_bits`."""
    capsys.readouterr()
    one = trained(1, "nsisa", digits, tmp_path / "one", 8)
    assert "orthogonalises its own momentum" in "".join(capsys.readouterr())
    half = trained(2, "nsisa", digits, tmp_path / "halves", 5)
    assert bits(half) != bits(one)
    assert bits(trained(1, "nsisa", digits, tmp_path / "halves", 8)) == bits(one)


def test_a_network_that_was_trained_predicts(digits, tmp_path, capsys):
    capsys.readouterr()
    trained(1, "lbfgs", digits, tmp_path / "run", 5)
    assert "orthogonalises" not in "".join(capsys.readouterr())
    assert run_command_line(LocalSession(), ["evaluate", str(tmp_path / "run" / "model.h5"), str(digits)]) == 0
    assert "accuracy" in capsys.readouterr().out
