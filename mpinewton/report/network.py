"""Networks, and what a message to or from all ranks takes on them.

The model is LogGP (Alexandrov, Ionescu, Schauser and Scheiman 1995). A message of b bits takes `message` seconds of a
processor and b / bandwidth seconds of a link at the end where messages follow one another, and `latency` seconds on the
way. Ranks form a tree, as those of a run do: every rank sends to, and adds up the answers of, at most `fan` others.
Vectors above 16 KB go down by MPI's broadcast: along a binomial tree of up to 7 processes; among more they are
scattered, and the parts gathered by all (Thakur, Rabenseifner and Gropp 2005).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from mpinewton.fleet.orders import Echo

FAN = 16  # as in mpinewton.fleet.transport
FRAME = 1 << 14  # bytes: the vectors of longer orders travel by MPI's broadcast
HEAD = 200  # bytes of an order or a status without its vectors
UNITS = {"s": "", "ms": "e-3", "us": "e-6", "bit": "", "kbit": "e3", "Mbit": "e6", "Gbit": "e9"}
PAIR = re.compile(r"(\d+(?:\.\d+)?)(s|ms|us),(\d+(?:\.\d+)?)([kMG]?bit)(?:/s)?")


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A driver and worker ranks, with a link of their own each.

    Attributes
    ----------
    latency : float
        Seconds from one rank to another.
    bandwidth : float
        Bits per second of one link, each way.
    message : float
        Seconds of processor time for every message, at the sender and at the receiver.
    handshake : int
        A message of more bytes waits until the receiver is ready: two latencies more.
    fan : int
        The most ranks to which a rank sends the same message; 1000000: all from the driver.
    ranks : int or None
        Worker ranks; None: one for each worker.
    speed : float
        Speed of computation relative to the machine of the run.
    slowest : float
        Speed of the slowest rank relative to the others: all wait for it.
    """

    latency: float
    bandwidth: float
    message: float = 0.0
    handshake: int = 1 << 62
    fan: int = FAN
    ranks: int | None = None
    speed: float = 1.0
    slowest: float = 1.0

    def __post_init__(self) -> None:
        for name in ("bandwidth", "speed", "slowest", "fan"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"network: {name} = {getattr(self, name)}: expected a number above 0")
        for name in ("latency", "message", "handshake"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"network: {name} = {getattr(self, name)}: expected a number, at least 0")
        if self.ranks is not None and self.ranks < 1:
            raise ConfigError(f"network: ranks = {self.ranks}: expected at least 1, or leave it out")


# What machines of each kind typically have; a description of your own is a file with these fields.
NETWORKS = {
    "node": Network(latency=1e-6, bandwidth=4e10, message=1e-6),
    "infiniband": Network(latency=2e-6, bandwidth=1e11, message=1e-6, handshake=1 << 14),
    "ethernet": Network(latency=3e-5, bandwidth=1e10, message=5e-6, handshake=1 << 16),
    "continents": Network(latency=5e-2, bandwidth=1e8, message=2e-5, handshake=1 << 16),
    "phones": Network(latency=1e-1, bandwidth=1e7, message=1e-3, fan=1000000, speed=0.2, slowest=0.3),
}


def read_network(text: str, ranks: int | None = None) -> Network:
    """The network of a name, a file or two numbers.

    Parameters
    ----------
    text : str
        A key of `NETWORKS`; latency and bandwidth such as "20ms,100Mbit"; or a TOML file with the fields of `Network`,
        and `like`, a name, for those that it leaves out.
    ranks : int, optional
        Worker ranks; by default as the network has it.

    Raises
    ------
    ConfigError
        If it is none of these, or a value is out of range.
    DataError
        If the file cannot be read.
    """
    network = _read_network(text)
    return network if ranks is None else msgspec.structs.replace(network, ranks=ranks)


def _read_network(text: str) -> Network:
    if text in NETWORKS:
        return NETWORKS[text]
    if pair := PAIR.fullmatch(text.replace(" ", "")):
        return Network(latency=float(pair[1] + UNITS[pair[2]]), bandwidth=float(pair[3] + UNITS[pair[4]]))
    if not text.endswith(".toml"):
        raise ConfigError(
            f"network {text!r}{did_you_mean(text, NETWORKS)}; or give a file.toml, or latency and bandwidth such as "
            "20ms,100Mbit, in s, ms or us and bit, kbit, Mbit or Gbit"
        )
    try:
        content = tomllib.loads(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{text} cannot be read ({error.strerror}): expected the description of a network") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{text}: is not TOML ({error})") from None
    like = content.pop("like", None)
    if like is not None and like not in NETWORKS:
        raise ConfigError(
            f"{text}: like = {like!r}{did_you_mean(str(like), NETWORKS)}: choose from {', '.join(NETWORKS)}"
        )
    known: dict[str, Any] = msgspec.structs.asdict(NETWORKS[like]) if like else {}
    try:
        return msgspec.convert(known | content, Network)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        fault = f"{name} = {content[name]!r}: expected a number (s, bit/s or bytes)" if name in content else error
        raise ConfigError(f"{text}: {fault}; the fields are {', '.join(Network.__struct_fields__)}, like") from None


