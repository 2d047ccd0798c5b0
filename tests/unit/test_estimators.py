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
    with pytest.raises(ConfigError, match="did you mean 'newton'"):
        LinearRegressor("newtn").fit(ROWS, NUMBERS)
    with pytest.warns(ConvergenceWarning, match="tol = 1e-06"):
        LinearClassifier("gradient-descent", max_iter=2).fit(X, Y)
