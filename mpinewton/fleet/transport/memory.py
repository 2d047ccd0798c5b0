"""Memory that the ranks of one host share: long vectors pass through it, and a message says that they are there."""

from __future__ import annotations

import mmap
import os
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from mpinewton.arrays import Bytes

# The longest vector in bytes that passes through the memory. A rank holds so much of it as it has used.
LONGEST = 1 << 25
NONCE = 16
NAMESPACES = ("net", "ipc", "pid")  # processes that differ in one of them count as processes of different hosts


class Address(msgspec.Struct, frozen=True):
    """Where the memory of a process is."""

    host: list[str]
    process: int
    file: int
    nonce: bytes  # the first bytes of the memory


class Outbox:
    """Memory of this process that other processes of its host can read. Nothing of it is left when the process ends.

    Raises
    ------
    OSError
        If the system has no such memory.
    """

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memory without a name")
        self._file = os.memfd_create("mpinewton")
        os.ftruncate(self._file, NONCE + LONGEST)
        self._bytes = np.frombuffer(mmap.mmap(self._file, NONCE + LONGEST), dtype=np.uint8)
        nonce = os.urandom(NONCE)
        self._bytes[:NONCE] = np.frombuffer(nonce, dtype=np.uint8)
        self.address = Address(_host(), os.getpid(), self._file, nonce)

    def write(self, data: Bytes) -> None:
        """Put bytes there, in place of those of the last call."""
        self._bytes[NONCE : NONCE + len(data)] = data

    def close(self) -> None:
        """Let nobody else read it; those who do still can."""
        os.close(self._file)


class Inbox:
    """The outbox of another process.

    Raises
    ------
    OSError
        If it cannot be read from here, as from another host.
    """

    def __init__(self, address: Address) -> None:
        if address.host != _host():
            raise OSError("on another host")
        file = os.open(f"/proc/{address.process}/fd/{address.file}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            self._bytes = np.frombuffer(mmap.mmap(file, NONCE + LONGEST, prot=mmap.PROT_READ), dtype=np.uint8)
        except ValueError as error:  # the file is shorter
            raise OSError(str(error)) from None
        finally:
            os.close(file)
        if self._bytes[:NONCE].tobytes() != address.nonce:
            raise OSError("the memory of another process")

    def read(self, size: int) -> Bytes:
        """The bytes that were put there: a read-only view, which changes when the sender puts others there."""
        return self._bytes[NONCE : NONCE + size]


@cache
def _host() -> list[str]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return [boot, *(str(Path(f"/proc/self/ns/{name}").readlink()) for name in NAMESPACES)]


class Greeting(msgspec.Struct, frozen=True):
    """What neighbours in the tree of ranks tell each other: the children first, then their parent."""

    address: Address | None  # None where the sender has no memory to share
    one_host: bool  # all ranks below the sender share memory with it; from the parent: all ranks of the job do
    reads: bool = False  # the sender can read the memory of the other


def encode_greeting(greeting: Greeting) -> Bytes:
    return np.frombuffer(msgspec.msgpack.encode(greeting), dtype=np.uint8)


def decode_greeting(data: Bytes) -> Greeting:
    return msgspec.msgpack.decode(data.tobytes(), type=Greeting)


def outbox() -> Outbox | None:
    """An outbox; None where the system has no such memory."""
    try:
        return Outbox()
    except OSError:
        return None


def inbox(address: Address | None) -> Inbox | None:
    """The inbox for an outbox; None where it cannot be read."""
    try:
        return Inbox(address) if address else None
    except OSError:
        return None
