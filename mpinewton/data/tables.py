"""Tables: which column is the label, which are features; Parquet."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source
from mpinewton.data.columns import Column, Columns
from mpinewton.data.encoding import CellFault, Cells, encode, is_number, read_numbers, survey
from mpinewton.errors import ConfigError, DataError, did_you_mean

PARQUET_ROWS = 1 << 14
LAST = "-1"
INDEX = "__index_level_0__"  # what pandas calls the index of a data frame in Parquet


def column_number(given: str, names: Sequence[str], width: int, option: str) -> int:
    """Position, from 0, of a column given by name, by number from 1, or by number from the end (-1 is the last).

    `names` are those of the header, empty without one.
    """
    if given in names and given != LAST:
        return list(names).index(given)
    try:
        number = int(given)
    except ValueError:
        why = f"no such column{did_you_mean(given, names)}" if names else "the table has no header; give a number"
        raise ConfigError(f"{option} {given!r}: {why}") from None
    if not 1 <= abs(number) <= width:
        raise ConfigError(f"{option} {given}: expected 1 to {width}, or -1 (the last) to -{width}")
    return number - 1 if number > 0 else width + number


class Table(Source):
    """Rows of a table: a column of labels, perhaps one of weights, and columns of features.

    Attributes
    ----------
    names : tuple of str
        From the header; empty without one.
    width : int
        Number of columns.
    label, weight : int or None
        Positions, from 0, of the columns of labels and weights.
    positions : list of int
        Positions of the columns of features, in the order of the features.
    numeric : bool
        Labels are numbers.
    """

    names: tuple[str, ...]
    width: int
    numeric: bool
    label: int | None
    weight: int | None
    positions: list[int]

    @abstractmethod
    def cells(self) -> Iterator[tuple[Callable[[int], str], list[Cells]]]:
        """The first `reading.rows` rows in blocks, each column an array, and a function that says where a row is."""

    def blocks(self) -> Iterator[Block]:
        for where, cells in self.cells():
            try:
                yield self.encode(cells)
            except CellFault as fault:
                raise DataError(f"{where(fault.row)}: {fault}") from None

    def encode(self, cells: Sequence[Cells]) -> Block:
        """Features, labels and weights of some rows. Raises CellFault."""
        assert self.columns is not None
        y = np.zeros(len(cells[self.positions[0]])) if self.label is None else self._labels(cells[self.label])
        weight = None if self.weight is None else self._numbers(cells[self.weight], "weight")
        trained = self.reading.schema.columns is not None
        return Block(encode(self.columns, [cells[place] for place in self.positions], trained), y, weight)

    def _labels(self, cells: Cells) -> Array:
        if cells.dtype.kind == "f" or self.numeric:
            return self._numbers(cells, "label")
        words = cells.astype(str)
        try:
            return self.class_names.encode(words)
        except ValueError:
            for row, word in enumerate(words):
                try:
                    self.class_names(str(word))
                except ValueError as error:
                    raise CellFault(row, f"the label {error}") from None
            raise

    def _numbers(self, cells: Cells, what: str) -> Array:
        try:
            values, missing = read_numbers(cells)
        except CellFault as fault:
            hint = " is not a class of the training data: labels are numbers" if self.reading.class_names == () else ""
            raise CellFault(fault.row, f"the {what} {fault}{hint or ' is not a finite number'}") from None
        if missing.any():
            row = int(np.argmax(missing))
            raise CellFault(row, f"the {what} is missing ({str(cells[row])!r}); remove the row, or fill it in")
        return values

    @property
    def used(self) -> list[int]:
        """Positions of the columns that are read."""
        return self.positions + [place for place in (self.label, self.weight) if place is not None]

    def find_columns(self) -> None:
        """Set label, weight, positions and columns. Raises ConfigError or DataError."""
        reading, schema = self.reading, self.reading.schema
        trained = schema.columns
        by_name = bool(trained and trained.named and self.names)
        self.weight = None
        if reading.weight_column is not None:
            self.weight = column_number(reading.weight_column, self.names, self.width, "--weight-column")
        self.label = self._find_label(by_name)
        if self.weight is not None and self.weight == self.label:
            raise ConfigError(
                f"--weight-column {reading.weight_column}: this is the label column, too; choose different columns"
                " (the default label column is the last)"
            )
        self.label_name = None if self.label is None else self._name(self.label)
        others = [place for place in range(self.width) if place not in (self.label, self.weight)]
        if trained is None:
            self.positions = self._without_index(others)
            names = tuple(self.names[place] if self.names else f"column {place + 1}" for place in self.positions)
            self._check_names(names)
            self._refuse_twins((*names, *((self.names[self.label],) if self.names and self.label is not None else ())))
            self.columns = Columns(tuple(map(Column, names)), bool(self.names), reading.missing)
            if reading.categories == "onehot" or reading.missing != "error":
                self._survey(names)
        else:
            self.columns = trained
            self.positions = self._match(trained) if by_name else others
            if len(self.positions) != len(trained):
                raise DataError(
                    f"{self.name}: has {len(self.positions)} columns of features, but the training data have"
                    f" {len(trained)}"
                )
        if not reading.labels:
            self.label = None
        self.dense = all(column.categories is None for column in self.columns)

    def _name(self, place: int) -> str:
        return self.names[place] if self.names else str(place + 1)

    def _find_label(self, by_name: bool) -> int | None:
        """The position of the labels; None if they are not needed."""
        reading, trained = self.reading, self.reading.schema.columns
        known: str | None = LAST
        if trained is not None:
            known = self.reading.schema.label_name if by_name or not trained.named else None
        given = reading.label_column or known
        if not reading.labels:
            expected = self.reading.schema.features if trained is None else len(trained)
            if by_name or self.width - (self.weight is not None) == expected:
                return None
        if trained is not None and not by_name and self.width < len(trained) + 1:
            without = "the training data" if self.names else "it"
            raise DataError(
                f"{self.name}: has {self.width} columns, and they are matched by position, since {without} had no "
                f"header; expected {len(trained)} of features, as in the training data"
                f"{', and one of labels' if reading.labels else ''}"
            )
        if given is None:
            raise DataError(
                f"{self.name}: has no header; give the number of its label column: --label-column {self.width}"
            )
        if given == known and by_name and given not in self.names:
            raise DataError(f"{self.name}: has no label column {given!r}; choose it with --label-column")
        return column_number(given, self.names, self.width, "--label-column")

    def _without_index(self, places: list[int]) -> list[int]:
        """The columns without the index of a data frame: in text the first, which then has no name."""
        if not self.names or not places:
            return places
        unnamed = places[0] if self.names[places[0]] == "" else None
        index = next((place for place in places if self.names[place] == INDEX), unnamed)
        if index is None:
            return places
        self.notes += (f"column {index + 1} has no name and was left out: it is the index of a data frame",)
        return [place for place in places if place != index]

    def _check_names(self, names: Sequence[str]) -> None:
        if not names:
            raise DataError(f"{self.name}: has no column of features beside the labels and weights")
        if "" in names:
            raise DataError(f"{self.name}: column {self.names.index('') + 1} has no name; give it one in the header")

    def _refuse_twins(self, names: Sequence[str]) -> None:
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise DataError(f"{self.name}: two columns have the name {twice[0]!r}; rename one of them")

    def _match(self, trained: Columns) -> list[int]:
        """The position of each column of the training data. Raises DataError if one is missing."""
        lacking = [column.name for column in trained if column.name not in self.names]
        if lacking:
            others = set(self.names) - {column.name for column in trained}
            near = did_you_mean(lacking[0], others) if others else ""
            more = f"; {len(lacking) - 1} more are missing: {', '.join(lacking[1:6])}" if len(lacking) > 1 else ""
            raise DataError(f"{self.name}: has no column {lacking[0]!r}, which the model needs{near}{more}")
        self._refuse_twins([name for name in self.names if name in {column.name for column in trained}])
        return [self.names.index(column.name) for column in trained]

    def _survey(self, names: Sequence[str]) -> None:
        assert self.columns is not None
        blocks = ([cells[place] for place in self.positions] for _, cells in self.cells())
        self.columns = survey(self.name, names, blocks, self.reading.categories == "onehot", self.columns)
        for column in self.columns:
            numbers = [word for word in column.categories or () if is_number(word)]
            words = [word for word in column.categories or () if not is_number(word)]
            if numbers and words:
                both = f"{words[0]!r} and {numbers[0]!r}"
                self.notes += (f"column {column.name!r} holds words and numbers, such as {both}: each is a category",)


class Parquet(Table):
    """Rows of a Parquet file, read by pyarrow. Columns of numbers, booleans, texts and dictionaries."""

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(str(path), reading)
        try:
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(f"{path}: reading Parquet needs pyarrow: pip install 'mpinewton[data]'") from None
        try:
            self.file = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable Parquet file ({error})") from None
        self.names = tuple(self.file.schema_arrow.names)
        self.width, self.numeric = len(self.names), False
        self.find_columns()

    def cells(self) -> Iterator[tuple[Callable[[int], str], list[Cells]]]:
        done = 0
        for batch in self.file.iter_batches(PARQUET_ROWS):
            batch = batch.slice(0, None if self.reading.rows is None else self.reading.rows - done)
            if not batch.num_rows:
                return
            columns = [np.zeros(0)] * self.width
            for place in self.used:
                columns[place] = self._column(batch.column(place), self.names[place])

            def where(row: int, done: int = done) -> str:
                return f"{self.name}: row {done + row + 1}"

            yield where, columns
            done += batch.num_rows

    def _column(self, column: Any, name: str) -> Cells:
        """A column of numbers, NaN where missing, or of words, "" where missing."""
        import pyarrow as pa
        from pyarrow import types

        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if types.is_string(kind) or types.is_large_string(kind):
            return np.array([word or "" for word in column.to_pylist()], dtype=str)
        try:
            column = column.cast(pa.int8()) if types.is_boolean(kind) else column
            return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{self.name}: column {name!r} holds {kind}; expected numbers or words ({error})") from None
