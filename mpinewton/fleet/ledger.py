"""The record of what travels between driver and workers. Only the fleet writes to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Mask

Counts = NDArray[np.int64]


class Entry(NamedTuple):
    """One round: one broadcast, or one reduce or gather, that carried something.

    Round 0: what a paper supposes the driver to know beforehand. It is shown, and counts nowhere.

    floats, indices and bits are those of the busiest worker's link; bits_total is summed over the workers that took
    part. wire is what the driver handed to or got from MPI in bytes, control the part of it that is no payload.
    """

    round: int
    iteration: int
    direction: str
    kind: str
    task: str
    workers: int
    floats: int
    indices: int
    bits: int
    bits_total: int
    wire: int
    control: int
    seconds: float
    compute: float


class Ledger:
    """Counts per logical worker, cumulative; and the entries since they were last taken.

    Attributes
    ----------
    rounds : int
        Broadcasts, reduces and gathers that carried something.
    floats_down, floats_up, bits_down, bits_up : int arrays, shape (m,)
        What every worker was sent and what it sent: floating-point numbers, and true bits of everything.
    wire, control : int
        Bytes the driver handed to or got from MPI, and the part of them that is headers, statuses and padding.
    compute : float
        Seconds of the slowest rank's work, summed over the calls.
    """

    COUNTS = ("floats_down", "floats_up", "bits_down", "bits_up")

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.rounds = self.wire = self.control = 0
        self.compute = 0.0
        self.floats_down, self.floats_up, self.bits_down, self.bits_up = (np.zeros(workers, np.int64) for _ in range(4))
        self._entries: list[Entry] = []
        self._open, self._free = True, False

    @contextmanager
    def closed(self) -> Iterator[None]:
        """A context in which nothing is recorded: evaluation for the record is not part of a method's cost."""
        before, self._open = self._open, False
        try:
            yield
        finally:
            self._open = before

    @contextmanager
    def free(self) -> Iterator[None]:
        """A context in which entries have round 0 and are counted for no worker."""
        before, self._free = self._free, True
        try:
            yield
        finally:
            self._free = before

    def entries(self) -> list[Entry]:
        """The entries since the last call."""
        taken, self._entries = self._entries, []
        return taken

    def charge(
        self,
        direction: str,
        iteration: int,
        kind: str,
        task: str,
        messages: Sequence[Sequence[Any]],
        among: Mask,
        wire: int,
        seconds: float = 0.0,
        compute: float = 0.0,
    ) -> None:
        """Enter one direction of a call.

        `messages` holds the arrays of one message that every worker of `among` shares, or of one for each of them.
        """
        if not self._open:
            return
        contents = [_content(message) for message in messages]
        payload = sum(bits for _, _, bits in contents)
        control = max(0, wire - payload // 8)
        self.wire += wire
        self.control += control
        self.compute += compute
        if not payload:
            return
        count = int(among.sum())
        floats, indices, bits = zip(*contents)
        shared = len(contents) == 1
        if not self._free:
            self.rounds += 1
            down = direction == "down"
            (self.floats_down if down else self.floats_up)[among] += floats[0] if shared else floats
            (self.bits_down if down else self.bits_up)[among] += bits[0] if shared else bits
        about = (0 if self._free else self.rounds, iteration, direction, kind, task, count)
        most = (max(floats), max(indices), max(bits), payload * count if shared else payload)
        self._entries.append(Entry(*about, *most, wire, control, seconds, compute))

    def totals(self) -> dict[str, int]:
        """Cumulative counts: of the busiest worker's link, and summed over the workers as `*_total`."""
        busiest = {name: int(getattr(self, name).max(initial=0)) for name in self.COUNTS}
        return busiest | {f"{name}_total": int(getattr(self, name).sum()) for name in self.COUNTS}

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything a resumed run needs, as arrays."""
        scalars = np.array([self.rounds, self.wire, self.control], dtype=np.int64)
        return {name: getattr(self, name) for name in self.COUNTS} | {
            "scalars": scalars,
            "compute": np.array(self.compute),
        }

    def restore(self, state: Mapping[str, Any], entries: Sequence[Entry] = ()) -> None:
        """Continue from what `state` gave; `entries` are those not taken yet."""
        self._entries = list(entries)
        for name in self.COUNTS:
            setattr(self, name, np.array(state[name], dtype=np.int64))
        self.rounds, self.wire, self.control = (int(x) for x in state["scalars"])
        self.compute = float(state["compute"])


def _content(arrays: Sequence[Any]) -> tuple[int, int, int]:
    """Floating-point numbers, other numbers and bits of the arrays of one message."""
    floats = others = size = 0
    for a in arrays:
        if a.dtype.kind == "f":
            floats += a.size
        else:
            others += a.size
        size += a.nbytes
    return floats, others, 8 * size
