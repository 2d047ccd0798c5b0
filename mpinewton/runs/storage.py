"""Files that survive a crash: CSV tables that are appended to, and HDF5 files with a digest."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import msgspec
import numpy as np

from mpinewton.durable import explain_errors, open_regular, write_whole
from mpinewton.errors import DataError
from mpinewton.methods.support.memory import available_memory

BLOCK_BYTES = 1 << 18


class Table:
    """A CSV file to append to, with the digest of its content.

    Lines that cannot be written now, on a full disk for instance, are kept and written later: the file always holds the
    first bytes of the table.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        The first line.
    keep : (int, str) or None
        To continue the file: size in bytes and SHA-256 of the part to keep; the rest is cut off.

    Attributes
    ----------
    size : int
        Bytes of the table, with those that are not in the file yet.

    Raises
    ------
    DataError
        If the first bytes of the file do not have this digest.
    OSError
        If the file cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: tuple[int, str] | None = None) -> None:
        self.path, self._digest, self.size, self._written, self._waiting = path, hashlib.sha256(), 0, 0, bytearray()
        if keep is not None:
            self._check(*keep)
            self.size = self._written = keep[0]
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        os.ftruncate(self._file, self.size)
        if keep is None:
            self.append(columns)

    def _check(self, size: int, sha256: str) -> None:
        left = size
        try:
            with open_regular(self.path) as file:
                while block := file.read(min(left, BLOCK_BYTES)):
                    self._digest.update(block)
                    left -= len(block)
        except OSError:
            left = -1
        if left or self.sha256 != sha256:
            raise DataError(
                f"{self.path}: the first {size} bytes do not match the checkpoint; nothing was changed. "
                "Restore the file as the run left it, or start again with --fresh"
            )

    @property
    def sha256(self) -> str:
        """Digest of the table."""
        return self._digest.hexdigest()

    def append(self, cells: Sequence[object]) -> None:
        """Add a line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        line = text.getvalue().encode()
        self._waiting += line
        self._digest.update(line)
        self.size += len(line)
        if len(self._waiting) >= BLOCK_BYTES:
            with suppress(OSError):
                self.flush()

    def flush(self) -> None:
        """Hand all lines to the operating system. Raises OSError; the lines are then kept for the next time."""
        with explain_errors(self.path, len(self._waiting)):
            while self._waiting:
                done = os.pwrite(self._file, self._waiting, self._written)
                self._written += done
                del self._waiting[:done]

    def sync(self) -> None:
        """Write everything to the disk. Raises OSError."""
        self.flush()
        with explain_errors(self.path):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file, with all lines where they can be written."""
        with suppress(OSError):
            self.flush()
        os.close(self._file)


# A sealed HDF5 file starts with a user block that holds its format and the digest of the rest of the file.
SEAL_BYTES = 512
MAX_OBJECTS = 16  # more data sets than any sealed file has


@contextmanager
def sealed_file(path: Path, kind: str) -> Iterator[h5py.File]:
    """Context with an HDF5 file in memory, which is written to `path` at the end, with the digest of its content.

    HDF5 itself writes no file: it may crash where a disk fails, and it needs locks.

    Raises
    ------
    OSError
        If it cannot be written; `path` is then unchanged.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES) as file:
        file.attrs["format"] = np.bytes_(kind)
        yield file
    content = memory.getbuffer()
    content[:SEAL_BYTES] = f"{kind} {_digest(content)}\n".encode().ljust(SEAL_BYTES, b"\0")
    write_whole(path, content)


@contextmanager
def open_sealed(path: Path, kind: str) -> Iterator[h5py.File]:
    """Context with a sealed file, read as a whole into memory. The digest is checked before HDF5 sees it.

    The digest protects against damage, not against strangers, who can compute it, too. Only data sets of numbers that
    are stored in this file are accepted; what they hold must be checked in the context.

    Raises
    ------
    DataError
        If the file is missing, not of this kind, or damaged; or what is read from it has other names, types or values.
    """
    try:
        with open_regular(path) as plain:
            found, _, digest = plain.read(SEAL_BYTES).rstrip(b"\0\n").decode("ascii", "replace").partition(" ")
            if found != kind:
                raise DataError(f"{path}: not a {kind} file; expected one that a run of this version wrote")
            if (size := os.fstat(plain.fileno()).st_size) > available_memory():
                raise DataError(f"{path}: {size / 1e9:.3g} GB, more than the memory that is available")
            plain.seek(0)
            content = plain.read()
        if digest != _digest(memoryview(content)):
            raise DataError(f"{path}: the file is damaged: its digest does not match; restore it from a copy")
        with h5py.File(io.BytesIO(content), "r") as file:
            if len(file) > MAX_OBJECTS:
                raise ValueError(f"{len(file)} data sets")
            for name in file:
                _check_plain(file, name, len(content))
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (LookupError, ValueError, TypeError, OverflowError, RuntimeError, msgspec.MsgspecError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not a {kind} file that mpinewton wrote: {reason}") from None


def _check_plain(file: h5py.File, name: str, size: int) -> None:
    """Refuse all but a data set of numbers, stored as a whole in this file of `size` bytes. Raises ValueError."""
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name!r} is a link, a group, or in another file, which is not followed")
    if (
        dataset.shape is None
        or dataset.dtype.kind not in "fiu"
        or dataset.chunks
        or not size > dataset.nbytes == dataset.id.get_storage_size()
    ):
        raise ValueError(f"{name!r} has dtype {dataset.dtype}, shape {dataset.shape} and another size in the file")


def write_text(file: h5py.File, name: str, text: bytes) -> None:
    """Write a text, usually JSON, as a data set of bytes."""
    file.create_dataset(name, data=np.frombuffer(text, dtype=np.uint8))


def read_text(file: h5py.File, name: str) -> bytes:
    """A text that `write_text` wrote. Raises ValueError."""
    if file[name].dtype != np.uint8:
        raise ValueError(f"{name!r} has dtype {file[name].dtype}; expected uint8")
    return bytes(file[name][()].tobytes())


def _digest(content: memoryview) -> str:
    return hashlib.blake2b(content[SEAL_BYTES:], digest_size=32).hexdigest()
