"""What every source of rows is: an iterator of blocks, checked in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Matrix
from mpinewton.errors import ConfigError, DataError, did_you_mean

CLASSES = 1000  # more distinct labels than this are numbers to be fitted, not classes


@dataclass(frozen=True)
class Reading:
    """How a source is to be read.

    Attributes
    ----------
    format : str
        "auto" goes by the name of the source; else a format of `mpinewton.data.sources.FORMATS`.
    features : int or None
        Number of features where the source shows fewer; None: as many as occur.
    rows : int or None
        Only the first so many rows.
    max_features : int
        Largest index taken for meant.
    label_column, weight_column : str or None
        Name or number (from 1, or from the end: -1 is the last) of a table's column; the label is the last by default.
    class_names : tuple of str or None
        Words that labels may be, in the order of their numbers; (): none, only numbers; None: those that occur, sorted.
    allow_partial_last_line : bool
        Take a last line without newline for complete.
    """

    format: str = "auto"
    features: int | None = None
    rows: int | None = None
    max_features: int = 1 << 24
    label_column: str | None = None
    weight_column: str | None = None
    class_names: tuple[str, ...] | None = None
    allow_partial_last_line: bool = False


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source: X (n, p), y (n,), weight (n,) or None."""

    X: Matrix
    y: Array
    weight: Array | None = None


class Words:
    """Class names and their numbers: in order of appearance while a source is read, sorted in the end."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.fixed = names is not None
        self.number = {name: number for number, name in enumerate(names or ())}

    def __call__(self, word: str) -> int:
        """The number of a word; ValueError where it is not a class, or the 1001st."""
        word = word if word in self.number else word.strip()  # a blank may be a class, of characters
        if word not in self.number:
            if self.fixed:
                raise ValueError(f"{word!r} is not a class of the training data{did_you_mean(word, self.number)}")
            if not word or len(self.number) == CLASSES:
                raise ValueError(f"{word!r} is empty or class number {CLASSES + 1}; is the label column the right one?")
            self.number[word] = len(self.number)
        return self.number[word]

    def encode(self, words: NDArray[np.str_]) -> Array:
        """Numbers of many words, shape of `words`."""
        distinct, inverse = np.unique(words, return_inverse=True)
        return np.array([self(str(word)) for word in distinct], dtype=np.float64)[inverse]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Class names by final number, or None where labels are numbers."""
        return (tuple(self.number) if self.fixed else tuple(sorted(self.number))) or None

    def final(self, y: Array) -> Array:
        """Labels by final number for labels by order of appearance."""
        if self.fixed or not self.number:
            return y
        return np.argsort(np.argsort(list(self.number))).astype(np.float64)[y.astype(np.int64)]


def asked_of(name: str, query: str, known: Collection[str], what: str) -> Iterator[tuple[str, str]]:
    """Keys and values of key=value&key=value, behind the ? of a source's name.

    Raises
    ------
    ConfigError
        If a key is not known.
    """
    for item in filter(None, query.split("&")):
        key, _, value = item.partition("=")
        if key not in known:
            raise ConfigError(f"{name}: {key!r} is no setting of {what}{did_you_mean(key, known)}")
        yield key, value


class Source(ABC):
    """Rows from somewhere, a block at a time. `words` is complete once the blocks have been read."""

    dense = True
    dtype = "float64"  # that holds the features as they are, float64 or uint8
    sizes: tuple[int, ...] | None = None  # rows of each worker, where the source prescribes them

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = name, reading
        self.words = Words(reading.class_names)

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """The rows in order."""

    def checked_blocks(self) -> Iterator[Block]:
        """The rows in order: finite, of a size that fits, at most `reading.rows`.

        Raises
        ------
        DataError
            Naming the source and the row.
        """
        done, wanted = 0, self.reading.rows
        limit = self.reading.features or self.reading.max_features
        for block in self.blocks():
            self._check(block, done, limit)
            n = len(block.y)
            if wanted is not None and done + n >= wanted:
                n = wanted - done
                yield Block(block.X[:n], block.y[:n], None if block.weight is None else block.weight[:n])
                return
            yield block
            done += n
        if wanted is not None and done < wanted:
            raise DataError(f"{self.name}: has {done} rows, fewer than --rows {wanted}")

    def _check(self, block: Block, done: int, limit: int) -> None:
        if block.X.shape[1] > limit:
            given = f"{'--features' if self.reading.features else '--max-features'} {limit}"
            raise DataError(f"{self.name}: has {block.X.shape[1]} features, more than {given}")
        values = block.X if isinstance(block.X, np.ndarray) else block.X.data
        weight = np.ones(0) if block.weight is None else block.weight
        if np.isfinite(values).all() and np.isfinite(block.y).all() and np.all((weight >= 0) & np.isfinite(weight)):
            return
        with np.errstate(invalid="ignore"):  # an infinity times 0 is the NaN that is looked for
            odd = ~np.isfinite(block.X @ np.zeros(block.X.shape[1])) | ~np.isfinite(block.y)
        if len(weight):
            odd |= ~(np.isfinite(weight) & (weight >= 0))
        raise DataError(
            f"{self.name}: row {done + int(np.argmax(odd)) + 1} holds a NaN, an infinity or a negative weight;"
            " every number must be finite: remove or repair the row"
        )
