"""The baseline for methods that send rows: send all data once, and solve on the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.compress.bits import Bits, join_entries, pack_bits, pack_rows, unpack_rows, width_of
from mpinewton.data.shard import Shard
from mpinewton.fleet import Fleet, Worker
from mpinewton.linalg.cholesky import solve_semidefinite
from mpinewton.methods.support.known_rows import KnownRowsState
from mpinewton.methods.support.linesearch import Backtracking, no_step
from mpinewton.methods.support.method import Cost, Method, fail
from mpinewton.methods.support.tasks import linear_model
from mpinewton.settings import setting


@dataclass(frozen=True, eq=False, kw_only=True)
class ShipDataState(KnownRowsState):
    """State of ship-data: all rows, and

    Attributes
    ----------
    y : array, shape (N,)
        Labels.
    weight : array, shape (N,)
        Weights of the rows.
    """

    y: Array
    weight: Array


@dataclass(frozen=True)
class ShipData(Method[ShipDataState]):
    """Send the data once, then Newton's method with Armijo's rule on the driver: convex losses with rows and a Hessian.

    After the start nothing is sent. Compare every method that sends rows with this one. Sparse rows are sent as the
    features of their entries, in ceil(log2 d) bits each, with values only where these are not all 1; labels with few
    distinct values in as many bits as these need.
    """

    search: Backtracking = setting(factory=Backtracking, help="line search, on the driver")

    name = "ship-data"
    matrices = 3.5
    needs = ("gradient", "hessian", "rows")
    rows_travel = True
    convex_only = True
    cost = Cost("0", "0", "0")

    def start(self, fleet: Fleet, w: Array) -> ShipDataState:
        problem, replies = fleet.problem, fleet.gather(self.send_data)
        rows, labels, weights = [], [], []
        for k, share, (data, values, distinct, weight) in zip(problem.rows, problem.worker_share, replies):
            bits = Bits(data)
            rows.append(unpack_rows(bits, values, k, problem.features))
            labels.append(distinct[bits.take(k, width_of(len(distinct)))] if len(distinct) < k else distinct)
            weights.append(share * (weight if len(weight) else np.full(k, 1.0 / max(1, k))))
        every, y, weight = join_entries(rows), np.concatenate(labels), np.concatenate(weights)
        now = ShipDataState(w, place=np.arange(len(y)), y=y, weight=weight, **every._asdict())
        whole = self.worker_with_all(fleet, now)
        return replace(now, loss=whole.value(), gradient=whole.gradient())

    def step(self, fleet: Fleet, now: ShipDataState) -> ShipDataState:
        whole = self.worker_with_all(fleet, now)
        solved = solve_semidefinite(whole.hessian(), now.gradient, now.loss, convex=True)
        if solved.status != "solved":
            return fail(now, "the Hessian has a negative eigenvalue: ship-data needs a convex objective; use dino")
        a = self.search.search_locally(whole, now.gradient, -solved.x, now.step)
        if not a:
            return fail(now, no_step(now, -solved.x))
        whole.advance(a)
        return replace(now, w=whole.w, loss=whole.value(), gradient=whole.gradient(), step=a)

    def worker_with_all(self, fleet: Fleet, now: ShipDataState) -> Worker:
        """A worker on the driver that has all the data, at now.w."""
        worker = Worker(0, Shard(now.entries.matrix(fleet.problem.features), now.y, now.weight), fleet.problem)
        worker.move_to(now.w)
        return worker

    def send_data(self, worker: Worker) -> tuple[Bytes, NDArray[Any], Array, Array]:
        """The worker's data.

        Returns
        -------
        bits : packed structure of the rows, and the labels as indices of the distinct ones
        values : of the entries, none where all are 1
        distinct : distinct labels; all labels, in order, if these are as many as the rows
        weight : of the rows, shape (m,); shape (0,) where all are equal
        """
        model = linear_model(worker)
        fields, values = pack_rows(model.rows.X, np.arange(worker.rows))
        distinct, index = np.unique(model.y, return_inverse=True)
        if len(distinct) >= worker.rows:
            distinct = model.y
        else:
            fields.append((index, width_of(len(distinct))))
        weight = np.zeros(0) if isinstance(model.row_weight, float) else model.row_weight
        return pack_bits(*fields), values, distinct, weight
