"""The driver's end under MPI: rank 0 calls, the other ranks host the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from mpinewton import errors
from mpinewton.data.shard import Array
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.fleet import orders
from mpinewton.fleet.base import Fleet, Traffic
from mpinewton.fleet.host import Call
from mpinewton.fleet.introduction import introduction
from mpinewton.fleet.ledger import Mask
from mpinewton.fleet.mpi import Link, Status, library, measure
from mpinewton.fleet.packing import AnyArray, Bytes, Layout, joined, layout_of, parted, restored, unflattened
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.server import bundled, unbundled, unpacked_states
from mpinewton.fleet.tree import PartialSum, Tree, hosted


class MpiFleet(Fleet):
    """A fleet whose workers live on the ranks 1, 2, ... of a communicator."""

    def __init__(self, link: Link, plan: Plan) -> None:
        super().__init__(plan.workers, plan.size(), plan.shares(), plan)
        self.link, self.fixed = link, plan.sums == "fixed"
        self.tree = Tree(plan.workers)
        self._layouts: dict[tuple[str, str, Layout], Layout] = {}

    def _exchange_sum(self, call: Call, arrays: list[AnyArray]) -> tuple[Any, Array, Traffic, float]:
        self.link.busy = True
        signature = (call.kind, call.task, call.inputs)
        layout = self._layouts.get(signature)
        traffic = Traffic()
        payload = joined(arrays) if arrays else None
        size = 0 if payload is None else payload.nbytes
        traffic.down = self._tell(orders.Ask(call, -1 if layout is None else layout.numbers), payload)
        traffic.control_down = traffic.down - size
        status = Status(changed=layout is None)
        while True:
            if status.changed:
                if layout is not None:
                    traffic.down += self._tell(orders.Report())
                layout, control = self._layout()
                traffic.control_up += control
                traffic.up += control
                traffic.down += self._tell(orders.Reduce(layout.numbers))
            assert layout is not None
            status, vector, wire = self.link.sum(self.tree, self.fixed, Status(), PartialSum(self.tree), layout.numbers)
            traffic.up += wire
            traffic.control_up += wire - vector.nbytes
            if not status.changed:
                break
        self.interrupted |= status.interrupted
        if status.failed:
            self._tell(orders.Explain())
            self._raise_failure(self._answers(), call)
        self._layouts[signature] = layout
        self.link.busy = False
        return unflattened(layout, vector), vector, traffic, status.seconds

    def _layout(self) -> tuple[Layout, int]:
        """The layout of the replies that are waiting, and the bytes it took to learn it."""
        collected = self.link.collect(b"")
        answers = [unbundled(data) for data in collected]
        layouts = [layout for answer, _ in answers for _, layout in answer.workers]
        nothing = Layout(True, (), ())  # where the task failed on everybody, the sum that follows says so
        return (layouts[0] if layouts else nothing), sum(data.nbytes for data in collected)

    def _exchange_gather(
        self, call: Call, arrays: list[AnyArray], asked: Mask
    ) -> tuple[list[Any], list[list[AnyArray]], Traffic, float]:
        self.link.busy = True
        payload = joined(arrays) if arrays else None
        down = self._tell(orders.Ask(call), payload)
        traffic = Traffic(down, down - (0 if payload is None else payload.nbytes))
        collected = self.link.collect(b"")
        bundles = [unbundled(data) for data in collected]
        self.interrupted |= any(answer.interrupted for answer, _ in bundles)
        self._raise_failure([answer for answer, _ in bundles], call)
        answers: list[Any] = []
        replies: list[list[AnyArray]] = []
        for answer, content in bundles:
            first = 0
            for _, layout in answer.workers:
                views, first = parted(layout, content, first)
                first = -(-first // 8) * 8
                replies.append([view.copy() for view in views])
                answers.append(restored(layout, replies[-1]))
        traffic.up = sum(data.nbytes for data in collected)
        traffic.control_up = traffic.up - sum(a.nbytes for reply in replies for a in reply)
        self.link.busy = False
        return answers, replies, traffic, max((answer.seconds for answer, _ in bundles), default=0.0)

    def _raise_failure(self, answers: Sequence[orders.Answer], call: Call) -> None:
        for rank, answer in enumerate(answers, start=1):
            if answer.failure is not None:
                self.link.busy = False
                raise WorkerError(answer.failure.worker, rank, call.task.removeprefix("self."), answer.failure.trace)

    def _adopt(self, method: object) -> None:
        kind = type(method)
        settings = msgspec.to_builtins(method)
        self._tell(orders.Adopt(f"{kind.__module__}:{kind.__qualname__}", settings))
        checked(self._answers())
        self._layouts.clear()

    def saved(self, w: Array) -> list[dict[str, Array]]:
        self.link.busy = True
        self._tell(orders.Save(), joined([w]))
        states: dict[int, dict[str, Array]] = {}
        for data in self.link.collect(b""):
            states |= unpacked_states(*unbundled(data))
        self.link.busy = False
        return [states[index] for index in range(self.workers)]

    def restore(self, states: list[dict[str, Array]], w: Array) -> None:
        self.link.busy = True
        self._tell(orders.Restore(), joined([w]))
        for rank in range(self.link.ranks):
            mine = [(index, states[index]) for index in hosted(rank, self.link.ranks, self.workers)]
            lists = [[np.asarray(a, order="C") for a in state.values()] for _, state in mine]
            workers = [(index, layout_of(False, arrays)) for (index, _), arrays in zip(mine, lists)]
            answer = orders.Answer(workers=workers, names=[list(state) for _, state in mine])
            data = bundled(answer, [joined(arrays) for arrays in lists])
            self.link.deliver(rank + 1, np.array([len(data)]).view(np.uint8))
            self.link.deliver(rank + 1, data)
        self.link.busy = False

    def _tell(self, order: orders.AnyOrder, payload: Bytes | None = None) -> int:
        return self.link.tell(msgspec.json.encode(order), payload)

    def _answers(self) -> list[orders.Answer]:
        return [unbundled(data)[0] for data in self.link.collect(b"")]


def checked(answers: Sequence[orders.Answer]) -> Sequence[orders.Answer]:
    """The answers, if every rank could do as told.

    Raises
    ------
    MpinewtonError
        What the first rank that could not had to say: its kind of error where that was an expected one.
    """
    for rank, answer in enumerate(answers, start=1):
        if answer.problem:
            kind, _, text = answer.problem.partition(":")
            raise getattr(errors, kind, MpinewtonError)(text)
        if answer.trace:
            raise MpinewtonError(f"rank {rank} failed:\n{answer.trace.rstrip()}")
    return answers


class MpiSession:
    """The driver of an MPI job. The other ranks are in `serve` on the same link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    @property
    def ranks(self) -> int:
        """Processes of the job, the driver's included."""
        return self.link.ranks + 1

    def open(self, plan: Plan) -> MpiFleet:
        """A fleet on the shards of the plan. Raises DataError where they do not fit."""
        self._order(orders.Open(plan))
        return MpiFleet(self.link, plan)

    def each(self, task: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[task(item) for item in items], the items dealt out over the ranks; items and results are JSON-able."""
        answers = self._order(orders.Each(f"{task.__module__}:{task.__qualname__}", list(items)))
        results: list[Any] = [None] * len(items)
        for rank, answer in enumerate(answers):
            results[rank :: self.link.ranks] = answer.results
        return results

    @property
    def library(self) -> str:
        """Name and version of the MPI library."""
        return library()

    def introductions(self) -> list[dict[str, Any]]:
        """What every rank says of itself, the driver first."""
        return [introduction(), *(answer.results[0] for answer in self._order(orders.Introduce()))]

    def measured(self, sizes: Sequence[int]) -> list[orders.Timing]:
        """What the collectives take for vectors of so many numbers."""
        self.link.busy = True
        self.link.tell(msgspec.json.encode(orders.Measure(list(sizes))))
        timings = measure(self.link, sizes)
        self.link.busy = False
        return timings

    def stop(self, code: int) -> None:
        """Let the other ranks end with this exit code."""
        self.link.tell(msgspec.json.encode(orders.Stop(code)))

    def _order(self, order: orders.AnyOrder) -> Sequence[orders.Answer]:
        self.link.busy = True
        self.link.tell(msgspec.json.encode(order))
        answers = [unbundled(data)[0] for data in self.link.collect(b"")]
        self.link.busy = False
        return checked(answers)
