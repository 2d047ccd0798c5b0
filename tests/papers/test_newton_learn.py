"""The reference figures of the NEWTON-LEARN experiments: rounds to a gap, and floats up a worker, from the ledger.

Blocks in file order, logistic loss, no intercept; from 0, and from 0.1 beside the optimum in every coordinate. Rounds
of deterministic methods to one (MAX-NEWTON: two), and their floats exactly; of random ones the median of three seeds
to 5 %, with a coin or a cubic step 10 %. One word is sent for every trial of a search, as there.
"""

from __future__ import annotations

import numpy as np
import pytest
from splits import SHARED, SPLITS, optimum, placed

from mpinewton.methods.settings import make_method
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, Iterations

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the checkout"),
]

OPTIMA = {
    ("a2a", 1e-3): (0.350757461, 4.673161), ("a2a", 1e-4): (0.333353735, 9.911796),
    ("a7a", 1e-3): (0.336798108, 4.038500), ("a9a", 1e-3): (0.333347206, 3.988085),
    ("w8a", 1e-3): (0.183473058, 6.908125),
}  # fmt: skip
GAPS = (1e-3, 1e-6, 1e-9, 1e-12)

WORD = {"first": 1}
TOP = {"choice": "top", "search": WORD}
KNOWN = {"option": 2, "h0": "exact"}
EXACT = {"h0": "exact", "rows": "dense"}
METHODS = {
    "newton": ("newton", {"search": None}),
    "star": ("newton-star", {}),
    "max": ("max-newton", {}),
    "zero": ("newton-zero", {}),
    "zero-search": ("newton-zero", {"search": WORD}),
    "coefficients": ("newton-coefficients", {"rows": "dense"}),
    "coefficients-known": ("newton-coefficients", {"option": 2}),
    "top": ("nl1", TOP | {"h0": "exact"}),
    "top-quarter": ("nl1", TOP),
    "top-10": ("nl1", TOP | {"h0": "exact", "r": 10}),
    "top-known": ("nl1", TOP | KNOWN),
    "top-10-known": ("nl1", TOP | KNOWN | {"r": 10}),
    "nl1": ("nl1", EXACT),
    "nl1-10": ("nl1", EXACT | {"r": 10}),
    "nl1-known": ("nl1", KNOWN),
    "nl1-coin": ("nl1", EXACT | {"p": 0.05}),
    "nl2": ("nl2", EXACT),
    "cnl-coin": ("cnl", EXACT | {"M": "radius", "p": 0.05}),
    "cnl-tight": ("cnl", EXACT | {"M": "tight"}),
}


def crossings(name, l2, shift, cell, seed=0, gap=1e-12):
    """The rows of the history where each gap is reached first; floats and bits are means over the workers."""
    (kind, settings), (w, value) = METHODS[cell], optimum(name, l2)
    # Rows of dense shards are d floats each, as the figures count them.
    cached = kind == "nl1" and settings.get("option") != 2 and settings.get("rows") != "dense"
    method, rows = make_method(kind, settings), []
    fleet = placed(name, l2, method, seed, dense=cached)
    start = w + shift if shift else np.zeros(len(w))
    stops = [GapBelow(gap), Iterations(500)]
    run(method, fleet, start, stops, evaluation=Evaluation(value), watchers=[lambda row, _: rows.append(row)])
    return [next(row for row in rows if row.gap <= g) for g in GAPS if g >= gap], fleet.n_workers


@pytest.mark.parametrize(("name", "l2"), OPTIMA)
def test_optimum(name, l2):
    w, value = optimum(name, l2)
    assert abs(value - OPTIMA[name, l2][0]) <= 1e-8
    assert abs(np.linalg.norm(w) - OPTIMA[name, l2][1]) <= 1e-5


