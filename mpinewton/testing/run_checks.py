"""Checks of a method in a run: cost, resumption, bits. Each raises CheckFailed, or returns what it measured."""

from __future__ import annotations

import ast
import operator
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.fleet.local import LocalFleet
from mpinewton.methods.support.method import AnyMethod, Cost
from mpinewton.runs.checkpoint import Checkpoint, read, state_fields, write
from mpinewton.runs.history import Row
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations
from mpinewton.testing.method_checks import started
from mpinewton.testing.problems import SIZES, Problem, on_many
from mpinewton.testing.report import CheckFailed
from mpinewton.testing.simulation import on_ranks, rebuild

OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def check_cost(method: AnyMethod, problem: Problem, warm_up: int = 0) -> str:
    """With the default settings an iteration costs what the class declares. Returns the measured cost."""
    fleet = on_many(problem)
    state, ledger = started(method, fleet, problem.start), fleet.ledger
    for fleet.iteration in range(1, warm_up + 1):
        state = method.step(fleet, state)
    before = ledger.rounds, int(ledger.floats_down.max()), int(ledger.floats_up.max())
    ledger.entries()
    fleet.iteration = warm_up + 1
    state = method.step(fleet, state)
    after = ledger.rounds, int(ledger.floats_down.max()), int(ledger.floats_up.max())
    found = dict(zip(("rounds", "down", "up"), (b - a for a, b in zip(before, after))))
    measured = f"{found['rounds']} rounds, {found['down']} floats down and {found['up']} up per worker, d = {fleet.dim}"
    if method.cost is None or method != type(method)():
        return measured
    values = {"d": fleet.dim, "m": max(SIZES), "k": _inner_steps(method.cost, state.note)}
    for name, count in found.items():
        formula = getattr(method.cost, name)
        if value_of(formula, values) != count:
            raise CheckFailed(
                f"the declared cost is wrong: {name}",
                where=f"iteration {fleet.iteration}, with {', '.join(f'{k} = {v}' for k, v in values.items())}",
                expected=f"{formula} = {value_of(formula, values):g}, as declared",
                found=f"{count} in the ledger; measured: {measured}",
                cause="a call or an array that the formula leaves out, or an iteration that is not a typical one: "
                "then give `warm_up`",
            )
    for entry in ledger.entries():
        if not entry.indices and entry.bits != 64 * entry.floats:
            raise CheckFailed(
                "the declared cost counts floats of 64 bits, and others are sent",
                where=f"task {entry.task}, {entry.direction}",
                expected=f"{64 * entry.floats} bits",
                found=f"{entry.bits} bits",
            )
    return f"{measured}, as declared"


def _inner_steps(cost: Cost, note: str) -> int:
    """k, the number of inner steps, with which the note begins where the cost depends on it."""
    if "k" not in cost.rounds + cost.down + cost.up:
        return 0
    first = note.partition(" ")[0]
    if not first.isdigit():
        raise CheckFailed(
            "the declared cost depends on k, the number of inner steps, but the note does not begin with k",
            expected="a note as '12 steps of conjugate gradients'",
            found=repr(note),
        )
    return int(first)


def value_of(formula: str, values: Mapping[str, float]) -> float:
    """Value of a formula in numbers, names, + - * / and parentheses, as `d*(d + 1)/2 + m`."""

    def value(node: ast.AST) -> float:
        match node:
            case ast.BinOp(left, operation, right) if type(operation) in OPERATIONS:
                return OPERATIONS[type(operation)](value(left), value(right))
            case ast.Name(name) if name in values:
                return values[name]
            case ast.Constant(int() | float() as number):
                return number
        raise CheckFailed(
            "a formula of the declared cost cannot be read",
            expected=f"numbers, {', '.join(values)}, + - * /",
            found=formula,
        )

    return value(ast.parse(formula, mode="eval").body)


