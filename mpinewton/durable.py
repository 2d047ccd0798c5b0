"""Files on disks that fail: written whole or not at all, read only if regular, and what went wrong in words."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

log = logging.getLogger("mpinewton")
LOCK, WAIT_SECONDS = "lock", 30.0
TEMPORARY = ".tmp-"  # in the names of files that are being written
REMEDIES = {
    errno.EDQUOT: "the quota of the user or group is used up; remove files, or ask for a larger quota",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder, or change its permissions",
    errno.EPERM: "not permitted; choose another folder, or change its permissions",
    errno.ESTALE: "stale file handle: the server of the network file system has replaced the folder; mount it again",
    errno.EIO: "the disk, or the server of the network file system, reports an input/output error",
    errno.ENOENT: "the folder does not exist, or has been removed",
}


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name, sync it to disk, and let it replace `path`.

    Raises
    ------
    OSError
        With the reason and the remedy as its text; `path` is then unchanged.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    try:
        with explain_errors(path, len(content)):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class DiskFile(io.FileIO):
    """A new file for HDF5, which crashes where a write fails: after a failure nothing is written, without a word.

    Attributes
    ----------
    error : OSError or None
        The first failure.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, content: Buffer) -> int:
        """Write all bytes."""
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut the file to so many bytes."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self.error is not None:
            raise self.error


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[Path]:
    """Context with a folder, new or emptied, for one process at a time; the others wait, and log for `what`.

    The folder is removed at the end. Where the file system has no locks, every process gets a folder of its own.
    """
    lock, since, told = -1, time.monotonic(), -WAIT_SECONDS
    while lock < 0:
        try:
            folder.mkdir(exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == (folder / LOCK).stat().st_ino:
                break
        except BlockingIOError:
            if (waited := time.monotonic() - since) >= told + WAIT_SECONDS:
                log.info("another process %s; waiting for it (%.0f s)", what, waited)
                told = waited
            time.sleep(0.2)
        except FileNotFoundError:  # removed by the process before
            pass
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
            break
        if lock >= 0:
            os.close(lock)
        lock = -1
    try:
        for path in folder.iterdir():  # left by a process that was killed
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_temporary_files(folder: Path) -> None:
    """Remove what processes that were killed have left of `write_whole`. The caller must be alone in the folder."""
    for path in folder.glob(f"*{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading.

    Raises
    ------
    OSError
        If it cannot be opened, or is a pipe, a device or a folder: reading it could wait for ever.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "the name contains a NUL character", str(path))
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "expected a regular file, not a folder, a pipe or a device", str(path))
    return os.fdopen(handle, "rb")


def explain(error: OSError, folder: Path, size: int = 0) -> str:
    """Why a file of `size` bytes could not be written in a folder, and the remedy."""
    needed = f"{_megabytes(size)} needed, " if size else ""
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            needed += f"{_megabytes(shutil.disk_usage(folder).free)} free in {folder}; "
        return f"the disk is full: {needed}free some disk space"
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        allowed = f"{_megabytes(limit)} allowed; " if limit != resource.RLIM_INFINITY else ""
        return f"the file is larger than allowed: {needed}{allowed}raise the limit (ulimit -f)"
    return REMEDIES.get(error.errno or 0, error.strerror or str(error))


@contextmanager
def explain_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Context in which `size` bytes are written to a file. An OSError gets reason and remedy as its text."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, explain(error, path.parent, size), str(path)) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"
