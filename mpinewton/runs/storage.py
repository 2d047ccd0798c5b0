"""Files that survive a crash: CSV tables that are appended to, and HDF5 files with a digest."""

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
import msgspec
import numpy as np

from mpinewton.durable import atomic_path
from mpinewton.errors import DataError


class Table:
    """A CSV file to append to, with the digest of its content.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        The first line.
    keep : (int, str) or None
        To continue the file: size in bytes and SHA-256 of the part to keep; the rest is cut off.

    Raises
    ------
    DataError
        If the first bytes of the file do not have this digest.
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
                f"{path}: the first {keep[0]} bytes do not match the checkpoint; nothing was changed. "
                "Restore the file as the run left it, or start again with --fresh"
            )
        self._file = path.open("r+b")
        self.size = keep[0]
        self._file.truncate(self.size)
        self._file.seek(self.size)

    @property
    def sha256(self) -> str:
        """Digest of everything written so far."""
        return self._digest.hexdigest()

    def append(self, cells: Sequence[object]) -> None:
        """Write a line to the buffer."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        line = text.getvalue().encode()
        self._file.write(line)
        self._digest.update(line)
        self.size += len(line)

    def flush(self) -> None:
        """Hand all lines to the operating system."""
        self._file.flush()

    def sync(self) -> None:
        """Write everything to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


# A sealed HDF5 file starts with a user block that holds its format and the digest of the rest of the file.
SEAL_BYTES = 512


@contextmanager
def sealed_file(path: Path, kind: str) -> Iterator[h5py.File]:
    """Context with an HDF5 file to write, which replaces `path` at the end, with the digest of its content.

    Raises
    ------
    OSError
        If it cannot be written; `path` is then unchanged.
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
    """Context with a sealed file to read. The digest is checked before HDF5 opens the file, which may hang on damage.

    The digest protects against damage, not against strangers, who can compute it, too. Only data sets of numbers that
    are stored in this file are accepted; what they hold must be checked in the context.

    Raises
    ------
    DataError
        If the file is missing, not of this kind, or damaged; or what is read from it has other names, types or values.
    """
    try:
        with path.open("rb") as plain:
            found, _, digest = plain.read(SEAL_BYTES).rstrip(b"\0\n").decode("ascii", "replace").partition(" ")
            if found != kind:
                raise DataError(f"{path}: not a {kind} file, the format that this version reads")
            if digest != _digest(plain):
                raise DataError(f"{path}: the file is damaged: its digest does not match; restore it from a copy")
        with h5py.File(path, "r", locking=False) as file:
            for name in file:
                _check_plain(file, name)
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (LookupError, ValueError, TypeError, OverflowError, RuntimeError, msgspec.MsgspecError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not a {kind} file that mpinewton wrote: {reason}") from None


def _check_plain(file: h5py.File, name: str) -> None:
    """Refuse all but a data set of numbers, stored as a whole in this file. Raises ValueError."""
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name!r} is a link, a group, or in another file, which is not followed")
    if dataset.dtype.kind not in "fiu" or dataset.chunks or dataset.id.get_storage_size() != dataset.nbytes:
        raise ValueError(f"{name!r} has dtype {dataset.dtype}, shape {dataset.shape} and another size in the file")


def write_text(file: h5py.File, name: str, text: bytes) -> None:
    """Write a text, usually JSON, as a data set of bytes."""
    file.create_dataset(name, data=np.frombuffer(text, dtype=np.uint8))


def read_text(file: h5py.File, name: str) -> bytes:
    """A text that `write_text` wrote. Raises ValueError."""
    if file[name].dtype != np.uint8:
        raise ValueError(f"{name!r} has dtype {file[name].dtype}; expected uint8")
    return bytes(file[name][()].tobytes())


def _digest(plain: IO[bytes]) -> str:
    plain.seek(SEAL_BYTES)
    digest = hashlib.blake2b(digest_size=32)
    while block := plain.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
