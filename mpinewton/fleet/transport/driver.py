"""The driver's end under MPI: rank 0 calls, the other ranks host the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np

from mpinewton import errors
from mpinewton.arrays import AnyArray, Array, Bytes, Mask
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.fleet import orders
from mpinewton.fleet.calls import Call, Failure, layout_mismatch
from mpinewton.fleet.fleet import Fleet, Traffic
from mpinewton.fleet.orders import pack_answer, unpack_answer, unpack_states
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.fleet.transport.mpi import Link, Status, measure
from mpinewton.fleet.transport.world import library
from mpinewton.fleet.tree import PartialSum, Tree, hosted_workers
from mpinewton.fleet.wire import Layout, joined, layout_of, parted, restored, unflattened


class MpiFleet(Fleet):
    """A fleet whose workers live on the ranks 1, 2, ... of a communicator."""

    def __init__(self, link: Link, plan: Plan) -> None:
        super().__init__(plan.problem())
        self.link, self.fixed = link, plan.sums == "fixed"
        self.tree = Tree(plan.n_workers)
        self._layouts: dict[tuple[str, str, Layout], Layout] = {}

    def _exchange_sum(self, call: Call, arrays: list[AnyArray]) -> tuple[Any, Array, Traffic]:
        self.link.busy = True
        signature = (call.kind, call.task, call.inputs)
        layout = self._layouts.get(signature)
        down, up = self._tell(orders.Ask(call, layout), joined(arrays) if arrays else None), 0
        while True:
            if layout is None:
                layout, size = self._layout(call)
                up += size
                down += self._tell(orders.Reduce(layout))
            status, vector, size = self.link.sum(self.tree, self.fixed, Status(), PartialSum(self.tree), layout.numbers)
            up += size
            self.interrupted |= status.interrupted
            if not (status.changed or status.failed):
                break
            down += self._tell(orders.Report())
            layout = None
        self._layouts[signature] = layout
        self.link.busy = False
        return unflattened(layout, vector), vector, Traffic(down, up, status.seconds)

    def _layout(self, call: Call) -> tuple[Layout, int]:
        """The layout of the replies that are waiting, and the bytes it took to learn it. Raises what failed."""
        collected = self.link.collect(b"")
        first: Layout | None = None
        for rank, answer in enumerate((unpack_answer(data)[0] for data in collected), start=1):
            failure = answer.failure
            for worker, layout in answer.workers:
                first = first or layout
                if not layout.like(first) and (failure is None or worker < failure.worker):
                    failure = Failure(worker, layout_mismatch(layout, first))
            if failure is not None:
                self._raise(failure, rank, call)
        assert first is not None, "a call asks at least one worker"
        return first, sum(data.nbytes for data in collected)

    def _exchange_gather(
        self, call: Call, arrays: list[AnyArray], asked: Mask
    ) -> tuple[list[Any], list[list[AnyArray]], Traffic]:
        self.link.busy = True
        down = self._tell(orders.Ask(call), joined(arrays) if arrays else None)
        collected = self.link.collect(b"")
        bundles = [unpack_answer(data) for data in collected]
        self.interrupted |= any(answer.interrupted for answer, _ in bundles)
        for rank, (answer, _) in enumerate(bundles, start=1):
            if answer.failure is not None:
                self._raise(answer.failure, rank, call)
        answers: list[Any] = []
        replies: list[list[AnyArray]] = []
        for answer, content in bundles:
            first = 0
            for _, layout in answer.workers:
                views, first = parted(layout, content, first)
                first = -(-first // 8) * 8
                replies.append([view.copy() for view in views])
                answers.append(restored(layout, replies[-1]))
        self.link.busy = False
        seconds = max(answer.seconds for answer, _ in bundles)
        return answers, replies, Traffic(down, sum(data.nbytes for data in collected), seconds)

    def _raise(self, failure: Failure, rank: int, call: Call) -> NoReturn:
        self.link.busy = False
        raise WorkerError(failure.worker, rank, call.task.removeprefix("self."), failure.trace)

    def _adopt(self, method: object) -> None:
        kind = type(method)
        settings = msgspec.to_builtins(method)
        self.link.busy = True
        self._tell(orders.Adopt(f"{kind.__module__}:{kind.__qualname__}", settings))
        answers = [unpack_answer(data)[0] for data in self.link.collect(b"")]
        self.link.busy = False
        checked(answers)
        self._layouts.clear()

    def saved(self, w: Array) -> list[dict[str, Array]]:
        self.link.busy = True
        self._tell(orders.Save(), joined([w]))
        states: dict[int, dict[str, Array]] = {}
        for data in self.link.collect(b""):
            states |= unpack_states(*unpack_answer(data))
        self.link.busy = False
        return [states[index] for index in range(self.n_workers)]

    def restore(self, states: list[dict[str, Array]], w: Array) -> None:
        self.link.busy = True
        self._tell(orders.Restore(), joined([w]))
        for rank in range(self.link.ranks):
            mine = [(index, states[index]) for index in hosted_workers(rank, self.link.ranks, self.n_workers)]
            lists = [[np.asarray(a, order="C") for a in state.values()] for _, state in mine]
            workers = [(index, layout_of(False, arrays)) for (index, _), arrays in zip(mine, lists)]
            answer = orders.Answer(workers=workers, names=[list(state) for _, state in mine])
            data = pack_answer(answer, [joined(arrays) for arrays in lists])
            self.link.deliver(rank + 1, np.array([len(data)]).view(np.uint8))
            self.link.deliver(rank + 1, data)
        self.link.busy = False

    def _tell(self, order: orders.AnyOrder, payload: Bytes | None = None) -> int:
        return self.link.tell(msgspec.json.encode(order), payload)


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
        self.link.close()

    def _order(self, order: orders.AnyOrder) -> Sequence[orders.Answer]:
        self.link.busy = True
        self.link.tell(msgspec.json.encode(order))
        answers = [unpack_answer(data)[0] for data in self.link.collect(b"")]
        self.link.busy = False
        return checked(answers)
