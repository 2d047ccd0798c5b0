"""`synthetic:NAME?key=value&...`: artificial data; random numbers depend on (seed, block)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source, parse_query
from mpinewton.errors import ConfigError, did_you_mean

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Recipe:
    """Settings of the data sets; `SETS` lists those of each.

    Attributes
    ----------
    rows, features, seed : int
    condition : float
        Largest divided by smallest variance of the features, which decrease geometrically from 1.
    density : float
        Probability that a feature is not 0.
    noise : float
        Standard deviation of the noise in the labels (least-squares); probability of a flipped label (logistic).
    classes : int
        Number of classes (blobs).
    spread : float
        Standard deviation of the centres (blobs); that of the rows is 1.
    workers : int
        Number of shards (pisa).
    """

    rows: int = 1000
    features: int = 20
    condition: float = 1.0
    density: float = 1.0
    noise: float = 0.0
    classes: int = 3
    spread: float = 2.0
    workers: int = 32
    seed: int = 0


COMMON = frozenset({"rows", "features", "condition", "density", "seed"})
SETS = {
    "logistic": COMMON | {"noise"},
    "least-squares": COMMON | {"noise"},
    "blobs": COMMON | {"classes", "spread"},
    "poisson": COMMON,
    "pisa": frozenset({"features", "workers", "seed"}),
}


def synthetic(name: str, reading: Reading) -> Source:
    """The source that `name` describes. Raises ConfigError for an unknown name or a value that is not valid."""
    kind, _, query = name.removeprefix("synthetic:").partition("?")
    if kind not in SETS:
        raise ConfigError(f"{name}: no such data set{did_you_mean(kind, SETS)}")
    given: dict[str, int | float] = {"features": 100} if kind == "pisa" else {}
    for key, value in parse_query(name, query, SETS[kind], kind):
        try:
            given[key] = type(getattr(Recipe, key))(value)
        except ValueError:
            raise ConfigError(f"{name}: {key} = {value!r}: expected a number") from None
    recipe = Recipe(**given)  # type: ignore[arg-type]
    low = {"seed": 0, "noise": 0, "spread": 0, "density": 1e-9, "condition": 1}
    for key, number in given.items():
        least, most = low.get(key, 1), 1.0 if key == "density" else 1e12
        if not least <= number <= most:
            raise ConfigError(f"{name}: {key} = {number:g} is out of range: expected {least:g} to {most:g}")
    return Pisa(name, reading, recipe) if kind == "pisa" else RandomSource(name, reading, kind, recipe)


class RandomSource(Source):
    """Rows x ~ N(0, diag(variances)), partly set to 0; labels by a linear model with weights N(0, 1)/sqrt(features)."""

    def __init__(self, name: str, reading: Reading, kind: str, recipe: Recipe) -> None:
        super().__init__(name, reading)
        self.kind, self.recipe = kind, recipe
        self.dense = recipe.density == 1

    def blocks(self) -> Iterator[Block]:
        recipe, p = self.recipe, self.recipe.features
        rng = np.random.default_rng([recipe.seed])
        shape = (recipe.classes, p) if self.kind == "blobs" else (p,)
        model = rng.standard_normal(shape) / (1 if self.kind == "blobs" else np.sqrt(p))
        deviation = recipe.condition ** (-np.arange(p) / (2 * max(1, p - 1)))
        for block, first in enumerate(range(0, recipe.rows, BLOCK_ROWS)):
            n = min(BLOCK_ROWS, recipe.rows - first)
            rng = np.random.default_rng([recipe.seed, block])
            X = rng.standard_normal((BLOCK_ROWS, p))[:n] * deviation
            if recipe.density < 1:
                X *= rng.random((BLOCK_ROWS, p))[:n] < recipe.density
            X, y = self._add_labels(X, model, rng)
            yield Block(X if self.dense else sparse.csr_array(X), y)

    def _add_labels(self, X: Array, model: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        n = len(X)
        if self.kind == "blobs":
            y = rng.integers(self.recipe.classes, size=BLOCK_ROWS)[:n]
            return X + self.recipe.spread * model[y] * (X != 0), y.astype(np.float64)
        z = X @ model
        if self.kind == "least-squares":
            return X, z + self.recipe.noise * rng.standard_normal(BLOCK_ROWS)[:n]
        if self.kind == "poisson":
            return X, rng.poisson(np.exp(np.minimum(z, 20.0))).astype(np.float64)
        chance = 1 / (1 + np.exp(-z))
        y = np.where(rng.random(BLOCK_ROWS)[:n] < chance, 1.0, -1.0)
        return X, np.where(rng.random(BLOCK_ROWS)[:n] < self.recipe.noise, -y, y)


class Pisa(Source):
    """Least squares of PISA, A.2: rows and labels a third each normal, Student t with 5 degrees, uniform on [-5, 5]."""

    def __init__(self, name: str, reading: Reading, recipe: Recipe) -> None:
        super().__init__(name, reading)
        self.rng, self.features = np.random.default_rng(recipe.seed), recipe.features
        self.sizes = tuple(int(size) for size in self.rng.integers(50, 151, size=recipe.workers))

    def blocks(self) -> Iterator[Block]:
        n = sum(self.sizes or ())
        third = -(-n // 3)

        def draw(*columns: int) -> Array:
            return np.concatenate(
                [
                    self.rng.standard_normal((n - 2 * third, *columns)),
                    self.rng.standard_t(5, (third, *columns)),
                    self.rng.uniform(-5, 5, (third, *columns)),
                ]
            )

        A, b = draw(self.features), draw()
        order = self.rng.permutation(n)
        yield Block(A[order], b[order])
