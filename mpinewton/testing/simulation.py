"""Fleets for checks: workers dealt out to simulated ranks, and a loss that provides less than it could."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import fields
from typing import Any

import msgspec

from mpinewton.arrays import AnyArray
from mpinewton.fleet.calls import Call
from mpinewton.fleet.host import Host, HostSum
from mpinewton.fleet.local import LocalFleet
from mpinewton.fleet.tree import PartialSum, hosted_workers
from mpinewton.losses.linear import PROVIDED_BY, LinearLoss
from mpinewton.testing.problems import Problem, on_many

# Formulas of a linear loss, and the words of `provides` without which no method may use them.
FORMULAS = PROVIDED_BY | {
    "second_terms": PROVIDED_BY["second_derivatives"],
    "second_derivatives": {"second_derivatives"},
}

# What models, points and rays of any loss have; see `mpinewton.losses.loss`.
MODEL = {"dim", "row_weight", "at", "subset", "predict", "key", "is_random"}
POINT = {"w", "value", "gradient", "hvp", "hessian", "hessian_diagonal", "second_derivatives", "along", "cache"}
ANYWHERE = MODEL | POINT | {"losses"}


class NotProvided(Exception):
    """A formula was used that the loss does not provide. The message is its name."""


def on_ranks(problem: Problem, ranks: int) -> LocalFleet:
    """The problem on five workers, which are hosted by so many simulated ranks."""
    return LocalFleet(_Ranks(on_many(problem).host, ranks))


class _Ranks(Host):
    """A host that asks several hosts, each with its own copy of the method, and adds up their sums as the ranks do."""

    def __init__(self, whole: Host, ranks: int) -> None:
        count = len(whole.workers)
        blocks = [[whole.workers[i] for i in hosted_workers(rank, ranks, count)] for rank in range(ranks)]
        self.hosts = [Host(whole.problem, block) for block in blocks]
        super().__init__(whole.problem, whole.workers)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "method" and value is not None:
            for host in self.hosts:
                host.method = rebuild(value)

    def answers(self, call: Call, arrays: Sequence[AnyArray]) -> Iterator[tuple[int, Any]]:
        for host in self.hosts:
            yield from host.answers(call, arrays)

    def sum(self, call: Call, arrays: Sequence[AnyArray]) -> HostSum:
        sums = [host.sum(call, arrays) for host in self.hosts]
        total = PartialSum(self.tree)
        failure = next((part.failure for part in sums if part.failure), None)
        for part in sums if failure is None else ():
            for node, term in zip(part.total.nodes, part.total.sums):
                total.add(node, term)
        return HostSum(total, next((part.first for part in sums if part.first), None), failure)


def rebuild(method: Any) -> Any:
    """The method as another rank builds it, from its class and its settings."""
    return msgspec.convert(msgspec.to_builtins(method), type(method))


def restrict(loss: LinearLoss, provides: Set[str]) -> LinearLoss:
    """The same loss, except that it provides only this: its other formulas raise `NotProvided`."""
    kind: Any = type(loss)

    def refuse(name: str) -> Callable[..., Any]:
        def formula(*arguments: Any) -> Any:
            raise NotProvided(name)

        return formula

    hidden: dict[str, Any] = {name: refuse(name) for name, words in FORMULAS.items() if not words & provides}
    if "second_derivatives" in hidden and "second_terms" not in hidden and kind.second_terms is LinearLoss.second_terms:
        hidden["second_terms"] = kind.second_derivatives  # what it calls by default
    if "rows" not in provides:
        hidden["on_shard"] = lambda self, shard, classes: WithoutRows(kind.on_shard(self, shard, classes))
    content = {"provides": frozenset(provides), "__doc__": kind.__doc__, **hidden}
    smaller: LinearLoss = type(kind.__name__, (kind,), content)(**{f.name: getattr(loss, f.name) for f in fields(loss)})
    return smaller


class WithoutRows:
    """A model, point or ray of a linear loss that is seen as one of any loss: no rows, no logits, no formulas."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name not in ANYWHERE:
            raise NotProvided("rows") if not name.startswith("__") else AttributeError(name)
        value = getattr(self.inner, name)
        if name in ("at", "subset", "along"):
            return lambda *arguments, **kept: WithoutRows(value(*arguments, **kept))
        return value
