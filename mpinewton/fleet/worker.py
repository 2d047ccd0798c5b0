"""A logical worker: what one machine of the papers holds."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpinewton.arrays import Array, Indices
from mpinewton.data.shard import Shard
from mpinewton.fleet.problem import Problem
from mpinewton.linalg.triangle import add_packed_diagonal, pack_triangle
from mpinewton.losses.linear import LinearPoint
from mpinewton.losses.loss import Model, Point, RandomModel, Ray, mean_weight_ratio

# The logits follow the steps of a line search by addition; after this many steps they are formed afresh, against drift.
REFRESH = 50
DRIVER = 2**32 - 1  # the driver's number among the workers', where random numbers are drawn
RECORD = 2**32 - 1  # the number of a point that is evaluated for the record only, where random numbers are drawn


class Worker:
    """The objective on one shard, f_i(w) = mean loss + (l2/2)|w|^2, and what the worker has been told and keeps.

    Attributes
    ----------
    index : int
        Number of this worker, 0 to m - 1.
    share : float
        Its share of the rows (of their weights), omega_i; the shares of all workers sum to 1.
    rows : int
    l2_vector : array, shape (d,)
        Regularisation of every weight.
    shapes : tuple of Shape
        What the weights are.
    memory : dict of str to array
        What a method keeps here between calls; saved in checkpoints. Keys are names that the method chooses; values are
        arrays or numbers of any numeric dtype. After every task they are arrays in C order.
    scratch : dict of str to object
        What a method can compute again, kept between the calls of an iteration; not saved.
    """

    def __init__(self, index: int, shard: Shard, problem: Problem) -> None:
        self.index, self.share = index, float(problem.worker_share[index])
        self.l2_vector, self.seed = problem.l2_vector, problem.seed
        self.rows = shard.rows
        self.shapes = problem.shapes
        self.model: Model = problem.loss.on_shard(shard, problem.classes)
        self.memory: dict[str, Array] = {}
        self.scratch: dict[str, Any] = {}
        self._key = [problem.seed, index, 0, 0]  # the iteration, and the points of a random model before in it
        if isinstance(self.model, RandomModel):
            self.model.key = self._key
        self._steps = 0
        self._point: Point | None = None
        self._ray: Ray | None = None
        self._p: Array | None = None  # the direction of the ray

    @property
    def iteration(self) -> int:
        """Iteration of the run; the host sets it before every task."""
        return self._key[2]

    @iteration.setter
    def iteration(self, number: int) -> None:
        if number != self._key[2]:
            self._key[2:] = number, 0

    @property
    def _is_random(self) -> bool:
        return isinstance(self.model, RandomModel) and self.model.is_random

    # -- the weights --------------------------------------------------------------------------------------------

    @property
    def point(self) -> Point:
        """The loss at the weights of the worker, without the l2 term."""
        if self._point is None:
            raise RuntimeError("the worker has no weights yet: call move_to(w) first")
        return self._point

    @property
    def w(self) -> Array:
        """The weights, shape (d,); never written to."""
        return self.point.w

    def change_model(self, model: Model) -> None:
        """Replace the model; the worker has no weights until it is moved."""
        self.model, self._point, self._ray = model, None, None

    def move_to(self, w: Array) -> None:
        """Evaluate the loss at w, shape (d,), from now on."""
        self._point, self._ray, self._steps = self.model.at(w), None, 0

    def set_direction(self, p: Array) -> None:
        """Prepare trial steps w + a p, p of shape (d,): one product with the data, whatever the number of steps."""
        self._ray, self._p = self.point.along(p), p

    def advance(self, step: float) -> None:
        """Move to w + step p, where p is the last direction set."""
        if self._ray is None:
            raise RuntimeError("advance needs a direction: call set_direction(p) first")
        self._point, self._ray = self._ray.at(step), None
        self._steps += 1
        if self._steps % REFRESH == 0 or self._is_random:
            self._point = self.model.at(self._point.w)

    # -- the objective there ------------------------------------------------------------------------------------

    def value(self) -> float:
        """f_i(w)."""
        return self.point.value() + 0.5 * float((self.l2_vector * self.w) @ self.w)

    def gradient(self) -> Array:
        """Gradient of f_i, shape (d,)."""
        return self.point.gradient() + self.l2_vector * self.w

    def hvp(self, v: Array) -> Array:
        """Hessian of f_i times v, shape (d,)."""
        return self.point.hvp(v) + self.l2_vector * v

    def hessian(self) -> Array:
        """Hessian of f_i, shape (d, d)."""
        H = self.point.hessian()
        H[np.diag_indices_from(H)] += self.l2_vector
        return H

    def hessian_triangle(self) -> Array:
        """Upper triangle of the Hessian of f_i, row by row, shape (d (d + 1) / 2,)."""
        point = self.point
        T = point.hessian(packed=True) if isinstance(point, LinearPoint) else pack_triangle(point.hessian())
        return add_packed_diagonal(T, self.l2_vector)

    def hessian_diagonal(self) -> Array:
        """Diagonal of the Hessian of f_i, shape (d,)."""
        return self.point.hessian_diagonal() + self.l2_vector

    def losses(self, steps: Array) -> Array:
        """f_i(w + a p) for every a of `steps`, shape (len(steps),); p is the last direction set."""
        if self._ray is None or self._p is None:
            raise RuntimeError("trial steps need a direction: call set_direction(p) first")
        w, p, l2 = self.w, self._p, self.l2_vector
        square = 0.5 * ((l2 * w) @ w + 2.0 * steps * ((l2 * w) @ p) + steps**2 * ((l2 * p) @ p))
        return np.asarray(self._ray.losses(steps) + square)

    def gradients(self, steps: Array) -> Array:
        """Gradient of f_i at w + a p for every a of `steps`, shape (len(steps), d); p as in `losses`."""
        if self._ray is None or self._p is None:
            raise RuntimeError("trial steps need a direction: call set_direction(p) first")
        points = [self._ray.at(step) for step in steps]
        return np.array([point.gradient() + self.l2_vector * point.w for point in points]).reshape(len(steps), -1)

    def evaluate(self, w: Array) -> tuple[float, Array]:
        """f_i and its gradient, shape (d,), at w; the worker stays at its own weights."""
        key = np.array([*self._key[:3], RECORD])  # whatever points there were before
        point = self.model.at(w, **({"key": key} if self._is_random else {}))
        g = point.gradient()  # before the value, which may come out of it
        return point.value() + 0.5 * float((self.l2_vector * w) @ w), g + self.l2_vector * w

    # -- chance and memory --------------------------------------------------------------------------------------

    def rng(self, *key: int) -> np.random.Generator:
        """Random numbers of (seed, worker, iteration, key): the same in every layout and after every resume."""
        return random_numbers(self.seed, self.index, self.iteration, key)

    def subset(self, rows: Indices | None = None) -> Worker:
        """This worker on some of its rows, numbers from 0 to rows - 1, shape (k,), or on all: without weights yet."""
        part = copy.copy(self)
        if rows is not None:
            part.model, part.rows = self.model.subset(rows), len(rows)
        part._point = part._ray = part._p = None
        return part

    def sampled_gradient(self, rows: Indices, w: Array) -> Array:
        """Gradient of f_i at w, (d,), from some of its rows, (k,): right in the mean over fair samples."""
        part = self.subset(rows)
        part.move_to(w)
        ridge = self.l2_vector * w
        return ridge + mean_weight_ratio(self.model.row_weight, rows) * (part.gradient() - ridge)

    def normalise_memory(self) -> None:
        """Store the memory in C order, as a checkpoint restores it: H.T @ v and H @ v round differently."""
        for name, value in self.memory.items():
            self.memory[name] = np.asarray(value, order="C")

    def save(self, w: Array) -> dict[str, Array]:
        """All this worker keeps, for a checkpoint; its weights only where they are not the driver's w."""
        state: dict[str, Any] = {f"memory/{name}": np.asarray(value) for name, value in self.memory.items()}
        if self._point is not None:
            state |= {f"point/{name}": value for name, value in self._point.cache().items()}
            state["steps"] = np.array(self._steps)
            if not np.array_equal(self.w, w):
                state["w"] = self.w
            if self._ray is not None and self._p is not None:
                state["p"] = self._p
        return state

    def restore(self, state: dict[str, Array], w: Array) -> None:
        """Return to the state in which `save` was called, bit by bit."""
        self.memory = {name.removeprefix("memory/"): a for name, a in state.items() if name.startswith("memory/")}
        if "steps" in state:
            kept = {name.removeprefix("point/"): a for name, a in state.items() if name.startswith("point/")}
            self._point, self._ray = self.model.at(state.get("w", w), **kept), None
            self._steps = int(state["steps"])
            if "p" in state:
                self.set_direction(state["p"])


def random_numbers(seed: int, index: int, iteration: int, key: Sequence[int]) -> np.random.Generator:
    """Random numbers that depend on these alone."""
    # The length too: numpy fills short seeds up with zeros, and the key () would be (0,).
    return np.random.default_rng([seed, index, iteration, len(key), *key])
