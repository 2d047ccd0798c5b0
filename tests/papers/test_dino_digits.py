"""The reference figures of the DINO experiments on scikit-learn's digits, from an independent implementation.

Softmax: rounds to a gap, floats and first losses, five workers, round robin. Tolerances: rounds one iteration up to 12
iterations and 15 % beyond; first losses 1e-4. Nonlinear least squares: who fails, who descends.

50 steps of CG or LSMR lose orthogonality: after the first step scipy's LSMR gives .32404 where this one gives .32416,
and an exact Krylov solution .32307. Rounding, and so the processor, decides such figures; they are held to what
docs/processors.md says of them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference import ALL_AT_ONCE, LBFGS, digits, loss_at, recorded, squares
from rounding import assert_as_seen

from mpinewton.runs.stopping import GapBelow, Iterations, Rounds

GAPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)

# method, settings, rounds to the gaps, floats at the last, losses after 1, 2, 3 iterations
SOFTMAX = {
    "giant": ("giant", {}, (14, 26, 38, 44, 62, 74), 32649, (0.332450, 0.297490, 0.255938)),
    "giant-abs": ("giant", {"negative": "abs"}, (14, 26, 38, 44, 56, 74), 32649, (0.3275, 0.2891, 0.239034)),
    "dino-lanczos": (
        "dino",
        {"solver": "lanczos"},
        (14, 26, 38, 44, 62, 74),
        32649,
        (0.332448, 0.297485, 0.255939),
    ),
    "dino": ("dino", {}, (14, 26, 56, 68, 104, 140), 61403, (0.324120, 0.248491, 0.215725)),
    "lbfgs": ("lbfgs", LBFGS, (30, 66, 110, 154, 238, 334), 112086, (1.60636, 1.17461, 0.422051)),
}


@pytest.mark.parametrize("cell", SOFTMAX)
def test_softmax_five_workers(cell):
    name, settings, rounds, floats, losses = SOFTMAX[cell]
    stops = [GapBelow(1e-8), Iterations(200)]
    ended, rows, fleet = recorded(name, settings | ALL_AT_ONCE, digits(5), stops)
    assert ended.converged
    assert rows[0].loss == pytest.approx(np.log(10), rel=1e-12)
    each = 4 if name == "lbfgs" else 6
    assert [row.rounds for row in rows] == [each * row.iteration + 2 for row in rows]
    if cell in ("giant", "giant-abs", "dino"):  # CG and LSMR without reorthogonalisation
        assert_as_seen(rows, dict(zip(GAPS, rounds)), dict(zip("123", losses)), each)
    else:
        assert [row.loss for row in rows[1:4]] == pytest.approx(losses, rel=1e-4)
        for gap, wanted in zip(GAPS, rounds):
            iterations = (wanted - 2) // each
            found = next(row.iteration for row in rows if row.gap <= gap)
            assert abs(found - iterations) <= max(1, 0.15 * iterations), (gap, found, iterations)
    # Floats follow from the iterations exactly; the reference's own number, where the iterations agree.
    d, t = fleet.dim, ended.row.iteration
    per_iteration = (d + 1) + (d + 1 + 53) if name == "lbfgs" else (2 * d + 1) + (2 * d + 53)
    used = int(fleet.ledger.floats_down.max() + fleet.ledger.floats_up.max())
    assert used == 2 * d + 1 + t * per_iteration
    if ended.row.rounds == rounds[-1]:
        assert used == floats


def test_staged_search_saves_43_floats_an_iteration_and_changes_nothing_else():
    stops = [GapBelow(1e-8), Iterations(200)]
    staged, rows, fleet = recorded("giant", {}, digits(5), stops)
    whole, all_rows, all_fleet = recorded("giant", ALL_AT_ONCE, digits(5), stops)
    assert np.array_equal(staged.state.w, whole.state.w)
    assert [row.rounds for row in rows] == [row.rounds for row in all_rows]
    saved = all_fleet.ledger.floats_up - fleet.ledger.floats_up
    assert (saved == 43 * staged.row.iteration).all()


def test_optimum_of_the_digits():
    ended, _, _ = recorded("newton", {}, digits(5), [Iterations(8)])
    assert ended.row.loss == pytest.approx(digits(5).optimum, rel=1e-10)


class TestNonlinearLeastSquares:
    """50 workers with fewer rows than features, digits as numbers: the curvature is negative on every worker."""

    STOPS = (Rounds(60),)

    def test_start(self):
        _, rows, _ = recorded("dino", {}, squares(), [Iterations(0)])
        assert rows[0].loss == pytest.approx(22.627701, rel=1e-7)
        assert rows[0].grad_norm == pytest.approx(12.272204, rel=1e-7)

    def test_giant_as_published_fails_at_once_and_says_why(self):
        ended, rows, fleet = recorded("giant", {}, squares(), self.STOPS)
        assert len(rows) == 1
        assert not ended.converged
        assert "negative curvature" in ended.reason
        assert "50 of 50 workers" in ended.reason
        assert fleet.ledger.rounds == 4

    # As the reference has them at 60 rounds; the published constants stall, others do not.
    @pytest.mark.parametrize(
        ("settings", "loss"),
        [
            ({}, 21.23),
            ({"solver": "lanczos"}, 15.355),
            ({"solver": "lanczos", "theta": 0.1, "phi": 0.1}, 6.471),
        ],
        ids=["published", "lanczos", "larger-constants"],
    )
    def test_dino_descends_monotonically(self, settings, loss):
        _, rows, _ = recorded("dino", settings, squares(), self.STOPS)
        losses = [row.loss for row in rows]
        assert all(after < before for before, after in itertools.pairwise(losses))
        if settings:
            assert loss_at(rows, 60) == pytest.approx(loss, rel=1e-3)
        else:  # LSMR
            assert_as_seen(rows, losses={"60 rounds": loss})
        assert "of 50 workers corrected" in rows[1].note
