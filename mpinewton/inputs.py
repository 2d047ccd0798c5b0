"""What is minimised: shards of data in memory, and what every rank of a communicator brings, rows or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.in_memory import Rows, as_rows, as_shards, check_classes, check_total_weight, class_values
from mpinewton.data.partition import partition
from mpinewton.data.shard import Shard
from mpinewton.errors import ConfigError
from mpinewton.extensions import Reference
from mpinewton.fleet import Problem, Worker
from mpinewton.fleet.host import Host
from mpinewton.losses import Loss
from mpinewton.losses.function import Function
from mpinewton.runs.options import Options, digest, finite_array

Facts = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """The loss and its regularisation; l2 None is 1/N."""

    loss: Loss
    l2: float | None
    intercept: bool
    seed: int

    def l2_of(self, rows: int) -> float:
        """l2 for so many rows."""
        return 1.0 / max(1, rows) if self.l2 is None else self.l2


def make_shards(data: Any, loss: Loss, workers: int, seed: int) -> tuple[list[Shard], list[Any] | None]:
    """The shards of data in memory, and the distinct labels where the loss is for classes."""
    if isinstance(data, tuple) and not isinstance(data[0] if data else None, Shard):
        rows = as_rows(data)
        labels = _classes([rows.labels()]) if loss.classifies else None
        whole = rows.shard(labels)
        if workers > max(1, whole.rows):
            raise ConfigError(f"workers = {workers}: expected at most {whole.rows}, the number of rows")
        weight = whole.sample_weight
        parts = partition(whole.y, workers, "iid", seed)
        return [Shard(whole.X[p], whole.y[p], None if weight is None else weight[p]) for p in parts], labels
    shards = as_shards(data)
    check_total_weight([shard.total_weight for shard in shards])
    y = np.unique(np.concatenate([shard.y for shard in shards]))
    return shards, y.tolist() if loss.classifies else None


def _classes(labels: Sequence[Sequence[Any]]) -> list[Any]:
    """The distinct labels of all ranks, rising. Raises ConfigError where they are no classes."""
    try:
        found = sorted(set().union(*labels))
    except TypeError:
        raise ConfigError("y holds labels of different kinds, as words and numbers: make them all alike") from None
    check_classes(found)
    return found


@dataclass(frozen=True)
class RankRows:
    """Rows of this rank."""

    objective: Objective
    options: Options
    data: Any

    def describe(self) -> Facts:
        """What the other ranks must know."""
        about, loss = self.objective, self.objective.loss
        kind = Reference.of(loss)
        asked = {"call": "minimize", "loss": [kind.kind, kind.settings, kind.sha256], "l2": about.l2}
        asked |= {"intercept": about.intercept} | self.options.asked()
        if self.data is None:
            return {"asked": asked, "rows": 0}
        rows = self.rows
        return {
            "asked": asked, "rows": rows.X.shape[0], "features": rows.X.shape[1],
            "total_weight": float(len(rows.y) if rows.sample_weight is None else rows.sample_weight.sum()),
            "entries": int(rows.X.nnz if isinstance(rows.X, sparse.csr_array) else rows.X.size),
            "labels": rows.labels() if loss.classifies else None,
        }  # fmt: skip

    @property
    def rows(self) -> Rows:
        if isinstance(self.data, str | Path):
            raise ConfigError("comm is for rows in memory, (X, y) of every rank; leave it out for a folder")
        return as_rows(self.data)

    def classes(self, facts: Sequence[Facts]) -> list[Any] | None:
        """The distinct labels of all ranks, rising; None for numbers."""
        if not self.objective.loss.classifies:
            return None
        return _classes([rank["labels"] for rank in facts if rank["rows"]])

    def build(self, facts: Sequence[Facts], number: int) -> Host:
        """The workers of rank `number`: one, or none without rows."""
        _refuse_other_arguments(facts)
        with_rows = [rank for rank in range(len(facts)) if facts[rank]["rows"]]
        if not with_rows:
            raise ConfigError("no rank brings rows: there is nothing to train on")
        features = facts[with_rows[0]]["features"]
        for rank in with_rows:
            if facts[rank]["features"] != features:
                raise ConfigError(
                    f"X has {facts[rank]['features']} features on rank {rank}, and {features} on rank {with_rows[0]}"
                )
        check_total_weight([facts[rank]["total_weight"] for rank in with_rows])
        about, labels = self.objective, self.classes(facts)
        counts = tuple(facts[rank]["rows"] for rank in with_rows)
        entries = sum(facts[rank]["entries"] for rank in with_rows) + about.intercept * sum(counts)
        problem = Problem(
            about.loss, None if labels is None else class_values(labels), counts,
            tuple(facts[rank]["total_weight"] for rank in with_rows), features + about.intercept,
            about.l2_of(sum(counts)), about.intercept, about.seed, entries=entries,
        )  # fmt: skip
        if number not in with_rows:
            return Host(problem, [])
        shard = self.rows.shard(labels)
        shard = shard.with_intercept() if about.intercept else shard
        return Host(problem, [Worker(with_rows.index(number), shard, problem)])


def as_point(x0: Any) -> Array:
    """x0, shape (d,), as float64. Raises ConfigError."""
    point = finite_array("x0", x0)
    if point.ndim != 1:
        raise ConfigError(f"x0: expected shape (d,), but it is {point.shape}")
    return point


@dataclass(frozen=True)
class RankFunction:
    """The function of this rank."""

    fun: Callable[[Array], Any] | None
    x0: Array
    jac: Callable[[Array], Any] | bool | None
    hessp: Callable[[Array, Array], Any] | None
    hess: Callable[[Array], Any] | None
    reduce: str
    convex: bool
    options: Options

    def describe(self) -> Facts:
        """What the other ranks must know."""
        if self.reduce not in ("sum", "mean"):
            raise ConfigError(f"reduce = {self.reduce!r}: choose from sum, mean")
        if self.fun is not None and not (callable(self.jac) or self.jac is True):
            raise ConfigError(
                "jac is missing: give the gradient, or jac=True where fun returns (value, gradient); "
                "torch (backward) and jax (value_and_grad) compute it"
            )
        asked = {"call": "minimize_function", "x0": [self.x0.size, digest(self.x0)], "reduce": self.reduce}
        given = {"hessp": self.hessp is not None, "hess": self.hess is not None}
        return {
            "asked": asked | {"convex": bool(self.convex)} | self.options.asked(), "rows": int(self.fun is not None),
            "given": given,
        }  # fmt: skip

    def classes(self, facts: Sequence[Facts]) -> None:
        """There are no labels."""

    def build(self, facts: Sequence[Facts], number: int) -> Host:
        """The worker of rank `number`, if it has a function."""
        _refuse_other_arguments(facts)
        with_function = [rank for rank in range(len(facts)) if facts[rank]["rows"]]
        if not with_function:
            raise ConfigError("no rank has a function: fun is None everywhere")
        given = facts[with_function[0]]["given"]
        for rank in with_function:
            if facts[rank]["given"] != given:
                raise ConfigError(f"hessp and hess: give the same of them on rank {rank} as on rank {with_function[0]}")
        m = len(with_function)
        anything: Any = bool  # a rank without a function knows of the others' what they provide
        loss = Function(
            self.fun or anything, self.x0, self.jac or True, (self.hessp or anything) if given["hessp"] else None,
            (self.hess or anything) if given["hess"] else None, self.convex, float(m) if self.reduce == "sum" else 1.0,
        )  # fmt: skip
        problem = Problem(loss, None, (1,) * m, (1.0,) * m, self.x0.size, 0.0, seed=self.options.seed)
        shard = Shard(np.zeros((1, 0)), np.zeros(1))
        mine = [with_function.index(number)] if number in with_function else []
        return Host(problem, [Worker(index, shard, problem) for index in mine])


def _refuse_other_arguments(facts: Sequence[Facts]) -> None:
    """Every rank must be called with the same arguments. Raises ConfigError."""
    first = facts[0]["asked"]
    for rank, about in enumerate(facts):
        for name in first:
            mine, other = first[name], about["asked"].get(name)
            if mine != other:
                values = f"{str(other)[:80]} on rank {rank}, {str(mine)[:80]} on rank 0"
                raise ConfigError(f"{name} differs between ranks: {values}. Every rank must give the same arguments")
