"""Some of the problems of docs/trust.md, and a loss of one's own with flat tails: the minimum, or a true sentence."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import mpinewton

SCRIPT = Path(__file__).parents[2] / "scripts" / "trust.py"
spec = importlib.util.spec_from_file_location("trust", SCRIPT)
assert spec is not None and spec.loader is not None
trust = sys.modules["trust"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trust)

PROBLEMS = {problem.name: problem for problem in trust.problems()}
QUICK = [
    "diabetes, raw columns, l2 = 0",
    "columns of 1e-9 to 1e9, l2 = 0",
    "duplicated columns, l2 = 0",
    "dummies of every category",
    "separated classes, l2 = 0",
    "counts to 1e12",
    "counts that are all 0, l2 = 0",
    "numbers about 100, huber",
    "more columns than rows, l2 = 0",
    "one row",
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in PROBLEMS]
)
def test_the_minimum_or_a_true_sentence(name, monkeypatch):
    monkeypatch.setattr(trust, "METHODS", trust.EXACT)
    monkeypatch.setattr(trust, "SECONDS", 60.0)  # the page has a limit, for methods that do not arrive
    _, broken = trust.table(name, lambda line: None)
    assert not broken


def test_the_truth_of_a_problem_is_that_of_scipy():
    problem = trust.Problem("a number for all rows", np.ones((3, 1)), np.array([1.0, 2.0, 6.0]), "squared", 0.5, False)
    found = minimize_scalar(lambda w: np.mean((w - problem.y) ** 2) / 2 + 0.25 * w**2)
    assert float(trust.Truth(problem).minimum()) == pytest.approx(found.fun, rel=1e-12)


@dataclass(frozen=True)
class LogCosh(mpinewton.LinearLoss):
    """log cosh(z - t): the second derivative is 1e-130 where z is 150 away from t."""

    name = "log-cosh"
    convex = True

    def values(self, z, t):
        return np.logaddexp(z - t, t - z) - np.log(2.0)

    def derivatives(self, z, t):
        return np.tanh(z - t)

    def second_derivatives(self, z, t):
        return 1.0 / np.cosh(np.clip(z - t, -300.0, 300.0)) ** 2


@pytest.mark.parametrize("method", ["auto", "newton", "newton-cg", "preconditioned-lbfgs", "lbfgs", "bfgs"])
def test_curvature_that_vanishes_in_the_tails_of_a_loss_keeps_no_method_at_the_start(method):
    rng = np.random.default_rng(4)
    X, y = rng.standard_normal((60, 3)), 150 + rng.standard_normal(60)
    found = mpinewton.minimize(method, (X, y), loss=LogCosh(), l2=1e-3, intercept=True, workers=3, max_iterations=100)
    assert found.kind == "converged", found.message
    residual = np.tanh(np.column_stack([X, np.ones(60)]) @ found.x - y)
    gradient = np.append(X.T @ residual / 60 + 1e-3 * found.x[:3], residual.mean())
    assert np.linalg.norm(gradient) < 1e-6
