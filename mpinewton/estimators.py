"""Linear models as scikit-learn estimators: for pipelines, grid search and cross-validation on one machine."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.extmath import softmax as probabilities
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from mpinewton.api import minimize
from mpinewton.arrays import Array
from mpinewton.data.partition import partition
from mpinewton.data.shard import Shard
from mpinewton.losses import make_loss
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.softmax import Softmax


class Linear(BaseEstimator):  # type: ignore[misc]
    """Base class of both estimators.

    Parameters
    ----------
    method : str or Method
        Name of a method, or a method object with its settings, as for `minimize`.
    loss : str
        Name of a loss of a linear model, as for `minimize`.
    l2 : float, default 1 / (sum of the sample weights)
        Factor of |w|^2 / 2 beside the mean loss; the intercept is not regularised. (C of `LogisticRegression` is
        1 / (n l2).)
    fit_intercept : bool
    workers : int
        Number of logical workers, all in this process; the rows are permuted and distributed among them.
    tol : float
        Tolerance on the gradient norm; `fit` warns if it is not reached in `max_iter` iterations.
    max_iter : int
        Maximum number of iterations.
    random_state : int
        Seed of the permutation and of the method.

    Attributes
    ----------
    coef_ : array, shape (p,), or (C, p) for classifiers: one row for two classes
    intercept_ : float, or array of shape (C,)
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
    result_ : OptimizeResult
        Result of `minimize`, with the ledger.
    """

    def __init__(
        self,
        method: Any = "auto",
        loss: str | None = None,
        l2: float | None = None,
        fit_intercept: bool = True,
        workers: int = 1,
        tol: float = 1e-6,
        max_iter: int = 1000,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.loss = loss
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.workers = workers
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit(self, X: Any, y: Array, sample_weight: ArrayLike | None, loss: str) -> Array:
        """Train: the weights, shape (outputs, p); the intercept becomes an attribute."""
        made = make_loss(loss)
        if not isinstance(made, LinearLoss):
            raise ValueError(f"loss = {loss!r}: expected the loss of a linear model; use mpinewton.minimize for others")
        if made.classifies != is_classifier(self):
            what, other = ("classes", "LinearClassifier") if made.classifies else ("numbers", "LinearRegressor")
            raise ValueError(f"loss = {loss!r} is for {what}: use {other}, or another loss")
        weight = None if sample_weight is None else column_or_1d(sample_weight, dtype=np.float64)
        check_consistent_length(X, y, weight)
        X = sparse.csr_array(X) if sparse.issparse(X) else X
        blocks = partition(y, min(self.workers, len(y)), "iid", self.random_state)
        shards = [Shard(X[rows], y[rows], None if weight is None else weight[rows]) for rows in blocks]
        total_weight = len(y) if weight is None else weight.sum()
        if not total_weight > 0 or (weight is not None and weight.min() < 0):
            raise ValueError("sample_weight: expected weights of at least 0, not all zero")
        result = minimize(
            self.method, shards, loss=loss, l2=1.0 / total_weight if self.l2 is None else self.l2,
            intercept=self.fit_intercept, tol=self.tol, max_iterations=self.max_iter, seed=self.random_state,
        )  # fmt: skip
        assert result is not None, "all workers are in this process"
        if not result.success:
            warnings.warn(f"{result.message}: |gradient| > tol = {self.tol:g}", ConvergenceWarning, stacklevel=3)
        self.result_, self.n_iter_ = result, result.nit
        W = result.x.reshape(X.shape[1] + self.fit_intercept, -1).T
        self.intercept_ = W[:, -1].copy() if self.fit_intercept else np.zeros(len(W))
        return np.ascontiguousarray(W[:, : X.shape[1]])

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_.T + self.intercept_)


class LinearClassifier(ClassifierMixin, Linear):  # type: ignore[misc]
    """Logistic regression for two classes, softmax regression for more, by any method of mpinewton.

    `loss` None means "logistic" for two classes, else "softmax". Parameters and attributes are those of `Linear`.
    """

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X, shape (n, p), dense or sparse, and labels y, shape (n,). Raises ValueError if y has one class."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]}: expected at least 2 classes")
        loss = self.loss or ("logistic" if len(self.classes_) == 2 else "softmax")
        self.coef_ = self._fit(X, numbers.astype(np.float64), sample_weight, loss)
        softmax = make_loss(loss)
        if isinstance(softmax, Softmax) and softmax.reduced:  # the last logit is 0
            self.coef_ = np.vstack([self.coef_, np.zeros(X.shape[1])])
            self.intercept_ = np.append(self.intercept_, 0.0)
        if len(self.classes_) == len(self.coef_) == 2:  # scikit-learn has one logit for two classes
            self.coef_, self.intercept_ = np.diff(self.coef_, axis=0), np.diff(self.intercept_)
        return self

    def decision_function(self, X: Any) -> Array:
        """Logits, shape (n,) for two classes, else (n, C)."""
        z = self._logits(X)
        return z.ravel() if z.shape[1] == 1 else z

    def predict(self, X: Any) -> NDArray[Any]:
        """Predicted labels, shape (n,)."""
        z = self.decision_function(X)
        return np.asarray(self.classes_[(z > 0).astype(np.intp) if z.ndim == 1 else z.argmax(axis=1)])

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, shape (n, C)."""
        z = self.decision_function(X)
        return np.asarray(probabilities(np.column_stack([np.zeros(len(z)), z]) if z.ndim == 1 else z))


class LinearRegressor(RegressorMixin, Linear):  # type: ignore[misc]
    """Ridge, Huber or Poisson regression by any method of mpinewton; `loss` None means "squared".

    Parameters and attributes are those of `Linear`.
    """

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X, shape (n, p), dense or sparse, and numbers y, shape (n,)."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=True)
        self.coef_ = self._fit(X, np.asarray(y, dtype=np.float64), sample_weight, self.loss or "squared").ravel()
        self.intercept_ = float(self.intercept_[0])
        return self

    def predict(self, X: Any) -> Array:
        """Predictions of the loss, shape (n,): for poisson the mean, exp of the logit."""
        loss = make_loss(self.loss or "squared")
        assert isinstance(loss, LinearLoss), "checked by fit"
        return loss.predictions(self._logits(X), None)
