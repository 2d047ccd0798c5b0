"""The driver's view of its workers. What differs between one process and many is the exchange alone."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from mpinewton.arrays import AnyArray, Array, Mask
from mpinewton.fleet.calls import Call, Task, task_name
from mpinewton.fleet.ledger import Ledger
from mpinewton.fleet.problem import Problem
from mpinewton.fleet.wire import arrays_of, layout_of
from mpinewton.fleet.worker import DRIVER, random_numbers

Asked = Iterable[int] | None


class Traffic(NamedTuple):
    """Bytes the driver handed to MPI and got from it in one exchange, and seconds of the slowest rank's work."""

    down: int
    up: int
    compute: float


class Fleet(ABC):
    """m logical workers, called by the driver.

    Every call names a task, a function `task(worker, *arrays)` that runs on the workers with the arrays given here, and
    whose reply (None, a number, an array, or a tuple of those) comes back. `among` restricts a call to some workers.

    Attributes
    ----------
    problem : Problem
        What is minimised.
    n_workers : int
        m, the number of logical workers.
    dim : int
        d, the number of weights.
    worker_share : array, shape (m,)
        omega_i, every worker's share of the rows; they sum to 1.
    ledger : Ledger
        What has crossed so far.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.worker_share = problem, problem.worker_share
        self.n_workers, self.dim = problem.n_workers, problem.dim
        self.ledger = Ledger(self.n_workers)
        self.iteration = 0
        self.interrupted = False  # a signal to stop has reached some process
        self.method: object = None

    def mean(self, task: Task, *arrays: Any, among: Asked = None) -> Any:
        """Mean of the replies, weighted by the workers' shares of the rows (of those of `among`).

        Parameters
        ----------
        task : function of (worker, *arrays)
            A function of a module, or a method of the Method or of one of its fields: workers find it by its name.
        *arrays : numbers and arrays
            What it gets on every worker, dtypes kept; read-only there, scalars as Python numbers.
        among : iterable of int, optional
            The workers that are asked; by default all.

        Returns
        -------
        float, array, tuple of these, or None
            In the form of the replies, which must have the same shapes on every worker. All numbers are float64: an
            array of shape s comes back with shape s, a number as a float, a tuple as a tuple, None as None. Replies
            of workers without rows count 0.

        Raises
        ------
        WorkerError
            If the task raised on a worker; the fleet stays usable.
        """
        return self._sum("mean", task, arrays, among)

    def sum(self, task: Task, *arrays: Any, among: Asked = None) -> Any:
        """Sum of the replies. Parameters, result and errors are those of `mean`."""
        return self._sum("sum", task, arrays, among)

    def gather(self, task: Task, *arrays: Any, among: Asked = None) -> list[Any]:
        """The replies themselves, in worker order.

        Parameters and errors are those of `mean`. Shapes may differ from worker to worker.

        Returns
        -------
        list of length m, or of the number of workers in `among`
            Of numbers, arrays, tuples of these, or None; dtypes are kept.
        """
        call, sent, asked, start = self._prepare("gather", task, arrays, among)
        answers, replies, traffic = self._exchange_gather(call, sent, asked)
        self._enter(call, sent, asked, traffic, replies, start)
        return answers

    def send(self, task: Task, *arrays: Any, among: Asked = None) -> None:
        """Run the task on every worker; what it returns is dropped. Parameters and errors are those of `mean`."""
        self._sum("send", task, arrays, among)

    def adopt(self, method: object) -> None:
        """Make the method known to every worker: its methods can then be tasks. Raises ConfigError."""
        self.method = method
        self._adopt(method)

    def rng(self, *key: int) -> np.random.Generator:
        """The driver's random numbers of (seed, iteration, key), unlike every worker's."""
        return random_numbers(self.problem.seed, DRIVER, self.iteration, key)

    def rng_of(self, worker: int, *key: int) -> np.random.Generator:
        """The random numbers that `worker.rng(*key)` is in this iteration: what is drawn from them need not travel."""
        return random_numbers(self.problem.seed, worker, self.iteration, key)

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """A context in which calls are not charged: for what a paper assumes the driver to know, as the optimum.

        The ledger shows them as round 0 and counts them nowhere.

        Raises
        ------
        RuntimeError
            After `start`: only a start may be free.
        """
        if self.iteration:
            raise RuntimeError("only what the driver knows before the first iteration is not charged")
        with self.ledger.free():
            yield

    # -- the one door ---------------------------------------------------------------------------------------------

    def _sum(self, kind: str, task: Task, arrays: Sequence[Any], among: Asked) -> Any:
        call, sent, asked, start = self._prepare(kind, task, arrays, among)
        reply, vector, traffic = self._exchange_sum(call, sent)
        self._enter(call, sent, asked, traffic, [[vector]], start)
        return reply

    def _prepare(
        self, kind: str, task: Task, arrays: Sequence[Any], among: Asked
    ) -> tuple[Call, list[AnyArray], Mask, float]:
        start = time.perf_counter()
        sent = arrays_of(tuple(arrays))[1]
        asked = np.ones(self.n_workers, dtype=bool)
        if among is not None:
            asked[:] = False
            asked[list(among)] = True
            sent.append(asked)
        call = Call(kind, task_name(task, self.method), self.iteration, layout_of(False, sent), among is None)
        if not asked.any():
            raise ValueError(f"{call.task}: `among` is empty, so that no worker is asked; leave the call out")
        return call, sent, asked, start

    def _enter(
        self,
        call: Call,
        sent: list[AnyArray],
        asked: Mask,
        traffic: Traffic,
        replies: Sequence[Sequence[AnyArray]],
        start: float,
    ) -> None:
        payload = sent if call.everyone else sent[:-1]  # whom a call is for is control, not content
        seconds = time.perf_counter() - start
        about = (self.iteration, call.kind, call.task.removeprefix("self."))
        self.ledger.charge("down", *about, [payload], asked, traffic.down)
        self.ledger.charge("up", *about, replies, asked, traffic.up, seconds, traffic.compute)

    # -- what a transport supplies --------------------------------------------------------------------------------

    @abstractmethod
    def _exchange_sum(self, call: Call, arrays: list[AnyArray]) -> tuple[Any, Array, Traffic]:
        """The reply, the same as one vector, and the traffic."""

    @abstractmethod
    def _exchange_gather(
        self, call: Call, arrays: list[AnyArray], asked: Mask
    ) -> tuple[list[Any], list[list[AnyArray]], Traffic]:
        """The replies, the same as arrays, and the traffic."""

    @abstractmethod
    def _adopt(self, method: object) -> None: ...

    @abstractmethod
    def save(self, w: Array) -> list[dict[str, Array]]:
        """What every worker keeps, in worker order, for a checkpoint; not charged."""

    @abstractmethod
    def restore(self, states: list[dict[str, Array]], w: Array) -> None:
        """Give every worker back what `save` returned; not charged."""
