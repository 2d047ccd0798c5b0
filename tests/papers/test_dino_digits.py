"""The reference figures of the DINO experiments on scikit-learn's digits, from an independent implementation.

Softmax: rounds to a gap, floats and first losses, five workers, round robin. Tolerances: rounds one iteration up to 12
iterations and 15 % beyond; first losses 1e-4. Nonlinear least squares: who fails, who descends.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference import ALL_AT_ONCE, digits, loss_at, recorded, squares

from mpinewton.runs.stopping import GapBelow, Iterations, Rounds

GAPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)

# method, settings, rounds to the gaps, floats at the last, losses after 1, 2, 3 iterations, tolerance of those losses
SOFTMAX = {
    "giant": ("giant", {}, (14, 26, 38, 44, 62, 74), 32649, (0.332450, 0.297490, 0.255938), 1e-4),
    "giant-abs": ("giant", {"negative": "abs"}, (14, 26, 38, 44, 56, 74), 32649, (0.3275, 0.2891, 0.239034), 1e-4),
    "dino-lanczos": (
        "dino",
        {"solver": "lanczos"},
        (14, 26, 38, 44, 62, 74),
        32649,
        (0.332448, 0.297485, 0.255939),
        1e-4,
    ),
    # LSMR loses orthogonality long before its 40th step: scipy's own gives .32404 where this one gives .32416, and an
    # exact Krylov solution .32307. Rounding decides the fourth digit, and the tolerance says so.
    "dino": ("dino", {}, (14, 26, 56, 68, 104, 140), 61403, (0.324120, 0.248491, 0.215725), 1e-3),
    "lbfgs": ("lbfgs", {}, (30, 66, 110, 154, 238, 334), 112086, (1.60636, 1.17461, 0.422051), 1e-4),
}


@pytest.mark.parametrize("cell", SOFTMAX)
def test_softmax_five_workers(cell):
    name, settings, rounds, floats, losses, tolerance = SOFTMAX[cell]
    stops = [GapBelow(1e-8), Iterations(200)]
    ended, rows, fleet = recorded(name, settings | ALL_AT_ONCE, digits(5), stops)
    assert ended.converged
    assert rows[0].loss == pytest.approx(np.log(10), rel=1e-12)
    assert [row.loss for row in rows[1:4]] == pytest.approx(losses, rel=tolerance)
    each = 4 if name == "lbfgs" else 6
    for gap, wanted in zip(GAPS, rounds):
        found = next(row for row in rows if row.gap <= gap)
        assert found.rounds == each * found.iteration + 2
        iterations = (wanted - 2) // each
        assert abs(found.iteration - iterations) <= max(1, 0.15 * iterations), (gap, found.rounds, wanted)
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
        ("settings", "loss", "tolerance"),
        [
            ({}, 21.23, 1e-3),
            ({"solver": "lanczos"}, 15.355, 1e-3),
            ({"solver": "lanczos", "theta": 0.1, "phi": 0.1}, 6.471, 1e-3),
        ],
        ids=["published", "lanczos", "larger-constants"],
    )
    def test_dino_descends_monotonically(self, settings, loss, tolerance):
        _, rows, _ = recorded("dino", settings, squares(), self.STOPS)
        losses = [row.loss for row in rows]
        assert all(after < before for before, after in itertools.pairwise(losses))
        assert loss_at(rows, 60) == pytest.approx(loss, rel=tolerance)
        assert "of 50 workers tilted" in rows[1].note
