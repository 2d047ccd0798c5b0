"""What a fleet is to be: everything every rank must know to build its workers, as one text."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mpinewton.data.manifest import Manifest
from mpinewton.extensions import Reference
from mpinewton.fleet.problem import Problem
from mpinewton.losses import Loss, make_loss


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The objective and where its data lie.

    P(w) = (1/N) sum_j loss_j(w) + (l2/2)|w|^2 over the rows of all shards; an intercept is not regularised.
    """

    folder: str
    manifest: Manifest
    loss: str | Reference
    l2: float
    seed: int = 0
    intercept: bool = False
    dtype: str = "float64"
    sums: str = "fixed"
    loss_sha256: str | None = None  # of the file of an own loss
    on_disk: tuple[int, ...] = ()  # workers whose rows are not held in memory

    @property
    def n_workers(self) -> int:
        return len(self.manifest.shards)

    def build_loss(self) -> Loss:
        return make_loss(self.loss, self.loss_sha256)

    def problem(self) -> Problem:
        """What is minimised."""
        m = self.manifest
        return Problem(
            self.build_loss(), m.classes, tuple(s.rows for s in m.shards), tuple(s.mass for s in m.shards),
            m.features + self.intercept, self.l2, self.intercept, self.seed, m.partition,
            None if m.entries is None else m.entries + self.intercept * m.rows,
        )  # fmt: skip

    def path(self) -> Path:
        return Path(self.folder)
