"""The rule `auto`: which method it chooses where, and that it runs to the bits of that method."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import mpinewton
from mpinewton.data.pack import pack
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.fleet import Plan, Problem
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.settings import make_method
from mpinewton.testing.problems import ZOO, on_many

SLOW = {"latency": 0.02, "rate": 1e8}  # 20 ms a round, 100 Mbit/s


def problem(features: int, rows: int = 1000, loss: str = "logistic", density: float = 1.0, l2: float = 1e-3) -> Problem:
    entries = int(density * rows * features)
    counts = (rows // 4,) * 4
    classes = {"logistic": (0.0, 1.0), "softmax": (0.0, 1.0, 2.0)}.get(loss)
    return Problem(make_loss(loss), classes, counts, tuple(map(float, counts)), features, l2, entries=entries)


@pytest.mark.parametrize(
    ("settings", "where", "name"),
    [
        ({}, problem(30, 5_000), "newton"),
        ({}, problem(100, 500_000), "lazy-newton"),
        ({}, problem(300, 50_000, density=0.04), "lazy-newton"),
        ({}, problem(2000, 50_000), "lbfgs"),
        ({}, problem(1_000_000, 50_000, density=4e-5), "lbfgs"),
        ({}, problem(1_000_000, 50_000, density=4e-5, l2=1e-4), "newton-cg"),
        ({}, problem(1_000_000, 50_000, loss="huber", density=4e-5), "newton-cg"),
        ({}, problem(2000, 50_000, loss="softmax"), "newton-cg"),
        ({}, problem(30, loss="softplus"), "newton"),
        (SLOW, problem(300, 50_000, density=0.04), "lazy-newton"),
        (SLOW, problem(20_000, 20_000, density=0.002), "preconditioned-lbfgs"),
        ({"goal": "rounds"}, problem(300), "newton"),
        ({"goal": "rounds"}, problem(20_000), "preconditioned-lbfgs"),
        ({"goal": "rounds"}, problem(20_000, loss="softplus"), "preconditioned-lbfgs"),
        ({"goal": "bits"}, problem(30), "lazy-newton"),
        ({}, problem(30, loss="mlp:hidden=4"), "lbfgs"),
    ],
)
def test_choice(settings, where, name):
    assert make_method("auto", settings).choose(where).name == name


def test_fewer_gradients_are_sent_where_bits_are_saved():
    chosen = [make_method("auto", {"goal": goal}).choose(problem(20_000)) for goal in ("rounds", "bits")]
    assert [method.likely for method in chosen] == [4, 1]


def test_settings_of_a_network_are_refused_where_they_have_no_effect():
    with pytest.raises(ConfigError, match="latency"):
        make_method("auto", {"goal": "bits", "latency": 0.1})


@pytest.mark.parametrize("name", ["logistic-csr", "softplus-dense"])
def test_the_iterates_are_those_of_the_chosen_method(name):
    def run(method):
        return mpinewton.minimize(method, ZOO[name].shards, loss=ZOO[name].loss, l2=0.01, max_iterations=4, tol=0)

    chosen = make_method("auto", {}).choose(on_many(ZOO[name]).problem)
    assert run("auto").x.tobytes() == run(chosen).x.tobytes()


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_the_density_is_known_in_memory_and_in_a_folder(tmp_path, intercept, density):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((40, 10)) * (rng.random((40, 10)) < density)
    y = np.arange(40) % 2.0
    matrix = sparse.csr_array(X) if density < 1 else X
    alone = local_fleet([Shard(matrix, y)], make_loss("logistic"), (0.0, 1.0), 0.1, intercept).problem.density
    assert alone == pytest.approx((np.count_nonzero(X) + 40 * intercept) / (40 * (10 + intercept)))
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    manifest = pack(
        str(tmp_path / "rows.npz"), tmp_path / "shards", 3, storage="sparse" if density < 1 else "dense"
    ).manifest
    assert Plan(str(tmp_path), manifest, "logistic", 0.1, intercept=intercept).problem().density == pytest.approx(alone)
