"""The data that `check_loss` tests a loss on, and its comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError, DataError
from mpinewton.losses.linear import LinearLoss
from mpinewton.losses.loss import Classes, Loss, Model, Targets
from mpinewton.testing.report import CheckFailed

FEATURES = 5
SCALES = (0.1, 1.0, 3.0)  # of random weights and logits
STEP = 1e-5  # of differences
TOLERANCE = 1e-6  # relative, of derivatives against differences
ROUNDING = 64 * np.finfo(np.float64).eps
EXACT = 1e-12  # relative, of two ways to compute the same
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


@dataclass
class Case:
    """A loss and the data it is tested on."""

    loss: Loss
    given: Classes
    data: Draw | None
    seed: int

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @cached_property
    def classes(self) -> Classes:
        """The classes given, or those that the loss accepts."""
        if self.given is not None or not self.loss.classifies:
            return self.given
        for classes in ((2.0, 3.0, 5.0, 7.0), (3.0, 7.0)):
            try:
                self.loss.validate(FEATURES, classes, False)
            except (ConfigError, DataError) as error:
                reason = error
            else:
                return classes
        raise CheckFailed(
            "the loss refuses labels of 4 and of 2 classes", found=reason, cause="pass classes= and data="
        )

    def draw(self, n: int, seed: int = 0) -> tuple[Array, Array]:
        """Rows X (n, p) and labels y (n,)."""
        rng = np.random.default_rng([self.seed, n, seed])
        if self.data is not None:
            return self.data(rng, n)
        X = rng.standard_normal((n, FEATURES)) * (rng.random((n, FEATURES)) < 0.6)
        if self.classes is not None:
            return X, rng.choice(np.asarray(self.classes), n)
        for labels in (rng.normal(1.0, 2.0, n), rng.poisson(2.0, n).astype(np.float64)):
            try:
                self.loss.targets(labels, None)
            except DataError as error:
                reason = error
            else:
                return X, labels
        raise CheckFailed("the loss refuses normal labels and counts", found=reason, cause="pass data=")

    def shard(self, n: int, storage: str = "dense", weighted: bool = False) -> Shard:
        """A shard whose arrays are read-only: a loss must not write to them."""
        X, y = self.draw(n)
        weight = np.random.default_rng([self.seed, n, 1]).uniform(0.1, 3.0, n) if weighted else None
        matrix: Any = sparse.csr_array(X) if storage == "csr" else X
        for array in (*((matrix.data, matrix.indices, matrix.indptr) if storage == "csr" else (X,)), y, weight):
            if array is not None:
                array.flags.writeable = False
        return Shard(matrix, y, weight)

    def model(self, n: int, storage: str = "dense", weighted: bool = False) -> Model:
        return self.loss.on_shard(self.shard(n, storage, weighted), self.classes)

    def weights(self, model: Model, scale: float = 1.0) -> tuple[Array, Array]:
        """Random weights w (d,) near the initial ones, and a direction of length 1."""
        rng, p = self.rng, self.draw(1)[0].shape[1]
        w = self.loss.initial_weights(p, self.classes, self.seed) + scale * rng.standard_normal(model.dim)
        v = rng.standard_normal(model.dim)
        return w, v / np.linalg.norm(v)

    @property
    def linear(self) -> LinearLoss:
        assert isinstance(self.loss, LinearLoss)
        return self.loss

    def targets(self, n: int) -> Targets:
        return self.loss.targets(self.draw(n)[1], self.classes)

    def logits(self, n: int) -> Iterator[tuple[Array, Targets, Array]]:
        """Random logits z of several scales, targets, and a direction: 1 for one output, else random."""
        rng, t, outputs = self.rng, self.targets(n), self.linear.outputs(self.classes)
        for scale in SCALES:
            shape = (n,) if outputs == 1 else (n, outputs)
            yield scale * rng.standard_normal(shape), t, np.ones(n) if outputs == 1 else rng.standard_normal(shape)


def close(what: str, found: Any, expected: Any, where: str = "", cause: str = "", tolerance: float = EXACT) -> None:
    """Fail if |found - expected| > tolerance |expected| (Euclidean norms), or if the shapes differ."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise CheckFailed(what, where=where, expected=f"shape {expected.shape}", found=f"shape {found.shape}")
    if not np.linalg.norm(found - expected) <= tolerance * max(float(np.linalg.norm(expected)), 1e-3):
        raise CheckFailed(what, where=where, expected=expected, found=found, cause=cause)


def differences(
    what: str, found: Array, values: Sequence[Any], scale: Callable[[Array], Any], place: Callable[[int], str]
) -> str:
    """Compare derivatives with the differences of values at -STEP, 0 and STEP; the largest error in words.

    A derivative may lie between the one-sided differences, and beyond them by TOLERANCE times `scale` of the central
    difference, and by what rounding of the values explains.
    """
    behind, here, ahead = map(np.atleast_1d, values)
    found = np.atleast_1d(found)
    if found.shape != here.shape:
        raise CheckFailed(what, expected=f"shape {here.shape}", found=f"shape {found.shape}")
    backward, forward, central = (here - behind) / STEP, (ahead - here) / STEP, (ahead - behind) / (2 * STEP)
    error = np.maximum(np.minimum(backward, forward) - found, found - np.maximum(backward, forward))
    allowed = TOLERANCE * scale(np.abs(central)) + ROUNDING * np.maximum(scale(np.abs(here)), 1.0) / STEP
    if (error <= allowed).all():
        return f"relative error {np.max(np.abs(found - central) / (np.abs(central).max() or 1.0), initial=0.0):.1e}"
    worst = int(np.nanargmax(np.where(np.isnan(error), np.inf, error - allowed)))
    raise CheckFailed(
        what, where=place(worst), expected=f"{central.flat[worst]:.6g}", found=f"{found.flat[worst]:.6g}",
        cause=ratio_in_words(found, central),
    )  # fmt: skip


def ratio_in_words(found: Array, expected: Array) -> str:
    """What a constant ratio of found to expected values suggests; "" if the ratio is not constant."""
    large = np.abs(expected) > 0.01 * np.abs(expected).max(initial=0.0)
    ratios = found[large] / expected[large]
    if not len(ratios) or not float(np.ptp(ratios)) <= 1e-3 * abs(float(np.median(ratios))) + 1e-12:
        return "the formula: its error is not a constant factor"
    ratio = float(f"{np.median(ratios):.4g}")
    known = {2.0: "twice as large", 0.5: "half as large", -1.0: "of the wrong sign", 0.0: "0 everywhere"}
    return f"a factor: the values found are {known.get(ratio, f'{ratio:g} times as large')}"


def place_of(z: Array, t: Targets) -> Callable[..., str]:
    """Function that names the row of a position in an array of shape (n,), or of the shape of z (n,) or (n, C)."""

    def place(k: int, per_row: int = z[0].size) -> str:
        row = k // per_row
        logits = f"{z[row]:.4g}" if z.ndim == 1 else str(np.round(z[row], 4))
        return f"z = {logits}, t = {t[row]:g}"

    return place
