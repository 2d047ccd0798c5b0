"""Linear models as scikit-learn estimators: for pipelines, grid search and cross-validation on one machine."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import softmax as probabilities
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from mpinewton.api import STATUS, minimize
from mpinewton.arrays import Array
from mpinewton.losses import make_loss
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.softmax import Softmax
from mpinewton.runs.options import whole_number

STOPPED = STATUS["interrupted"]  # by the callback


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
    tol, rtol, ftol : float, optional
        Tolerance on the gradient norm, the same relative to the first one, and on the estimated gap relative to the
        decrease so far, as for `minimize`; without any, its default goal. `fit` warns if the goal is not met.
    max_iter : int
        Maximum number of iterations.
    random_state : int, RandomState or None
        Seed of the permutation and of the method; None: another one at every `fit`.
    warm_start : bool
        Whether `fit` starts from the weights of the previous call, instead of zeros.
    callback : function of (Row, w), optional
        Called after every iteration; the run stops where it returns True or raises StopIteration, as for `minimize`.

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
        tol: float | None = None,
        rtol: float | None = None,
        max_iter: int = 1000,
        random_state: Any = 0,
        warm_start: bool = False,
        callback: Any = None,
        ftol: float | None = None,
    ) -> None:
        self.method = method
        self.loss = loss
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.workers = workers
        self.tol = tol
        self.rtol = rtol
        self.max_iter = max_iter
        self.random_state = random_state
        self.warm_start = warm_start
        self.callback = callback
        self.ftol = ftol

    def _fit(self, X: Any, y: Array, weight: Array | None, loss: str, w0: Array | None) -> Array:
        """Train from w0: the weights, shape (outputs, p); the intercept becomes an attribute."""
        made = make_loss(loss)
        if not isinstance(made, LinearLoss):
            raise ValueError(f"loss = {loss!r}: expected the loss of a linear model; use mpinewton.minimize for others")
        if made.classifies != is_classifier(self):
            what, other = ("classes", "LinearClassifier") if made.classifies else ("numbers", "LinearRegressor")
            raise ValueError(f"loss = {loss!r} is for {what}: use {other}, or another loss")
        n, seed = len(y), self.random_state
        with np.errstate(over="ignore"):
            total = float(n if weight is None else weight.sum())
        if not 0 < total < np.inf or (weight is not None and weight.min() < 0):
            raise ValueError("sample_weight: expected weights of at least 0, with a finite sum, not all zero")
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        result = minimize(
            self.method, (X, y, weight), loss=loss, l2=1.0 / total if self.l2 is None else self.l2,
            intercept=self.fit_intercept, w0=w0, workers=min(whole_number("workers", self.workers, 1), n), seed=seed,
            tol=self.tol, rtol=self.rtol, ftol=self.ftol, max_iterations=self.max_iter, callback=self.callback,
        )  # fmt: skip
        assert result is not None, "all workers are in this process"
        if not result.success and result.status != STOPPED:
            warnings.warn(f"not converged: {result.message}", ConvergenceWarning, stacklevel=3)
        self.result_, self.n_iter_ = result, result.nit
        W = result.x.reshape(X.shape[1] + self.fit_intercept, -1).T
        self.intercept_ = W[:, -1].copy() if self.fit_intercept else np.zeros(len(W))
        return np.ascontiguousarray(W[:, : X.shape[1]])

    def _start(self) -> Array | None:
        """The first weights, if there are any from a fit before."""
        return self.result_.x if self.warm_start and hasattr(self, "result_") else None

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

    `loss` None means "logistic" for two classes, else "softmax". Parameters and attributes are those of `Linear`, and
    `class_weight`: a dict of label and weight, by which the weights of the rows are multiplied; or "balanced": classes
    then have equal sums of weights.
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        method: Any = "auto",
        loss: str | None = None,
        l2: float | None = None,
        fit_intercept: bool = True,
        workers: int = 1,
        tol: float | None = None,
        rtol: float | None = None,
        max_iter: int = 1000,
        random_state: Any = 0,
        warm_start: bool = False,
        callback: Any = None,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        ftol: float | None = None,
    ) -> None:
        super().__init__(
            method, loss, l2, fit_intercept, workers, tol, rtol, max_iter, random_state, warm_start, callback, ftol
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train on X, shape (n, p), dense or sparse, and labels y, shape (n,). Raises ValueError if y has one class."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        classes, number = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]}: expected at least 2 classes")
        w0 = self._start()
        if w0 is not None and not np.array_equal(self.classes_, classes):
            raise ValueError(f"warm_start: y has the classes {classes}, but the fit before had {self.classes_}")
        self.classes_ = classes
        loss = self.loss or ("logistic" if len(self.classes_) == 2 else "softmax")
        weight = self._with_class_weights(_check_weights(sample_weight, X), y, number)
        self.coef_ = self._fit(X, number.astype(np.float64), weight, loss, w0)
        softmax = make_loss(loss)
        if isinstance(softmax, Softmax) and softmax.reduced:  # the last logit is 0
            self.coef_ = np.vstack([self.coef_, np.zeros(X.shape[1])])
            self.intercept_ = np.append(self.intercept_, 0.0)
        if len(self.classes_) == len(self.coef_) == 2:  # scikit-learn has one logit for two classes
            self.coef_, self.intercept_ = np.diff(self.coef_, axis=0), np.diff(self.intercept_)
        return self

    def _with_class_weights(self, weight: Array | None, y: NDArray[Any], number: NDArray[np.intp]) -> Array | None:
        """Weights of the rows times those of their classes, shape (n,)."""
        if self.class_weight is None:
            return weight
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            total = np.bincount(number, weights=weight)
            with np.errstate(divide="ignore"):
                each = np.where(total > 0, total.sum() / (len(total) * total), 0.0)
        else:
            each = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return np.asarray(each[number] if weight is None else each[number] * weight)

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
        weight = _check_weights(sample_weight, X)
        self.coef_ = self._fit(
            X, np.asarray(y, dtype=np.float64), weight, self.loss or "squared", self._start()
        ).ravel()
        self.intercept_ = float(self.intercept_[0])
        return self

    def predict(self, X: Any) -> Array:
        """Predictions of the loss, shape (n,): for poisson the mean, exp of the logit."""
        loss = make_loss(self.loss or "squared")
        assert isinstance(loss, LinearLoss), "checked by fit"
        return loss.predictions(self._logits(X), None)


def _check_weights(sample_weight: ArrayLike | None, X: Any) -> Array | None:
    """Weights of the rows, shape (n,). Raises ValueError unless they are finite numbers."""
    if sample_weight is None:
        return None
    weight = column_or_1d(check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"))
    check_consistent_length(X, weight)
    return np.asarray(weight)
