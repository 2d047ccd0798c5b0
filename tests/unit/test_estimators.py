"""The scikit-learn estimators: its own checks, and its own models as the truth."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import check_estimator

from mpinewton.errors import ConfigError
from mpinewton.estimators import LinearClassifier, LinearRegressor
from mpinewton.methods.settings import make_method

X, Y = StandardScaler().fit_transform(load_iris().data), load_iris().target
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
ROWS, NUMBERS = load_diabetes(return_X_y=True)
ROWS, NUMBERS = StandardScaler().fit_transform(ROWS), NUMBERS / 100


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [LinearClassifier(), LinearRegressor()], ids=["classifier", "regressor"])
def test_scikit_learns_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some checks hand over very few rows, or huge ones
        checks = check_estimator(estimator, on_skip=None)
    assert {check["status"] for check in checks} == {"passed", "skipped"}
    assert sum(check["status"] == "passed" for check in checks) > 50


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("storage", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("weighted", [False, True])
def test_classifier_is_logistic_regression(classes, storage, weighted):
    seen = np.less(Y, classes)
    x, y, n = X[seen], NAMES[seen], int(seen.sum())
    weight = np.random.default_rng(0).uniform(0.5, 2, n) if weighted else np.ones(n)
    mass, l2 = weight.sum(), 1e-2
    truth = LogisticRegression(C=1 / (mass * l2), tol=1e-12, max_iter=10_000).fit(x, y, weight)
    ours = LinearClassifier(l2=l2, workers=3, tol=1e-9).fit(storage(x), y, weight if weighted else None)
    np.testing.assert_allclose(ours.predict_proba(storage(x)), truth.predict_proba(x), atol=1e-5)
    np.testing.assert_allclose(ours.coef_, truth.coef_, atol=1e-4)
    assert ours.coef_.shape == truth.coef_.shape
    assert np.array_equal(ours.predict(x), truth.predict(x))
    assert ours.score(x, y) == truth.score(x, y)
    assert ours.result_.ledger is not None


@pytest.mark.parametrize("weight", ["balanced", {"setosa": 3.0, "virginica": 0.5}])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_of_classes_are_those_of_scikit_learn(weight, weighted):
    seen = np.arange(150) % 5 < 1 + Y  # unequal classes
    x, y, rows = X[seen], NAMES[seen], np.random.default_rng(0).uniform(0.5, 2, seen.sum()) if weighted else None
    truth = LogisticRegression(class_weight=weight, tol=1e-12, max_iter=10_000).fit(x, y, rows)  # C = 1
    ours = LinearClassifier("newton", class_weight=weight, tol=1e-10).fit(x, y, rows)  # l2 = 1 / sum of the weights
    np.testing.assert_allclose(ours.coef_, truth.coef_, atol=1e-5)


def test_a_warm_start_has_nothing_left_to_do():
    ours = LinearClassifier("newton", l2=1e-2, warm_start=True, tol=1e-9).fit(X, NAMES)
    first, coef = ours.n_iter_, ours.coef_
    assert first > 2 and ours.fit(X, NAMES).n_iter_ == 0
    np.testing.assert_array_equal(ours.coef_, coef)
    with pytest.raises(ValueError, match=r"warm_start: y has the classes \[0 1 2\], but the fit before had"):
        ours.fit(X, Y)
    with pytest.raises(ConfigError, match=r"w0: expected shape \(12,\)"):
        ours.fit(X[:, :3], NAMES)
    ours = LinearRegressor("newton", warm_start=True, tol=1e-8).fit(ROWS, NUMBERS)
    assert ours.fit(ROWS, NUMBERS).n_iter_ == 0


def test_a_callback_may_stop_and_goals_are_those_of_minimize():
    seen = []
    ours = LinearClassifier("gradient-descent", callback=lambda row, w: seen.append(row) or row.iteration == 3)
    assert ours.fit(X, Y).n_iter_ == 3 == len(seen) - 1  # and no warning
    norms = [row.grad_norm for row in LinearClassifier("newton", rtol=0.5).fit(X, Y).result_.history]
    assert norms[-1] <= 0.5 * norms[0] < norms[-2]
    assert LinearClassifier("newton", random_state=check_random_state(3), workers=2).fit(X, Y).score(X, Y) > 0.9


def test_regressors_are_ridge_and_poisson():
    n, l2 = len(ROWS), 0.1
    truth = Ridge(alpha=n * l2, tol=1e-12).fit(ROWS, NUMBERS)
    ours = LinearRegressor("newton", l2=l2, workers=4, tol=1e-10).fit(ROWS, NUMBERS)
    np.testing.assert_allclose([*ours.coef_, ours.intercept_], [*truth.coef_, truth.intercept_], atol=1e-8)
    counts = np.round(NUMBERS * 3)
    poisson = PoissonRegressor(alpha=l2, tol=1e-10, max_iter=10_000).fit(ROWS, counts)
    ours = LinearRegressor("newton", "poisson", l2=l2, tol=1e-10).fit(ROWS, counts)
    np.testing.assert_allclose(ours.predict(ROWS), poisson.predict(ROWS), rtol=1e-6)


def test_without_an_intercept_and_with_a_column_less():
    ours = LinearClassifier(l2=1e-2, fit_intercept=False).fit(X, Y)
    np.testing.assert_array_equal(ours.intercept_, np.zeros(3))
    reduced = LinearClassifier("newton", "softmax:reduced=true", l2=1e-2).fit(X, NAMES)
    assert reduced.coef_.shape == (3, 4)
    assert reduced.intercept_[-1] == 0.0
    np.testing.assert_allclose(reduced.predict_proba(X).sum(axis=1), 1.0)
    assert reduced.score(X, NAMES) > 0.9


def test_two_classes_have_one_logit_with_softmax_too():
    x, y = X[Y < 2], NAMES[Y < 2]
    ours = LinearClassifier("newton", "softmax", l2=1e-2).fit(x, y)
    assert ours.coef_.shape == (1, 4)
    assert ours.decision_function(x).shape == (100,)
    assert ours.score(x, y) == 1.0
    np.testing.assert_array_equal(ours.predict_proba(x).argmax(axis=1), Y[Y < 2])


def test_in_a_pipeline_and_a_grid_with_a_method_object():
    model = make_pipeline(StandardScaler(), LinearClassifier(make_method("giant", {}), workers=2))
    grid = GridSearchCV(model, {"linearclassifier__l2": [1e-3, 10.0]}, cv=3).fit(X, Y)
    assert grid.best_params_ == {"linearclassifier__l2": 1e-3}


def test_refusals_say_why():
    with pytest.raises(ValueError, match=r"expected the loss of a linear model; use mpinewton\.minimize"):
        LinearClassifier(loss="mlp:hidden=4").fit(X, Y)
    with pytest.raises(ValueError, match="y has one class, 1:"):
        LinearClassifier().fit(X, np.ones(len(X), dtype=int))
    with pytest.raises(ValueError, match="expected weights of at least 0"):
        LinearRegressor().fit(ROWS, NUMBERS, -np.ones(len(ROWS)))
    for estimator, word in (
        (LinearClassifier(loss="squared"), "numbers"),
        (LinearRegressor(loss="logistic"), "classes"),
    ):
        with pytest.raises(ValueError, match=f"is for {word}: use Linear"):
            estimator.fit(X, Y)
    infinite = np.where(np.arange(len(X)) == 3, np.inf, 1.0)
    with pytest.raises(ValueError, match="sample_weight contains infinity"):
        LinearClassifier().fit(X, Y, infinite)
    for weight in (np.full(len(X), 1e308), np.zeros(len(X))):
        with pytest.raises(ValueError, match="with a finite sum, not all zero"):
            LinearClassifier().fit(X, Y, weight)
    with pytest.raises(ValueError, match="with a finite sum, not all zero"):
        LinearClassifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, Y)
    with pytest.raises(ConfigError, match="workers = 0"):
        LinearClassifier(workers=0).fit(X, Y)
    with pytest.raises(ConfigError, match="did you mean 'newton'"):
        LinearRegressor("newtn").fit(ROWS, NUMBERS)
    with pytest.warns(ConvergenceWarning, match="not converged: maximum number of iterations"):
        LinearClassifier("gradient-descent", max_iter=2).fit(X, Y)


def test_the_estimated_gap_is_a_goal():
    found = LinearClassifier("gradient-descent", ftol=1e-2, max_iter=5000).fit(X, Y).result_
    assert found.kind == "converged"
    assert "0.01 times" in found.message
