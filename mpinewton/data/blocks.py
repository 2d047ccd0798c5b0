"""Base class of sources: rows in blocks, validated in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Matrix
from mpinewton.data.columns import ANY, Columns, Missing, Schema
from mpinewton.errors import ConfigError, DataError, did_you_mean

LARGEST_FEATURE = 2**31 - 1
CLASSES = 1000  # more distinct labels than this are real numbers, not classes


@dataclass(frozen=True)
class Reading:
    """How to read a source.

    Attributes
    ----------
    format : str
        A key of `mpinewton.data.sources.FORMATS`, or "auto": by content and name of the source.
    features : int or None
        Number of features, if the last ones may not occur in the source; None: the largest that occurs.
    rows : int or None
        Number of rows to read, from the first; None: all.
    max_features : int
        Largest feature index that is accepted.
    label_column, weight_column : str or None
        Name or number of a column of a table (from 1; -1 is the last). Default label: the last column.
    class_names : tuple of str or None
        Names of the classes 0, 1, ...; (): labels must be numbers; None: the names that occur, sorted.
    allow_partial_last_line : bool
        Accept a last line without newline.
    header : bool or None
        Whether the first line of a CSV file holds the names of the columns; None: recognised.
    delimiter : str or None
        One character, "tab" or "whitespace"; None: recognised.
    categories : {"error", "onehot"}
        A column of words is refused, or each word becomes a feature.
    missing : {"error", "mean", "indicator"}
        A missing value is refused, or replaced by the mean of its column, or that and marked by a further feature.
    schema : Schema
        Of the training data: the columns of a table are matched with its columns, by name if both have a header.
        Further columns are left out. Without columns in the schema, all become features.
    labels : bool
        False: labels are not read, and y is 0; rows may have none.
    """

    format: str = "auto"
    features: int | None = None
    rows: int | None = None
    max_features: int = 1 << 24
    label_column: str | None = None
    weight_column: str | None = None
    class_names: tuple[str, ...] | None = None
    allow_partial_last_line: bool = False
    header: bool | None = None
    delimiter: str | None = None
    categories: Literal["error", "onehot"] = "error"
    missing: Missing = "error"
    schema: Schema = ANY
    labels: bool = True

    def limit_remedy(self, found: int) -> str:
        """The limit of the number of features that `found` exceeds, and the remedy."""
        if found > LARGEST_FEATURE:
            return f"{LARGEST_FEATURE}, the largest number of features; hash or renumber the features"
        name, limit = ("--features", self.features) if self.features else ("--max-features", self.max_features)
        return f"{name} {limit}; increase {name} if this is intended"


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source: X (n, p), y (n,), weight (n,) or None."""

    X: Matrix
    y: Array
    weight: Array | None = None


class ClassNames:
    """Class names and their numbers: in order of appearance while a source is read, then in alphabetical order."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.fixed = names is not None
        self.number = {name: number for number, name in enumerate(names or ())}

    def __call__(self, word: str) -> int:
        """The number of a class name. Raises ValueError if it is empty, unknown, or number 1001."""
        word = word if word in self.number else word.strip()  # a blank may be the name of a class
        if word not in self.number:
            if self.fixed:
                raise ValueError(f"{word!r} is not a class of the training data{did_you_mean(word, self.number)}")
            if word in ("", "?"):
                raise ValueError(f"is missing ({word!r}); remove the row, or give it a label")
            if len(self.number) == CLASSES:
                raise ValueError(f"{word!r} is class number {CLASSES + 1}; check the label column")
            self.number[word] = len(self.number)
        return self.number[word]

    def encode(self, words: NDArray[np.str_]) -> Array:
        """Numbers of class names, shape of `words`."""
        distinct, inverse = np.unique(words, return_inverse=True)
        return np.array([self(str(word)) for word in distinct], dtype=np.float64)[inverse]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Class names in the order of their final numbers; None if labels are numbers."""
        return (tuple(self.number) if self.fixed else tuple(sorted(self.number))) or None

    def renumber(self, y: Array) -> Array:
        """Final numbers of labels that are numbered in order of appearance, shape of y."""
        if self.fixed or not self.number:
            return y
        return np.argsort(np.argsort(list(self.number))).astype(np.float64)[y.astype(np.int64)]


def parse_query(name: str, query: str, known: Collection[str], what: str) -> Iterator[tuple[str, str]]:
    """Keys and values of the settings key=value&key=value of a source.

    Raises
    ------
    ConfigError
        If a key is not in `known`.
    """
    for item in filter(None, query.split("&")):
        key, _, value = item.partition("=")
        if key not in known:
            raise ConfigError(f"{name}: {what} has no setting {key!r}{did_you_mean(key, known)}")
        yield key, value


class Source(ABC):
    """Base class: rows in blocks. `class_names` is complete after all blocks have been read."""

    dense = True
    dtype = "float64"  # smallest of float64 and uint8 that holds the features exactly
    sizes: tuple[int, ...] | None = None  # rows of each worker, if the source prescribes them
    columns: Columns | None = None  # of a table
    label_name: str | None = None
    files: tuple[Path, ...] = ()  # which it reads
    notes: tuple[str, ...] = ()  # what a user should know of how the source was read

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = name, reading
        self.class_names = ClassNames(reading.class_names)

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """The rows in order."""

    def valid_blocks(self) -> Iterator[Block]:
        """The rows in order, at most `reading.rows`.

        Raises
        ------
        DataError
            If a number is not finite, a weight is negative, there are too many features, or fewer rows than asked for.
        """
        done, limit_rows = 0, self.reading.rows
        limit = self.reading.features or self.reading.max_features
        for block in self.blocks():
            self._check(block, done, limit)
            n = len(block.y)
            if limit_rows is not None and done + n >= limit_rows:
                n = limit_rows - done
                yield Block(block.X[:n], block.y[:n], None if block.weight is None else block.weight[:n])
                return
            yield block
            done += n
        if limit_rows is not None and done < limit_rows:
            raise DataError(f"{self.name}: has {done} rows, fewer than --rows {limit_rows}")

    def _check(self, block: Block, done: int, limit: int) -> None:
        if block.X.shape[1] > limit:
            p = block.X.shape[1]
            raise DataError(f"{self.name}: has {p} features, more than {self.reading.limit_remedy(p)}")
        values = block.X if isinstance(block.X, np.ndarray) else block.X.data
        weight = np.ones(0) if block.weight is None else block.weight
        if np.isfinite(values).all() and np.isfinite(block.y).all() and np.all((weight >= 0) & np.isfinite(weight)):
            return
        with np.errstate(invalid="ignore"):  # infinity times 0 is NaN
            odd = ~np.isfinite(block.X @ np.zeros(block.X.shape[1])) | ~np.isfinite(block.y)
        if len(weight):
            odd |= ~(np.isfinite(weight) & (weight >= 0))
        row = int(np.argmax(odd))
        found = block.X[[row]] if isinstance(block.X, np.ndarray) else block.X[[row]].toarray()
        columns = np.flatnonzero(~np.isfinite(found.ravel()))
        what = f"in feature {columns[0] + 1}" if len(columns) else "as label or weight"
        raise DataError(
            f"{self.name}: row {done + row + 1} has a NaN, an infinity or a negative weight {what};"
            " expected finite numbers: correct or remove the row"
        )
