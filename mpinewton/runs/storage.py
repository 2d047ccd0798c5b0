"""Files that survive a crash: tables that only grow, and files that are whole or not there."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from mpinewton.durable import atomic_path
from mpinewton.errors import DataError


class Table:
    """A CSV file that only grows, and knows the digest of what it holds.

    Parameters
    ----------
    path, columns : where, and the first line
    keep : (size, sha256) or None
        To go on with the file: the part that a checkpoint vouches for; what was written after it is cut off.

    Raises
    ------
    DataError
        If the file no longer begins with that part.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: tuple[int, str] | None = None) -> None:
        self.path, self._digest, self.size = path, hashlib.sha256(), 0
        if keep is None:
            self._file: IO[bytes] = path.open("wb")
            self.append(columns)
            return
        kept = path.read_bytes()[: keep[0]] if path.exists() else b""
        self._digest.update(kept)
        if len(kept) != keep[0] or self.sha256 != keep[1]:
            raise DataError(
                f"{path}: its first {keep[0]} bytes are not what the checkpoint remembers; nothing was changed. "
                "Put the file back as the run left it, or start anew with --fresh"
            )
        self._file = path.open("r+b")
        self.size = keep[0]
        self._file.truncate(self.size)
        self._file.seek(self.size)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, cells: Sequence[object]) -> None:
        """Write a line; it is in the operating system's hands after `flush`."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        line = text.getvalue().encode()
        self._file.write(line)
        self._digest.update(line)
        self.size += len(line)

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        """Have everything on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


# A sealed HDF5 file begins with a block that is the application's own: its format and the digest of all that follows.
SEAL_BYTES = 512


@contextmanager
def sealed_file(path: Path, kind: str) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which takes the name `path` when it is whole, and sealed: whatever damages it is noticed.

    Raises
    ------
    OSError
        If it cannot be written; `path` is as it was.
    """
    with atomic_path(path) as temporary:
        try:
            with h5py.File(temporary, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES) as file:
                file.attrs["format"] = np.bytes_(kind)
                yield file
        except RuntimeError as error:  # how HDF5 reports a full disk
            raise OSError(f"{path}: {error}") from error
        with temporary.open("r+b") as plain:
            seal = f"{kind} {_digest(plain)}\n".encode()
            plain.seek(0)
            plain.write(seal.ljust(SEAL_BYTES, b"\0"))


@contextmanager
def open_sealed(path: Path, kind: str) -> Iterator[h5py.File]:
    """A sealed file to read. The HDF5 library sees no byte of a file whose seal is broken: it may hang on those.

    Raises
    ------
    DataError
        If it is not there, not of this kind, or not as it was written.
    """
    try:
        with path.open("rb") as plain:
            found, _, digest = plain.read(SEAL_BYTES).rstrip(b"\0\n").decode("ascii", "replace").partition(" ")
            if found != kind:
                raise DataError(f"{path}: this is no {kind} file, the format this version reads")
            if digest != _digest(plain):
                raise DataError(f"{path}: the file is damaged: it does not have the digest it was written with")
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _digest(plain: IO[bytes]) -> str:
    plain.seek(SEAL_BYTES)
    digest = hashlib.blake2b(digest_size=32)
    while block := plain.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
