"""Data in memory as shards: arrays, sparse matrices and data frames, checked as `pack` checks files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.data.blocks import CLASSES
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError

EXACT = 2**53  # whole numbers beyond are not all float64
STORED = (np.float64, np.float32, np.uint8)  # types of the features of a shard
Labels = NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Rows of a user, checked.

    Attributes
    ----------
    X : array or csr_array, shape (n, p), float64
    y : array, shape (n,)
        Labels as the user has them.
    sample_weight : array, shape (n,), or None
    """

    X: Matrix
    y: Labels
    sample_weight: Array | None = None

    def labels(self) -> list[Any]:
        """The distinct labels, as numbers or texts. Raises ConfigError where they are too many for classes."""
        try:
            distinct = np.unique(self.y)
        except TypeError:
            raise ConfigError("y holds labels of different kinds, as words and numbers: make them all alike") from None
        return list(distinct.tolist())

    def shard(self, classes: Sequence[Any] | None) -> Shard:
        """The rows as a shard, labels numbered by their place in `classes` unless these are plain numbers."""
        if classes is None or are_numbers(classes):
            return Shard(self.X, as_numbers(self.y), self.sample_weight)
        number = {label: float(place) for place, label in enumerate(classes)}
        y = np.array([number[label] for label in self.y.tolist()], dtype=np.float64)
        return Shard(self.X, y, self.sample_weight)


def are_numbers(labels: Sequence[Any]) -> bool:
    """Whether labels are numbers that a float64 holds exactly; true, false and words are not."""
    return all(
        isinstance(label, float) or (isinstance(label, int) and not isinstance(label, bool) and abs(label) <= EXACT)
        for label in labels
    )


def class_values(labels: Sequence[Any]) -> tuple[float, ...]:
    """The classes as shards hold them: the labels where these are numbers, else 0, 1, ..."""
    return tuple(map(float, labels if are_numbers(labels) else range(len(labels))))


def check_classes(labels: Sequence[Any]) -> None:
    """Refuse labels that are no classes. Raises ConfigError."""
    if len(labels) > CLASSES:
        raise ConfigError(
            f"y holds {len(labels)} different labels, and a loss for classes takes at most {CLASSES}; "
            "use loss squared, huber or poisson for numbers"
        )


def as_rows(data: Any) -> Rows:
    """The rows of (X, y) or (X, y, sample_weight).

    Raises
    ------
    ConfigError
        If shapes do not fit, or a value is missing, masked, infinite, or no number.
    """
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ConfigError(
            f"data: expected a folder, shards, (X, y) or (X, y, sample_weight), but it is {_described(data)}"
        )
    X, y = as_matrix(data[0]), as_labels(data[1])
    weight = None if len(data) == 2 or data[2] is None else as_weights(data[2])
    _check_lengths(X, y, weight)
    return Rows(X, y, weight)


def _check_lengths(X: Matrix, y: Labels, weight: Array | None) -> None:
    n = X.shape[0]
    for name, shape in {"y": y.shape, "sample_weight": None if weight is None else weight.shape}.items():
        if shape is not None and shape != (n,):
            raise ConfigError(f"{name}: expected shape ({n},), as X has {n} rows, but it is {shape}")


def as_matrix(X: Any) -> Matrix:
    """X, shape (n, p), as a float64 array or csr_array in canonical form. Raises ConfigError."""
    if sparse.issparse(X):
        _check_two_axes(X.shape)
        _check_numeric(X, "X")
        with np.errstate(over="ignore"):  # of extended precision; `_check_finite` names the value
            found = sparse.csr_array(X, dtype=np.float64)
        if not found.has_canonical_format:
            found = found.copy()  # of the user's own arrays
            found.sum_duplicates()
        _check_finite(found.data, lambda k: (int(np.searchsorted(found.indptr, k, side="right")) - 1, found.indices[k]))
        return found
    dense = _numbers(_plain(X), "X")
    _check_two_axes(dense.shape)
    _check_finite(dense.ravel(), lambda k: divmod(k, dense.shape[1]))
    return dense


