"""Cells of a table to features: numbers, categories, missing values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.data.blocks import CLASSES
from mpinewton.data.columns import Column, Columns
from mpinewton.errors import DataError, did_you_mean

MISSING = ("", "?", "na", "n/a", "nan", "null")  # in any case
Cells = NDArray[Any]  # one column of some rows: float64, NaN where missing, or words (U)


class CellFault(ValueError):
    """A cell that cannot be read: its row in the block, from 0, and why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def is_number(text: str) -> bool:
    """Whether a text is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def is_missing(text: str) -> bool:
    """Whether a cell says that its value is missing."""
    return text.lower() in MISSING


def missing_words(words: Cells) -> NDArray[np.bool_]:
    """Which words say that the value is missing, shape of `words`."""
    return np.isin(np.char.lower(words), MISSING)


def read_numbers(cells: Cells) -> tuple[Array, NDArray[np.bool_]]:
    """Numbers, 0 where missing, and what is missing, shape of `cells`. Raises CellFault, whose reason is the word."""
    if cells.dtype.kind == "f":
        values, missing = np.array(cells, dtype=np.float64), np.isnan(cells)
    else:
        missing = missing_words(cells)
        try:
            if (np.char.find(cells, "_") >= 0).any():  # numpy reads 1_0 as 10
                raise ValueError
            values = np.where(missing, "0", cells).astype(np.float64)
        except ValueError:
            row = next(row for row, cell in enumerate(cells) if not (missing[row] or is_number(str(cell))))
            raise CellFault(row, repr(str(cells[row]))) from None
    values[missing] = 0
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise CellFault(row, repr(str(cells[row])))
    return values, missing


def encode(columns: Columns, cells: Sequence[Cells], trained: bool) -> Matrix:
    """Features of some rows: dense, or CSR if there is a category.

    Parameters
    ----------
    cells : one array, shape (n,), for each column
    trained : the columns are those of the training data, not of these rows

    Raises
    ------
    CellFault
        If a cell is not a number, not one of the categories, or missing where that is an error.
    """
    parts = [_features(column, columns, some, trained) for column, some in zip(columns, cells)]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis=1)
    return sparse.csr_array(sparse.hstack([sparse.csr_array(part) for part in parts], format="csr"))


def _features(column: Column, columns: Columns, cells: Cells, trained: bool) -> Matrix:
    title = f"column {column.name!r}" if columns.named else column.name
    if column.categories is None:
        try:
            values, missing = read_numbers(cells)
        except CellFault as fault:
            remedy = "as in the training data" if trained else "pass --categories onehot, or encode the words"
            if re.fullmatch(r"'[-+]?[0-9]+,[0-9]+'", str(fault)):
                remedy = "write decimal points, not commas"
            raise CellFault(fault.row, f"{title}: {fault} is not a finite number; {remedy}") from None
        values[missing] = column.fill or 0.0
        own: Matrix = values[:, np.newaxis]
    else:
        words = cells.astype(str)
        missing = missing_words(words)
        own = _one_hot(words, missing, column.categories, title)
    if columns.missing == "error" and missing.any():
        row = int(np.argmax(missing))
        remedy = "in the training data no value is missing" if trained else "pass --missing mean or --missing indicator"
        raise CellFault(row, f"{title}: the value is missing ({str(cells[row])!r}); fill it in: {remedy}")
    if not column.indicator:
        return own
    mark = missing.astype(np.float64)[:, np.newaxis]
    if isinstance(own, np.ndarray):
        return np.hstack([own, mark])
    return sparse.csr_array(sparse.hstack([own, sparse.csr_array(mark)], format="csr"))


def _one_hot(words: Cells, missing: NDArray[np.bool_], categories: tuple[str, ...], title: str) -> sparse.csr_array:
    number = {word: place for place, word in enumerate(categories)}
    distinct, inverse = np.unique(words, return_inverse=True)
    places = np.array([number.get(str(word), -1) for word in distinct], dtype=np.int64)[inverse]
    unknown = (places < 0) & ~missing
    if unknown.any():
        row = int(np.argmax(unknown))
        word = str(words[row])
        reason = f"{word!r} is not a category of the training data{did_you_mean(word, categories)}"
        raise CellFault(row, f"{title}: {reason}")
    present = ~missing
    indptr = np.concatenate([[0], np.cumsum(present)])
    return sparse.csr_array((np.ones(present.sum()), places[present], indptr), shape=(len(words), len(categories)))


@dataclass
class _Seen:
    """What the first pass over the rows sees of one column: the mean of its numbers, its words, what is missing."""

    mean: float = 0.0
    numbers: int = 0
    missing: bool = False
    word: str | None = None  # the first, as Python writes it
    words: set[str] | None = None

    def add(self, cells: Cells, keep_words: bool) -> None:
        """Take the cells of some rows into account."""
        try:
            values, missing = read_numbers(cells)
            values = values[~missing]
            self.numbers += len(values)
            self.mean += float(np.sum((values - self.mean) / max(1, self.numbers)))
        except CellFault as fault:
            self.word = self.word or str(fault)
            missing = missing_words(cells) if cells.dtype.kind != "f" else np.isnan(cells)
        self.missing = self.missing or bool(missing.any())
        if keep_words and self.words is not None:
            self.words |= set(np.unique(cells[~missing].astype(str)).tolist())
            self.words = self.words if len(self.words) <= CLASSES else None


def survey(
    name: str, names: Sequence[str], blocks: Iterable[Sequence[Cells]], onehot: bool, columns: Columns
) -> Columns:
    """The columns of the training data, from a first pass over all their rows.

    Parameters
    ----------
    name : the source, for messages
    names : one for each column
    blocks : for each block of rows one array of cells for each column
    onehot : columns of words are categories; otherwise all columns are numbers
    columns : its `named` and `missing` are those of the result

    Raises
    ------
    DataError
        If a column has too many categories.
    """
    seen = [_Seen(words=set()) for _ in names]
    for cells in blocks:
        for one, some in zip(seen, cells):
            one.add(some, onehot)
    found = []
    for title, one in zip(names, seen):
        indicator = columns.missing == "indicator" and one.missing
        if not (onehot and one.word):
            fill = None if columns.missing == "error" else one.mean
            found.append(Column(title, fill=fill, indicator=indicator))
            continue
        if one.words is None:
            raise DataError(
                f"{name}: column {title!r} has more than {CLASSES} different words, such as {one.word}; remove it, or"
                " group the words"
            )
        found.append(Column(title, "category", tuple(sorted(one.words)), indicator=indicator))
    return Columns(tuple(found), columns.named, columns.missing)
