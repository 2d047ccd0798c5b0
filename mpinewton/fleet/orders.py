"""What the driver may tell the other ranks. One JSON text each; arrays follow behind it as bytes."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec
import numpy as np

from mpinewton import errors
from mpinewton.arrays import AnyArray, Bytes, round_up
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.extensions import Reference
from mpinewton.fleet.calls import Call, Failure
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.wire import Layout, from_bytes, to_bytes


class Trouble(msgspec.Struct, frozen=True):
    """An error as it travels: the name of a class of `mpinewton.errors`, and what its constructor takes."""

    kind: str
    arguments: list[int | str]

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Trouble:
        """The error that was raised on a rank."""
        if isinstance(error, WorkerError):
            return cls("WorkerError", [error.worker, error.rank, error.task, error.trace])
        if isinstance(error, MpinewtonError):
            return cls(type(error).__name__, [str(error)])
        text = "".join(traceback.format_exception(error)).rstrip()
        return cls("MpinewtonError", [f"rank {rank} failed:\n{text}"])

    def error(self) -> MpinewtonError:
        """The error again."""
        made: MpinewtonError = getattr(errors, self.kind)(*self.arguments)
        return made


class Order(msgspec.Struct, frozen=True, tag=True):
    """Base of all orders."""


class Open(Order, frozen=True, tag=True):
    """Load your block of the workers; report."""

    plan: Plan


class Adopt(Order, frozen=True, tag=True):
    """Build this method; report."""

    method: Reference


class Ask(Order, frozen=True, tag=True):
    """Do a call. layout: of a reply, as far as the driver knows; None if it does not, and wants a report too."""

    call: Call
    layout: Layout | None = None


class Report(Order, frozen=True, tag=True):
    """Report the layout of the replies that are waiting, or the failure, and add them up."""


class Save(Order, frozen=True, tag=True):
    """Report what every worker keeps."""


class Restore(Order, frozen=True, tag=True):
    """Take back what every worker kept."""


class Each(Order, frozen=True, tag=True):
    """Run `module:function` on your share of these items; report."""

    task: str
    items: list[Any]


class Introduce(Order, frozen=True, tag=True):
    """Report host, versions, threads."""


class Measure(Order, frozen=True, tag=True):
    """Take part in timing the collectives, for vectors of so many numbers each."""

    sizes: list[int]


class Reflect(Order, frozen=True, tag=True):
    """Send messages of so many bytes back to the driver."""

    sizes: list[int]


class Stop(Order, frozen=True, tag=True):
    """The job is over; end with this code, or raise this error."""

    code: int
    error: Trouble | None = None


AnyOrder = Open | Adopt | Ask | Report | Save | Restore | Each | Introduce | Measure | Reflect | Stop
decode_order = msgspec.json.Decoder(AnyOrder).decode


class Answer(msgspec.Struct, frozen=True):
    """What a rank reports: layouts of the arrays that follow, worker by worker, or what went wrong."""

    workers: list[tuple[int, Layout]] = []
    names: list[list[str]] = []
    failure: Failure | None = None
    problem: str = ""  # an expected error (bad data, say), in words
    trace: str = ""  # an unexpected one
    results: list[Any] = []
    interrupted: bool = False
    seconds: float = 0.0


decode_answer = msgspec.json.Decoder(Answer).decode


class Timing(msgspec.Struct, frozen=True):
    """Seconds, medians, of collectives on a vector of so many numbers: until the last rank is done."""

    numbers: int
    broadcast: float
    reduce: float  # by MPI.SUM
    fixed: float  # the sum in fixed order


class Echo(msgspec.Struct, frozen=True):
    """Seconds, median, until messages of so many bytes to so many ranks have come back to the driver."""

    size: int
    ranks: int
    seconds: float


def pack_answer(answer: Answer, arrays: list[AnyArray]) -> Bytes:
    """An answer and the arrays it speaks of, as bytes."""
    text = np.frombuffer(msgspec.json.encode(answer), dtype=np.uint8)
    return to_bytes([np.array([len(text)]), text, np.concatenate([np.zeros(0, np.uint8), *map(_padded, arrays)])])


def unpack_answer(data: Bytes) -> tuple[Answer, Bytes]:
    """The answer and the bytes of its arrays."""
    size = int(data[:8].view(np.int64)[0])
    return decode_answer(data[8 : 8 + size].tobytes()), data[8 + round_up(size) :]


def unpack_states(answer: Answer, content: Bytes) -> dict[int, dict[str, Any]]:
    """What every worker keeps, by worker."""
    states, first = {}, 0
    for (index, layout), names in zip(answer.workers, answer.names):
        arrays, first = from_bytes(layout, content, first)
        first = round_up(first)
        states[index] = dict(zip(names, [a.copy() for a in arrays]))
    return states


def _padded(a: AnyArray) -> Bytes:
    data = a.reshape(-1).view(np.uint8)
    return np.pad(data, (0, round_up(len(data)) - len(data)))
