"""The messages between the driver and the other ranks: broadcasts, reductions and gathers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI

from mpinewton.arrays import Array, Bytes, round_up
from mpinewton.errors import MpinewtonError
from mpinewton.fleet.orders import Timing
from mpinewton.fleet.tree import PartialSum, Tree

DRIVER = 0
# An order and a short payload go in one broadcast of this size; a longer payload follows in its own.
FRAME = 1024
# Counts in MPI-3 are C ints, and messages of 2^31 elements fail with Open MPI: nothing longer than this is handed over.
PIECE = 1 << 30


class Link:
    """The driver's end, or another rank's, of the one line between them.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Duplicated, so that nobody else's messages can get between.
    piece : int
        Longest message in bytes.
    driver_hosts : bool
        Whether the driver's rank hosts workers too.

    Attributes
    ----------
    first : int
        The first rank that hosts workers, 0 or 1.
    ranks : int
        Number of ranks that host workers.
    busy : bool
        Whether the driver is in the middle of an exchange: the other ranks then do not wait for an order.
    """

    def __init__(self, comm: MPI.Intracomm, piece: int = PIECE, driver_hosts: bool = False) -> None:
        self.comm = comm.Dup()
        self.first = 0 if driver_hosts else 1
        self.rank, self.ranks = self.comm.rank, self.comm.size - self.first
        self.piece = piece
        self.busy = False
        self._frame = np.zeros(FRAME, dtype=np.uint8)
        self._buffers: dict[tuple[str, int], Array] = {}
        self._types: dict[int, MPI.Datatype] = {}
        self._op: MPI.Op | None = None
        self._tree: Tree | None = None

    def close(self) -> None:
        """Give back what MPI has only so many of; on all ranks together."""
        if self._op is not None:
            self._op.Free()
        for kind in self._types.values():
            kind.Free()
        self.comm.Free()

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """An order and the answers to it. `busy` stays set where something unexpected ends it: answers are missing.

        A MpinewtonError is raised when all answers are in.
        """
        self.busy = True
        try:
            yield
        except MpinewtonError:
            self.busy = False
            raise
        self.busy = False

    # -- orders: from the driver to everybody -------------------------------------------------------------------

    def tell(self, order: bytes, payload: Bytes | None = None) -> int:
        """Broadcast an order and the bytes that belong to it. Returns the bytes handed to MPI."""
        data = np.zeros(0, dtype=np.uint8) if payload is None else payload
        head = 16 + round_up(len(order))
        frame = self._frame
        frame[:16].view(np.int64)[:] = len(order), len(data)
        inline = head + len(data) <= FRAME
        short = head <= FRAME
        if short:
            frame[16 : 16 + len(order)] = np.frombuffer(order, dtype=np.uint8)
        if inline:
            frame[head : head + len(data)] = data
        self.comm.Bcast(frame, DRIVER)
        if not short:
            self._broadcast(np.frombuffer(order, dtype=np.uint8).copy())
        if not inline and len(data):
            self._broadcast(data)
        return FRAME + (0 if short else len(order)) + (0 if inline else len(data))

    def hear(self) -> tuple[bytes, Bytes]:
        """Wait for an order: its text, and the bytes that belong to it, this rank's own."""
        frame = self._frame
        self.comm.Bcast(frame, DRIVER)
        length, size = (int(n) for n in frame[:16].view(np.int64))
        head = 16 + round_up(length)
        text = frame[16 : 16 + length]
        if head > FRAME:
            text = np.empty(length, dtype=np.uint8)
            self._broadcast(text)
        if head + size <= FRAME:
            return text.tobytes(), frame[head : head + size].copy()
        data = np.empty(size, dtype=np.uint8)
        if size:
            self._broadcast(data)
        return text.tobytes(), data

    def _broadcast(self, data: Bytes) -> None:
        for part in self._pieces(data):
            self.comm.Bcast([part, MPI.BYTE], DRIVER)

    def _pieces(self, data: Bytes) -> Iterator[Bytes]:
        for first in range(0, len(data), self.piece):
            yield data[first : first + self.piece]

    # -- answers: from everybody to the driver ------------------------------------------------------------------

    def collect(self, data: bytes | Bytes) -> list[Bytes]:
        """Gather bytes of any length from every rank that hosts workers; on the driver, in rank order."""
        mine = np.frombuffer(data, dtype=np.uint8)
        sizes = np.zeros(self.comm.size, dtype=np.int64)
        self.comm.Allgather(np.array([len(mine)], dtype=np.int64), sizes)
        if sizes.sum() <= self.piece:
            everything = np.empty(int(sizes.sum()), dtype=np.uint8) if self.rank == DRIVER else None
            self.comm.Gatherv([mine, MPI.BYTE], [everything, sizes, None, MPI.BYTE], DRIVER)
            if everything is None:
                return []
            return np.split(everything, np.cumsum(sizes)[:-1])[self.first :]
        if self.rank != DRIVER:
            self.deliver(DRIVER, mine)
            return []
        others = [self.accept(rank, int(sizes[rank])) for rank in range(1, self.comm.size)]
        return others if self.first else [mine, *others]

    def share(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, on every rank, in rank order: a few thousand at most."""
        sizes = np.zeros(self.comm.size, dtype=np.int64)
        self.comm.Allgather(np.array([len(data)], dtype=np.int64), sizes)
        everything = np.empty(int(sizes.sum()), dtype=np.uint8)
        self.comm.Allgatherv([np.frombuffer(data, dtype=np.uint8), MPI.BYTE], [everything, sizes, None, MPI.BYTE])
        return [part.tobytes() for part in np.split(everything, np.cumsum(sizes)[:-1])]

    def deliver(self, rank: int, data: bytes | Bytes) -> None:
        """Send bytes to one rank, which knows how many come."""
        for part in self._pieces(np.frombuffer(data, dtype=np.uint8)):
            self.comm.Send([part, MPI.BYTE], rank)

    def accept(self, rank: int, size: int) -> Bytes:
        """Receive so many bytes from one rank."""
        data = np.empty(size, dtype=np.uint8)
        for part in self._pieces(data):
            self.comm.Recv([part, MPI.BYTE], rank)
        return data

    # -- sums ---------------------------------------------------------------------------------------------------

    def sum(self, tree: Tree, fixed: bool, status: Status, part: PartialSum, numbers: int) -> tuple[Status, Array, int]:
        """Add up the ranks' partial sums of vectors of `numbers` numbers; a vector on the driver.

        fixed: in the order of the tree, by a reduce operator that merges lists of neighbouring subtree sums. It is
        associative to the last bit: whatever association MPI chooses, on any number of ranks, the bits are the same.
        Otherwise by MPI.SUM, in whatever order MPI likes.

        Returns the ranks' statuses merged, the sum (on the driver) and the bytes handed to MPI.
        """
        slots = tree.longest(self.ranks) if fixed else 1
        head = Status.SIZE + (1 + slots if fixed else 0)
        stride = max(1, min(numbers, (self.piece // 8 - head) // slots)) if numbers else 1
        result, merged, wire = np.empty(numbers), status, 0
        for first in range(0, max(numbers, 1), stride):
            span = slice(first, min(first + stride, numbers))
            message = self._buffer("out", head + slots * (span.stop - first))
            status.write(message)
            if fixed:
                _write(message, slots, part.nodes, [None if s is None else s[span] for s in part.sums])
            else:
                message[head:] = sum((s[span] for s in part.sums if s is not None), np.zeros(span.stop - first))
            answer = self._buffer("in", len(message)) if self.rank == DRIVER else None
            self._reduce(tree, fixed, message, answer)
            wire += message.nbytes
            if answer is not None:
                merged = Status.read(answer)
                result[span] = answer[head : head + span.stop - first]
        return merged, result, wire

    def _reduce(self, tree: Tree, fixed: bool, message: Array, answer: Array | None) -> None:
        if not fixed:
            self.comm.Reduce(message, answer, op=MPI.SUM, root=DRIVER)
            return
        if tree is not self._tree:
            self._tree = tree
            if self._op is not None:
                self._op.Free()
            self._op = MPI.Op.Create(_merging(tree, tree.longest(self.ranks)), commute=False)
        assert self._op is not None
        # One element of a type as long as the message: MPI must not cut it, the operator needs the whole.
        kind = self._types.get(len(message))
        if kind is None:
            kind = self._types[len(message)] = MPI.DOUBLE.Create_contiguous(len(message)).Commit()
        self.comm.Reduce([message, 1, kind], None if answer is None else [answer, 1, kind], op=self._op, root=DRIVER)

    def _buffer(self, name: str, size: int) -> Array:
        buffer = self._buffers.get((name, size))
        if buffer is None:
            buffer = self._buffers[name, size] = np.zeros(size)
        return buffer


class Status:
    """What rides in front of every sum."""

    SIZE = 4
    __slots__ = ("changed", "failed", "interrupted", "seconds")

    def __init__(
        self, failed: bool = False, changed: bool = False, interrupted: bool = False, seconds: float = 0.0
    ) -> None:
        self.failed = failed  # the task has failed on some worker
        self.changed = changed  # the replies have another layout than the driver thought
        self.interrupted = interrupted
        self.seconds = seconds

    def write(self, message: Array) -> None:
        message[: self.SIZE] = self.failed, self.changed, self.interrupted, self.seconds

    @classmethod
    def read(cls, message: Array) -> Status:
        failed, changed, interrupted, seconds = message[: cls.SIZE]
        return cls(bool(failed), bool(changed), bool(interrupted), float(seconds))


def _write(message: Array, slots: int, nodes: list[int], sums: list[Array | None]) -> None:
    """Lay a list of subtree sums out behind the status: how many, which nodes, and the vectors."""
    at = Status.SIZE
    message[at] = len(nodes)
    message[at + 1 : at + 1 + len(nodes)] = nodes
    rows = message[at + 1 + slots :].reshape(slots, -1)
    for row, part in zip(rows, sums):
        row[:] = 0.0 if part is None else part


def _merging(tree: Tree, slots: int) -> Callable[[Any, Any, MPI.Datatype], None]:
    """The reduce operator: right = left followed by right, complete subtrees added up."""

    def merge(inbuf: Any, inoutbuf: Any, _: MPI.Datatype) -> None:
        left, right = np.frombuffer(inbuf), np.frombuffer(inoutbuf)
        total, at = PartialSum(tree), Status.SIZE
        np.maximum(left[:at], right[:at], out=right[:at])
        if not left[at]:
            return
        if not right[at]:
            right[at:] = left[at:]
            return
        for message in (left, right):
            rows = message[at + 1 + slots :].reshape(slots, -1)
            for i in range(int(message[at])):
                total.add(int(message[at + 1 + i]), rows[i].copy())
        _write(right, slots, total.nodes, total.sums)

    return merge


def measure(link: Link, sizes: Sequence[int], repeats: int = 15) -> list[Timing]:
    """Time the collectives, on all ranks together; what it says is true on the driver."""
    tree = Tree(link.ranks)  # a worker a rank
    timings = []
    for numbers in sizes:
        taken = np.array([_seconds_of_each(link, tree, numbers) for _ in range(repeats)])
        slowest = np.zeros_like(taken)
        link.comm.Reduce(taken, slowest, op=MPI.MAX, root=DRIVER)
        timings.append(Timing(numbers, *np.median(slowest, axis=0).tolist()))
    return timings


def _seconds_of_each(link: Link, tree: Tree, numbers: int) -> list[float]:
    """Seconds this rank spends in a broadcast, a reduce and a sum in fixed order."""
    data, total, part = np.zeros(numbers), np.zeros(numbers), PartialSum(tree)
    if link.rank != DRIVER:
        part.add(tree.leaf(link.rank - 1), np.zeros(numbers))
    seconds = []
    for action in (
        lambda: link.comm.Bcast(data, DRIVER),
        lambda: link.comm.Reduce(data, total, root=DRIVER),
        lambda: link.sum(tree, True, Status(), part, numbers),
    ):
        link.comm.Barrier()
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds
