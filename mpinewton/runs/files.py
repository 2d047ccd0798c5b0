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
        self._file = path.open("r+b" if path.exists() else "w+b")
        kept = self._file.read(keep[0])
        self._digest.update(kept)
        if len(kept) != keep[0] or self.sha256 != keep[1]:
            self._file.close()
            raise DataError(
                f"{path}: its first {keep[0]} bytes are not what the checkpoint remembers; nothing was changed. "
                "Put the file back as the run left it, or start anew with --fresh"
            )
        self.size = keep[0]
        self._file.truncate(self.size)
        self._file.seek(self.size)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def append(self, cells: Sequence[object]) -> None:
        """Write a line; it is in the operating system's hands when this returns."""
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, put in its place, whole and on the disk, if nothing goes wrong."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
