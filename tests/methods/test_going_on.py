"""Every method, stopped after a few iterations and taken up from its checkpoint by others, ends with the same bits."""

from __future__ import annotations

import pytest
from fleets import on_many
from problems import ZOO
from variants import VARIANTS

from mpinewton.runs.checkpoint import Checkpoint, read, state_fields, write
from mpinewton.runs.loop import run
from mpinewton.runs.stopping import Iterations


def fitting(v):
    """The problem a variant is tried on: the hardest kind of shards, unequal and with row weights."""
    names = ("logistic-csr", "softplus-csr", "squared-csr", "softmax-csr", *ZOO)
    return next(ZOO[name] for name in names if v.fits(ZOO[name]))


@pytest.mark.parametrize("stop", [0, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_goes_on_from_a_checkpoint_to_the_same_bits(variant, stop, tmp_path):
    v = VARIANTS[variant]
    problem = fitting(v)

    def begun():
        method, fleet = v.made(), on_many(problem)
        fleet.adopt(method)
        return method, fleet

    whole, rows = begun(), []
    expected = run(*whole, problem.start, [Iterations(7)], watchers=[lambda row, _: rows.append(row)])

    method, fleet = begun()
    halfway = run(method, fleet, problem.start, [Iterations(stop)])
    assert halfway.kind == "budget", halfway.reason
    saved = Checkpoint(1, {}, state_fields(halfway.state), fleet.ledger.state(), fleet.saved(halfway.state.w))
    again = read(write(tmp_path, saved))

    method, fleet = begun()
    state = again.state_of(method.state)
    fleet.restore(again.workers, state.w)
    fleet.ledger.restore(again.ledger)
    fleet.iteration = halfway.row.iteration
    ended = run(method, fleet, state, [Iterations(7)], first=rows[0])
    assert ended.state.w.tobytes() == expected.state.w.tobytes()
    assert ended.reason == expected.reason
    for name, count in whole[1].ledger.state().items():
        assert name == "compute" or (fleet.ledger.state()[name] == count).all(), name
