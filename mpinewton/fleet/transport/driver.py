"""The driver's end under MPI: rank 0 calls, the ranks that host workers answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from mpi4py import MPI

from mpinewton import errors
from mpinewton.arrays import AnyArray, Array, Bytes, Mask, round_up
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.extensions import Reference
from mpinewton.fleet import orders
from mpinewton.fleet.calls import Call, Failure, layout_mismatch
from mpinewton.fleet.fleet import Fleet, Traffic
from mpinewton.fleet.orders import pack_answer, unpack_answer, unpack_states
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.problem import Problem
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.fleet.transport.mpi import Link, Status, measure, reflect
from mpinewton.fleet.transport.server import Server
from mpinewton.fleet.transport.survival import survive
from mpinewton.fleet.transport.world import library
from mpinewton.fleet.tree import PartialSum, Tree, hosted_workers
from mpinewton.fleet.wire import Layout, from_bytes, from_vector, layout_of, to_bytes, to_reply

log = logging.getLogger("mpinewton")


class MpiFleet(Fleet):
    """A fleet whose workers live on the ranks of a communicator.

    Parameters
    ----------
    link : Link
    problem : Problem
    fixed : bool
        Whether sums have a fixed order.
    own : Server, optional
        The workers of the driver's own rank, where it hosts some.
    """

    def __init__(self, link: Link, problem: Problem, fixed: bool = True, own: Server | None = None) -> None:
        super().__init__(problem)
        self.link, self.fixed, self.own = link, fixed, own
        self.tree = Tree(problem.n_workers)
        self._layouts: dict[tuple[str, str, Layout], Layout] = {}

    def _exchange_sum(self, call: Call, arrays: list[AnyArray]) -> tuple[Any, Array, Traffic]:
        signature = (call.kind, call.task, call.inputs)
        layout = self._layouts.get(signature)
        payload, up = to_bytes(arrays) if arrays else None, 0
        down = self._tell(orders.Ask(call, layout), payload)
        if self.own is not None:
            self.own.compute(call, _copy(payload))
        while True:
            known, error = layout is not None, None
            if layout is None:
                layout, error, size = self._layout(call)
                up += size
            nothing = Status(), PartialSum(self.tree), layout.numbers
            part = self.own.part(layout) if self.own is not None else nothing
            status, vector, size = self.link.sum(self.tree, self.fixed or not known, *part)
            up += size
            self.interrupted |= bool(status.interrupted)
            if error is not None:
                raise error
            if not (status.changed or status.failed):
                break
            down += self._tell(orders.Report())
            layout = None
        self._layouts[signature] = layout
        return from_vector(layout, vector), vector, Traffic(down, up, status.seconds)

    def _layout(self, call: Call) -> tuple[Layout, WorkerError | None, int]:
        """The layout of the replies that are waiting, what failed, and the bytes it took to learn it."""
        collected = self.link.collect(self.own.report() if self.own is not None else b"")
        self.link.busy = True  # the sum follows
        answers, error = [unpack_answer(data)[0] for data in collected], None
        first = next((layout for answer in answers for _, layout in answer.workers), Layout(False, (), ()))
        for rank, answer in enumerate(answers, start=self.link.first):
            failure = answer.failure
            for worker, layout in answer.workers:
                if not layout.like(first) and (failure is None or worker < failure.worker):
                    failure = Failure(worker, layout_mismatch(layout, first))
            if failure is not None:
                error = error or _error(failure, rank, call)
        return first, error, sum(data.nbytes for data in collected)

    def _exchange_gather(
        self, call: Call, arrays: list[AnyArray], asked: Mask
    ) -> tuple[list[Any], list[list[AnyArray]], Traffic]:
        answers: list[Any] = []
        replies: list[list[AnyArray]] = []
        bundles, down, up = ask(self.link, self.own, orders.Ask(call), to_bytes(arrays) if arrays else None)
        self.interrupted |= any(answer.interrupted for answer, _ in bundles)
        for rank, (answer, _) in enumerate(bundles, start=self.link.first):
            if answer.failure is not None:
                raise _error(answer.failure, rank, call)
        for answer, content in bundles:
            first = 0
            for _, layout in answer.workers:
                views, first = from_bytes(layout, content, first)
                first = round_up(first)
                replies.append([view.copy() for view in views])
                answers.append(to_reply(layout, replies[-1]))
        return answers, replies, Traffic(down, up, max(answer.seconds for answer, _ in bundles))

    def _adopt(self, method: object) -> None:
        order = orders.Adopt(Reference.of(method))
        raise_errors(self.link, ask(self.link, self.own, order)[0])
        self._layouts.clear()

    def save(self, w: Array) -> list[dict[str, Array]]:
        states: dict[int, dict[str, Array]] = {}
        for answer, content in ask(self.link, self.own, orders.Save(), to_bytes([w]))[0]:
            states |= unpack_states(answer, content)
        return [states[index] for index in range(self.n_workers)]

    def restore(self, states: list[dict[str, Array]], w: Array) -> None:
        assert self.own is None, "runs with rows of the ranks are not resumed"
        self._tell(orders.Restore(), to_bytes([w]))
        for rank in range(self.link.ranks):
            mine = [(index, states[index]) for index in hosted_workers(rank, self.link.ranks, self.n_workers)]
            lists = [[np.asarray(a, order="C") for a in state.values()] for _, state in mine]
            workers = [(index, layout_of(False, arrays)) for (index, _), arrays in zip(mine, lists)]
            answer = orders.Answer(workers=workers, names=[list(state) for _, state in mine])
            self.link.deliver(rank + 1, pack_answer(answer, [to_bytes(arrays) for arrays in lists]))
        for rank, data in enumerate(self.link.collect(b""), start=1):
            answer, _ = unpack_answer(data)
            if reason := answer.problem or answer.trace:
                raise ValueError(f"rank {rank} cannot restore its workers:\n{reason}")

    def _tell(self, order: orders.AnyOrder, payload: Bytes | None = None) -> int:
        return self.link.tell(msgspec.json.encode(order), payload)


Bundle = tuple[orders.Answer, Bytes]


def ask(
    link: Link, own: Server | None, order: orders.AnyOrder, payload: Bytes | None = None
) -> tuple[list[Bundle], int, int]:
    """The reports of all ranks that host workers, in rank order, and the bytes it took down and up."""
    down = link.tell(msgspec.json.encode(order), payload)
    collected = link.collect(own.reply(order, _copy(payload)) if own is not None else b"")
    return [unpack_answer(data) for data in collected], down, sum(data.nbytes for data in collected)


def raise_errors(link: Link, bundles: Sequence[Bundle]) -> list[orders.Answer]:
    """The answers, if every rank could do as told.

    Raises
    ------
    MpinewtonError
        The first error that a rank reports: of its kind where that was an expected one.
    """
    for rank, (answer, _) in enumerate(bundles, start=link.first):
        if answer.problem:
            kind, _, text = answer.problem.partition(":")
            raise getattr(errors, kind, MpinewtonError)(text)
        if answer.trace:
            raise MpinewtonError(f"rank {rank} failed:\n{answer.trace.rstrip()}")
    return [answer for answer, _ in bundles]


def _error(failure: Failure, rank: int, call: Call) -> WorkerError:
    return WorkerError(failure.worker, rank, call.task.removeprefix("self."), failure.trace)


def _copy(payload: Bytes | None) -> Bytes:
    """The bytes as they would come out of a message: of the worker's own."""
    return np.zeros(0, dtype=np.uint8) if payload is None else payload.copy()


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
        self.link.watch.workers, self.link.watch.ranks = plan.n_workers, self.link.ranks
        self._order(orders.Open(plan))
        return MpiFleet(self.link, plan.problem(), plan.sums == "fixed")

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
        facts = [introduction(), *(answer.results[0] for answer in self._order(orders.Introduce()))]
        self.link.watch.hosts = [each["host"] for each in facts]
        return facts

    def watch(self, pause: Callable[[], str], rank_timeout: float) -> None:
        """While ranks work, ask `pause` why the run must be interrupted, and end the job after so many seconds."""
        self.link.watch.pause, self.link.watch.timeout = pause, rank_timeout

    def time_collectives(self, sizes: Sequence[int]) -> list[orders.Timing]:
        """What the collectives take for vectors of so many numbers."""
        self.link.tell(msgspec.json.encode(orders.Measure(list(sizes))))
        return measure(self.link, sizes)

    @contextmanager
    def survival(self) -> Iterator[None]:
        """Context of a run. If ranks die in it, it ends without exception, and the session has the others."""
        try:
            yield
        except MPI.Exception as error:
            dead = survive(self.link, error)
            log.warning("%s died; the run continues on the %d ranks left, from the last checkpoint", dead, self.ranks)

    def time_echoes(self, sizes: Sequence[int]) -> list[orders.Echo]:
        """What messages of so many bytes to other ranks and back take."""
        self.link.tell(msgspec.json.encode(orders.Reflect(list(sizes))))
        return reflect(self.link, sizes)

    def stop(self, code: int) -> None:
        """Let the other ranks end with this exit code."""
        self.link.tell(msgspec.json.encode(orders.Stop(code)))
        self.link.collect(b"")  # all have heard
        self.link.close()

    def _order(self, order: orders.AnyOrder) -> list[orders.Answer]:
        return raise_errors(self.link, ask(self.link, None, order)[0])
