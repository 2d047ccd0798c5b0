"""The zoo of tiny problems: `ZOO["logistic-csr"]`. Optima come from formulae written here again, not the package's.

The rows of a problem lie on five workers of unequal size, one of them empty; problems in CSR storage have row weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.special import expit, gammaln, log_softmax, softmax

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.losses import make_loss
from mpinewton.losses.linear import LinearLoss

SIZES = (40, 13, 0, 50, 17)
FEATURES = 6
# Value and two derivatives of every row in its logits, (n,), (n, C), (n, C, C), from logits (n, C) and labels (n,).
Formula = Callable[[Array, Array], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Problem:
    """A loss, the shards of its workers, and where the objective is least.

    Attributes
    ----------
    name : str
    loss : LinearLoss
    shards : list of Shard
        One a worker.
    classes : tuple of float, or None
    l2 : float
    start : array, shape (d,)
        A place that is no optimum.
    """

    name: str
    loss: LinearLoss
    shards: list[Shard]
    classes: tuple[float, ...] | None
    l2: float
    start: Array
    formula: Formula

    @cached_property
    def optimum(self) -> tuple[Array, float] | None:
        """w*, with a gradient below 1e-12, and P(w*); None where the loss is not convex."""
        return self._newton() if self.loss.convex else None

    def objective(self, w: Array) -> tuple[float, Array, Array]:
        """P (w), its gradient (d,) and Hessian (d, d)."""
        X, labels, share = self._rows
        value, slope, bend = self.formula(X @ w.reshape(FEATURES, -1), labels)
        gradient = np.einsum("i,ij,ia->ja", share, X, slope).ravel()
        hessian = np.einsum("i,ij,iab,ik->jakb", share, X, bend, X).reshape(w.size, w.size)
        objective = float(share @ value + self.l2 / 2 * w @ w)
        return objective, gradient + self.l2 * w, np.asarray(hessian + self.l2 * np.eye(w.size))

    @cached_property
    def _rows(self) -> tuple[Array, Array, Array]:
        """All rows, dense; their labels, as numbers of classes where there are classes; their shares of the mean."""
        X = np.vstack([sparse.csr_array(shard.X).toarray() for shard in self.shards])
        y = np.concatenate([shard.y for shard in self.shards])
        mass = np.concatenate(
            [np.ones(shard.rows) if shard.sample_weight is None else shard.sample_weight for shard in self.shards]
        )
        return X, y if self.classes is None else np.asarray(np.searchsorted(self.classes, y)), mass / mass.sum()

    def _newton(self) -> tuple[Array, float]:
        w = self.start
        for _ in range(50):
            value, gradient, hessian = self.objective(w)
            if np.linalg.norm(gradient) < 1e-13:
                break
            p, step = -np.linalg.solve(hessian, gradient), 1.0
            # Near the optimum the decrease drowns in rounding, and the full step is right.
            while self.objective(w + step * p)[0] > value + 0.25 * step * gradient @ p + 1e-13 * abs(value):
                step /= 2
            w = w + step * p
        value, gradient, _ = self.objective(w)
        assert np.linalg.norm(gradient) < 1e-12, f"{self.name}: no optimum, gradient {np.linalg.norm(gradient):g}"
        return w, float(value)


def scalar(derivatives: Callable[[Array, Array], tuple[Array, Array, Array]]) -> Formula:
    """The formula of a loss with one logit, from its derivatives in z (n,)."""

    def formula(Z: Array, y: Array) -> tuple[Array, Array, Array]:
        value, slope, bend = derivatives(Z[:, 0], y)
        return value, slope[:, None], bend[:, None, None]

    return formula


def logistic(z: Array, number: Array) -> tuple[Array, Array, Array]:
    return np.logaddexp(0, z) - number * z, expit(z) - number, expit(z) * expit(-z)


def squared(z: Array, y: Array) -> tuple[Array, Array, Array]:
    return (z - y) ** 2 / 2, z - y, np.ones_like(z)


def huber(z: Array, y: Array) -> tuple[Array, Array, Array]:
    r = z - y
    inside = abs(r) <= 0.7
    value, slope = np.where(inside, r**2 / 2, 0.7 * abs(r) - 0.245), np.where(inside, r, 0.7 * np.sign(r))
    return value, slope, inside.astype(np.float64)


def poisson(z: Array, y: Array) -> tuple[Array, Array, Array]:
    return np.exp(z) - y * z + gammaln(y + 1), np.exp(z) - y, np.exp(z)


def softplus(z: Array, y: Array) -> tuple[Array, Array, Array]:
    model, s = np.logaddexp(0, z), expit(z)
    return (model - y) ** 2, 2 * (model - y) * s, 2 * s**2 + 2 * (model - y) * s * (1 - s)


def all_columns(Z: Array, number: Array) -> tuple[Array, Array, Array]:
    P, own = softmax(Z, axis=1), np.eye(Z.shape[1])
    value = -log_softmax(Z, axis=1)[np.arange(len(Z)), number]
    return value, P - own[number], np.asarray(P[:, :, None] * own - P[:, :, None] * P[:, None, :])


def all_but_one_column(Z: Array, number: Array) -> tuple[Array, Array, Array]:
    value, slope, bend = all_columns(np.column_stack([Z, np.zeros(len(Z))]), number)
    return value, slope[:, :-1], bend[:, :-1, :-1]


FORMULAE = {
    "logistic": scalar(logistic),
    "squared": scalar(squared),
    "huber:delta=0.7": scalar(huber),
    "poisson": scalar(poisson),
    "softplus": scalar(softplus),
    "softmax": all_columns,
    "softmax:reduced=true": all_but_one_column,
}
SEEDS = {"squared": "ridge"}  # the data keep the name that the loss once had
CLASSES = {"logistic": (-1.0, 1.0), "softmax": (0.0, 1.0, 4.0)}


def labels(name: str, z: Array, rng: np.random.Generator) -> Array:
    """Labels as the loss wants them, drawn about the logits z (n, 3) of a model that is known to nobody else."""
    noisy = z + rng.standard_normal(z.shape) / 2
    if name in CLASSES:
        count = len(CLASSES[name])
        return np.asarray(np.asarray(CLASSES[name])[noisy[:, :count].argmax(axis=1)])
    if name == "poisson":
        return rng.poisson(np.exp(z[:, 0] / 2)).astype(np.float64)
    return np.abs(noisy[:, 0]) if name == "softplus" else noisy[:, 0]


def problem(text: str, storage: str, l2: float = 0.01) -> Problem:
    rng = np.random.default_rng(list(f"{SEEDS.get(text, text)}-{storage}".encode()))
    loss = make_loss(text)
    assert isinstance(loss, LinearLoss)
    X = rng.standard_normal((sum(SIZES), FEATURES))
    if storage == "csr":
        X *= rng.random(X.shape) < 0.5
    y = labels(loss.name, X @ rng.standard_normal((FEATURES, 3)), rng)
    weight = rng.uniform(0.2, 2.0, len(X))
    cuts = np.cumsum(SIZES)[:-1]
    parts = zip(np.split(X, cuts), np.split(y, cuts), np.split(weight, cuts))
    shards = [Shard(sparse.csr_array(X), y, weight) if storage == "csr" else Shard(X, y) for X, y, weight in parts]
    classes = CLASSES.get(loss.name)
    start = rng.standard_normal(loss.dim(FEATURES, classes)) / 2
    name = f"{text.replace(':reduced=true', '-reduced').partition(':')[0]}-{storage}"
    return Problem(name, loss, shards, classes, l2, start, FORMULAE[text])


ZOO = {animal.name: animal for text in FORMULAE for storage in ("dense", "csr") for animal in [problem(text, storage)]}


def sorted_by_label(problem: Problem) -> Problem:
    """The same rows, dealt out by label: shards that do not resemble one another, of the same sizes."""
    whole = together(problem.shards)
    order = np.argsort(whole.y, kind="stable")
    weight = whole.sample_weight
    cuts = np.cumsum([shard.rows for shard in problem.shards])[:-1]
    shards = [
        Shard(whole.X[rows], whole.y[rows], None if weight is None else weight[rows]) for rows in np.split(order, cuts)
    ]
    return replace(problem, name=f"{problem.name}, sorted by label", shards=shards)


def on_many(problem: Problem) -> LocalFleet:
    """The problem as it lies in the zoo, on five workers, one of them without rows."""
    return local_fleet(problem.shards, problem.loss, problem.classes, problem.l2)


def on_one(problem: Problem) -> LocalFleet:
    """The same rows on one worker."""
    return local_fleet([together(problem.shards)], problem.loss, problem.classes, problem.l2)


def together(shards: Sequence[Shard]) -> Shard:
    """All rows as one shard."""
    blocks, weights = [shard.X for shard in shards], [shard.sample_weight for shard in shards]
    X = sparse.csr_array(sparse.vstack(blocks)) if sparse.issparse(blocks[0]) else np.vstack(blocks)
    weight = None if weights[0] is None else np.concatenate([weight for weight in weights if weight is not None])
    return Shard(X, np.concatenate([shard.y for shard in shards]), weight)
