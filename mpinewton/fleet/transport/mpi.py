"""The messages between the driver and the other ranks: broadcasts of orders, reductions and gathers of answers.

Short orders and all answers are sent from one rank to one other, along a tree of ranks, so that a rank that does not
answer can be named. Longer vectors of a sum pass through memory where both ranks are on one host. Those of an order do
where all ranks are on one host, and travel by MPI's broadcast elsewhere. Every wait is a loop in Python, so that
signals are heard while a rank works.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np
from mpi4py import MPI

from mpinewton.arrays import Array, Bytes
from mpinewton.fleet.orders import Echo, Timing
from mpinewton.fleet.transport import world
from mpinewton.fleet.transport.memory import LONGEST, Greeting, decode_greeting, encode_greeting, inbox, outbox
from mpinewton.fleet.transport.watch import Watch
from mpinewton.fleet.tree import PartialSum, Tree, branches
from mpinewton.launcher import START_TIMEOUT

DRIVER = 0
# A message of at most this size is sent at once; of a longer one first its lengths, in a message of their own.
FRAME = 1 << 14
# Counts in MPI-3 are C ints, and messages of 2^31 elements fail with Open MPI: nothing longer than this is handed over.
PIECE = 1 << 30
# The most ranks that send their sums to the same one. Up to this many, the driver hears every rank itself.
FAN = 16
NOTHING: Bytes = np.zeros(0, dtype=np.uint8)


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
    fan : int
        The most ranks that send their sums to the same one.
    memory : bool
        Whether long vectors may pass through memory.

    Attributes
    ----------
    first : int
        The first rank that hosts workers, 0 or 1.
    ranks : int
        Number of ranks that host workers.
    one_host : bool
        Whether all ranks are on one host, where long vectors pass through memory; not after ranks have died.
    shrunk : bool
        Whether ranks that died have been left out.
    busy : bool
        Whether the driver has given an order and not all answers are in: the other ranks then do not wait for an order.
    watch : Watch
        What the driver does while answers do not come.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        piece: int = PIECE,
        driver_hosts: bool = False,
        fan: int = FAN,
        memory: bool = True,
    ) -> None:
        self.comm, request = comm.Idup()
        self.watch = Watch()
        self.watch.timeout = START_TIMEOUT
        self._wait([request], [range(comm.size)])
        self.first, self.piece, self.fan = 0 if driver_hosts else 1, piece, fan
        self.shrunk = False
        self._abandoned: list[MPI.Request] = []
        self._outbox = outbox() if memory else None
        self._join()
        self._greet()
        self.watch.timeout = inf

    def _join(self) -> None:
        """Take a place among the ranks of the communicator."""
        self.rank, self.ranks = self.comm.rank, self.comm.size - self.first
        self.busy = False
        self._sent: tuple[list[MPI.Request], list[range]] = [], []  # a message that may still be under way, and to whom
        self.parent, own = -1, range(self.comm.size)
        while own[0] != self.rank:
            self.parent = own[0]
            own = next(run for run in branches(own, self.fan) if self.rank in run)
        self.children = branches(own, self.fan)
        self.one_host = self._read_by_parent = False  # until the ranks have greeted

    def _greet(self) -> None:
        """Find out which neighbours in the tree can read this rank's memory, and whether all ranks are on one host."""
        own = self._outbox.address if self._outbox else None
        below = [decode_greeting(head) for head, _ in self._receive(self.children)]
        self._inboxes = {run[0]: inbox(greeting.address) for run, greeting in zip(self.children, below)}
        self.one_host = bool(own) and all(self._inboxes.values()) and all(greeting.one_host for greeting in below)
        if self.rank != DRIVER:
            parent = [range(self.parent, self.rank)]
            self._send(parent, encode_greeting(Greeting(own, self.one_host)))
            above = decode_greeting(self._receive(parent)[0][0])
            self._inboxes[self.parent] = inbox(above.address)
            self.one_host, self._read_by_parent = above.one_host, above.reads
        for run in self.children:
            self._send([run], encode_greeting(Greeting(own, self.one_host, self._inboxes[run[0]] is not None)))

    def close(self) -> None:
        """Give back what MPI has only so many of; on all ranks together."""
        if not self.shrunk:
            requests, ranks = self._sent  # a rank that does not come is named here: Free would wait for it in silence
            self._wait([*requests, self.comm.Ibarrier()], [*ranks, range(self.first, self.comm.size)])
            self.comm.Free()
        if self._outbox is not None:
            self._outbox.close()

    def shrink(self) -> list[int]:
        """Leave out the ranks that have died, on all others together, with ULFM. Returns them, by their old numbers.

        The others get new numbers in the same order. Calls under way fail there with an `MPI.Exception`.
        """
        before, self.shrunk = self.comm, True
        self._abandoned += self._sent[0]
        before.Revoke()
        with suppress(MPI.Exception):  # names the dead. Shrink itself is deaf, and Ishrink of Open MPI 5.0 fails
            self._wait([before.Iagree(np.ones(1, dtype=np.int32))], [range(self.first, before.size)])
        after = before.Shrink()
        assert isinstance(after, MPI.Intracomm)
        self.comm = after
        self.comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._join()
        dead = MPI.Group.Difference(before.group, self.comm.group)
        return MPI.Group.Translate_ranks(dead, list(range(dead.size)), before.group)

    # -- messages: a head and a body, both of any length -------------------------------------------------------------

    def _send(self, ranks: Sequence[range], head: Bytes, body: Bytes = NOTHING, by_memory: bool = False) -> int:
        """Send the same message to the first of each of these runs of ranks. Returns its length.

        by_memory: they can read this rank's memory and have read what was there; a long body passes through it.
        """
        memory = self._outbox if by_memory and FRAME - 16 - len(head) < len(body) <= LONGEST else None
        if memory is not None:
            memory.write(body)
        sizes = len(head), len(body) if memory is None else -len(body)
        parts, rest = [np.array(sizes).view(np.uint8)], list[Bytes]()
        for part, inside in zip((head, body) if memory is None else (head,), _inside(*sizes)):
            if inside:
                parts.append(part)
            else:
                rest += self._pieces(part)
        messages = [np.concatenate(parts), *rest]
        self._wait(*self._sent)
        self._sent = (
            [self.comm.Isend([m, MPI.BYTE], run[0]) for m in messages for run in ranks],
            [*ranks] * len(messages),
        )
        if rest:  # the caller's arrays; the first message is a copy, and is waited for before the next one is sent
            self._wait(*self._sent)
        return sum(m.nbytes for m in messages) + (0 if memory is None else len(body))

    def _receive(self, ranks: Sequence[range], copy: bool = True) -> list[tuple[Bytes, Bytes]]:
        """The messages of the first of each of these runs of ranks: heads and bodies.

        copy: whether bodies in shared memory are copied. If not, they are read-only views, valid until the next order.
        """
        frames = [np.empty(FRAME, dtype=np.uint8) for _ in ranks]
        self._wait([self.comm.Irecv([frame, MPI.BYTE], run[0]) for frame, run in zip(frames, ranks)], ranks)
        received = []
        requests: list[MPI.Request] = []
        senders: list[range] = []
        for frame, run in zip(frames, ranks):
            sizes, first, parts = frame[:16].view(np.int64).tolist(), 16, []
            for size, inside in zip(sizes, _inside(*sizes)):
                if size < 0:
                    memory = self._inboxes[run[0]]
                    assert memory is not None, "the sender has been told that its memory is read"
                    part = memory.read(-size)
                    parts.append(part.copy() if copy else part)
                elif inside:
                    parts.append(frame[first : first + size].copy())
                    first += size
                else:
                    parts.append(np.empty(size, dtype=np.uint8))
                    requests += [self.comm.Irecv([piece, MPI.BYTE], run[0]) for piece in self._pieces(parts[-1])]
                    senders += [run] * (len(requests) - len(senders))
            received.append((parts[0], parts[1]))
        self._wait(requests, senders)
        return received

    def _pieces(self, data: Bytes) -> list[Bytes]:
        return [data[first : first + self.piece] for first in range(0, len(data), self.piece)]

    def _wait(self, requests: Sequence[MPI.Request], ranks: Sequence[range]) -> None:
        """Wait for messages from or to these runs of ranks."""

        def silent() -> list[range]:
            return [run for run, request in zip(ranks, requests) if not request.Get_status()]

        watching = self.comm.rank <= 1  # the driver; and rank 1, of all others, names a driver that is stopped
        look = (lambda seconds: self.watch.look(seconds, silent)) if watching else None
        try:
            self.watch.answered(world.wait(requests, look))
        except MPI.Exception:
            self._abandoned += requests  # MPI may still write into their memory
            raise

    # -- orders: from the driver to everybody -------------------------------------------------------------------

    def tell(self, order: bytes, payload: Bytes | None = None) -> int:
        """Send an order and the bytes that belong to it to all ranks. Returns its length."""
        self.busy = True
        body = NOTHING if payload is None else payload
        head = np.concatenate([np.array([len(body)]).view(np.uint8), np.frombuffer(order, dtype=np.uint8)])
        if len(body) <= FRAME or (self.one_host and len(body) <= LONGEST):
            return self._send(self.children, head, body, self.one_host)
        return self._send(self.children, head) + self._broadcast(body)

    def hear(self) -> tuple[bytes, Bytes]:
        """Wait for an order: its text, and the bytes that belong to it, this rank's own."""
        ((head, body),) = self._receive([range(self.parent, self.parent + 1)])
        if self.children:
            self._send(self.children, head, body, self.one_host)
        (size,) = head[:8].view(np.int64).tolist()
        if size > len(body):
            body = np.empty(size, dtype=np.uint8)
            self._broadcast(body)
        return head[8:].tobytes(), body

    def _broadcast(self, data: Bytes) -> int:
        """Broadcast bytes from the driver into those of the other ranks. Returns their number."""
        requests = [self.comm.Ibcast([piece, MPI.BYTE], root=DRIVER) for piece in self._pieces(data)]
        self._wait(requests, [range(self.comm.size)] * len(requests))
        return len(data)

    # -- answers: from everybody to the driver ------------------------------------------------------------------

    def collect(self, data: bytes | Bytes) -> list[Bytes]:
        """Gather bytes of any length from every rank that hosts workers; on the driver, in rank order."""
        mine = np.frombuffer(data, dtype=np.uint8)
        if self.rank != DRIVER:
            self.deliver(DRIVER, mine)
            return []
        others = [body for _, body in self._receive([range(rank, rank + 1) for rank in range(1, self.comm.size)])]
        self.busy = False
        return others if self.first else [mine, *others]

    def share(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, on every rank, in rank order; the driver must host workers."""
        everyone = self.collect(data)
        if self.rank == DRIVER:
            text = msgspec.msgpack.encode([part.tobytes() for part in everyone])
            self.tell(text)
            self.busy = False
        else:
            text, _ = self.hear()
        return msgspec.msgpack.decode(text, type=list[bytes])

    def deliver(self, rank: int, data: Bytes) -> None:
        """Send bytes to one rank, which calls `accept`."""
        self._send([range(rank, rank + 1)], NOTHING, data)

    def accept(self) -> Bytes:
        """Bytes that the driver delivers."""
        ((_, data),) = self._receive([range(DRIVER, 1)])
        return data

    # -- sums ---------------------------------------------------------------------------------------------------

    def sum(self, tree: Tree, fixed: bool, status: Status, part: PartialSum, numbers: int) -> tuple[Status, Array, int]:
        """Add up the ranks' partial sums of vectors of `numbers` numbers; a vector on the driver.

        fixed: in the order of the tree, so that the bits are the same on any number of ranks, and `numbers` may be 0 on
        a rank that adds zeros. Otherwise by MPI.SUM, in whatever order MPI likes.

        Returns the ranks' statuses merged, the sum (on the driver) and the bytes of one rank's message.
        """
        state = np.array(status, dtype=np.float64)
        if fixed:
            total = part.copy() if self.children else part
            for head, body in self._receive(self.children, copy=False):
                other, nodes = np.split(head.view(np.float64), [len(state)])
                np.maximum(state, other, out=state)
                vectors = body.view(np.float64)
                numbers = numbers or len(vectors) // max(1, len(nodes))
                if len(vectors) not in (0, len(nodes) * numbers):
                    state, vectors = np.maximum(state, Status(changed=True)), vectors[:0]
                terms = vectors.reshape(-1, numbers) if len(vectors) else itertools.repeat(None)
                for node, term in zip(nodes, terms):
                    total.add(int(node), term)
            if self.rank != DRIVER:
                rows = [np.zeros(numbers) if term is None else term for term in total.sums]
                vectors = rows[0] if len(rows) == 1 else np.concatenate([np.zeros(0), *rows])
                head = np.concatenate([state, total.nodes])
                parent = [range(self.parent, self.rank)]
                self._send(parent, head.view(np.uint8), vectors.view(np.uint8), self._read_by_parent)
        else:
            vector = sum((term for term in part.sums if term is not None), np.zeros(numbers))
            vector, state = self._reduce(vector, MPI.SUM), self._reduce(state, MPI.MAX)
        if self.rank != DRIVER:
            return status, np.zeros(0), 0
        self.busy = False
        return Status(*state.tolist()), total.vector(numbers) if fixed else vector, state.nbytes + 8 * numbers

    def _reduce(self, data: Array, op: MPI.Op) -> Array:
        result = np.empty_like(data)
        request = self.comm.Ireduce(data, result if self.rank == DRIVER else None, op=op, root=DRIVER)
        self._wait([request], [range(self.comm.size)])
        return result


class Status(NamedTuple):
    """What rides in front of every sum."""

    failed: float = False  # the task has failed on some worker
    changed: float = False  # the replies have another layout than the driver thought
    interrupted: float = False
    seconds: float = 0.0


def _inside(*sizes: int) -> Iterator[bool]:
    """Which parts of a message fit into its frame."""
    room = FRAME - 16
    for size in sizes:
        yield size <= room
        room -= size if size <= room else 0


def measure(link: Link, sizes: Sequence[int], repeats: int = 15) -> list[Timing]:
    """Time the collectives, on all ranks together; what it says is true on the driver."""
    tree = Tree(link.ranks)  # a worker a rank
    timings = []
    for numbers in sizes:
        taken = np.array([_seconds_of_each(link, tree, numbers) for _ in range(repeats)])
        slowest = np.zeros_like(taken)
        link.comm.Reduce(taken, slowest, op=MPI.MAX, root=DRIVER)
        timings.append(Timing(numbers, *np.median(slowest, axis=0).tolist()))
    link.busy = False
    return timings


def reflect(link: Link, sizes: Sequence[int], repeats: int = 31) -> list[Echo]:
    """Time messages to one rank, two, four, ... and back, on all ranks together; what it says is true on the driver."""
    many = min(link.comm.size - 1, FAN)
    counts = sorted({*(2**k for k in range(many.bit_length())), many})
    echoes = [
        Echo(size, count, float(np.median([_seconds_of_echo(link, size, count) for _ in range(repeats)])))
        for size in sizes
        for count in counts
    ]
    link.busy = False
    return echoes


def _seconds_of_echo(link: Link, size: int, count: int) -> float:
    """Seconds until messages from the driver to the first `count` other ranks are back."""
    data = np.zeros(size, np.uint8)
    link.comm.Barrier()
    start = time.perf_counter()
    if link.rank == DRIVER:
        back = [link.comm.Irecv(np.empty(size, np.uint8), rank) for rank in range(1, count + 1)]
        for rank in range(1, count + 1):
            link.comm.Send(data, rank)
        MPI.Request.Waitall(back)
    elif link.rank <= count:
        link.comm.Recv(data, DRIVER)
        link.comm.Send(data, DRIVER)
    return time.perf_counter() - start


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