# data, l2, shift, method, rounds to 1e-3, 1e-6, 1e-9, 1e-12, floats up a worker at the last
DETERMINISTIC = [
    ("a2a", 1e-3, 0.0, "newton", (3, 5, 6, 6), 46494),
    ("a2a", 1e-3, 0.0, "star", (10, 12, 12, 13), 1599),
    ("a2a", 1e-3, 0.0, "max", (42, 44, 45, 46), 5704),
    ("a2a", 1e-3, 0.0, "zero", (15, 66, 121, 176), 29274),
    ("a2a", 1e-3, 0.0, "coefficients", (3, 5, 6, 6), 20217),
    ("a2a", 1e-3, 0.0, "coefficients-known", (3, 5, 6, 6), 1644),
    ("a2a", 1e-3, 0.0, "top", (12, 33, 45, 53), 20746),
    ("a2a", 1e-3, 0.0, "top-quarter", (12, 33, 45, 53), 20746),
    ("a2a", 1e-3, 0.0, "top-10", (8, 16, 19, 20), 26764),
    ("a2a", 1e-3, 0.0, "top-known", (12, 33, 45, 53), 6626),
    ("a2a", 1e-3, 0.0, "top-10-known", (8, 16, 19, 20), 2681),
    ("a2a", 1e-3, 0.1, "newton", (2, 3, 4, 5), 38745),
    ("a2a", 1e-3, 0.1, "star", (3, 4, 5, 5), 615),
    ("a2a", 1e-3, 0.1, "max", (4, 5, 6, 6), 744),
    ("a2a", 1e-3, 0.1, "zero", (5, 15, 25, 35), 11931),
    ("a2a", 1e-3, 0.1, "zero-search", (5, 15, 25, 35), 12001),
    ("a2a", 1e-3, 0.1, "coefficients", (2, 3, 4, 5), 19943),
    ("a2a", 1e-3, 0.1, "top", (5, 11, 16, 22), 12927),
    ("a2a", 1e-3, 0.1, "top-quarter", (7, 29, 42, 50), 20027),
    ("a2a", 1e-3, 0.1, "top-10-known", (3, 8, 13, 17), 2279),
    ("a2a", 1e-4, 0.0, "top", (17, 46, 59, 67), 24210),
    ("a2a", 1e-4, 0.1, "top-quarter", (8, 39, 56, 62), 23003),
    ("a7a", 1e-3, 0.1, "zero", (5, 14, 24, 33), 11685),
    ("a9a", 1e-3, 0.0, "newton", (4, 5, 6, 6), 46494),
    ("a9a", 1e-3, 0.0, "star", (10, 12, 13, 13), 1599),
    ("a9a", 1e-3, 0.0, "coefficients-known", (4, 5, 6, 6), 3180),
    ("a9a", 1e-3, 0.1, "coefficients", (2, 3, 4, 5), 52711),
    ("a9a", 1e-3, 0.1, "top", (5, 12, 18, 24), 13453),
    ("a9a", 1e-3, 0.1, "top-10-known", (3, 8, 14, 20), 2681),
    ("w8a", 1e-3, 0.1, "newton", (2, 4, 5, 5), 227250),
    ("w8a", 1e-3, 0.1, "star", (1, 3, 4, 4), 1200),
    ("w8a", 1e-3, 0.1, "top", (2, 10, 16, 19), 56540),
]


@pytest.mark.parametrize(("name", "l2", "shift", "cell", "rounds", "floats"), DETERMINISTIC)
def test_deterministic_methods(name, l2, shift, cell, rounds, floats):
    found, workers = crossings(name, l2, shift, cell)
    slack = 2 if cell == "max" else 1
    for row, wanted in zip(found, rounds):
        assert abs(row.iteration - wanted) <= slack
    if found[-1].iteration == rounds[-1]:
        # The figures are rounded means. Which of several rows that would change the Hessian alike is taken, and so
        # whether it has been sent before, is chance; with numpy's argpartition it falls as in the reference: exactly.
        ties = 4 * SPLITS[name][2] if cell in ("top", "top-quarter", "top-10") else 0
        slack, more = workers / 2 + ties, workers * floats - found[-1].floats_up_total
        # The figures count rows in the first round, in which no coefficient changes and none is sent, unless x^0 = x* +
        # shift and h^0 = 1/4. Some of them are sent later.
        unchanged = ties and not (cell == "top-quarter" and shift)
        first = workers * METHODS[cell][1].get("r", 1) * SPLITS[name][2] if unchanged else 0
        assert -slack <= more <= first + slack


