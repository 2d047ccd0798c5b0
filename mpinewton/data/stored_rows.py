"""The rows of a shard that stay in its file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.data.shard import add_ones
from mpinewton.data.shard_reader import Reader, open_shard
from mpinewton.linalg.stored import StoredMatrix, affine

READ_NUMBERS = 1 << 20  # numbers of a read, unless a part has more


class StoredRows(StoredMatrix):
    """Rows that are read when they are needed: one block is read by a thread while the one before is in use.

    Parameters
    ----------
    reader : Reader
        Of the file, which may be closed by now.
    finish : callable
        Turns rows as stored into those of the matrix: type, scale, standardisation.
    """

    def __init__(self, reader: Reader, finish: Callable[[Matrix], Matrix]) -> None:
        self._reader, self._finish = reader, finish
        sample = finish(reader.nothing())
        self.shape = (reader.header.rows, reader.header.features)
        self.dtype = sample.dtype
        self.starts = reader.starts if sparse.issparse(sample) else None

    def blocks(self, parts: Sequence[slice]) -> Iterator[tuple[slice, Matrix]]:
        groups = self._groups(parts)
        with open_shard(self._reader.path) as file, ThreadPoolExecutor(1) as ahead:
            reader = self._reader.on(file)
            coming = [ahead.submit(self._read, reader, group) for group in groups[:1]]
            for number, group in enumerate(groups):
                X: Any = coming.pop().result()
                if number + 1 < len(groups):
                    coming.append(ahead.submit(self._read, reader, groups[number + 1]))
                first = group[0].start
                for part in group:
                    yield part, X if len(group) == 1 else X[part.start - first : part.stop - first]
                del X

    def _groups(self, parts: Sequence[slice]) -> list[list[slice]]:
        """The parts of each read."""
        groups: list[list[slice]] = []
        size = 0
        for part in parts:
            rows = slice(part.start, min(part.stop, self.shape[0]))
            more = self._numbers(rows)
            if not groups or size + more > READ_NUMBERS:
                groups.append([])
                size = 0
            groups[-1].append(rows)
            size += more
        return groups

    def _numbers(self, rows: slice) -> int:
        if self.starts is None:
            return int(rows.stop - rows.start) * self.shape[1]
        return int(self.starts[rows.stop]) - int(self.starts[rows.start])

    def _read(self, reader: Reader, parts: Sequence[slice]) -> Matrix:
        return self._finish(reader.rows(parts[0].start, parts[-1].stop))

    def __getitem__(self, rows: NDArray[np.intp]) -> Matrix:
        distinct, place = np.unique(rows, return_inverse=True)
        ends = np.flatnonzero(np.diff(distinct, append=-1) != 1) + 1
        runs = np.split(distinct, ends[:-1])
        with open_shard(self._reader.path) as file:
            reader = self._reader.on(file)
            some: Any = [self._finish(reader.rows(int(run[0]), int(run[-1]) + 1)) for run in runs if len(run)]
        some = some or [self._finish(reader.nothing())]
        X = np.concatenate(some) if isinstance(some[0], np.ndarray) else sparse.vstack(some, format="csr")
        return X[place]

    def with_intercept(self) -> StoredRows:
        more, finish = copy.copy(self), self._finish
        more._finish = lambda X: add_ones(finish(X))
        more.shape = (self.shape[0], self.shape[1] + 1)
        more.starts = None if self.starts is None else self.starts + np.arange(self.shape[0] + 1)
        return more

    def affine(self, shift: Array, factor: Array) -> StoredRows:
        changed, finish = copy.copy(self), self._finish
        changed._finish = lambda X: affine(finish(X), shift, factor)
        return changed
