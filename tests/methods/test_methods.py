"""Every method on every problem whose needs it meets, on one worker and on five."""

from __future__ import annotations

import itertools
from dataclasses import fields

import msgspec
import numpy as np
import pytest
from fleets import on_many, on_one
from problems import SIZES, ZOO
from variants import VARIANTS, pairs

from mpinewton.methods import METHODS
from mpinewton.methods.registry import make_method, parsed_settings
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, GradientBelow, Iterations

# Iterations before a method is in the phase that its cost line is about.
WARMING_UP = {"auto": 3}


def test_every_method_is_tried():
    assert {variant.method for variant in VARIANTS.values()} == set(METHODS)


@pytest.mark.parametrize("fleet_of", [on_one, on_many])
@pytest.mark.parametrize(("variant", "problem_name"), pairs(convex=True))
def test_reaches_the_optimum(variant, problem_name, fleet_of):
    v, problem = VARIANTS[variant], ZOO[problem_name]
    method, fleet = v.made(), fleet_of(problem)
    fleet.adopt(method)
    start, (w, value) = problem.start.copy(), problem.optimum
    stop = GapBelow(v.gap * (problem.objective(start)[0] - value)) if v.gap else GradientBelow(1e-8)
    ended = run(method, fleet, problem.start, [stop, Iterations(v.limit)], evaluation=Evaluation(optimum=value))
    assert ended.converged, ended.reason
    assert np.array_equal(problem.start, start), "the start was written to"
    if not v.gap:
        assert ended.row.loss == pytest.approx(value, abs=1e-13, rel=1e-13)
        # |w - w*| <= |gradient| / l2 by strong convexity
        assert np.linalg.norm(ended.state.w - w) <= 1e-8 / problem.l2 * 1.01


@pytest.mark.parametrize("fleet_of", [on_one, on_many])
@pytest.mark.parametrize(("variant", "problem_name"), pairs(convex=False, monotone=True))
def test_descends_where_nothing_is_convex(variant, problem_name, fleet_of):
    problem, method = ZOO[problem_name], VARIANTS[variant].made()
    fleet, losses = fleet_of(problem), []
    fleet.adopt(method)
    run(
        method,
        fleet,
        problem.start,
        [GradientBelow(1e-8), Iterations(40)],
        watchers=[lambda row, _: losses.append(row.loss)],
    )
    assert len(losses) > 3
    assert all(after <= before + 1e-14 * abs(before) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]
    assert problem.objective(problem.start)[0] == pytest.approx(losses[0], rel=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_knows_the_truth_or_nothing(variant):
    problem, method = ZOO["logistic-csr"], VARIANTS[variant].made()
    fleet = on_many(problem)
    fleet.adopt(method)
    state = method.start(fleet, problem.start)
    for fleet.iteration in range(1, 5):
        state = method.step(fleet, state)
        assert isinstance(state, method.state)
        if not state.gradient.size:
            assert np.isnan(state.loss)
            continue
        value, gradient, _ = problem.objective(state.w)
        assert state.loss == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(state.gradient, gradient, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
def test_costs_are_what_the_docstring_says(name):
    method, problem = make_method(name, {}), ZOO["logistic-dense"]
    fleet = on_many(problem)
    fleet.adopt(method)
    state = method.start(fleet, problem.start)
    for fleet.iteration in range(1, WARMING_UP.get(name, 0) + 1):
        state = method.step(fleet, state)
    ledger, d = fleet.ledger, fleet.dim
    before = ledger.rounds, int(ledger.floats_down.max()), int(ledger.floats_up.max())
    ledger.entries()
    note = method.step(fleet, state).note
    cost = method.cost
    k = int(note.split()[0]) if "k" in cost.rounds else 0
    rounds, down, up = (formula(text, d=d, m=max(SIZES), k=k) for text in (cost.rounds, cost.down, cost.up))
    assert ledger.rounds - before[0] == rounds
    assert int(ledger.floats_down.max()) - before[1] == down
    assert int(ledger.floats_up.max()) - before[2] == up
    assert all(entry.bits == 64 * entry.floats for entry in ledger.entries() if not entry.indices)


def formula(text: str, **values: int) -> int:
    """Value of a cost formula such as `d*(d + 1)/2 + m`; d weights, m rows on a worker, k inner steps."""
    assert set(text) <= set("dmk0123456789+-*/() "), text
    return int(eval(text, {"__builtins__": {}}, values))  # noqa: S307


@pytest.mark.parametrize("name", METHODS)
def test_settings_survive_the_trip(name):
    method = make_method(name, {})
    again = msgspec.convert(msgspec.to_builtins(method), type(method))
    assert again == method
    assert all(getattr(again, field.name) == getattr(method, field.name) for field in fields(method))


def test_the_word_none_switches_a_part_off_wherever_it_is_written():
    for settings in ({"search": None}, {"search": "none"}, parsed_settings(["search=none"])):
        assert make_method("newton", settings).search is None
