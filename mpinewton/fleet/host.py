"""The logical workers of one process, and the one place where a task is run on them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mpinewton.arrays import AnyArray, Array, Integers, Mask
from mpinewton.data.shard_io import read_shard
from mpinewton.fleet.batch import Batch, Reply, same_objects
from mpinewton.fleet.calls import Call, Failure, find_task, layout_mismatch
from mpinewton.fleet.plan import Plan
from mpinewton.fleet.problem import Problem
from mpinewton.fleet.tree import PartialSum, Tree
from mpinewton.fleet.wire import Layout, arrays_of, layout_of, to_vector
from mpinewton.fleet.worker import Worker
from mpinewton.losses.loss import Model


class HostSum(NamedTuple):
    """The replies of a host's workers, added up."""

    total: PartialSum
    first: tuple[int, Layout] | None  # the first worker that was asked, and the layout of its reply
    failure: Failure | None  # the first


class Host:
    """Some neighbouring workers of a fleet.

    Parameters
    ----------
    problem : the problem of the whole fleet
    workers : the workers, in order
    """

    def __init__(self, problem: Problem, workers: Sequence[Worker]) -> None:
        self.problem, self.workers = problem, list(workers)
        self.tree, self.shares = Tree(problem.n_workers), problem.worker_share
        self.method: object = None
        self.seconds = 0.0  # of work in the last call
        self._batch: Batch | None = None  # of the models, as they were when it was made
        self._batch_models: list[Model] = []

    @classmethod
    def load(cls, plan: Plan, block: Iterable[int]) -> Host:
        """The workers of `block`, their shards read and checked.

        Raises
        ------
        DataError
            If a shard cannot be read, is not what the manifest says, or does not fit the loss.
        """
        problem, workers = plan.problem(), []
        as_stored = plan.manifest.dtype == "uint8" and problem.loss.keeps_bytes
        for index in block:
            dtype = None if as_stored else plan.dtype
            shard = read_shard(plan.path(), plan.manifest, index, dtype, keep=index not in plan.on_disk)
            if plan.intercept:
                shard = shard.with_intercept()
            workers.append(Worker(index, shard, problem))
        return cls(problem, workers)

    def answers(self, call: Call, arrays: Sequence[AnyArray]) -> Iterator[tuple[int, Any]]:
        """Run a task on every worker: (worker, reply), a `Failure` where it raised, None where it is not asked."""
        together = self._together(call, arrays)
        if together is None:
            yield from self._one_by_one(call, arrays)
            return
        for place, worker in enumerate(self.workers):
            yield worker.index, (together.single, [np.asarray(part[place]) for part in together.arrays])

    def _together(self, call: Call, arrays: Sequence[AnyArray], factors: Array | None = None) -> Reply | None:
        """The reply of all workers from one call of the task; None where that cannot be.

        With the factors of the workers in a sum, the reply may have sums.

        A task that fails has changed no worker, and is run on them one by one to find out who fails.
        """
        start = time.perf_counter()
        task = find_task(call.task, self.method)
        if not (call.everyone and len(self.workers) > 1 and getattr(task, "batched", False)):
            return None
        models = [worker.model for worker in self.workers]
        if not same_objects(models, self._batch_models):
            self._batch, self._batch_models = Batch.of(self.workers), models
        if self._batch is None:
            return None
        try:
            self._batch.join()
            self._batch.sums = None if factors is None else (factors, self._merged)
            result = task(self._batch, *_inputs(arrays))
            reply = Reply.of(None if call.kind == "send" else result)
        except Exception:
            return None
        self._batch.hand_back()
        self.seconds = time.perf_counter() - start
        return reply

    def _one_by_one(self, call: Call, arrays: Sequence[AnyArray]) -> Iterator[tuple[int, Any]]:
        asked: Mask | None = None
        if not call.everyone:
            asked, arrays = arrays[-1].astype(bool), arrays[:-1]
        inputs = _inputs(arrays)
        self.seconds = 0.0
        for worker in self.workers:
            if asked is not None and not asked[worker.index]:
                yield worker.index, None
                continue
            worker.iteration = call.iteration
            start = time.perf_counter()
            try:
                result = find_task(call.task, self.method)(worker, *inputs)
                reply = arrays_of(None if call.kind == "send" else result)
                worker.normalise_memory()
            except (Exception, SystemExit):  # whatever a task raises is reported to the driver
                yield worker.index, Failure(worker.index, traceback.format_exc())
            else:
                yield worker.index, reply
            self.seconds += time.perf_counter() - start

    def sum(self, call: Call, arrays: Sequence[AnyArray]) -> HostSum:
        """Add up the replies of this host's workers, for mean weighted by their shares (among those asked)."""
        scale = self._weights(call, arrays)
        factors = scale[[worker.index for worker in self.workers]]
        together = self._together(call, arrays, factors)
        if together is not None:
            return self._sum_of_rows(together, factors)
        total = PartialSum(self.tree)
        first: tuple[int, Layout] | None = None
        failure: Failure | None = None
        spare: list[Array] = []  # used again, since fresh memory costs as much as the sum
        for index, reply in self._one_by_one(call, arrays):
            if isinstance(reply, tuple):
                layout = layout_of(*reply)
                first = first or (index, layout)
                if not layout.like(first[1]):
                    reply = Failure(index, layout_mismatch(layout, first[1]))
            if isinstance(reply, Failure):
                failure = failure or reply
            if failure is None:
                spare += total.add(self.tree.leaf(index), _term(reply, scale[index], spare))
        return HostSum(total, first, failure)

    def _sum_of_rows(self, reply: Reply, factors: Array) -> HostSum:
        """The sum of a reply of all workers, each row times its factor."""
        total, rows = PartialSum(self.tree), reply.arrays
        terms = np.empty((len(factors), sum(part[0].size for part in rows)))
        np.concatenate([part.reshape(len(factors), -1) for part in rows] or [terms], axis=1, out=terms)
        terms *= factors[:, None]
        for worker, factor, term in zip(self.workers, factors, terms):
            total.add(self.tree.leaf(worker.index), term if factor else None)
        total, first = total.copy(), [part[0] for part in rows]
        if reply.sums is not None:
            zeros = np.zeros(terms.shape[1])
            pairs = zip(total.sums, reply.sums, strict=True)
            total.sums = [np.append(zeros if own is None else own, more) for own, more in pairs]
            first.append(reply.sums[0])
        return HostSum(total, (self.workers[0].index, layout_of(reply.single, first)), None)

    @cached_property
    def _merged(self) -> Integers:
        """How often a `PartialSum` of the workers adds up its last two sums after each of them, shape (k,)."""
        total, merged = PartialSum(self.tree), []
        for worker in self.workers:
            sums = len(total.nodes)
            total.add(self.tree.leaf(worker.index), None)
            merged.append(sums + 1 - len(total.nodes))
        return np.array(merged, dtype=np.int64)

    def _weights(self, call: Call, arrays: Sequence[AnyArray]) -> Array:
        """What the reply of every worker is multiplied by, shape (m,)."""
        if call.kind != "mean":
            return np.ones(len(self.shares))
        if call.everyone:
            return self.shares
        share = np.where(arrays[-1].astype(bool), self.shares, 0.0)
        return share / (share.sum() or 1.0)  # where those asked have no rows at all, the mean is 0

    def zeros(self) -> PartialSum:
        """Zeros from every worker: what a host adds in place of replies that cannot be added up."""
        total = PartialSum(self.tree)
        for worker in self.workers:
            total.add(self.tree.leaf(worker.index), None)
        return total


def _inputs(arrays: Sequence[AnyArray]) -> list[Any]:
    """What a task gets: numbers as Python numbers, arrays as arrays."""
    return [a if a.ndim else a.item() for a in arrays]


def _term(reply: tuple[bool, list[AnyArray]] | None, scale: float, spare: list[Array]) -> Array | None:
    """A reply as a term of the sum; None, for zeros, from a worker that is not asked or has no rows, not even a NaN."""
    if reply is None or not scale:
        return None
    return to_vector(reply[1], spare.pop() if spare else None, scale)
