"""Weights of a linear model in the units of the source, and their standard errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, t

from mpinewton.arrays import NAN, Array
from mpinewton.data.scale import factor
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.losses.linear import LinearLoss, LinearModel
from mpinewton.losses.logistic import Logistic
from mpinewton.losses.poisson import Poisson
from mpinewton.losses.softmax import Softmax
from mpinewton.losses.squared import Squared
from mpinewton.runs.model import Model

LIKELIHOODS = (Logistic, Softmax, Poisson, Squared)
LARGEST = 5000  # weights, above which no Hessian is formed: its eigenvalues take minutes
SINGULAR = 1e-12  # eigenvalues of the Hessian, scaled to diagonal 1, that are 0 to rounding: a part of the largest
OPTIMAL = 0.1  # largest Newton step at the weights, in standard errors
PENALISED = (
    "l2 = {:.6g}: the weights are shrunk towards 0, and the standard errors are approximate: those of the penalised "
    "likelihood, from the inverse of its Hessian. Train with --l2 0 for those of maximum likelihood"
)


@dataclass(frozen=True)
class Coefficients:
    """The weights of a linear model in the units of the source: logit = sum of coefficient * feature + intercept.

    Attributes
    ----------
    names : tuple of str
        Of the features, and "intercept".
    outputs : tuple of str
        The classes that have logits of their own; ("",) for one logit.
    values : array, shape (len(names), len(outputs))
    errors : array of that shape, or None
        Standard errors; NaN where the data do not determine a coefficient.
    freedom : float
        Degrees of freedom of Student's t; inf for the normal distribution.
    notes : tuple of str
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...]
    values: Array
    errors: Array | None = None
    freedom: float = np.inf
    notes: tuple[str, ...] = ()

    @property
    def statistics(self) -> Array:
        """Coefficient / standard error: z, or t where `freedom` is finite."""
        assert self.errors is not None
        unknown: Array = np.full(self.values.shape, NAN)
        return np.divide(self.values, self.errors, out=unknown, where=self.errors > 0)

    @property
    def p_values(self) -> Array:
        """Two-sided: probability of a larger statistic, in absolute value, if the coefficient was 0."""
        size = np.abs(self.statistics)
        return np.asarray(2 * (norm.sf(size) if np.isinf(self.freedom) else t.sf(size, self.freedom)))


def coefficients(model: Model) -> Coefficients:
    """The coefficients of a model, without standard errors. Raises ConfigError if the model is not linear."""
    loss, schema, p = model.made_loss, model.schema, model.features
    if not isinstance(loss, LinearLoss):
        raise ConfigError(f"loss {model.loss}: expected a linear model; others have no coefficients")
    count = loss.outputs(model.classes)
    if model.w.size != (p + model.intercept) * count:
        raise DataError(f"the model has {model.w.size} weights; expected {(p + model.intercept) * count}")
    features = schema.columns.feature_names if schema.columns else tuple(f"feature {j}" for j in range(1, p + 1))
    values = _in_units(model, model.w.reshape(-1, count))
    return Coefficients(
        (*features, "intercept")[: len(values)], tuple(model.labels[:count]) if count > 1 else ("",), values
    )


def _in_units(model: Model, W: Array) -> Array:
    """Weights, shape (p or p + 1, k), in the units of the source: shape (p or p + 1, k).

    The features of the model are (scale x - shift) factor, with x the features of the source.
    """
    schema, p = model.schema, model.features
    ratio = np.ones((p, 1)) if schema.factor is None else np.array(schema.factor)[:, np.newaxis]
    slopes, rest = ratio * W[:p], W[p:]
    if schema.shift is not None:
        rest = (rest if model.intercept else 0.0) - np.array([schema.shift]) @ slopes
    return np.concatenate([slopes * float(factor(schema.scale)), rest])


