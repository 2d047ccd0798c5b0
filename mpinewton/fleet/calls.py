"""A call of the driver, and how its task is named on the wire."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import msgspec

from mpinewton.errors import ConfigError
from mpinewton.fleet.wire import Layout

Task = Callable[..., Any]
TaskOf = TypeVar("TaskOf", bound=Task)


def batched(task: TaskOf) -> TaskOf:
    """Mark a task that also runs on a `mpinewton.fleet.batch.Batch`: it uses nothing that a batch does not provide.

    `hessian_triangle` may only be the last part of its reply.
    """
    task.batched = True  # type: ignore[attr-defined]
    return task


class Call(msgspec.Struct, frozen=True):
    """One call of the driver, without its arrays."""

    kind: str  # mean, sum, gather or send
    task: str
    iteration: int
    inputs: Layout
    everyone: bool  # if not, the last array is the mask of those who are asked


class Failure(msgspec.Struct, frozen=True):
    """A task that raised."""

    worker: int
    trace: str


def layout_mismatch(layout: Layout, first: Layout) -> str:
    """Why replies of these layouts cannot be added up."""
    return f"its reply has the shapes {list(layout.shapes)}, the first worker's has {list(first.shapes)}"


def task_name(task: Task, method: object) -> str:
    """How a task travels: `self.name` where it belongs to the method or one of its fields, `module:name` if a function.

    Raises
    ------
    ConfigError
        For anything a worker could not find again by its name, such as a lambda.
    """
    owner = getattr(task, "__self__", None)
    name = getattr(task, "__name__", repr(task))
    if owner is not None:
        if way := _way(owner, method, "self"):
            return f"{way}.{name}"
    elif getattr(task, "__qualname__", "") == name != "<lambda>":
        return f"{task.__module__}:{name}"
    raise ConfigError(
        f"{task!r} cannot be a worker's task: workers find tasks by name, so use a function of a module, "
        "or a method of the Method or of one of its fields"
    )


def _way(owner: object, place: object, path: str) -> str:
    """How to get to `owner` from `place`, field by field; "" where it is not there."""
    if place is owner:
        return path
    parts = fields(place) if is_dataclass(place) and not isinstance(place, type) else ()
    ways = (_way(owner, getattr(place, part.name), f"{path}.{part.name}") for part in parts)
    return next(filter(None, ways), "")


def find_task(name: str, method: object) -> Task:
    """The task that `task_name` gave this name."""
    if name.startswith("self."):
        found: Any = method
        for part in name.split(".")[1:]:
            found = getattr(found, part)
        return found  # type: ignore[no-any-return]
    return _function(name)


@cache
def _function(name: str) -> Task:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
