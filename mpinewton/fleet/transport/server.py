"""What a rank does that is not the driver: it waits for an order, carries it out, and waits again."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from mpinewton.arrays import AnyArray, Bytes
from mpinewton.errors import MpinewtonError
from mpinewton.fleet import orders
from mpinewton.fleet.calls import Call, Failure, find_task
from mpinewton.fleet.host import Host, HostSum
from mpinewton.fleet.orders import pack_answer, unpack_answer, unpack_states
from mpinewton.fleet.transport.introduction import introduction
from mpinewton.fleet.transport.mpi import Link, Status, measure
from mpinewton.fleet.tree import hosted_workers
from mpinewton.fleet.wire import Layout, joined, layout_of, parted

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def serve(link: Link) -> int:
    """Carry out the driver's orders until it says stop; returns the job's exit code."""
    server = Server(link)
    before = {number: signal.signal(number, server.interrupt) for number in STOP_SIGNALS}
    while True:
        text, data = link.hear()
        order = orders.decode_order(text)
        if isinstance(order, orders.Stop):
            break
        server.obey(order, data)
    link.close()
    for number, handler in before.items():
        signal.signal(number, handler)
    return order.code


class Server:
    """One rank's workers and what it has to remember between two orders."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.host: Host | None = None
        self.fixed = True
        self.interrupted = False
        self.waiting: HostSum | None = None

    def interrupt(self, number: int, frame: object) -> None:
        """A signal to stop: the driver hears of it with the next answer, and decides."""
        self.interrupted = True

    def obey(self, order: orders.AnyOrder, data: Bytes) -> None:
        match order:
            case orders.Ask():
                self.ask(order, data)
            case orders.Report():
                self.report()
            case orders.Reduce():
                self.reduce(order.layout)
            case orders.Open():
                self.attempt(lambda: self.open(order))
            case orders.Adopt():
                self.attempt(lambda: self.adopt(order))
            case orders.Each():
                self.attempt(lambda: self.each(order))
            case orders.Introduce():
                self.answer(results=[introduction()])
            case orders.Measure():
                measure(self.link, order.sizes)
            case orders.Save():
                self.save(data)
            case orders.Restore():
                self.restore(data)

    def answer(self, arrays: list[AnyArray] | None = None, **content: Any) -> None:
        answer = orders.Answer(interrupted=self.interrupted, **content)
        self.link.collect(pack_answer(answer, arrays or []))

    def attempt(self, action: Callable[[], list[Any] | None]) -> None:
        """Do something that may go wrong, and report how it went: errors are the driver's to tell."""
        try:
            results = action() or []
        except MpinewtonError as error:
            self.answer(problem=f"{type(error).__name__}:{error}")
        except Exception:
            self.answer(trace=traceback.format_exc())
        else:
            self.answer(results=results)

    def open(self, order: orders.Open) -> None:
        plan = order.plan
        self.host, self.fixed = None, plan.sums == "fixed"
        self.host = Host.loaded(plan, hosted_workers(self.link.rank - 1, self.link.ranks, plan.n_workers))

    def adopt(self, order: orders.Adopt) -> None:
        self.ready.method = msgspec.convert(order.settings, find_task(order.kind, None))

    @property
    def ready(self) -> Host:
        assert self.host is not None, "the driver opens a fleet before it asks for anything"
        return self.host

    # -- calls --------------------------------------------------------------------------------------------------

    def ask(self, order: orders.Ask, data: Bytes) -> None:
        arrays, _ = parted(order.call.inputs, data)
        for a in arrays:
            a.setflags(write=False)
        if order.call.kind == "gather":
            self.gather(order.call, arrays)
            return
        self.waiting = self.ready.sum(order.call, arrays)
        if order.layout is None:
            self.report()
        else:
            self.reduce(order.layout)

    def report(self) -> None:
        assert self.waiting is not None
        _, first, failure = self.waiting
        self.answer(workers=[first] if first else [], failure=failure)

    def reduce(self, layout: Layout) -> None:
        assert self.waiting is not None
        total, first, failure = self.waiting
        changed = first is not None and not first[1].like(layout)
        status = Status(failure is not None, changed, self.interrupted, self.ready.seconds)
        part = self.ready.nothing() if changed or failure else total
        self.link.sum(self.ready.tree, self.fixed, status, part, layout.numbers)

    def gather(self, call: Call, arrays: list[AnyArray]) -> None:
        workers: list[tuple[int, Layout]] = []
        content: list[AnyArray] = []
        failure: Failure | None = None
        for index, reply in self.ready.answers(call, arrays):
            if isinstance(reply, Failure):
                failure = failure or reply
            elif reply is not None:
                workers.append((index, layout_of(*reply)))
                content.append(joined(reply[1]).copy())
        if failure:
            self.answer(failure=failure)
        else:
            self.answer(content, workers=workers, seconds=self.ready.seconds)

    # -- the rest -----------------------------------------------------------------------------------------------

    def each(self, order: orders.Each) -> list[Any]:
        task = find_task(order.task, None)
        return [task(item) for item in order.items[self.link.rank - 1 :: self.link.ranks]]

    def save(self, data: Bytes) -> None:
        w = data.view(np.float64)
        states = [(worker.index, worker.saved(w)) for worker in self.ready.workers]
        workers = [(index, layout_of(False, list(state.values()))) for index, state in states]
        self.answer([joined(list(s.values())) for _, s in states], workers=workers, names=[list(s) for _, s in states])

    def restore(self, data: Bytes) -> None:
        size = np.zeros(1, dtype=np.int64)
        size[:] = self.link.accept(0, 8).view(np.int64)
        answer, content = unpack_answer(self.link.accept(0, int(size[0])))
        w = data.view(np.float64)
        states = unpack_states(answer, content)
        for worker in self.ready.workers:
            worker.restore(states[worker.index], w)
