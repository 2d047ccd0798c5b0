"""NEWTON-LEARN, FedNL and others stopped, resumed on another number of ranks: the bits of an undisturbed serial run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import launch, launch_serial

RUNS = {
    "nl1-top": ["nl1", "--set", "choice=top", "--set", "h0=exact", "--set", "search.first=1"],
    "nl1-coin": ["nl1", "--set", "p=0.4", "--set", "rows=dense", "--set", "fresh=true"],
    "cnl": ["cnl", "--set", "M=adaptive", "--set", "p=0.5"],
    "max-newton": ["max-newton"],
    "ship-data": ["ship-data"],
    "fednl-ls": ["fednl-ls"],
    "fednl-cr-dithering": ["fednl-cr", "--set", "compressor=dithering:levels=7"],
    "fednl-pp": ["fednl-pp", "--set", "tau=3"],
    "adiana": ["adiana"],
    "bfgs-exact": ["bfgs", "--set", "hessian_start=exact", "--set", "search=none"],
}
ITERATIONS = {"ship-data": (2, 4), "max-newton": (2, 4)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "logistic"
    command = [
        "-m",
        "mpinewton",
        "pack",
        "synthetic:logistic?rows=400&features=12",
        "-o",
        str(folder),
        "--workers",
        "7",
    ]
    packed = launch_serial([*command, "--partition", "quantity:0.5"])
    assert packed.returncode == 0, str(packed)
    return folder


def run(ranks: int, name: str, shards: Path, out: Path, iterations: int) -> dict:
    options = ["--l2", "1e-2", "--tol", "0", "--max-iterations", str(iterations), "-o", str(out)]
    command = ["-m", "mpinewton", "run", *RUNS[name], str(shards), *options]
    ended = launch_serial(command) if ranks == 1 else launch(ranks, command)
    assert ended.returncode == 0, str(ended)
    result = json.loads((out / "result.json").read_text())
    assert result["ranks"] == ranks
    assert result["iterations"] == iterations
    return result


def ledger(out: Path) -> list[str]:
    """The ledger without what depends on time and layout."""
    lines = [line.split(",") for line in (out / "ledger.csv").read_text().splitlines()]
    keep = [i for i, name in enumerate(lines[0]) if name not in ("wire", "control", "seconds", "compute")]
    return [",".join(line[i] for i in keep) for line in lines]


@pytest.mark.parametrize("name", RUNS)
def test_same_bits_on_3_ranks_and_after_a_stop(name, shards, tmp_path):
    half, whole = ITERATIONS.get(name, (6, 15))
    serial, parted = tmp_path / "serial", tmp_path / "parted"
    truth = run(1, name, shards, serial, whole)
    run(3, name, shards, parted, half)
    found = run(2, name, shards, parted, whole)
    for key in ("history_sha256", "w_sha256", "rounds", "bits_up_total"):
        assert found[key] == truth[key], key
    assert ledger(parted) == ledger(serial)
