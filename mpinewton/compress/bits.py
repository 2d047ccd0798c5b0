"""Whole numbers and sparse rows in as few bits as they need."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Bytes, Matrix

Integers = NDArray[np.integer[Any]]


def width_of(count: int) -> int:
    """Bits of a whole number from 0 to count - 1."""
    return max(0, count - 1).bit_length()


def digits(numbers: Integers, width: int) -> Bytes:
    """The binary digits of every number, highest first, one number behind the other: 0 or 1, shape (k width,)."""
    return ((numbers[:, None] >> np.arange(width)[::-1]) & 1).astype(np.uint8).ravel()


def numbers_of(bits: Bytes, width: int, count: int) -> NDArray[np.int64]:
    """The `count` numbers that have these digits, of `width` each; zeros for a width of 0."""
    return np.asarray(bits.reshape(count, width) @ (1 << np.arange(width, dtype=np.int64)[::-1]), dtype=np.int64)


def pack_bits(*fields: tuple[Integers, int]) -> Bytes:
    """Numbers, each field with so many bits a number, behind one another; the last byte is filled up with zeros."""
    return np.packbits(np.concatenate([*(digits(*field) for field in fields), np.zeros(0, np.uint8)]))


class Bits:
    """Reads what `pack_bits` wrote, field by field."""

    def __init__(self, data: Bytes) -> None:
        self.bits, self.first = np.unpackbits(data), 0

    def take(self, count: int, width: int) -> NDArray[np.int64]:
        """The next `count` numbers of so many bits each."""
        end = self.first + count * width
        piece, self.first = self.bits[self.first : end], end
        return numbers_of(piece, width, count)


class Entries(NamedTuple):
    """The stored entries of some rows, one row behind the other."""

    counts: Integers  # of each row, shape (k,)
    features: Integers  # shape (entries,)
    values: NDArray[np.floating[Any]]  # shape (entries,)

    def matrix(self, p: int) -> sparse.csr_array:
        """The rows, shape (k, p)."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        return sparse.csr_array((self.values.astype(np.float64, copy=False), self.features, ends), (len(ends) - 1, p))


def entries_of(X: Matrix, rows: Integers) -> Entries:
    """The stored entries of some rows of X; all of them where X is dense."""
    if not isinstance(X, sparse.csr_array):
        k, p = len(rows), X.shape[1]
        return Entries(np.full(k, p), np.tile(np.arange(p), k), X[rows].ravel())
    first = X.indptr[rows].astype(np.int64)
    counts = X.indptr[rows + 1] - first
    where = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return Entries(counts, X.indices[where], X.data[where])


def joined_entries(parts: list[Entries]) -> Entries:
    """All of these rows, as int64 and float64."""
    counts, features, values = zip(Entries(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)), *parts)
    return Entries(
        np.concatenate(counts, dtype=np.int64, casting="unsafe"),
        np.concatenate(features, dtype=np.int64, casting="unsafe"),
        np.concatenate(values, dtype=np.float64),
    )


def pack_rows(X: Matrix, rows: Integers) -> tuple[list[tuple[Integers, int]], NDArray[Any]]:
    """Sparsifier rows of X in as few bits as they need, for `unpack_rows`: fields for `pack_bits`, and values.

    Sparse rows: how many entries each has, and their features, as fields; values (entries,), none where all are 1.
    Dense rows: no fields, and values (k, p). Values keep their dtype.
    """
    if not isinstance(X, sparse.csr_array):
        return [], X[rows]
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    found, p = entries_of(X, rows), X.shape[1]
    values = found.values[:0] if (found.values == 1).all() else found.values
    return [(found.counts, width_of(p + 1)), (found.features, width_of(p))], values


def unpack_rows(bits: Bits, values: NDArray[Any], k: int, p: int) -> Entries:
    """The k rows that `pack_rows` packed."""
    if values.ndim == 2:
        return entries_of(values, np.arange(k))
    counts = bits.take(k, width_of(p + 1))
    features = bits.take(int(counts.sum()), width_of(p))
    return Entries(counts, features, values if values.size else np.ones(len(features)))