def as_labels(y: Any) -> Labels:
    """y, shape (n,), numbers finite. Raises ConfigError."""
    array = _plain(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ConfigError(f"y: expected shape (n,), but it is {array.shape}")
    if array.dtype.kind not in "fiubUO":
        raise ConfigError(f"y: expected numbers, words or booleans, but its dtype is {array.dtype}")
    missing = [label is None or label != label for label in array.tolist()] if array.dtype.kind == "O" else None
    wrong = np.array(missing, dtype=bool) if missing is not None else _not_finite(array)
    if wrong.any():
        row = int(wrong.argmax())
        raise ConfigError(f"y: the label of row {row} is {array[row]}; remove such rows, or give them a label")
    return array


def as_numbers(y: Labels) -> Array:
    """Labels as float64 numbers, shape (n,). Raises ConfigError for words, and for numbers beyond float64."""
    found = _numbers(y, "y")
    if not np.isfinite(found).all():
        raise ConfigError("y: a label is beyond the largest float64, 1.8e308; use other units")
    return found


def as_weights(weight: Any) -> Array:
    """Weights, shape (n,): finite, none negative. Raises ConfigError."""
    found = _numbers(_plain(weight), "sample_weight")
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any():
        raise ConfigError("sample_weight: expected shape (n,), every weight finite and at least 0")
    check_total_weight(found)
    return found


def check_total_weight(weights: ArrayLike) -> None:
    """Refuse weights, of rows or of shards, whose sum is not finite. Raises ConfigError."""
    with np.errstate(over="ignore"):
        total = np.sum(weights)
    if not np.isfinite(total):
        raise ConfigError("sample_weight: the sum of the weights is not finite; divide them by a common factor")


def as_shards(data: Any) -> list[Shard]:
    """A list of shards, checked. Raises ConfigError."""
    shards = list(data) if isinstance(data, list | tuple) else []
    if not shards or not all(isinstance(shard, Shard) for shard in shards):
        remedy = "; arrays belong into a tuple: (X, y)" if isinstance(data, list) and len(data) in (2, 3) else ""
        raise ConfigError(
            f"data: expected a folder, shards, (X, y) or (X, y, sample_weight), but it is {_described(data)}{remedy}"
        )
    checked = [_as_shard(shard, f"shard {number}: ") for number, shard in enumerate(shards)]
    for number, shard in enumerate(checked):
        if shard.features != checked[0].features:
            raise ConfigError(f"shard {number} has {shard.features} features, and shard 0 has {checked[0].features}")
    return checked


def _as_shard(shard: Shard, name: str) -> Shard:
    """The shard with float64 or float32 features, or its bytes, and float64 labels and weights. Raises ConfigError."""
    try:
        X: Any = shard.X
        if getattr(X, "dtype", None) not in STORED or not (isinstance(X, np.ndarray) or sparse.issparse(X)):
            X = as_matrix(X)
        elif sparse.issparse(X):
            X = sparse.csr_array(X)
        _check_two_axes(X.shape)
        _check_finite(X.data if sparse.issparse(X) else X.ravel(), None)
        y = as_numbers(as_labels(shard.y))
        weight = None if shard.sample_weight is None else as_weights(shard.sample_weight)
        _check_lengths(X, y, weight)
    except ConfigError as error:
        raise ConfigError(f"{name}{error}") from None
    return replace(shard, X=X, y=y, sample_weight=weight)


def _plain(values: Any) -> NDArray[Any]:
    """An array of arrays, lists and data frames; masked values refused."""
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.getmaskarray(values).any():
            raise ConfigError("masked values are not supported: fill them in, or leave their rows out")
        values = values.data
    if not isinstance(values, np.ndarray) and hasattr(values, "to_numpy"):  # pandas, polars, pyarrow
        values = values.to_numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise ConfigError("expected rows of one length each, but they have different lengths") from None


def _numbers(array: NDArray[Any], name: str) -> Array:
    _check_numeric(array, name)
    try:
        with np.errstate(over="ignore"):  # of extended precision; what is infinite is refused
            return np.asarray(array, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: expected numbers: {error}") from None


def _check_numeric(array: Any, name: str) -> None:
    if array.dtype.kind not in "fiubO":
        raise ConfigError(f"{name}: expected numbers, but its dtype is {array.dtype}")


def _check_two_axes(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise ConfigError(f"X: expected shape (n, p), but it is {shape}")


def _check_finite(values: NDArray[Any], place: Any) -> None:
    """Refuse a value that is not finite; `place` finds its row and column. Raises ConfigError."""
    wrong = _not_finite(values)
    if wrong.any() and place is None:
        raise ConfigError("X holds a value that is not finite")
    if wrong.any():
        first = int(wrong.argmax())
        row, column = place(first)
        value = values[first]
        raise ConfigError(f"X: row {row}, column {column} is {value}; replace such values, or leave out their rows")


def _not_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    return ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)


def _described(data: Any) -> str:
    return f"a {type(data).__name__} of {len(data)}" if isinstance(data, list | tuple) else f"a {type(data).__name__}"
