"""LIBSVM text: `label index:value index:value ...`, indices from 1, increasing.

A label is a number or a word (letters first); `label:weight` gives the row a weight, in every row or in none.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton import kernels
from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source
from mpinewton.data.lines import UTF8_MARK, first_bytes, is_compressed, line_blocks, line_number
from mpinewton.errors import DataError

# Kinds of bytes. All others (letters of nan, inf, 0x10 and qid, NUL, single carriage returns) are errors.
DIGIT, SIGN, COLON, SPACE, NEWLINE = 1, 2, 3, 4, 5
KIND = np.zeros(256, np.uint8)
for _bytes, _kind in ((b"0123456789", DIGIT), (b"+-.eE", SIGN), (b":", COLON), (b" \t", SPACE), (b"\n", NEWLINE)):
    KIND[list(_bytes)] = _kind
COLON_TO_SPACE = bytes.maketrans(b":", b" ")


LABEL = re.compile(rb"^[ \t]*([^\s#]+)", re.MULTILINE)
WORD = re.compile(r"(?!(nan|inf|infinity)$)[^\W\d][^\s:#,;]*", re.IGNORECASE)
PAIR = re.compile(rb"[0-9]+:")
SAMPLE_BYTES = 1 << 16

Rows = tuple[sparse.csr_array, Array, Array | None]


class LibsvmText(Source):
    """Rows of a LIBSVM text file, or of the lines that begin in bytes [first, last) of a plain one.

    The first lines decide whether labels are words, and whether they have weights. If labels are not needed, a row may
    begin with its first index:value. Then, label:weight is recognised by an index below 1 or not below the next one.
    """

    dense = False

    def __init__(self, path: Path, reading: Reading, first: int = 0, last: int | None = None) -> None:
        super().__init__(str(path), reading)
        self.path, self.first, self.last = path, first, last
        self.limit = reading.features or reading.max_features
        sample = first_bytes(path, SAMPLE_BYTES)
        tokens = [line.split(b"#")[0].split() for line in sample.removeprefix(UTF8_MARK).splitlines()]
        some = [line for line in tokens[: -1 if len(sample) == SAMPLE_BYTES else None] if line] or [[b"0"]]
        start = some[0][0].decode("utf-8", "replace")
        label = start.partition(":")[0]
        word, names = WORD.fullmatch(label) and not _is_number(label), reading.class_names
        self.words = reading.labels and bool(word if names is None else names and (word or label in names))
        self.weighted = some[0][0].find(b":") > 0 and any(map(_has_weight, some))
        if self.weighted:
            self.notes = ("rows have weights: label:weight",)
        if reading.labels and b":" in some[0][0] and not self.weighted:
            raise DataError(
                f"{path}: rows begin with {start[:40]}, which may be index:value or label:weight; put a"
                " label before the first index, such as 0; if rows have weights, use words or 0, 1, ... as labels"
            )

    @property
    def divisible(self) -> bool:
        """Whether byte ranges of the file can be read independently of each other."""
        return not (is_compressed(self.path) or self.words or self.reading.rows)

    def blocks(self) -> Iterator[Block]:
        partial = self.reading.allow_partial_last_line
        for offset, text in line_blocks(self.path, self.first, self.last, allow_partial=partial):
            try:
                rows = self._parse(text)
            except ValueError:
                line, number = first_fault(text, self._parse)
                where = f"{self.path}:{line_number(self.path, offset) + number}"
                raise DataError(f"{where}: {self._explain(line)}") from None
            yield Block(*rows)

    def _parse(self, text: bytes) -> Rows:
        """Rows, labels and weights of whole lines. Raises ValueError."""
        if self.reading.labels and not self.words and not self.weighted:
            return *parse(text, self.limit), None
        text, labels, weights = self._relabel(text)
        X, y = parse(text, self.limit)
        y = np.array(labels, dtype=np.float64) if self.words else y
        return X, y, np.array(weights) if self.weighted else None

    def _relabel(self, text: bytes) -> tuple[bytes, list[int], list[float]]:
        """The text with plain numbers as labels, the numbers of words, and weights. Raises ValueError."""
        labels: list[int] = []
        weights: list[float] = []

        def plain(found: re.Match[bytes]) -> bytes:
            label, colon, weight = found[1].partition(b":")
            if colon and not self.weighted and not self.reading.labels:
                return b"0 " + found[1]
            if bool(colon) != self.weighted:
                this, first = ("no", "one") if self.weighted else ("a", "none")
                raise ValueError(
                    f"the label {found[1].decode()!r} has {this} weight, but that of the first row has {first}"
                )
            if self.weighted:
                if not _is_number(weight.decode()):
                    raise ValueError(
                        f"the weight {weight.decode()!r} of label {label.decode()!r} is not a finite number"
                    )
                weights.append(float(weight))
            if self.words:
                try:
                    labels.append(self.class_names(label.decode()))
                except ValueError as error:
                    raise ValueError(f"the label {error}") from None
            return label if self.reading.labels and not self.words else b"0"

        return LABEL.sub(plain, text), labels, weights

    def _explain(self, line: bytes) -> str:
        """Why a line is refused, and the remedy."""
        try:
            return explain(self._relabel(line)[0], self.limit, self.reading)
        except ValueError as error:
            return str(error)


def _has_weight(tokens: list[bytes]) -> bool:
    """Whether the first token of a line is label:weight, and cannot be index:value."""
    indices = [PAIR.match(token) for token in tokens[:2]]
    numbers = [int(found[0][:20].rstrip(b":")) if found else None for found in indices]
    first, second = numbers if len(numbers) == 2 else (numbers[0], None)
    return b":" in tokens[0] and (not first or (second is not None and first >= second))


def parse(text: bytes, limit: int) -> tuple[sparse.csr_array, Array]:
    """`parse_by_numpy`, by the compiled reader where there is one."""
    if kernels.readers is None:
        return parse_by_numpy(text, limit)
    rows, entries = text.count(b"\n"), text.count(b":")
    starts, indices = np.empty(rows + 1, dtype=np.int64), np.empty(entries, dtype=np.int32)
    values, labels = np.empty(entries), np.empty(rows)
    rows, entries, features = kernels.readers.libsvm(text, min(limit, 2**31 - 1), starts, indices, values, labels)
    return sparse.csr_array((values[:entries], indices[:entries], starts[: rows + 1]), (rows, features)), labels[:rows]


def parse_by_numpy(text: bytes, limit: int) -> tuple[sparse.csr_array, Array]:
    """Rows and labels of whole lines; every error is a bare ValueError, which `explain` puts into words.

    Parameters
    ----------
    text : bytes
        Lines, each with its newline.
    limit : int
        Largest index allowed.

    Returns
    -------
    csr_array, shape (n, largest index), and array, shape (n,)
    """
    if b"#" in text:
        text = re.sub(rb"#[^\n\0]*", b"", text)
    text = b"\n" + text.replace(b"\r\n", b"\n")
    kind = KIND[np.frombuffer(text, np.uint8)]
    _require(bool(kind.all()))
    gap = kind >= SPACE
    starts = np.flatnonzero(gap[:-1] & ~gap[1:]) + 1  # of tokens
    if not len(starts):
        return sparse.csr_array((0, 0)), np.zeros(0)
    line = np.searchsorted(np.flatnonzero(kind == NEWLINE), starts)
    pair = np.diff(line, prepend=-1) == 0  # every token but the first of its line
    numbers = _numbers(text, kind, starts, pair)

    # Position of the first number of every token: a label is one number, a pair two.
    place = np.arange(len(starts)) + np.cumsum(pair) - pair
    y = numbers[place[~pair]]
    index, value = numbers[place[pair]], numbers[place[pair] + 1]
    _require(bool(np.isfinite(numbers).all() and np.all(index >= 1) and np.all(index <= limit)))
    _require(bool(np.all((np.diff(index) > 0) | (np.diff(line[pair]) > 0))))
    indices = index.astype(np.int32) - np.int32(1)
    rows = np.cumsum(~pair)[pair]  # from 1
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(y) + 1)[1:])])
    features = int(indices.max(initial=-1)) + 1
    return sparse.csr_array((value, indices, indptr), shape=(len(y), features)), y


def _numbers(text: bytes, kind: NDArray[np.uint8], starts: NDArray[np.intp], pair: NDArray[np.bool_]) -> Array:
    """All numbers of the text, after a check that every pair is digits, one colon and a number."""
    colons = np.flatnonzero(kind == COLON)
    begin, end = starts[pair], np.append(starts[1:], len(kind))[pair]
    _require(len(colons) == len(begin) and bool(np.all((begin < colons) & (colons < end))))
    _require(bool(np.all(kind[colons + 1] < COLON)))
    if len(colons):
        index = np.column_stack([begin, colons]).ravel()
        _require(bool(np.all(np.maximum.reduceat(kind, index)[::2] == DIGIT)))
    with warnings.catch_warnings():  # numpy before 2.3 warns; later ones raise ValueError
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(text.translate(COLON_TO_SPACE), sep=" ")
        except DeprecationWarning:
            raise ValueError from None
    # "1-2" is read as two numbers: if the count is right, every part of a token is exactly one.
    _require(len(numbers) == len(starts) + len(colons))
    return numbers


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def first_fault(text: bytes, parse: Callable[[bytes], object]) -> tuple[bytes, int]:
    """The first line that `parse` refuses, and its number from 0, by bisection: every error is in one line."""
    lines = text.splitlines(keepends=True) if b"\r" not in text else [line + b"\n" for line in text.split(b"\n")[:-1]]
    low, high = 0, len(lines)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parse(b"".join(lines[low:middle]))
            low = middle
        except ValueError:
            high = middle
    return lines[low], low


def explain(line: bytes, limit: int, reading: Reading) -> str:
    """Why `parse` refuses a line, and the remedy."""
    if b"\0" in line:
        return "a NUL byte: this is not text; download or create the file again"
    label, *pairs = line.split(b"#")[0].decode("latin-1").split() or [""]
    if not _is_number(label):
        words = ", as that of the first row" if WORD.fullmatch(label) else ""
        hint = "; name a CSV file .csv, or pass --format csv" if "," in label else ""
        return f"the label {label[:40]!r} is not a finite decimal number{hint}{words}"
    before = 0
    for pair in pairs:
        index, colon, value = pair.partition(":")
        if index == "qid":
            return f"{pair[:40]!r} is a query id (ranking data), which no loss uses; remove the qid fields"
        if not colon:
            return f"{pair[:40]!r} has no colon; expected index:value, or pass --format csv if this is a table"
        if not re.fullmatch("[0-9]+", index):
            return f"the index {index[:40]!r} is not a whole number in digits"
        if int(index[:400]) < 1:
            return f"the index {index[:40]} is below 1; indices start at 1 (add 1 to those of a file that starts at 0)"
        if int(index[:400]) > limit:
            return f"the index {index[:40]} is above {reading.limit_remedy(int(index[:400]))}"
        if int(index[:400]) <= before:
            return f"the index {index} follows {before}; indices must increase: sort them, remove duplicates"
        if not _is_number(value):
            return f"the value {value[:40]!r} of index {index} is not a finite decimal number"
        before = int(index)
    return f"{line[:60]!r} has a character that is not of a number, colon, space or tab"


def _is_number(text: str) -> bool:
    decimal = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    return decimal is not None and bool(np.isfinite(float(text)))
