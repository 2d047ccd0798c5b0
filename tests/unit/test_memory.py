"""The limit of memory: which ranks leave their rows on disk, what is refused, and the bits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpinewton
from mpinewton.data.manifest import Manifest
from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError
from mpinewton.experiments.compare import compare
from mpinewton.experiments.grid import read_experiment
from mpinewton.fleet import Plan
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.methods.settings import make_method
from mpinewton.runs import memory
from mpinewton.runs.execute import execute
from mpinewton.runs.job import Job, load_job
from mpinewton.runs.memory import estimate, parse_size, place_rows


@pytest.mark.parametrize(
    ("text", "size"),
    [("500M", 500e6), ("2G", 2e9), ("1.5GB", 1.5e9), ("2GiB", 2 * 2**30), ("1024", 1024), ("3 kB", 3000), ("1T", 1e12)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "0G", "-1G", "1X", "1e9", "1iB", "nan", "1GG"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^memory limit .*: expected a size above 0"):
        parse_size(text)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("data") / "p"
    source = "synthetic:logistic?rows=4000&features=50&density=0.1"
    return str(folder), pack(source, folder, 4, partition="sizes:3000,400,300,300").manifest


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_process", lambda: 1e6)
    for module in ("mpinewton.runs.memory", "mpinewton.linalg.rows"):
        monkeypatch.setattr(f"{module}.SEGMENT_ENTRIES", 1000)


def plan_of(packed: tuple[str, Manifest], loss: str = "logistic", **options: Any) -> Plan:
    return Plan(*packed, loss, 1e-3, **options)


def test_only_ranks_that_are_full_leave_their_rows_on_disk(packed: tuple[str, Manifest]) -> None:
    plan, method = plan_of(packed), make_method("lbfgs", {})
    needs = [estimate(plan, plan.problem(), [index], 0.0) for index in range(4)]
    assert needs[0].held > needs[0].stored > needs[1].held
    assert place_rows(plan, method, 5, None).on_disk == ()
    assert place_rows(plan, method, 5, "1G").on_disk == ()
    assert place_rows(plan, method, 5, f"{needs[0].held - 1:.0f}").on_disk == (0,)
    whole = estimate(plan, plan.problem(), range(4), 0.0)
    assert place_rows(plan, method, 1, f"{whole.held - 1:.0f}").on_disk == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match=r"^memory limit 1M: a rank needs about .* in memory, and .* on disk"):
        place_rows(plan, method, 5, "1M")


@pytest.mark.parametrize(
    ("method", "loss", "words"),
    [("nl1", "logistic", "nl1 expects them"), ("lbfgs", "mlp", "mlp expects them: it is not a linear model")],
)
def test_what_needs_its_rows_in_memory_is_refused(
    packed: tuple[str, Manifest], method: str, loss: str, words: str
) -> None:
    plan = plan_of(packed, loss)
    limit = estimate(plan, plan.problem(), [0], make_method(method, {}).matrices).held - 1
    with pytest.raises(ConfigError, match=words):
        place_rows(plan, make_method(method, {}), 5, f"{limit:.0f}")
    assert place_rows(plan, make_method(method, {}), 5, "1G").on_disk == ()


METHODS = {"newton": {}, "lbfgs": {}, "sgd": {"batch_fraction": 0.05}, "dino": {}, "local-newton": {}, "newton-cg": {}}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_runs_have_the_same_histories(packed: tuple[str, Manifest], tmp_path: Path, name: str) -> None:
    found = []
    for limit in (None, "1.6M"):
        asked = Job(method=name, settings=METHODS[name], data=packed[0], max_iterations=3, intercept=True, memory=limit)
        job, manifest = load_job(asked)
        if limit is not None:
            assert place_rows(job.plan(manifest), job.algorithm, 1, limit).on_disk == (0, 1, 2, 3)
        execute(LocalSession(), job, manifest, tmp_path / str(limit))
        found.append(json.loads((tmp_path / str(limit) / "result.json").read_text()))
    assert found[0]["history_sha256"] == found[1]["history_sha256"]
    assert found[0]["w_sha256"] == found[1]["w_sha256"]


def test_minimize_and_compare_keep_within_the_limit_with_the_same_bits(
    packed: tuple[str, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    options = {"loss": "logistic", "l2": 1e-3, "intercept": True, "max_iterations": 3}
    file = tmp_path / "e.toml"
    file.write_text(
        f'data = {{ name = "rows", folder = "{packed[0]}" }}\n'
        'objective = { loss = "logistic", l2 = 1e-3, intercept = true }\n'
        'method = { method = "newton-cg" }\nstop = { max_iterations = 3 }\n'
    )
    for limit in (None, "1.6M"):
        caplog.clear()
        caplog.set_level(logging.INFO, "mpinewton")
        folder = tmp_path / str(limit)
        assert compare(LocalSession(), read_experiment(file), folder, memory=limit) == 0
        result = mpinewton.minimize("newton-cg", packed[0], memory=limit, **options)
        assert caplog.text.count("are on disk") == (0 if limit is None else 2)
        (run,) = folder.glob("rows/*/newton-cg/result.json")
        found.append((json.loads(run.read_text())["w_sha256"], result.x.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("limit", ["x", "1k"])
def test_minimize_refuses_a_limit_that_cannot_be_kept(packed: tuple[str, Manifest], limit: str) -> None:
    with pytest.raises(ConfigError, match=r"^memory limit"):
        mpinewton.minimize("newton", packed[0], loss="logistic", memory=limit)


def test_minimize_refuses_a_limit_for_rows_that_are_in_memory() -> None:
    with pytest.raises(ConfigError, match=r"^memory: expected a packed folder as data"):
        mpinewton.minimize("newton", (np.eye(4), [0, 1, 0, 1]), loss="logistic", memory="1G")
