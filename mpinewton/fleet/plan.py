"""What a fleet is to be: everything every rank must know to build its workers, as one text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from mpinewton.data.manifest import Manifest
from mpinewton.data.shard import Array
from mpinewton.errors import DataError
from mpinewton.losses import Loss, make_loss


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objective and where its data lie.

    P(w) = (1/N) sum_j loss_j(w) + (l2/2)|w|^2 over the rows of all shards; an intercept is not regularised.
    """

    folder: str
    manifest: Manifest
    loss: str
    l2: float
    seed: int = 0
    intercept: bool = False
    dtype: str = "float64"
    sums: str = "fixed"

    @property
    def workers(self) -> int:
        return len(self.manifest.shards)

    @property
    def features(self) -> int:
        """Columns of the data, the intercept's included."""
        return self.manifest.features + self.intercept

    def made_loss(self) -> Loss:
        return make_loss(self.loss)

    def size(self) -> int:
        """d, the number of weights."""
        return self.features * self.made_loss().outputs(self.manifest.classes)

    def shares(self) -> Array:
        """omega_i, every worker's share of the rows (of their weights), shape (m,)."""
        return shares([shard.mass for shard in self.manifest.shards])

    def path(self) -> Path:
        return Path(self.folder)


def shares(masses: list[float]) -> Array:
    """Every worker's share of the whole, shape (m,).

    Raises
    ------
    DataError
        If there is nothing to share.
    """
    total = float(np.sum(masses))
    if not total > 0:
        raise DataError("the shards hold no rows (or only rows of weight 0): there is nothing to train on")
    return np.asarray(masses, dtype=np.float64) / total


def regularisation(l2: float, features: int, outputs: int, intercept: bool) -> Array:
    """l2 for every weight, shape (d,): 0 for the intercept, which is the last feature."""
    each = np.full((features, outputs), l2)
    if intercept:
        each[-1] = 0.0
    return each.ravel()
