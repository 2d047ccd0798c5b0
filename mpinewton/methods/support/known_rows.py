"""Rows of the workers that the driver knows, since they were sent, each one once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Bytes
from mpinewton.compress.bits import (
    Bits,
    Entries,
    Integers,
    entries_of,
    joined_entries,
    pack_bits,
    pack_rows,
    unpack_rows,
)
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import State
from mpinewton.methods.support.tasks import linear_model


def _none() -> Integers:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class KnownRowsState(State):
    """An iterate, and the rows known to the driver in the order they came.

    Rows are numbered through all workers: row j of worker i is number rows_0 + ... + rows_{i-1} + j.
    """

    place: Integers = field(default_factory=_none)  # where every row is among the known ones, -1 if unknown; (N,)
    counts: Integers = field(default_factory=_none)  # entries of the known rows, (K,)
    features: Integers = field(default_factory=_none)  # of the entries
    values: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))  # of the entries

    def known(self, numbers: Integers, p: int) -> sparse.csr_array:
        """The rows of these numbers, shape (k, p)."""
        every = Entries(self.counts, self.features, self.values).matrix(p)
        return entries_of(every, self.place[numbers]).matrix(p)


K = TypeVar("K", bound=KnownRowsState)


def told(now: K, numbers: Integers, rows: Entries) -> K:
    """The state that knows these rows too."""
    place = now.place.copy()
    place[numbers] = len(now.counts) + np.arange(len(numbers))
    every = joined_entries([Entries(now.counts, now.features, now.values), rows])
    return replace(now, place=place, counts=every.counts, features=every.features, values=every.values)


def first_numbers(fleet: Fleet) -> Integers:
    """The number of every worker's first row, shape (m,)."""
    return np.asarray(np.cumsum([0, *fleet.problem.rows[:-1]]))


def all_rows(fleet: Fleet, dense: bool = False) -> Entries:
    """Every row of every worker, in the order of their numbers. 1 round."""
    replies = fleet.gather(dense_rows if dense else sparse_rows)
    rows, p = fleet.problem.rows, fleet.problem.features
    return joined_entries([unpack_rows(Bits(bits), values, k, p) for k, (bits, values) in zip(rows, replies)])


def sparse_rows(worker: Worker) -> tuple[Bytes, NDArray[Any]]:
    """All rows as they are stored, in as few bits as they need."""
    fields, values = pack_rows(linear_model(worker).rows.X, np.arange(worker.rows))
    return pack_bits(*fields), values


def dense_rows(worker: Worker) -> tuple[Bytes, NDArray[Any]]:
    """All rows, features floats each."""
    return np.zeros(0, np.uint8), made_dense(worker, np.arange(worker.rows))


def made_dense(worker: Worker, rows: NDArray[np.integer[Any]]) -> Array:
    """Some rows of the worker with all their zeros, shape (k, p)."""
    X = linear_model(worker).rows.X
    return np.asarray(entries_of(X, rows).matrix(X.shape[1]).toarray())