def fit_network(sizes: Array, ranks: Array, seconds: Array) -> tuple[Network, float]:
    """The network on which messages to so many ranks and back would take what was measured, as nearly as possible.

    Parameters
    ----------
    sizes, ranks, seconds : array, shape (n,)
        Bytes of each message, number of ranks, seconds.

    Returns
    -------
    network : Network
    error : float
        Median relative difference of the model to what was measured.

    Notes
    -----
    In the model of this module it takes 2 L + (k + 1) (o + 8 s / B) seconds for k ranks and s bytes, with latency L,
    `message` o and bandwidth B: the answer of the first rank comes while others receive. Nonnegative least squares on
    relative differences.
    """
    from scipy.optimize import nnls

    ends = ranks + 1.0
    terms = np.stack([np.full(len(sizes), 2.0), ends, 8 * ends * sizes], axis=1) / seconds[:, None]
    scale = np.linalg.norm(terms, axis=0)
    latency, message, per_bit = nnls(terms / scale, np.ones(len(sizes)))[0] / scale
    error = float(np.median(np.abs(terms @ [latency, message, per_bit] - 1.0)))
    fastest = float(np.max(8 * ends * sizes / seconds))
    # Where the size is less than a thousandth of the time, the bandwidth cannot be measured, but is at least this.
    bandwidth = 1.0 / per_bit if per_bit * fastest > 1e-3 else fastest
    return Network(latency=float(latency), bandwidth=float(bandwidth), message=float(message)), error


def network_of(echoes: Sequence[Echo]) -> tuple[Network, float]:
    """`fit_network` of messages that a session has timed."""
    sizes, ranks, seconds = np.array([(echo.size, echo.ranks, echo.seconds) for echo in echoes], dtype=float).T
    return fit_network(sizes, ranks, seconds)


class Tree:
    """Seconds of exchanges between the driver and so many ranks.

    Parameters
    ----------
    network : Network
    ranks : int
        Worker ranks.
    """

    def __init__(self, network: Network, ranks: int) -> None:
        self.network, self.ranks = network, ranks
        self._known: dict[tuple[float, float, bool], float] = {}

    def exchange(self, down: float, up: float, direct: bool = False) -> float:
        """Seconds from an order to the sum of the answers, if no rank works in between: all work equally long.

        A rank that has the order early answers early: its answer travels while others receive the order.

        Parameters
        ----------
        down, up : float
            Bytes of the order and of one rank's answer.
        direct : bool
            Whether every rank answers the driver itself, without a sum on the way.
        """
        key = down, up, direct
        if key not in self._known:
            self._known[key] = self._gather(down, up) if direct else self._sum(down, up)
        return self._known[key]

    def down(self, size: float) -> float:
        """Seconds until the last rank has an order of so many bytes."""
        return self._broadcast(size)[-1] if size > FRAME else self._along_the_tree(self._parts(size))

    def _gather(self, down: float, up: float) -> float:
        end, way = self._parts(up)
        first = self._broadcast(down)[0] if down > FRAME else sum(self._parts(down))
        return way + max(first + self.ranks * end, self.down(down) + end)

    def _sum(self, down: float, up: float) -> float:
        if down <= FRAME:
            return self._along_the_tree(self._parts(down), self._parts(up))
        ready = self._broadcast(down)
        if len(ready) == self.ranks <= self.network.fan:
            return _received(ready, *self._parts(up))
        return ready[-1] + self._along_the_tree((0.0, 0.0), self._parts(up))

    def _parts(self, size: float) -> tuple[float, float]:
        """Seconds of a message of so many bytes at one end, and on the way."""
        waits = 2 * self.network.latency if size > self.network.handshake else 0.0
        return self.network.message + 8 * size / self.network.bandwidth, self.network.latency + waits

    def _along_the_tree(self, down: tuple[float, float], up: tuple[float, float] | None = None) -> float:
        """Seconds until the last rank has a message, or the driver the sum of the answers.

        down, up: seconds of a message at an end, and on the way.
        """
        taken: dict[int, float] = {}
        for run, branches in self._branches.items():
            times = [(i + 1) * down[0] + down[1] + taken[below] for i, below in enumerate(branches)]
            taken[run] = _received(times, *up) if up else max(times, default=0.0)
        return taken[self.ranks + 1]

    @cached_property
    def _branches(self) -> dict[int, list[int]]:
        """Sizes of the runs of ranks below the first of a run, by its size, the smallest first."""
        found: dict[int, list[int]] = {}
        open_ = {self.ranks + 1}
        while open_:
            size = open_.pop()
            runs = min(self.network.fan, size - 1)
            found[size] = [(size - 1) * (i + 1) // runs - (size - 1) * i // runs for i in range(runs)]
            open_ |= set(found[size]) - found.keys()
        return dict(sorted(found.items()))

    def _broadcast(self, size: float) -> list[float]:
        """Seconds until ranks have a vector by MPI's broadcast, in order; one number where all have it at that time.

        Up to 7 processes form a binomial tree. Among more, the vector is scattered, and its parts are gathered by all.
        """
        end, way = self._parts(size)
        start = min(self.network.fan, self.ranks) * self._parts(HEAD)[0]  # the order goes before it
        if self.ranks >= 7:
            steps = ceil(log2(self.ranks + 1))
            return [start + 2 * (steps * (way + self.network.message) + end)]
        free, ready = {0: start}, []
        for distance in (4, 2, 1):
            for rank in [r for r in free if r + distance <= self.ranks]:
                free[rank] += end
                ready.append(free[rank] + way)
                free[rank + distance] = ready[-1]
        return sorted(ready)


def _received(ready: list[float], end: float, way: float) -> float:
    """Seconds until messages that are ready at these times have come, one after the other."""
    now = 0.0
    for time in sorted(ready):
        now = max(now, time + way) + end
    return now
