"""A rank that hosts workers: it waits for an order, carries it out, and waits again."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from mpinewton.arrays import AnyArray, Bytes
from mpinewton.errors import MpinewtonError
from mpinewton.fleet import orders
from mpinewton.fleet.calls import Call, Failure, find_task
from mpinewton.fleet.host import Host, HostSum
from mpinewton.fleet.orders import pack_answer, unpack_answer, unpack_states
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.fleet.transport.mpi import Link, Status, measure, reflect
from mpinewton.fleet.transport.survival import survive
from mpinewton.fleet.tree import PartialSum, hosted_workers
from mpinewton.fleet.wire import Layout, from_bytes, layout_of, to_bytes
from mpinewton.signals import Signals, catch_signals


def serve(link: Link) -> int:
    """Carry out the driver's orders until it says stop; returns the job's exit code."""
    with catch_signals(patient=True) as signals:
        while True:
            try:
                stop, _ = Server(link, signals=signals).run()
                break
            except MPI.Exception as error:
                survive(link, error)
        link.collect(b"")  # the driver knows that all have heard
        link.close()
    return stop.code


class Server:
    """One rank's workers, and what it has to remember between two orders.

    Parameters
    ----------
    link : Link
    host : Host, optional
        The workers, where they are not loaded by an order to open a fleet.
    signals : Signals, optional
        The signals that this rank has received: the driver is told with the next answer, and decides.
    """

    def __init__(self, link: Link, host: Host | None = None, signals: Signals | None = None) -> None:
        self.link, self.host, self.signals = link, host, signals or Signals()
        self.fixed = True
        self.waiting: HostSum | None = None

    @property
    def interrupted(self) -> bool:
        return bool(self.signals.name)

    def run(self) -> tuple[orders.Stop, Bytes]:
        """Carry out orders until one says stop: that order, and the bytes that came with it."""
        while True:
            text, data = self.link.hear()
            order = orders.decode_order(text)
            if isinstance(order, orders.Stop):
                return order, data
            self.obey(order, data)

    def obey(self, order: orders.AnyOrder, data: Bytes) -> None:
        """Carry out an order, and send what the driver waits for."""
        match order:
            case orders.Ask() if order.call.kind != "gather":
                self.compute(order.call, data)
                self.add_up(order.layout)
            case orders.Report():
                self.add_up(None)
            case orders.Measure():
                measure(self.link, order.sizes)
            case orders.Reflect():
                reflect(self.link, order.sizes)
            case orders.Restore():
                packed = self.link.accept()
                self.link.collect(self.attempt(lambda: self.restore(packed, data)))
            case _:
                self.link.collect(self.reply(order, data))

    def reply(self, order: orders.AnyOrder, data: Bytes) -> Bytes:
        """Carry out an order that every rank answers with a report, and make the report."""
        match order:
            case orders.Ask():
                return self.gather(order.call, data)
            case orders.Open():
                return self.attempt(lambda: self.open(order))
            case orders.Adopt():
                return self.attempt(lambda: self.adopt(order))
            case orders.Each():
                return self.attempt(lambda: self.each(order))
            case orders.Introduce():
                return self.answer(results=[introduction()])
            case orders.Save():
                return self.save(data)
        raise AssertionError(f"{order} is answered in another way")

    def answer(self, arrays: list[AnyArray] | None = None, **content: Any) -> Bytes:
        """A report as bytes, the arrays it speaks of behind it."""
        return pack_answer(orders.Answer(interrupted=self.interrupted, **content), arrays or [])

    def attempt(self, action: Callable[[], list[Any] | None]) -> Bytes:
        """Do something that may go wrong, and report how it went: errors are the driver's to tell."""
        try:
            results = action() or []
        except MpinewtonError as error:
            return self.answer(problem=f"{type(error).__name__}:{error}")
        except Exception:
            return self.answer(trace=traceback.format_exc())
        return self.answer(results=results)

    def open(self, order: orders.Open) -> None:
        """Load this rank's block of the workers."""
        plan = order.plan
        self.host, self.fixed = None, plan.sums == "fixed"
        self.host = Host.load(plan, hosted_workers(self.link.rank - 1, self.link.ranks, plan.n_workers))

    def adopt(self, order: orders.Adopt) -> None:
        """Build the method whose tasks will be called as `self.name`."""
        self.ready.method = order.method.build(object)

    @property
    def ready(self) -> Host:
        """The workers."""
        assert self.host is not None, "the driver opens a fleet before it asks for anything"
        return self.host

    # -- calls --------------------------------------------------------------------------------------------------

    def compute(self, call: Call, data: Bytes) -> None:
        """Run a task on the workers and keep the sum of their replies until the driver asks for it."""
        self.waiting = self.ready.sum(call, _inputs(call, data))

    def report(self) -> Bytes:
        """The layout of the replies that wait, or the failure."""
        assert self.waiting is not None
        _, first, failure = self.waiting
        return self.answer(workers=[first] if first else [], failure=failure)

    def part(self, layout: Layout | None) -> tuple[Status, PartialSum, int]:
        """What this rank adds to the sum over all ranks, and the length of a reply; by default of its own replies.

        It adds zeros where its replies failed or have another layout.
        """
        assert self.waiting is not None
        total, first, failure = self.waiting
        layout = layout or (first[1] if first else None)
        changed = first is not None and layout is not None and not first[1].like(layout)
        status = Status(failure is not None, changed, self.interrupted, self.ready.seconds)
        return status, self.ready.zeros() if changed or failure else total, layout.numbers if layout else 0

    def add_up(self, layout: Layout | None) -> None:
        """Take part in the sum over all ranks; where the driver does not know the layout, after a report."""
        if layout is None:
            self.link.collect(self.report())
        self.link.sum(self.ready.tree, self.fixed or layout is None, *self.part(layout))

    def gather(self, call: Call, data: Bytes) -> Bytes:
        """Run a task on the workers; the replies of each, or the failure."""
        workers: list[tuple[int, Layout]] = []
        content: list[AnyArray] = []
        failure: Failure | None = None
        for index, reply in self.ready.answers(call, _inputs(call, data)):
            if isinstance(reply, Failure):
                failure = failure or reply
            elif reply is not None:
                workers.append((index, layout_of(*reply)))
                content.append(to_bytes(reply[1]).copy())
        if failure:
            return self.answer(failure=failure)
        return self.answer(content, workers=workers, seconds=self.ready.seconds)

    # -- the rest -----------------------------------------------------------------------------------------------

    def each(self, order: orders.Each) -> list[Any]:
        """Run a function on this rank's share of the items."""
        task = find_task(order.task, None)
        return [task(item) for item in order.items[self.link.rank - 1 :: self.link.ranks]]

    def save(self, data: Bytes) -> Bytes:
        """What every worker keeps."""
        w = data.view(np.float64)
        states = [(worker.index, worker.save(w)) for worker in self.ready.workers]
        workers = [(index, layout_of(False, list(state.values()))) for index, state in states]
        arrays = [to_bytes(list(state.values())) for _, state in states]
        return self.answer(arrays, workers=workers, names=[list(state) for _, state in states])

    def restore(self, packed: Bytes, data: Bytes) -> None:
        """Give every worker back what it kept."""
        w = data.view(np.float64)
        states = unpack_states(*unpack_answer(packed))
        for worker in self.ready.workers:
            worker.restore(states[worker.index], w)


def _inputs(call: Call, data: Bytes) -> list[AnyArray]:
    """The arrays of a call, which no task may write to."""
    arrays, _ = from_bytes(call.inputs, data)
    for a in arrays:
        a.setflags(write=False)
    return arrays
