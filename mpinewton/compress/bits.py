"""Packing of integers and sparse rows into bits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Bytes, Matrix

Integers = NDArray[np.integer[Any]]


def width_of(count: int) -> int:
    """Number of bits of an integer from 0 to count - 1."""
    return max(0, count - 1).bit_length()


def digits(numbers: Integers, width: int) -> Bytes:
    """The binary digits of all numbers (k,), most significant first, concatenated: 0 or 1, shape (k width,)."""
    return ((numbers[:, None] >> np.arange(width)[::-1]) & 1).astype(np.uint8).ravel()


def from_digits(bits: Bytes, width: int, count: int) -> NDArray[np.int64]:
    """The inverse of `digits`: numbers, shape (count,); zeros for a width of 0."""
    return np.asarray(bits.reshape(count, width) @ (1 << np.arange(width, dtype=np.int64)[::-1]), dtype=np.int64)


def pack_bits(*fields: tuple[Integers, int]) -> Bytes:
    """Pack fields, each of (numbers, bits per number), into bytes; the last byte is padded with zeros."""
    return np.packbits(np.concatenate([*(digits(*field) for field in fields), np.zeros(0, np.uint8)]))


class Bits:
    """Reader of the bytes that `pack_bits` wrote, field by field."""

    def __init__(self, data: Bytes) -> None:
        self.bits, self.first = np.unpackbits(data), 0

    def take(self, count: int, width: int) -> NDArray[np.int64]:
        """The next `count` numbers of `width` bits each."""
        end = self.first + count * width
        piece, self.first = self.bits[self.first : end], end
        return from_digits(piece, width, count)


class Entries(NamedTuple):
    """The stored entries of k rows, concatenated.

    Attributes
    ----------
    counts : int array, shape (k,)
        Number of entries of each row.
    features : int array, shape (E,)
        Feature of each entry.
    values : array, shape (E,)
        Value of each entry.
    """

    counts: Integers
    features: Integers
    values: NDArray[np.floating[Any]]

    def matrix(self, p: int) -> sparse.csr_array:
        """The rows as a sparse matrix, shape (k, p)."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        return sparse.csr_array((self.values.astype(np.float64, copy=False), self.features, ends), (len(ends) - 1, p))


def entries_of(X: Matrix, rows: Integers) -> Entries:
    """The stored entries of the rows with these indices (k,); all k p entries where X (n, p) is dense."""
    if not isinstance(X, sparse.csr_array):
        k, p = len(rows), X.shape[1]
        return Entries(np.full(k, p), np.tile(np.arange(p), k), X[rows].ravel())
    first = X.indptr[rows].astype(np.int64)
    counts = X.indptr[rows + 1] - first
    where = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return Entries(counts, X.indices[where], X.data[where])


def join_entries(parts: list[Entries]) -> Entries:
    """The rows of all parts, as int64 and float64."""
    counts, features, values = zip(Entries(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)), *parts)
    return Entries(
        np.concatenate(counts, dtype=np.int64, casting="unsafe"),
        np.concatenate(features, dtype=np.int64, casting="unsafe"),
        np.concatenate(values, dtype=np.float64),
    )


def pack_rows(X: Matrix, rows: Integers) -> tuple[list[tuple[Integers, int]], NDArray[Any]]:
    """Prepare rows of X for sending.

    Parameters
    ----------
    X : matrix, shape (n, p)
    rows : int array, shape (k,)
        Indices of the rows.

    Returns
    -------
    fields : list
        For `pack_bits`: the number of entries of each row and their features; empty where X is dense.
    values : array, shape (E,) or (k, p)
        Values of the entries, in the dtype of X; shape (0,) where X is sparse and all values are 1.
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
    """The inverse of `pack_rows`: k rows of p features."""
    if values.ndim == 2:
        return entries_of(values, np.arange(k))
    counts = bits.take(k, width_of(p + 1))
    features = bits.take(int(counts.sum()), width_of(p))
    return Entries(counts, features, values if values.size else np.ones(len(features)))
