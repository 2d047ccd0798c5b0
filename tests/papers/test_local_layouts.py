"""Bit equality of the local methods and their rivals: the same history, model and ledger on 1 and 3 ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launch import launch, launch_serial

RUNS = {
    "auto": [],
    "dingo": [],
    "dino": ["--set", "adaptive=true", "--set", "solver=lanczos"],
    "disco": ["--set", "mu=0.001"],
    "local-sgd": ["--set", "batch=20"],
    "aide": ["--set", "steps=10"],
    "adaptive-local-newton": ["--set", "check=multi", "--set", "solver=cg"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    packed = launch_serial(
        ["-m", "mpinewton", "pack", "sklearn:digits", "-o", str(folder), "--workers", "7", "--scale", "1/16"]
    )
    assert packed.returncode == 0, str(packed)
    return folder


@pytest.mark.parametrize("method", RUNS)
def test_same_bits_on_1_and_3_ranks(method, shards, tmp_path):
    found = []
    for ranks in (1, 3):
        out = tmp_path / str(ranks)
        command = ["-m", "mpinewton", "run", method, str(shards), "-o", str(out), "--max-iterations", "5"]
        command += ["--tol", "0", *RUNS[method]]
        ended = launch_serial(command) if ranks == 1 else launch(ranks, command)
        assert ended.returncode == 0, str(ended)
        result = json.loads((out / "result.json").read_text())
        found.append({name: result[name] for name in ("history_sha256", "w_sha256", "rounds", "bits_up_total")})
    assert found[0] == found[1]
