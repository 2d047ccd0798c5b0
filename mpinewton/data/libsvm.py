"""LIBSVM text: `label index:value index:value ...`, indices from 1, increasing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source
from mpinewton.data.lines import line_blocks, line_number
from mpinewton.errors import DataError

# Kinds of bytes. All others (letters of nan, inf, 0x10 and qid, NUL, single carriage returns) are errors.
DIGIT, SIGN, COLON, SPACE, NEWLINE = 1, 2, 3, 4, 5
KIND = np.zeros(256, np.uint8)
for _bytes, _kind in ((b"0123456789", DIGIT), (b"+-.eE", SIGN), (b":", COLON), (b" \t", SPACE), (b"\n", NEWLINE)):
    KIND[list(_bytes)] = _kind
COLON_TO_SPACE = bytes.maketrans(b":", b" ")


class LibsvmText(Source):
    """Rows of a LIBSVM text file, or of the lines that begin in bytes [first, last) of a plain one."""

    dense = False

    def __init__(self, path: Path, reading: Reading, first: int = 0, last: int | None = None) -> None:
        super().__init__(str(path), reading)
        self.path, self.first, self.last = path, first, last

    def blocks(self) -> Iterator[Block]:
        limit = self.reading.features or self.reading.max_features
        partial = self.reading.allow_partial_last_line
        for offset, text in line_blocks(self.path, self.first, self.last, allow_partial=partial):
            try:
                X, y = parse(text, limit)
            except ValueError:
                raise DataError(self._diagnosis(offset, text, limit)) from None
            yield Block(X, y)

    def _diagnosis(self, offset: int, text: bytes, limit: int) -> str:
        line, number = first_fault(text, limit)
        return f"{self.path}:{line_number(self.path, offset) + number}: {explain(line, limit, self.reading)}"


def parse(text: bytes, limit: int) -> tuple[sparse.csr_array, Array]:
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


def first_fault(text: bytes, limit: int) -> tuple[bytes, int]:
    """The first line that `parse` refuses, and its number from 0, by bisection: every error is in one line."""
    lines = text.splitlines(keepends=True) if b"\r" not in text else [line + b"\n" for line in text.split(b"\n")[:-1]]
    low, high = 0, len(lines)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            parse(b"".join(lines[low:middle]), limit)
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
        hint = "; name a CSV file .csv, or pass --format csv" if "," in label else ""
        return f"the label {label[:40]!r} is not a finite decimal number{hint}"
    before = 0
    for pair in pairs:
        index, colon, value = pair.partition(":")
        if index == "qid":
            return f"{pair[:40]!r} is a query id (ranking data), which no loss uses; remove the qid fields"
        if not colon:
            return f"{pair[:40]!r} has no colon; expected index:value"
        if not re.fullmatch("[0-9]+", index):
            return f"the index {index[:40]!r} is not a whole number in digits"
        if int(index[:400]) < 1:
            return f"the index {index[:40]} is below 1; indices start at 1 (add 1 to those of a file that starts at 0)"
        if int(index[:400]) > limit:
            given = "--features" if reading.features else "--max-features"
            return f"the index {index[:40]} is above {given} {limit}; increase {given} if this is intended"
        if int(index[:400]) <= before:
            return f"the index {index} follows {before}; indices must increase: sort them, remove duplicates"
        if not _is_number(value):
            return f"the value {value[:40]!r} of index {index} is not a finite decimal number"
        before = int(index)
    return f"{line[:60]!r} has a character that is not of a number, colon, space or tab"


def _is_number(text: str) -> bool:
    decimal = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    return decimal is not None and bool(np.isfinite(float(text)))
