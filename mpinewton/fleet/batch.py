"""The workers of a host as one, for tasks that run on all of them in one call."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from mpinewton.arrays import AnyArray, Array, Integers
from mpinewton.fleet.wire import arrays_of
from mpinewton.fleet.worker import Worker
from mpinewton.losses.group import GroupPoint, GroupRay, LinearGroup

BATCH_NUMBERS = 1 << 22  # most numbers of all gradients of a batch: with more the calls themselves cost little


def same_objects(some: Sequence[object], others: Sequence[object]) -> bool:
    """Whether two sequences have the very same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


class Batch(Worker):
    """The workers of a host as one. What it returns has a first axis, that of the workers; bits are those of the loop.

    It provides `move_to`, `set_direction`, `advance`, `value`, `gradient`, `hvp`, `losses`, `evaluate`, `subset` of all
    rows, `memory`, `point.hvps`, and, as the last part of a reply, `hessian_triangle`. The state belongs to the
    workers: `join` takes it from them before a task, and `hand_back` returns it to them.
    """

    def __init__(self, workers: Sequence[Worker], group: LinearGroup) -> None:
        vars(self).update(vars(workers[0]))
        self.workers, self.group = workers, group
        self.sums: tuple[Array, Integers] | None = None  # the replies' factors, and how often sums merge after each
        self.memory: Any = BatchMemory(workers)
        self.model: Any = group
        self._point: Any = None
        self._ray: Any = None

    @staticmethod
    def of(workers: Sequence[Worker]) -> Batch | None:
        """The workers as a batch; None where their models cannot be evaluated in one call, or it would not pay."""
        if len(workers) * len(workers[0].l2_vector) > BATCH_NUMBERS:
            return None
        group = LinearGroup.of([worker.model for worker in workers])
        return None if group is None else Batch(workers, group)

    def hessian_triangle(self) -> Any:
        """The sums of the Hessians, `Summed`.

        Raises
        ------
        NotImplementedError
            Where replies are not summed, or not all Hessians are formed by the compiled loops: the workers are then
            asked one by one.
        """
        if self.sums is None or not self.group.sums_hessians:
            raise NotImplementedError("there are no sums of these Hessians")
        return Summed(cast(GroupPoint, self.point).hessian_sums(self.l2_vector, *self.sums))

    def join(self) -> None:
        """Take the weights and the direction of the workers; none where they differ."""
        first, workers = self.workers[0], self.workers
        points: list[Any] = [worker._point for worker in workers]
        rays: list[Any] = [worker._ray for worker in workers]
        at, along = self._point, self._ray
        self._steps, self._p, p = first._steps, first._p, first._p
        if at is None or not all(own is point for own, point in zip(at.points, points)):
            same = None not in points and all(worker._steps == first._steps for worker in workers)
            self._point = at = self.group.join(points) if same else None
        if at is None or p is None or None in rays:
            self._ray = None
        elif along is None or not all(own is ray for own, ray in zip(along.rays, rays)):
            same = all(ray.p is p or np.array_equal(ray.p, p) for ray in rays)
            self._ray = GroupRay(at, p, np.concatenate([ray.dz for ray in rays])) if same else None
            if self._ray is not None:
                self._ray.rays = rays

    def hand_back(self) -> None:
        """Give the workers the weights and the direction of the batch."""
        point, ray = self._point, self._ray
        points: list[Any] = [None] * len(self.workers) if point is None else point.share()
        rays: list[Any] = [None] * len(self.workers) if ray is None else ray.rays
        for worker, own, along in zip(self.workers, points, rays):
            worker._point, worker._ray, worker._steps, worker._p = own, along, self._steps, self._p


@dataclass(frozen=True, eq=False)
class Summed:
    """Sums of a part of the workers' replies, as those of a `PartialSum`: shape (s, ...)."""

    sums: Array


class Reply(NamedTuple):
    """What all workers reply: arrays whose first axis are the workers, and sums of the last part, if it is `Summed`."""

    single: bool
    arrays: list[AnyArray]
    sums: Array | None

    @staticmethod
    def of(result: Any) -> Reply:
        """The reply from what a task returns. Raises TypeError for anything else than numbers and arrays."""
        parts = result if isinstance(result, tuple) else (result,)
        if not isinstance(parts[-1], Summed):
            return Reply(*arrays_of(result), None)
        return Reply(len(parts) == 1, arrays_of(parts[:-1])[1], parts[-1].sums)


class BatchMemory:
    """The memories of workers as one: its arrays are stacks of theirs, and theirs are parts of the stack.

    Arrays of rows, whose shapes differ, follow one another.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self.stacks: dict[str, tuple[Array, list[Array]]] = {}

    def __getitem__(self, name: str) -> Array:
        parts = [worker.memory[name] for worker in self.workers]
        stack, known = self.stacks.get(name, (None, []))
        if stack is not None and same_objects(parts, known):
            return stack
        return (np.stack if len({part.shape for part in parts}) == 1 else np.concatenate)(parts)

    def get(self, name: str, default: Any) -> Any:
        return self[name] if name in self.workers[0].memory else default

    def __setitem__(self, name: str, stack: Array) -> None:
        self.update(**{name: stack})

    def update(self, **stacks: Array) -> None:
        for name, stack in stacks.items():
            stack = np.asarray(stack if np.ndim(stack) else np.full(len(self.workers), stack), order="C")
            self.stacks[name] = stack, list(stack)
            for worker, part in zip(self.workers, self.stacks[name][1]):
                worker.memory[name] = part
