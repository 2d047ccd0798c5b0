"""Rows of the workers that the driver knows because they were sent to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    join_entries,
    pack_bits,
    pack_rows,
    unpack_rows,
)
from mpinewton.fleet import Fleet, Worker
from mpinewton.methods.support.method import State
from mpinewton.methods.support.tasks import linear_model


@dataclass(frozen=True, eq=False, kw_only=True)
class KnownRowsState(State):
    """A state with the rows that the driver knows, K of them, in the order in which they came.

    Rows are numbered through all workers: row j of worker i has number rows_0 + ... + rows_{i-1} + j.

    Attributes
    ----------
    place : int array, shape (N,)
        Position of every row among the known rows, -1 where it is unknown.
    counts : int array, shape (K,)
        Number of entries of every known row.
    features : int array, shape (E,)
        Feature of every entry.
    values : array, shape (E,)
        Value of every entry.
    """

    place: Integers
    counts: Integers
    features: Integers
    values: NDArray[np.floating[Any]]

    @property
    def entries(self) -> Entries:
        """The known rows."""
        return Entries(self.counts, self.features, self.values)

    def select_rows(self, numbers: Integers, p: int) -> sparse.csr_array:
        """The known rows with these numbers (k,), shape (k, p)."""
        return entries_of(self.entries.matrix(p), self.place[numbers]).matrix(p)


K = TypeVar("K", bound=KnownRowsState)


def add_rows(now: K, numbers: Integers, rows: Entries) -> K:
    """The state with these rows, of numbers (k,), added to the known ones."""
    place = now.place.copy()
    place[numbers] = len(now.counts) + np.arange(len(numbers))
    every = join_entries([now.entries, rows])
    return replace(now, place=place, counts=every.counts, features=every.features, values=every.values)


def first_row_numbers(fleet: Fleet) -> Integers:
    """The number of every worker's first row, shape (m,)."""
    return np.asarray(np.cumsum([0, *fleet.problem.rows[:-1]]))


def gather_rows(fleet: Fleet, dense: bool = False) -> Entries:
    """Every row of every worker, in the order of their numbers. 1 round."""
    replies = fleet.gather(send_dense_rows if dense else send_rows)
    rows, p = fleet.problem.rows, fleet.problem.features
    return join_entries([unpack_rows(Bits(bits), values, k, p) for k, (bits, values) in zip(rows, replies)])


def send_rows(worker: Worker) -> tuple[Bytes, NDArray[Any]]:
    """All rows as they are stored: packed bits, and the values of the entries, none where all are 1."""
    fields, values = pack_rows(linear_model(worker).rows.X, np.arange(worker.rows))
    return pack_bits(*fields), values


def send_dense_rows(worker: Worker) -> tuple[Bytes, NDArray[Any]]:
    """All rows with their zeros: m p floats."""
    return np.zeros(0, np.uint8), dense_rows(worker, np.arange(worker.rows))


def dense_rows(worker: Worker, rows: NDArray[np.integer[Any]]) -> Array:
    """Rows of the worker, given by index (k,), with their zeros, shape (k, p)."""
    X = linear_model(worker).rows.X
    return np.asarray(entries_of(X, rows).matrix(X.shape[1]).toarray())
