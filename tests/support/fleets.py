"""Fleets for tests, made of the zoo's problems."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet.local import LocalFleet
from mpinewton.methods import Method
from mpinewton.testing.problems import on_many, on_one, together

__all__ = ["iterates", "on_many", "on_one", "states", "together"]


def states(method: Method, fleet: LocalFleet, w: Array, count: int) -> list[Any]:
    """The first states, count + 1 of them, of a method that has no trouble."""
    fleet.adopt(method)
    fleet.iteration = 0
    found = [method.start(fleet, w)]
    for fleet.iteration in range(1, count + 1):
        found.append(method.step(fleet, found[-1]))
        assert not found[-1].trouble, found[-1].trouble
    return found


def iterates(method: Method, fleet: LocalFleet, w: Array, count: int = 6) -> Array:
    """The first iterates, shape (count + 1, d); fewer where the method is done."""
    fleet.adopt(method)
    fleet.iteration = 0
    states = [method.start(fleet, w)]
    for fleet.iteration in range(1, count + 1):
        states.append(method.step(fleet, states[-1]))
        if states[-1].trouble:
            break
    return np.array([state.w for state in states])
