"""Tables in text: CSV with any delimiter, with or without a header."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mpinewton import kernels
from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading
from mpinewton.data.encoding import CellFault, Cells, is_missing, is_number
from mpinewton.data.lines import line_blocks, line_number
from mpinewton.data.tables import LAST, Table, column_number
from mpinewton.errors import ConfigError, DataError

DELIMITERS = ",;\t|"
WORDS = {"tab": "\t", "\\t": "\t", "whitespace": None}
SAMPLE_LINES = 500
LABELS = ("y", "label", "labels", "class", "target", "outcome", "response")


class CsvText(Table):
    """Rows of a text file, one a line, cells separated by a character or by white space.

    Labels are numbers if the label of the first row is one; otherwise they are class names.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(str(path), reading)
        self.path = path
        _, text = next(self._texts(), (0, ""))
        lines = [line for line in text.split("\n") if line.strip()][: SAMPLE_LINES + 1]
        if not lines:
            raise DataError(f"{path}: the file has no rows")
        self.delimiter = _delimiter(path, reading.delimiter, lines)
        try:
            first, *rest = split_lines(lines, self.delimiter)
        except CellFault as fault:
            raise DataError(f"{path}:{text[: text.index(lines[fault.row])].count(chr(10)) + 1}: {fault}") from None
        self.width = Counter(len(row) for row in (first, *rest)).most_common(1)[0][0]
        if len(first) != self.width:
            raise DataError(
                f"{path}: the first line has {len(first)} cells, but the rows have {self.width}; remove it if it is a"
                " title; name every column, that of row names, too, if it is a header"
            )
        if self.width == 1 and reading.labels:
            raise DataError(
                f"{path}: a row has one cell, {first[0][:40]!r}; expected features and a label; choose --delimiter"
            )
        rest = [row for row in rest if len(row) == self.width]
        self.header = self._has_header(first, rest)
        self.names = tuple(first) if self.header else ()
        self.find_columns()
        rows = rest if self.header else [first]
        self.numeric = not reading.class_names and (self.label is None or not rows or is_number(rows[0][self.label]))

    def _has_header(self, first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
        reading, trained = self.reading, self.reading.schema.columns
        if reading.header is not None:
            return reading.header
        given = reading.label_column or LAST
        if not is_number(given) and given in first:
            return True
        if trained is not None and trained.named and {column.name for column in trained} <= set(first):
            return True
        label = self.width - 1
        with contextlib.suppress(ConfigError):  # a name, or refused by `find_columns`
            label = column_number(given, (), self.width, "--label-column")
        found = recognise_header(first, rest, label if reading.labels else None)
        if found is None:
            raise DataError(
                f"{self.path}: cannot recognise whether the first line, {','.join(first)[:60]!r}, is a header or a row;"
                " pass --header or --no-header"
            )
        return found

    @property
    def _plain(self) -> bool:
        """Whether all features are numbers and none is missing: the rows can be read by numpy."""
        assert self.columns is not None
        return self.dense and self.columns.missing == "error"

    def blocks(self) -> Iterator[Block]:
        if not self._plain:
            yield from super().blocks()
            return
        header, left = self.header, self.reading.rows
        for offset, text in self._texts():
            table = None
            if not header and left is None:
                table = self._read_whole(text)
            if table is None:
                where, lines, header = self._divide(offset, text, header, left)
                try:
                    table = self._load(lines)
                except ValueError:
                    row = self._first_fault(lines)
                    raise DataError(f"{where(row)}: {self._explain(lines[row])}") from None
            yield Block(
                table[:, self.positions],
                np.zeros(len(table)) if self.label is None else table[:, self.label],
                None if self.weight is None else table[:, self.weight],
            )
            if left is not None and (left := left - len(table)) == 0:
                return

    def cells(self) -> Iterator[tuple[Callable[[int], str], list[Cells]]]:
        for where, lines in self._lines():
            try:
                rows = split_lines(lines, self.delimiter)
            except CellFault as fault:
                raise DataError(f"{where(fault.row)}: {fault}") from None
            for row, cells in enumerate(rows):
                if len(cells) != self.width:
                    raise DataError(f"{where(row)}: {self._width_fault(cells)}")
            if rows:
                yield where, [np.array(column) for column in zip(*rows)]

    def _texts(self) -> Iterator[tuple[int, str]]:
        for offset, text in line_blocks(self.path, allow_partial=self.reading.allow_partial_last_line):
            try:
                yield offset, text.decode().replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                line = line_number(self.path, offset + error.start)
                raise DataError(f"{self.path}:{line}: not UTF-8 text; convert the file (iconv -t UTF-8)") from None

    def _lines(self) -> Iterator[tuple[Callable[[int], str], list[str]]]:
        """The lines of the first `reading.rows` rows in blocks, and a function that says where a line of a block is."""
        header, left = self.header, self.reading.rows
        for offset, text in self._texts():
            where, lines, header = self._divide(offset, text, header, left)
            yield where, lines
            if left is not None and (left := left - len(lines)) == 0:
                return

    def _divide(
        self, offset: int, text: str, header: bool, left: int | None
    ) -> tuple[Callable[[int], str], list[str], bool]:
        """At most `left` lines of a text with something in them, without the header; where they are; and whether the
        header is still to come.
        """
        lines = text.split("\n")
        rows = [place for place, line in enumerate(lines) if line.strip()]
        if header and rows:
            header, rows = False, rows[1:]
        rows = rows[:left]

        def where(row: int) -> str:
            return f"{self.path}:{line_number(self.path, offset) + rows[row]}"

        return where, [lines[place] for place in rows], header

    def _read_whole(self, text: str) -> Array | None:
        """All columns of a text of plain numbers, as `_load`; None if it must be divided into lines."""
        if not self.numeric:
            return None
        try:
            return read_text(text, self.delimiter, self.width, self.used)
        except ValueError:
            return None

    def _load(self, lines: list[str]) -> Array:
        """All columns of rows of numbers, 0 in those that are not used. Raises ValueError."""
        if not lines:
            return np.empty((0, self.width))
        if self.numeric:
            with contextlib.suppress(ValueError):  # quotes, an error, or a number that only numpy can read
                return read_numbers(lines, self.delimiter, self.width, self.used)
        converters: dict[int, Callable[[str], float]] = {
            place: _zero for place in range(self.width) if place not in self.used
        }
        if self.label is not None and not self.numeric:
            converters[self.label] = self.class_names
        table: Array = np.loadtxt(  # type: ignore[call-overload]
            lines,
            delimiter=self.delimiter,
            converters=converters or None,
            quotechar='"',
            comments=None,
            ndmin=2,
            encoding=None,
        )
        if table.shape != (len(lines), self.width) or not np.isfinite(table).all():
            raise ValueError
        return table

    def _first_fault(self, lines: list[str]) -> int:
        """The first line that `_load` refuses, by bisection: every error is in one line."""
        low, high = 0, len(lines)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self._load(lines[low:middle])
                low = middle
            except ValueError:
                high = middle
        return low

    def _explain(self, line: str) -> str:
        """Why a line is refused, and the remedy."""
        try:
            (cells,) = split_lines([line], self.delimiter)
            if len(cells) != self.width:
                return self._width_fault(cells)
            self.encode([np.array([cell]) for cell in cells])
        except CellFault as fault:
            return str(fault)
        return f"{line[:60]!r} is not a row of decimal numbers"

    def _width_fault(self, cells: Sequence[str]) -> str:
        return f"the row has {len(cells)} cells; expected {self.width}, as in the first line"


def read_numbers(lines: list[str], delimiter: str | None, width: int, used: Collection[int]) -> Array:
    """`read_text` of lines without their newlines."""
    return read_text("\n".join([*lines, ""]), delimiter, width, used)


def read_text(text: str, delimiter: str | None, width: int, used: Collection[int]) -> Array:
    """All columns of lines of plain numbers, 0 in those that are not used, shape (n, width), by the compiled reader.

    Raises
    ------
    ValueError
        If there is no such reader, or the rows have something else in them.
    """
    if kernels.readers is None or not (delimiter or " ").isascii():
        raise ValueError
    table = np.empty((text.count("\n"), width))
    mask = np.isin(np.arange(width), list(used))
    rows = kernels.readers.table(text.encode(), ord(delimiter or "\0"), width, mask, table)
    return table[:rows]


def _zero(cell: str) -> float:
    return 0.0


def split_lines(lines: Iterable[str], delimiter: str | None) -> list[list[str]]:
    """The cells of each line; delimiter None is white space. Raises CellFault."""
    rows = []
    for number, line in enumerate(lines):
        if delimiter is None:
            line = line.replace("\t", " ").strip()
        try:
            row = next(csv.reader([line], delimiter=delimiter or " ", skipinitialspace=True, strict=True))
        except csv.Error as error:
            reason = "a quote is not closed" if "end of data" in str(error) else str(error)
            raise CellFault(number, reason) from None
        rows.append([cell.strip() for cell in row])
    return rows


def _delimiter(path: Path, given: str | None, lines: Sequence[str]) -> str | None:
    """The delimiter: as given, or the one that divides the lines into the same number of cells each, most of all."""
    if given is not None:
        found = WORDS.get(given, given)
        if found is not None and (len(found) != 1 or found.isalnum() or found in '"\n\r+-.'):
            raise ConfigError(f"--delimiter {given!r}: expected one character, tab or whitespace")
        return None if found == " " else found
    sample, best, score = lines[:50], None, (False, 1)
    for delimiter in (*DELIMITERS, None):
        widths = []
        for line in sample:
            with contextlib.suppress(CellFault):
                widths += [len(row) for row in split_lines([line], delimiter)]
        if not widths:
            continue
        width = Counter(widths).most_common(1)[0][0]
        alike = (len(set(widths)) == 1 and width > 1, width)
        if alike > score and (delimiter is not None or score[1] == 1):
            best, score = delimiter, alike
    return best


def recognise_header(first: Sequence[str], rest: Sequence[Sequence[str]], label: int | None) -> bool | None:
    """Whether the first line of a table holds names; None if that cannot be recognised.

    It does if it has no number in the columns that have only numbers below; or in that of the labels, and the names of
    features are numbers.
    """

    def number(cell: str) -> bool:
        return is_number(cell) or is_missing(cell)

    if not rest:
        return not all(number(cell) for place, cell in enumerate(first) if place != label)
    columns = list(zip(*rest))
    numeric = [place for place, cells in enumerate(columns) if all(map(number, cells)) and any(map(is_number, cells))]
    names = [place for place in numeric if not number(first[place])]
    if names:  # a row with a cell that is no number, unless the label is one or no cell is a number
        return True if label in names or not any(is_number(first[place]) for place in numeric) else None
    repeated = [len(set(cells)) < len(cells) for cells in columns]
    if numeric:  # a row, unless the names are numbers and the labels are words
        if label is None or label in numeric or first[label] in columns[label]:
            return False
        if first[label].lower() in LABELS:
            return True
        others = [cell for place, cell in enumerate(first) if place != label]
        counted = all(cell.isdecimal() for cell in others) and set(np.diff([int(cell) for cell in others])) == {1}
        return None if counted and repeated[label] else False
    if any(cell in cells for cell, cells in zip(first, columns)):
        return False
    return True if any(repeated) else None
