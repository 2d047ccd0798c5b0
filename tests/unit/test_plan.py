"""Estimates of what methods take on a network: goals that are reached, and those that are extrapolated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mpinewton.cli.plan import command
from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError, DataError
from mpinewton.experiments.plan import estimate, probe
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.report.network import Network
from mpinewton.report.reading import read_run
from mpinewton.report.replay import replay
from mpinewton.runs.job import Job, load_job

FAR = Network(latency=0.05, bandwidth=1e8)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "cancer"
    pack("sklearn:breast_cancer", folder, 3, standardize=True)
    return folder


def test_a_goal_that_is_reached_is_replayed(shards: Path, tmp_path: Path) -> None:
    options = {"data": str(shards), "rtol": 1e-6}
    first, second = probe(LocalSession(), options, ["lbfgs", "newton"], FAR, 60.0, tmp_path)
    assert [first.method, second.method] == ["newton", "lbfgs"]  # the fastest first: latency decides
    for found in (first, second):
        run = read_run(tmp_path / found.method)
        assert found.iterations == (run.last("iteration"),) * 2
        assert found.seconds == pytest.approx((float(replay(run, FAR).seconds[-1]),) * 2)
        assert found.bits == run.last("bits_up")
        assert 0.5 < found.communication <= 1
    dense = 569 * 30 * 8 / 3
    assert second.memory == pytest.approx(dense)
    assert first.memory == pytest.approx(dense + 3.5 * 8 * 30**2)


def test_linear_convergence_is_extrapolated(shards: Path, tmp_path: Path) -> None:
    options = {"data": str(shards), "rtol": 1e-4, "l2": 0.1}
    (whole,) = probe(LocalSession(), options, ["gradient-descent"], FAR, 60.0, tmp_path)
    run = read_run(tmp_path / "gradient-descent")
    job, manifest = load_job(Job.of({**options, "method": "gradient-descent"}, "test"))
    part = {name: values[: 2 * run.rows // 3] for name, values in run.columns.items()}
    cut = read_run(tmp_path / "gradient-descent")
    cut.columns.update(part)
    guess = estimate(cut, job, manifest, FAR)
    assert guess.iterations[0] > cut.last("iteration")
    assert guess.iterations[0] <= guess.iterations[1]
    assert guess.iterations[0] * 0.7 < whole.iterations[0] < guess.iterations[1] * 1.3
    assert guess.seconds[0] * 0.7 < whole.seconds[0] < guess.seconds[1] * 1.3


def test_no_progress_is_said_so(shards: Path, tmp_path: Path) -> None:
    options = {"data": str(shards), "rtol": 1e-4, "l2": 0.1}
    probe(LocalSession(), options, ["gradient-descent"], FAR, 60.0, tmp_path)
    job, manifest = load_job(Job.of({**options, "method": "gradient-descent"}, "test"))
    run = read_run(tmp_path / "gradient-descent")
    run.columns["grad_norm"][:] = np.linspace(1.0, 2.0, run.rows)
    assert "no progress" in estimate(run, job, manifest, FAR).reason


def test_methods_that_do_not_suit_are_named_and_the_others_run(shards: Path, tmp_path: Path) -> None:
    options = {"data": str(shards), "rtol": 1e-3, "loss": "softplus"}
    found = probe(LocalSession(), options, ["lazy-newton", "lbfgs"], FAR, 60.0, tmp_path)
    assert [e.method for e in found] == ["lbfgs", "lazy-newton"]
    assert "needs a convex loss" in found[1].reason
    with pytest.raises(ConfigError, match="needs a convex loss"):
        probe(LocalSession(), options, ["lazy-newton"], FAR, 60.0, tmp_path)
    with pytest.raises(DataError):
        probe(LocalSession(), {**options, "data": str(tmp_path / "none")}, ["lbfgs"], FAR, 60.0, tmp_path)


def test_the_command(shards: Path) -> None:
    given = [str(shards), "--network", "continents", "--methods", "newton,lbfgs", "--ranks-per-node", "2"]
    done = CliRunner().invoke(command, given, obj=LocalSession(), standalone_mode=False)
    assert done.exception is None, done.output
    assert "newton is fastest" in done.stdout
    assert "with 3 worker ranks" in done.stdout
    done = CliRunner().invoke(command, [*given, "--json", "--ranks", "9"], obj=LocalSession(), standalone_mode=False)
    facts = json.loads(done.stdout)
    assert [fact["method"] for fact in facts] == ["newton", "lbfgs"]
    for fact in facts:
        assert fact["node_hours"] == pytest.approx([5 * s / 3600 for s in fact["seconds"]])
    for wrong in (["--rtol", "2"], ["--seconds", "0"], ["--network", "moon"]):
        done = CliRunner().invoke(command, [*given, *wrong], obj=LocalSession(), standalone_mode=False)
        assert isinstance(done.exception, ConfigError)
