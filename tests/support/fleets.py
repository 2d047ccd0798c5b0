"""Fleets for tests, made of the zoo's problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import Problem
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.shard import Shard
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.methods import Method


def on_many(problem: Problem) -> LocalFleet:
    """The problem as it lies in the zoo, on five workers, one of them without rows."""
    return local_fleet(problem.shards, problem.loss, problem.classes, problem.l2)


def on_one(problem: Problem) -> LocalFleet:
    """The same rows on one worker."""
    return local_fleet([together(problem.shards)], problem.loss, problem.classes, problem.l2)


def together(shards: list[Shard]) -> Shard:
    """All rows as one shard."""
    stack = sparse.vstack if sparse.issparse(shards[0].X) else np.vstack
    X = stack([shard.X for shard in shards])
    weight = None if shards[0].sample_weight is None else np.concatenate([shard.sample_weight for shard in shards])
    X = sparse.csr_array(X) if sparse.issparse(X) else X
    return Shard(X, np.concatenate([shard.y for shard in shards]), weight)


def states(method: Method, fleet: LocalFleet, w: Array, count: int) -> list[Any]:
    """The first states, count + 1 of them, of a method that has no trouble."""
    fleet.adopt(method)
    found = [method.start(fleet, w)]
    for fleet.iteration in range(1, count + 1):
        found.append(method.step(fleet, found[-1]))
        assert not found[-1].trouble, found[-1].trouble
    return found


def iterates(method: Method, fleet: LocalFleet, w: Array, count: int = 6) -> Array:
    """The first iterates, shape (count + 1, d); fewer where the method is done."""
    fleet.adopt(method)
    states = [method.start(fleet, w)]
    for fleet.iteration in range(1, count + 1):
        states.append(method.step(fleet, states[-1]))
        if states[-1].trouble:
            break
    return np.array([state.w for state in states])
