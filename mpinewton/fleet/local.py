"""All workers in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpinewton.arrays import AnyArray, Array, Mask
from mpinewton.data.shard import Shard
from mpinewton.errors import WorkerError
from mpinewton.fleet.calls import Call, Failure
from mpinewton.fleet.fleet import Fleet, Traffic
from mpinewton.fleet.host import Host
from mpinewton.fleet.problem import Problem
from mpinewton.fleet.wire import from_vector, layout_of, to_reply
from mpinewton.fleet.worker import Worker
from mpinewton.losses.loss import Classes, Loss


class LocalFleet(Fleet):
    """A fleet whose workers live beside the driver."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.problem)
        self.host = host

    def _exchange_sum(self, call: Call, arrays: list[AnyArray]) -> tuple[Any, Array, Traffic]:
        total, first, failure = self.host.sum(call, copy_read_only(arrays))
        if failure is not None:
            raise _error(failure, call)
        assert first is not None, "a call asks at least one worker"
        vector = total.vector(first[1].numbers)
        return from_vector(first[1], vector), vector, Traffic(0, 0, self.host.seconds)

    def _exchange_gather(
        self, call: Call, arrays: list[AnyArray], asked: Mask
    ) -> tuple[list[Any], list[list[AnyArray]], Traffic]:
        answers: list[Any] = []
        replies: list[list[AnyArray]] = []
        failure: Failure | None = None
        for _, reply in self.host.answers(call, copy_read_only(arrays)):
            if isinstance(reply, Failure):
                failure = failure or reply  # the others still do the task, as they do on other ranks
            elif reply is not None:
                copies = [a.copy() for a in reply[1]]  # a worker may go on writing into what it sent
                replies.append(copies)
                answers.append(to_reply(layout_of(*reply), copies))
        if failure:
            raise _error(failure, call)
        return answers, replies, Traffic(0, 0, self.host.seconds)

    def _adopt(self, method: object) -> None:
        self.host.method = method

    def save(self, w: Array) -> list[dict[str, Array]]:
        return [_copy(worker.save(w)) for worker in self.host.workers]

    def restore(self, states: list[dict[str, Array]], w: Array) -> None:
        for worker, state in zip(self.host.workers, states):
            worker.restore(_copy(state), w.copy())


def local_fleet(
    shards: Sequence[Shard], loss: Loss, classes: Classes, l2: float, intercept: bool = False, seed: int = 0
) -> LocalFleet:
    """A fleet on shards in memory, one worker each.

    Raises
    ------
    DataError
        If there are no rows, or labels do not fit the loss.
    """
    if intercept:
        shards = [shard.with_intercept() for shard in shards]
    rows, total_weights = tuple(shard.rows for shard in shards), tuple(shard.total_weight for shard in shards)
    entries = sum(shard.entries for shard in shards)
    problem = Problem(loss, classes, rows, total_weights, shards[0].features, l2, intercept, seed, entries=entries)
    return LocalFleet(Host(problem, [Worker(i, shard, problem) for i, shard in enumerate(shards)]))


def copy_read_only(arrays: list[AnyArray]) -> list[AnyArray]:
    """The arrays as they would come out of a message: the worker's own, and not to be written to."""
    copies = [a.copy() for a in arrays]
    for a in copies:
        a.setflags(write=False)
    return copies


def _copy(state: dict[str, Array]) -> dict[str, Array]:
    return {name: np.array(a) for name, a in state.items()}


def _error(failure: Failure, call: Call) -> WorkerError:
    return WorkerError(failure.worker, 0, call.task.removeprefix("self."), failure.trace)
