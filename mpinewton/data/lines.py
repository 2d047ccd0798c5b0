"""Text files, plain or compressed, as blocks of whole lines."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mpinewton.errors import DataError

BLOCK_BYTES = 1 << 19
LINE_BYTES = 256 << 20

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def plain_name(path: Path) -> str:
    """File name in lower case, without the suffix of the compression."""
    return (path.stem if path.suffix in OPENERS else path.name).lower()


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes; decompress it if its name ends in .gz, .bz2 or .xz. Raises DataError."""
    try:
        stream: IO[bytes] = OPENERS.get(path.suffix, open)(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); expected the name of a readable file") from None
    return stream


def read_bytes(stream: IO[bytes], size: int, path: Path, line: bool = False) -> bytes:
    """At most `size` bytes, or up to the end of the line; fewer only at the end of the file. Raises DataError."""
    try:
        return stream.readline(size) if line else stream.read(size)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: the file is damaged or truncated ({error}); download or create it again") from None


def line_blocks(
    path: Path, first: int = 0, last: int | None = None, size: int = BLOCK_BYTES, allow_partial: bool = False
) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in bytes [first, last), as pairs (offset, text of about `size` bytes ending in a newline).

    Raises
    ------
    DataError
        If a line is longer than 256 MiB, or the last one has no newline and `allow_partial` is false.
    """
    with open_bytes(path) as stream:
        if first:  # a line that begins earlier belongs to the range before
            stream.seek(first - 1)
            first += len(stream.readline()) - 1
        while last is None or first < last:
            text = read_bytes(stream, size if last is None else min(size, last - first), path)
            if not text:
                return
            if not text.endswith(b"\n"):
                text += _rest_of_line(stream, path, first + len(text), allow_partial)
            yield first, text
            first += len(text)


def _rest_of_line(stream: IO[bytes], path: Path, offset: int, allow_partial: bool) -> bytes:
    rest = read_bytes(stream, LINE_BYTES, path, line=True)
    if rest.endswith(b"\n"):
        return rest
    line = line_number(path, offset)
    if len(rest) == LINE_BYTES:
        raise DataError(f"{path}:{line}: the line is longer than {LINE_BYTES >> 20} MiB; is this a text file?")
    if not allow_partial:
        raise DataError(
            f"{path}:{line}: the last line has no newline: the file may be truncated; download it again, or pass"
            " --allow-partial-last-line if the line is complete"
        )
    return rest + b"\n"


def line_number(path: Path, offset: int) -> int:
    """Number, from 1, of the line with byte `offset`; it reads the file again, so it is for error messages only."""
    number = 1
    with open_bytes(path) as stream:
        while offset > 0 and (text := read_bytes(stream, min(offset, BLOCK_BYTES), path)):
            number += text.count(b"\n")
            offset -= len(text)
    return number