def with_errors(model: Model, shard: Shard) -> Coefficients:
    """The coefficients with standard errors, from the Hessian of the objective on the rows of the training data.

    With N the sum of the weights of the rows, H the Hessian of the mean loss plus l2 and T the change of units, the
    covariance is s T (N H)^-1 T'; s is 1, for the squared loss sum(weight residual^2) / (N - rank of H). A row of
    weight 2 counts as two rows.

    Parameters
    ----------
    shard : Shard
        The training data, as `model.schema` reads them.

    Raises
    ------
    ConfigError
        If the loss is no likelihood, or there are more than 5000 weights.
    DataError
        If the weights are not the optimum on these rows.

    References
    ----------
    McCullagh and Nelder, Generalized Linear Models, 1989, sections 2.5 and 9.2.
    """
    plain = coefficients(model)
    if not isinstance(model.made_loss, LIKELIHOODS):
        names = ", ".join(kind.name for kind in LIKELIHOODS)
        raise ConfigError(f"loss {model.loss}: standard errors need a likelihood; choose from {names}")
    if model.w.size > LARGEST:
        raise ConfigError(f"{model.w.size} weights: standard errors are computed for at most {LARGEST}; leave DATA out")
    made = model.on_rows(shard)
    assert isinstance(made, LinearModel), "checked by coefficients"
    point = made.at(model.w)
    l2 = model.l2 * model.made_loss.l2_mask(model.features + model.intercept, model.classes, model.intercept)
    total = shard.total_weight
    inverse, null, scale = _inverse(point.hessian() + np.diag(l2))
    rank = model.w.size - null.shape[1]
    freedom, dispersion = np.inf, 1.0
    if isinstance(model.made_loss, Squared):
        freedom = total - rank
        if not freedom > 0:
            raise DataError(f"{shard.rows} rows: expected more than weights ({rank}), to estimate the variance")
        dispersion = 2.0 * total * point.value() / freedom
    covariance = inverse * (dispersion / total)
    _check_optimal(inverse @ (point.gradient() + l2 * model.w), covariance)
    # Weights are a matrix (p, C), row by row: the units are the same for every output.
    T = np.kron(_in_units(model, np.eye(model.features + model.intercept)), np.eye(len(plain.outputs)))
    errors = np.sqrt(np.maximum(((T @ covariance) * T).sum(axis=1), 0.0))
    notes = [PENALISED.format(model.l2)] if model.l2 > 0 else []
    unknown = (np.abs(T @ null) > 1e-6 * np.linalg.norm(T * scale, axis=1, keepdims=True)).any(axis=1)
    if unknown.any():
        notes.append(f"{unknown.sum()} coefficients are not determined by these rows: their features are collinear")
        errors[unknown] = NAN
    return replace(plain, errors=errors.reshape(plain.values.shape), freedom=freedom, notes=tuple(notes))


def _inverse(H: Array) -> tuple[Array, Array, Array]:
    """Of a semidefinite matrix H, shape (d, d): its inverse on its range, a basis of its null space, and a scale.

    The scale, shape (d,), gives H the diagonal 1; the basis, shape (d, k), is orthonormal after division by it.
    """
    size = np.sqrt(np.diag(H))
    scale = np.divide(1.0, size, out=np.ones(len(H)), where=size > 0)
    values, V = np.linalg.eigh(H * np.outer(scale, scale))
    kept = values > SINGULAR * values.max(initial=0.0)
    V = scale[:, np.newaxis] * V
    return (V[:, kept] / values[kept]) @ V[:, kept].T, V[:, ~kept], scale


def _check_optimal(step: Array, covariance: Array) -> None:
    """Refuse weights that a Newton step changes by much more than rounding, in standard errors. Raises DataError."""
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    change = float(np.max(np.abs(np.divide(step, errors, out=np.zeros(len(step)), where=errors > 0)), initial=0.0))
    if not change <= OPTIMAL:
        raise DataError(
            "the weights are not the optimum on these rows: a Newton step changes one of them by "
            f"{change:.2g} standard errors; give the training data, or train to a smaller tolerance"
        )
