"""The honest baseline: send the data once, and solve where they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.compress.bits import Bits, Entries, joined_entries, pack_bits, pack_rows, unpack_rows, width_of
from mpinewton.data.shard import Shard
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.methods.support.known_rows import KnownRowsState
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, fail
from mpinewton.methods.support.tasks import linear_model
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False)
class ShipDataState(KnownRowsState):
    """An iterate and all the data."""

    y: Array = field(default_factory=lambda: np.zeros(0))  # labels, (N,)
    weight: Array = field(default_factory=lambda: np.zeros(0))  # of the rows, (N,); none where all weigh the same


@dataclass(frozen=True)
class ShipData(Method[ShipDataState]):
    """Ship the data once, solve on the driver: any convex loss with a Hessian.

    Rows, labels and row weights travel; Newton's method with Armijo's rule then costs nothing. What every method that
    lets rows travel must be compared with. Sparse rows go as the features of their entries, in ceil(log2 d) bits each,
    with values only where these are not all 1; labels of few kinds in as many bits as tell them apart.
    """

    search: Backtracking = setting(factory=Backtracking, help="")

    name = "ship-data"
    needs = ("gradient", "hessian")
    rows_travel = True
    convex_only = True
    cost = Cost("0", "0", "0")

    def start(self, fleet: Fleet, w: Array) -> ShipDataState:
        problem = fleet.problem
        rows, labels, weights = [], [], []
        for k, share, (data, values, kinds, weight) in zip(
            problem.rows, problem.worker_share, fleet.gather(self.shipment)
        ):
            bits = Bits(data)
            rows.append(unpack_rows(bits, values, k, problem.features))
            labels.append(kinds[bits.take(k, width_of(len(kinds)))] if len(kinds) < k else kinds)
            weights.append(share * (weight if len(weight) else np.full(k, 1.0 / max(1, k))))
        every, y, weight = joined_entries(rows), np.concatenate(labels), np.concatenate(weights)
        now = ShipDataState(w, counts=every.counts, features=every.features, values=every.values, y=y, weight=weight)
        there = self.placed(fleet, now)
        return replace(now, loss=there.value(), gradient=there.gradient())

    def step(self, fleet: Fleet, now: ShipDataState) -> ShipDataState:
        there = self.placed(fleet, now)
        solved = solve_semidefinite(there.hessian(), now.gradient)
        if solved.status != "solved":
            return fail(now, "the Hessian has negative eigenvalues: the objective is not convex here; dino goes on")
        p, steps = -solved.x, self.search.grid
        there.set_direction(p)
        a = self.search.passing(steps, there.losses(steps), now.loss, float(now.gradient @ p), now.step)
        if not (a and now.gradient @ p < 0):
            return fail(now, no_step(now, p))
        there.advance(a)
        return replace(now, w=there.w, loss=there.value(), gradient=there.gradient(), step=a)

    def placed(self, fleet: Fleet, now: ShipDataState) -> Worker:
        """A worker on the driver that has all the data, where the iterate is."""
        X = Entries(now.counts, now.features, now.values).matrix(fleet.problem.features)
        worker = Worker(0, Shard(X, now.y, now.weight), fleet.problem)
        worker.move_to(now.w)
        return worker

    def shipment(self, worker: Worker) -> tuple[Bytes, NDArray[Any], Array, Array]:
        """Rows and labels, packed; entries of rows; kinds of labels (labels, if many); weights, if not all the same."""
        model = linear_model(worker)
        fields, values = pack_rows(model.rows.X, np.arange(worker.rows))
        kinds, number = np.unique(model.y, return_inverse=True)
        if len(kinds) >= worker.rows:
            kinds = model.y
        else:
            fields.append((number, width_of(len(kinds))))
        weight = np.zeros(0) if isinstance(model.row_weight, float) else model.row_weight
        return pack_bits(*fields), values, kinds, weight
