"""The rows of a source in flat files, from which the rows of any worker can be gathered."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.data.blocks import Block
from mpinewton.data.scale import factor, multiplied
from mpinewton.errors import DataError

PIECE_NUMBERS = 1 << 19
TYPES = {"values": np.float64, "y": np.float64, "weight": np.float64, "indices": np.int32, "counts": np.int32}


def scaled(blocks: Iterable[Block], scale: str, name: str, dtype: str = "float64") -> Iterator[Block]:
    """The blocks with the features multiplied by `scale`; whole numbers as they are where they are kept as bytes.

    Raises
    ------
    ConfigError
        If `scale` is no positive number or fraction.
    DataError
        If a feature is too large once multiplied, or no byte where that is what is kept.
    """
    ratio, done = factor(scale), 0
    for block in blocks:
        X: Matrix = block.X
        if ratio != 1:  # else they have been checked, and most data are large
            with np.errstate(over="ignore"):
                X = multiplied(X, ratio)
            if not np.isfinite(X if isinstance(X, np.ndarray) else X.data).all():
                raise DataError(f"{name}: a feature is not finite once multiplied by --scale {scale}; scale by less")
        if dtype == "uint8":
            X = block.X
            _refuse_other_than_bytes(X, name, done)
        done += len(block.y)
        yield Block(X, block.y, block.weight)


def _refuse_other_than_bytes(X: Any, name: str, done: int) -> None:
    values = X if isinstance(X, np.ndarray) else X.data
    wrong = (values < 0) | (values > 255) | (values != np.floor(values))
    if wrong.any():
        place = int(np.argmax(wrong))
        row = place // X.shape[1] if isinstance(X, np.ndarray) else int(np.searchsorted(X.indptr, place, "right")) - 1
        raise DataError(
            f"{name}: row {done + row + 1} has the feature {values.ravel()[place]:g}, and --dtype uint8 keeps whole "
            "numbers from 0 to 255; take float32 (--scale is applied when the bytes are read)"
        )


@dataclass(frozen=True)
class Spool:
    """Rows in flat files `<prefix>.values`, `.y`, and `.weight`, `.indices`, `.counts` where there are such.

    Attributes
    ----------
    prefix : str
    rows, features : int
    stored : int
        Entries of the sparse rows, non-zeros of the dense ones.
    dense, weighted : bool
    """

    prefix: str
    rows: int
    features: int
    stored: int
    dense: bool
    weighted: bool

    def array(self, name: str) -> NDArray[Any]:
        """One of the files, mapped; shape (rows, features) for the values of dense rows, else flat."""
        path = Path(f"{self.prefix}.{name}")
        if not path.stat().st_size:
            array: NDArray[Any] = np.zeros(0, TYPES[name])
        else:
            array = np.memmap(path, TYPES[name], "r")
        return array.reshape(self.rows, self.features) if self.dense and name == "values" else array

    def pieces(self, rows: NDArray[np.int64], features: int, dtype: str, to_sparse: bool) -> Iterator[Block]:
        """The given rows in the given order, `features` wide, some at a time."""
        width = features if not to_sparse else 1 + (self.features if self.dense else self.stored // max(1, self.rows))
        size = max(1, PIECE_NUMBERS // width)
        indptr = None if self.dense else np.concatenate([[0], np.cumsum(self.array("counts"), dtype=np.int64)])
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            X: Any = self._dense(some, features) if indptr is None else self._sparse(some, features, indptr)
            if to_sparse:
                X = sparse.csr_array(X)
            elif sparse.issparse(X):
                X = X.toarray()
            yield Block(X.astype(dtype), self.array("y")[some], self.array("weight")[some] if self.weighted else None)

    def _dense(self, rows: NDArray[np.int64], features: int) -> Array:
        X = np.zeros((len(rows), features))
        X[:, : self.features] = self.array("values")[rows]
        return X

    def _sparse(self, rows: NDArray[np.int64], features: int, indptr: NDArray[np.int64]) -> sparse.csr_array:
        counts = indptr[rows + 1] - indptr[rows]
        ends = np.cumsum(counts)
        entries = np.repeat(indptr[rows] - (ends - counts), counts) + np.arange(counts.sum())
        parts = self.array("values")[entries], self.array("indices")[entries], np.concatenate([[0], ends])
        return sparse.csr_array(parts, shape=(len(rows), features))


def spool(blocks: Iterable[Block], prefix: Path, dense: bool) -> Spool:
    """Write blocks to flat files."""
    rows = features = stored = 0
    weighted = False
    names = ["values", "y", "weight"] + ([] if dense else ["indices", "counts"])
    with ExitStack() as stack:
        files = {name: stack.enter_context(Path(f"{prefix}.{name}").open("wb")) for name in names}
        for block in blocks:
            X = block.X
            arrays: dict[str, Any] = {"y": block.y}
            if block.weight is not None:
                arrays["weight"], weighted = block.weight, True
            if isinstance(X, np.ndarray):
                arrays["values"] = X
            else:
                arrays |= {"values": X.data, "indices": X.indices, "counts": np.diff(X.indptr)}
            for name, array in arrays.items():
                files[name].write(np.ascontiguousarray(array, TYPES[name]).data)
            rows, features = rows + len(block.y), max(features, X.shape[1])
            stored += int(np.count_nonzero(X)) if isinstance(X, np.ndarray) else X.nnz
    return Spool(str(prefix), rows, features, stored, dense, weighted)


def join(parts: list[Spool]) -> Spool:
    """The parts one after the other, in the files of the first; the others' are removed."""
    first = parts[0]
    for name in ["y", "values", "indices", "counts"]:
        path = Path(f"{first.prefix}.{name}")
        if not path.exists():
            continue
        with path.open("ab") as target:
            for part in parts[1:]:
                more = Path(f"{part.prefix}.{name}")
                with more.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 22)
                more.unlink()
    rows, stored = sum(part.rows for part in parts), sum(part.stored for part in parts)
    return Spool(first.prefix, rows, max(part.features for part in parts), stored, first.dense, first.weighted)