# data, l2, shift, method, rounds, tolerance; floats up a worker: at the start, and in a round with a message, without
NL1, NL2 = (7626, 247, 123), (2 * 7626, 248, 124)
RANDOM = [
    ("a2a", 1e-3, 0.0, "nl1", (14, 56, 91, 121), 0.05, NL1),
    ("a2a", 1e-3, 0.0, "nl1-10", (12, 29, 38, 44), 0.05, (7626, 1363, 123)),
    ("a2a", 1e-3, 0.0, "nl1-coin", (15, 65, 118, 170), 0.1, NL1),
    ("a2a", 1e-3, 0.0, "cnl-tight", (50, 102, 136, 168), 0.1, (3 * 7626, 248, 124)),
    ("a2a", 1e-3, 0.1, "nl1", (5, 13, 20, 27), 0.05, NL1),
    ("a2a", 1e-3, 0.1, "nl1-known", (5, 13, 20, 26), 0.05, (0, 124, 123)),
    ("a2a", 1e-3, 0.1, "nl1-coin", (5, 15, 24, 33), 0.1, NL1),
    ("a2a", 1e-3, 0.1, "nl2", (5, 34, 64, 94), 0.05, NL2),
    ("a2a", 1e-3, 0.1, "cnl-coin", (8, 79, 97, 121), 0.1, (2 * 7626 + 1, 248, 124)),
]


@pytest.mark.parametrize(("name", "l2", "shift", "cell", "rounds", "tolerance", "floats"), RANDOM)
def test_random_methods(name, l2, shift, cell, rounds, tolerance, floats):
    gap = 1e-6 if rounds[-1] > 60 else 1e-12  # the long ones to their first hundred rounds
    runs = [crossings(name, l2, shift, cell, seed, gap)[0] for seed in range(3)]
    for found, wanted in zip(zip(*runs), rounds):
        median = np.median([row.iteration for row in found])
        assert abs(median - wanted) <= max(1, tolerance * wanted)
    start, message, none = floats
    for row in (rows[-1] for rows in runs):
        messages, rest = divmod(row.floats_up_total - 15 * (start + none * row.iteration), message - none)
        r, share, known = (METHODS[cell][1].get(*default) for default in (("r", 1), ("p", 1.0), ("option", 1)))
        # In the first round no coefficient changes: messages of r floats without rows.
        first = rest // r
        assert rest == first * r
        for count, sent in ((first, 15 * (known == 1)), (messages + first, 15 * row.iteration)):
            assert abs(count - share * sent) <= 4 * np.sqrt(sent * share * (1 - share))


FAR = [(1e-3, 0.3, 46), (1e-3, 2.0, 48), (1e-3, -1.0, 54), (1e-4, 1.0, 61)]


@pytest.mark.parametrize(("l2", "shift", "rounds"), FAR)
def test_greedy_with_a_search_from_where_newton_and_nl1_do_not_converge(l2, shift, rounds):
    found, _ = crossings("a2a", l2, shift, "top-quarter", gap=1e-9)
    assert abs(found[-1].iteration - rounds) <= 1


def test_rows_of_a9a_travel_in_100_bits():
    """The greedy method with rows as they are stored: what stays of the 3936 bits of a dense row."""
    method = make_method("nl1", {"choice": "top", "r": 10})
    fleet = placed("a9a", 1e-3, method)
    state = method.start(fleet, np.full(123, 0.1))  # at 0 no coefficient changes: h = 1/4
    before = fleet.ledger.bits_up.copy()
    fleet.iteration = 1
    method.step(fleet, state)
    # Ten changes and the gradient; ten numbers of nine bits, ten rows of at most 14 indices of 7 bits and their count.
    beside = fleet.ledger.bits_up - before - 64 * (123 + 10)
    assert (beside <= 10 * (9 + 7 + 98) + 7).all()
    assert beside.mean() >= 10 * (9 + 7 + 90)


def test_the_data_of_a2a_cost_less_than_five_gradients():
    method = make_method("ship-data", {})
    fleet = placed("a2a", 1e-3, method)
    rows = []
    stops = [GapBelow(1e-12), Iterations(20)]
    value = optimum("a2a", 1e-3)[1]
    run(method, fleet, np.zeros(123), stops, evaluation=Evaluation(value), watchers=[lambda row, _: rows.append(row)])
    assert rows[-1].gap <= 1e-12
    assert rows[-1].rounds == 1
    assert rows[-1].bits_up <= 5 * 64 * 123 / 2  # of 32 bits a float