def check_resumption(method: AnyMethod, problem: Problem) -> str:
    """Stopped at iterations 0 and 3 and resumed from its checkpoint, it ends with the same bits and the same ledger."""

    def fresh() -> tuple[AnyMethod, LocalFleet]:
        again, fleet = rebuild(method), on_many(problem)
        fleet.adopt(again)
        return again, fleet

    rows: list[Row] = []
    _, whole = unbroken = fresh()
    expected = run(*unbroken, problem.start, [Iterations(7)], watchers=[lambda row, _: rows.append(row)])
    for stop in (0, 3):
        first, fleet = fresh()
        halfway = run(first, fleet, problem.start, [Iterations(stop)])
        saved = Checkpoint(1, {}, state_fields(halfway.state), fleet.ledger.state(), fleet.save(halfway.state.w))
        with tempfile.TemporaryDirectory() as folder:
            again = read(write(Path(folder), saved))
        second, fleet = fresh()
        state = again.state_of(method.state)
        fleet.restore(again.workers, state.w)
        fleet.ledger.restore(again.ledger)
        fleet.iteration = halfway.row.iteration
        ended = run(second, fleet, state, [Iterations(7)], first=rows[0])
        here, there = fleet.ledger.state(), whole.ledger.state()
        unlike = [name for name in there if name != "compute" and not np.array_equal(here[name], there[name])]
        if ended.state.w.tobytes() != expected.state.w.tobytes() or ended.reason != expected.reason or unlike:
            raise CheckFailed(
                "a resumed run does not end as the undisturbed one",
                where=f"stopped at iteration {stop}, compared at iteration {ended.row.iteration}",
                expected=f"w = {expected.state.w}, {expected.reason}",
                found=f"w = {ended.state.w}, {ended.reason}" + (f"; ledger: {', '.join(unlike)}" if unlike else ""),
                cause="the method remembers something that is no field of its state and not in worker.memory, or the "
                "class of its states lacks @dataclass(frozen=True, eq=False, kw_only=True)",
            )
    return f"{expected.row.iteration} iterations, stopped at 0 and 3"


def check_bits(method: AnyMethod, problem: Problem, many: Sequence[int] = (2, 3, 5)) -> str:
    """The states are the same, bit by bit, in a second run and on so many simulated ranks."""
    once = _trail(method, on_many(problem), problem.start)
    again = _trail(rebuild(method), on_many(problem), problem.start)
    _compare_trails(
        once, again, "in a second run",
        "random numbers that are not from worker.rng or fleet.rng (np.random.*, random), the clock, or something that "
        "is kept on the class or in a module",
    )  # fmt: skip
    for ranks in many:
        there = _trail(rebuild(method), on_ranks(problem, ranks), problem.start)
        _compare_trails(
            once, there, f"on {ranks} ranks",
            "tasks of the workers read what the driver keeps on the method: a rank has a copy with the settings alone",
        )  # fmt: skip
    return f"{len(once) - 1} iterations, twice and on {', '.join(map(str, many))} simulated ranks"


def _trail(method: AnyMethod, fleet: LocalFleet, start: Array, count: int = 6) -> list[dict[str, Any]]:
    """The fields of the first states; arrays as bytes."""
    states = [started(method, fleet, start.copy())]
    for fleet.iteration in range(1, count + 1):
        after = method.step(fleet, states[-1])
        if after.trouble:
            break
        states.append(after)
    return [
        {name: value.tobytes() if isinstance(value, np.ndarray) else repr(value) for name, value in vars(state).items()}
        for state in states
    ]


def _compare_trails(once: list[dict[str, Any]], again: list[dict[str, Any]], what: str, cause: str) -> None:
    unlike = (
        f"{name} at iteration {iteration}"
        for iteration, (here, there) in enumerate(zip(once, again))
        for name in here
        if here[name] != there.get(name)
    )
    found = next(unlike, "" if len(once) == len(again) else f"{len(again) - 1} iterations, not {len(once) - 1}")
    if found:
        raise CheckFailed(f"the states differ {what}", expected="the same bits", found=f"another {found}", cause=cause)
