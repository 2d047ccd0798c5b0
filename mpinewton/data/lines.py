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
# First bytes of files.
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r"))
UTF8_MARK = b"\xef\xbb\xbf"
NO_TEXT = {
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; decompress it first",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; unpack it, or save the table as CSV",
    b"\x89HDF\r\n": "is an HDF5 file; give the folder of shards that pack wrote, or convert it to npz",
    b"%PDF": "is a PDF document; expected rows of numbers",
    b"%%MatrixMarket": "is a Matrix Market file; convert it to npz: scipy.io.mmread, scipy.sparse.save_npz",
    b"{": "is JSON; convert it to CSV",
    b"@relation": "is ARFF; convert it to CSV",
    b"@RELATION": "is ARFF; convert it to CSV",
}


def plain_name(path: Path) -> str:
    """File name in lower case, without the suffix of the compression."""
    return (path.stem if path.suffix in OPENERS else path.name).lower()


def is_compressed(path: Path) -> bool:
    """Whether the first bytes of a file are those of gzip, bzip2 or xz. Raises DataError."""
    return _opener(path) is not open


def _opener(path: Path) -> Callable[..., Any]:
    try:
        with path.open("rb") as file:
            first = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); expected the name of a readable file") from None
    return next((opener for magic, opener in COMPRESSED.items() if first.startswith(magic)), open)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes; decompress it if its content is that of gzip, bzip2 or xz. Raises DataError."""
    stream: IO[bytes] = _opener(path)(path, "rb")
    return stream


def first_bytes(path: Path, size: int) -> bytes:
    """The first bytes of a file, decompressed. Raises DataError."""
    with open_bytes(path) as stream:
        return read_bytes(stream, size, path)


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
        If the file is not text in UTF-8, a line is longer than 256 MiB, or the last one has no newline and
        `allow_partial` is false.
    """
    with open_bytes(path) as stream:
        if first:  # a line that begins earlier belongs to the range before
            stream.seek(first - 1)
            first += len(stream.readline()) - 1
        while last is None or first < last:
            text = read_bytes(stream, size if last is None else min(size, last - first), path)
            if not text:
                return
            if first == 0:
                refuse_other_than_text(path, text)
            if not text.endswith(b"\n"):
                text += _rest_of_line(stream, path, first + len(text), allow_partial)
            yield first, text.removeprefix(UTF8_MARK) if first == 0 else text
            first += len(text)


def refuse_other_than_text(path: Path, text: bytes) -> None:
    """Raise DataError if the first bytes of a file are not text in UTF-8."""
    for magic, reason in NO_TEXT.items():
        if text.startswith(magic):
            raise DataError(f"{path}: {reason}")
    if text.startswith(UTF16):
        raise DataError(f"{path}: is text in UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8")
    if b"\r" in text and b"\n" not in text:
        raise DataError(f"{path}: its lines end in CR alone; convert them: tr '\\r' '\\n'")
    sample = text[:4096]
    odd = len(sample) - len(sample.translate(None, CONTROL))
    if odd > 1 and odd > len(sample) // 16:
        utf16 = "text in UTF-16 (convert it: iconv -f UTF-16 -t UTF-8) or " if b"\0" in sample else ""
        raise DataError(f"{path}: is {utf16}binary data; expected text in UTF-8")


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
