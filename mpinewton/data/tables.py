"""Tables with a label column: CSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source
from mpinewton.data.lines import line_blocks, line_number
from mpinewton.errors import ConfigError, DataError, did_you_mean

PARQUET_ROWS = 1 << 14


def column_number(given: str, names: Sequence[str], width: int, option: str) -> int:
    """Position, from 0, of a column given by name, by number from 1, or by number from the end (-1 is the last)."""
    if given in names:
        return list(names).index(given)
    try:
        number = int(given)
    except ValueError:
        raise ConfigError(f"{option} {given!r}: no such column{did_you_mean(given, names)}") from None
    if not 1 <= abs(number) <= width:
        raise ConfigError(f"{option} {given}: expected 1 to {width}, or -1 (the last) to -{width}")
    return number - 1 if number > 0 else width + number


def weight_number(given: str | None, names: Sequence[str], label: int) -> int | None:
    """Position of the column of weights, or None. Raises ConfigError if it is the column of the labels."""
    if given is None:
        return None
    number = column_number(given, names, len(names), "--weight-column")
    if number == label:
        raise ConfigError(
            f"--weight-column {given}: this is the label column, too; choose different columns (the default label "
            "column is the last)"
        )
    return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class CsvText(Source):
    """Rows of a CSV file; the delimiter is the most frequent of comma, semicolon and tab in the first line.

    The first line is a header if one of its cells, except the label, is not a number. Labels are numbers if the label
    of the first row is one; otherwise they are class names.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(str(path), reading)
        self.path = path
        lines = (line for _, text in self._texts() for line in text.split("\n") if line.strip())
        first = next(lines, None)
        if first is None:
            raise DataError(f"{path}: the file has no rows")
        self.delimiter = max(",;\t", key=first.count)
        names = self._cells(first)
        self.width = len(names)
        self.label = column_number(reading.label_column or "-1", names, self.width, "--label-column")
        self.weight = weight_number(reading.weight_column, names, self.label)
        self.header = not all(_is_number(cell) for i, cell in enumerate(names) if i != self.label)
        row = next(lines, None) if self.header else first
        cells = [] if row is None else self._cells(row)
        self.numeric = not reading.class_names and (len(cells) != self.width or _is_number(cells[self.label]))

    def blocks(self) -> Iterator[Block]:
        header = self.header
        features = [i for i in range(self.width) if i not in (self.label, self.weight)]
        for offset, text in self._texts():
            table = self._table(offset, text, header)
            header = header and not text.strip()
            yield Block(
                table[:, features], table[:, self.label], None if self.weight is None else table[:, self.weight]
            )

    def _texts(self) -> Iterator[tuple[int, str]]:
        for offset, text in line_blocks(self.path, allow_partial=self.reading.allow_partial_last_line):
            try:
                yield offset, text.decode("utf-8-sig" if offset == 0 else "utf-8").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                line = line_number(self.path, offset + error.start)
                raise DataError(f"{self.path}:{line}: not UTF-8 text; convert the file (iconv -t UTF-8)") from None

    def _cells(self, line: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=self.delimiter))]

    def _table(self, offset: int, text: str, header: bool) -> Array:
        lines = text.split("\n")
        first = next((i for i, line in enumerate(lines) if line.strip()), 0) + 1 if header else 0
        try:
            return self._parse(lines[first:])
        except ValueError:
            number = self._first_fault(lines, first)
        line = line_number(self.path, offset) + number
        try:
            self._parse(lines[number : number + 1])
        except ValueError as error:
            reason = str(error.__cause__ or error)
            raise DataError(
                f"{self.path}:{line}: {reason.replace(' at row 0,', ' in')} (expected {self.width} cells per row, with"
                " finite numbers as features, numeric labels and weights: encode names and fill gaps first)"
            ) from None
        raise DataError(f"{self.path}:{line}: a quote is not closed")

    def _parse(self, lines: list[str]) -> Array:
        if not any(line.strip() for line in lines):
            return np.empty((0, self.width))
        converters: dict[int, Callable[[str], float]] | None = None if self.numeric else {self.label: self.class_names}
        table: Array = np.loadtxt(  # type: ignore[call-overload]
            lines, delimiter=self.delimiter, converters=converters, quotechar='"', comments=None, ndmin=2, encoding=None
        )
        if table.shape[1] != self.width:
            raise ValueError(f"the row has {table.shape[1]} cells")
        if not np.isfinite(table).all():
            raise ValueError("a number is not finite")
        return table

    def _first_fault(self, lines: list[str], first: int) -> int:
        low, high = first, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._parse(lines[low:middle])
                low = middle
            except ValueError:
                high = middle
        return low


class Parquet(Source):
    """Rows of a Parquet file, read by pyarrow; columns are numbers, labels may be class names."""

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

    def blocks(self) -> Iterator[Block]:
        names = self.file.schema_arrow.names
        label = column_number(self.reading.label_column or "-1", names, len(names), "--label-column")
        weight = weight_number(self.reading.weight_column, names, label)
        for batch in self.file.iter_batches(PARQUET_ROWS):
            columns = [self._column(batch.column(i), names[i], i == label) for i in range(len(names))]
            features = [column for i, column in enumerate(columns) if i not in (label, weight)]
            yield Block(np.column_stack(features), columns[label], None if weight is None else columns[weight])

    def _column(self, column: object, name: str, label: bool) -> Array:
        values = np.asarray(column.to_numpy(zero_copy_only=False))  # type: ignore[attr-defined]
        try:
            if label and values.dtype == object:
                return self.class_names.encode(values.astype(str))
            return values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.name}: column {name!r}: {error}; every feature must be a number") from None
