"""What a recorded run would have taken on another network: the messages of its ledger, on the model of that network.

The bytes of every message, what every call computed and the iterates are those of the record; only the seconds are
computed. A run on other data or with other settings is another run.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import DataError
from mpinewton.report.network import HEAD, Network, Tree
from mpinewton.report.reading import RunRecord


class Exchange(NamedTuple):
    """One call: an order down and answers up; bytes of one rank's messages."""

    iteration: int
    kind: str
    task: str
    down: int
    up: int
    seconds: float
    compute: float


@dataclass(frozen=True)
class Replay:
    """Seconds of the iterates of a run on a network; arrays of shape (rows of the history,), cumulative.

    Attributes
    ----------
    latency, bandwidth : array
        Seconds on the way and for the handling of messages; seconds of links.
    compute, driver : array
        Seconds of the workers, of the driver.
    """

    latency: Array
    bandwidth: Array
    compute: Array
    driver: Array

    @property
    def seconds(self) -> Array:
        """Seconds until each iterate."""
        return self.latency + self.bandwidth + self.compute + self.driver


def replay(run: RunRecord, network: Network) -> Replay:
    """The seconds that a recorded run would have taken on a network.

    The work of a call is divided over the ranks of the network as it was over those of the run; a logical worker is not
    divided. With more ranks than workers, the replay is one of more workers, as many as ranks, each with the messages
    and the work of the recorded ones: it supposes that they would not change the iterates.

    Raises
    ------
    DataError
        If the run has no ledger, or it is malformed.
    """
    workers = int(run.result.get("workers", 0))
    if not workers:
        raise DataError(f"{run.folder}: result.json does not say how many workers there were: the run has not ended")
    ranks = network.ranks or workers
    before = max(1, int(run.result.get("ranks", 1)) - 1)
    share = ceil(workers / ranks) / ceil(workers / before)  # of the work of the busiest rank
    tree, free = Tree(network, ranks), Tree(msgspec.structs.replace(network, bandwidth=np.inf), ranks)
    rows = run.columns["iteration"]
    costs = np.zeros((4, len(rows)))
    known: set[tuple[str, str]] = set()
    for call in read_exchanges(run.folder / "ledger.csv", before):
        place = int(np.searchsorted(rows, call.iteration))
        if place == len(rows):
            break  # after the last iterate that was recorded
        first = (call.kind, call.task) not in known and call.kind != "gather"
        known.add((call.kind, call.task))
        slow, whole = (_messages(where, call, first) for where in (free, tree))
        work = call.compute * share / (network.speed * network.slowest)
        costs[:, place] += slow, whole - slow, work, -call.seconds
    costs[3] += np.diff(run.columns["seconds"], prepend=0.0)
    costs[3] = np.maximum(costs[3], 0.0) / network.speed
    return Replay(*np.cumsum(costs, axis=1))


def _messages(tree: Tree, call: Exchange, first: bool) -> float:
    """Seconds of the messages of a call; in the first of its kind every rank sends the layout of its answer as well."""
    if first:
        return max(tree.exchange(call.down, HEAD, direct=True), tree.exchange(call.down, HEAD + call.up))
    return tree.exchange(call.down, call.up, call.kind == "gather")


def read_exchanges(path: Path, ranks: int) -> Iterator[Exchange]:
    """The calls of a ledger.csv of so many worker ranks, in order. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): expected the ledger of a run") from None
    try:
        yield from _exchanges([line for line in lines if line["round"] != "0"], ranks)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error!r}; run again, or restore the file") from None


def _exchanges(lines: Sequence[dict[str, str]], ranks: int) -> Iterator[Exchange]:
    place = 0
    down: dict[str, str] | None
    up: dict[str, str] | None
    while place < len(lines):
        line = lines[place]
        follows = lines[place + 1] if place + 1 < len(lines) else None
        about = ("iteration", "kind", "task")
        pair = follows is not None and line["direction"] == "down" and follows["direction"] == "up"
        if pair and all(line[name] == follows[name] for name in about):  # type: ignore[index]
            down, up = line, follows
        else:
            down, up = (line, None) if line["direction"] == "down" else (None, line)
        yield Exchange(
            int(line["iteration"]), line["kind"], line["task"],
            _bytes(down), _bytes(up) // (ranks if line["kind"] == "gather" else 1),
            float(up["seconds"]) if up else 0.0, float(up["compute"]) if up else 0.0,
        )  # fmt: skip
        place += 1 + (down is not None and up is not None)


def _bytes(line: dict[str, str] | None) -> int:
    """Bytes of the message, as sent or, in a run in one process, as it would be: the payload and its head."""
    if line is None:
        return HEAD
    return int(line["wire"]) or int(line["bits"]) // 8 + HEAD
