"""Rows of a source in flat files, from which the rows of any worker can be read."""

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
from mpinewton.data.narrow import common, narrowest
from mpinewton.data.scale import factor, multiply
from mpinewton.errors import DataError

PIECE_NUMBERS = 1 << 19
TYPES = {"values": np.float64, "y": np.float64, "weight": np.float64, "indices": np.int32, "counts": np.int32}


def scale_blocks(blocks: Iterable[Block], scale: str, name: str, dtype: str = "float64") -> Iterator[Block]:
    """The blocks with the features multiplied by `scale`; features of dtype uint8 are not multiplied.

    Raises
    ------
    ConfigError
        If `scale` is not a positive number or fraction.
    DataError
        If a multiplied feature is not finite, or a feature of dtype uint8 is not a whole number from 0 to 255.
    """
    ratio, done = factor(scale), 0
    for block in blocks:
        X: Matrix = block.X
        if ratio != 1:  # otherwise they are checked already
            with np.errstate(over="ignore"):
                X = multiply(X, ratio)
            if not np.isfinite(X if isinstance(X, np.ndarray) else X.data).all():
                raise DataError(f"{name}: a feature times --scale {scale} is not finite; use a smaller factor")
        if dtype == "uint8":
            X = block.X
            _check_bytes(X, name, done)
        done += len(block.y)
        yield Block(X, block.y, block.weight)


def _check_bytes(X: Any, name: str, done: int) -> None:
    values = X if isinstance(X, np.ndarray) else X.data
    wrong = (values < 0) | (values > 255) | (values != np.floor(values))
    if wrong.any():
        place = int(np.argmax(wrong))
        row = place // X.shape[1] if isinstance(X, np.ndarray) else int(np.searchsorted(X.indptr, place, "right")) - 1
        raise DataError(
            f"{name}: row {done + row + 1} has the feature {values.ravel()[place]:g}; --dtype uint8 expects whole "
            "numbers from 0 to 255 (--scale is applied when they are read). Use float32"
        )


@dataclass(frozen=True)
class Spool:
    """Rows in flat files `<prefix>.values`, `.y`, and, if weighted or sparse, `.weight`, `.indices`, `.counts`.

    Attributes
    ----------
    prefix : str
    rows, features : int
    stored : int
        Entries of the sparse rows, non-zeros of the dense ones.
    dense, weighted : bool
    kind : str
        Type that holds all values exactly, as `mpinewton.data.narrow.narrowest` names it.
    """

    prefix: str
    rows: int
    features: int
    stored: int
    dense: bool
    weighted: bool
    kind: str = "float64"

    def array(self, name: str) -> NDArray[Any]:
        """One of the files, memory-mapped: shape (rows, features) for the values of dense rows, else flat."""
        path = Path(f"{self.prefix}.{name}")
        if not path.stat().st_size:
            array: NDArray[Any] = np.zeros(0, TYPES[name])
        else:
            array = np.memmap(path, TYPES[name], "r")
        return array.reshape(self.rows, self.features) if self.dense and name == "values" else array

    def pieces(self, rows: NDArray[np.int64], features: int, dtype: str, to_sparse: bool) -> Iterator[Block]:
        """Blocks of the given rows in the given order, with `features` columns."""
        width = features if not to_sparse else 1 + (self.features if self.dense else self.stored // max(1, self.rows))
        size = max(1, PIECE_NUMBERS // width)
        whole = None if self.dense else self._sparse(features)
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            X: Any = self._dense(some, features) if whole is None else whole[some]
            if to_sparse:
                X = sparse.csr_array(X)
            elif sparse.issparse(X):
                X = X.toarray()
            yield Block(X.astype(dtype), self.array("y")[some], self.array("weight")[some] if self.weighted else None)

    def _dense(self, rows: NDArray[np.int64], features: int) -> Array:
        X = np.zeros((len(rows), features))
        X[:, : self.features] = self.array("values")[rows]
        return X

    def _sparse(self, features: int) -> sparse.csr_array:
        """All rows, as a matrix whose arrays stay on disk: scipy copies rows in compiled loops."""
        starts = np.concatenate([[0], np.cumsum(self.array("counts"), dtype=np.int64)])
        X = sparse.csr_array((self.rows, features))
        X.data, X.indices, X.indptr = np.asarray(self.array("values")), np.asarray(self.array("indices")), starts
        if starts[-1] <= np.iinfo(np.int32).max:
            X.indptr = starts.astype(np.int32)
        else:  # scipy wants both of one type
            X.indices = X.indices.astype(np.int64)
        return X


def spool(blocks: Iterable[Block], prefix: Path, dense: bool) -> Spool:
    """Write blocks to flat files."""
    rows = features = stored = 0
    weighted, kind = False, "bool"
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
            if kind != "float64":
                kind = common(kind, narrowest(np.asarray(arrays["values"], np.float64)))
            rows, features = rows + len(block.y), max(features, X.shape[1])
            stored += int(np.count_nonzero(X)) if isinstance(X, np.ndarray) else X.nnz
    return Spool(str(prefix), rows, features, stored, dense, weighted, kind)


def join(parts: list[Spool]) -> Spool:
    """Append the parts to the files of the first part, and remove the files of the others."""
    first = parts[0]
    for name in ["y", "values", "weight", "indices", "counts"]:
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
    features, kind = max(part.features for part in parts), common(*(part.kind for part in parts))
    return Spool(first.prefix, rows, features, stored, first.dense, first.weighted, kind)
