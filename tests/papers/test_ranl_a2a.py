"""RANL on a2a, 15 workers of 151 rows in file order, 8 regions, l2 = 1e-3: figures of an independent implementation.

Rounds are iterations here, one gradient each. Tolerances: deterministic policies one round; chance 15 % in the median
of three seeds; x0 is the optimum + 0.1, or 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from launch import launch
from splits import SHARED, optimum, placed

from mpinewton.cli import run_command_line
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.methods import ranl
from mpinewton.methods.settings import make_method
from mpinewton.runs.history import read_history
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, Iterations

OPTIMUM = 0.350757461  # to 1e-8
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the checkout"),
]


def gaps_of(settings, start, rounds=400, goal=1e-12, seed=0):
    """Gaps of the iterates down to the goal, from near the optimum or from zero."""
    (w, value), method, gaps = optimum("a2a", 1e-3), make_method("ranl", settings), []
    stops, begin = [GapBelow(goal), Iterations(rounds)], w + 0.1 if start == "near" else 0 * w
    watch = [lambda row, _: gaps.append(row.gap)]
    run(method, placed("a2a", 1e-3, method, seed), begin, stops, evaluation=Evaluation(value), watchers=watch)
    return np.array(gaps)


def first(gaps, goal):
    """The first iterate within a gap."""
    return int(np.argmax(gaps <= goal)) if (gaps <= goal).any() else len(gaps)


def test_the_optimum_is_the_known_one():
    w, value = optimum("a2a", 1e-3)
    assert value == pytest.approx(OPTIMUM, abs=1e-8)
    assert np.linalg.norm(w) == pytest.approx(4.673161, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "start", "rounds"),
    [
        ({"policy": "full"}, "near", (15, 35)),
        ({"policy": "full"}, "zero", (66, 176)),
        ({"policy": "round-robin"}, "near", (47, 109)),
        ({"policy": "round-robin"}, "zero", (56, 157)),
    ],
    ids=str,
)
def test_deterministic_policies(settings, start, rounds):
    gaps = gaps_of(settings, start)
    assert [first(gaps, 1e-6), first(gaps, 1e-12)] == [pytest.approx(wanted, abs=1) for wanted in rounds]


def test_whole_masks_are_newton_zero():
    ends = []
    for method in (make_method("newton-zero", {}), make_method("ranl", {"policy": "full"})):
        begin = optimum("a2a", 1e-3)[0] + 0.1
        ends.append(run(method, placed("a2a", 1e-3, method), begin, [Iterations(40)]).state.w)
    np.testing.assert_allclose(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "start", "rounds"),
    # From 0, where 1e-6 is passed is a matter of luck: 26 to 75 rounds over 8 seeds, the reference had 43.
    [({}, "near", (36, 68)), ({}, "zero", (None, 145)), ({"keep": 0.125}, "near", (173, 336))],
    ids=str,
)
def test_bernoulli_masks(settings, start, rounds):
    runs = [gaps_of(settings, start, seed=seed) for seed in range(3)]
    for goal, wanted in zip((1e-6, 1e-12), rounds):
        if wanted:
            assert np.median([first(gaps, goal) for gaps in runs]) == pytest.approx(wanted, rel=0.15)


def test_a_small_share_in_turn_wants_the_short_step():
    gaps = gaps_of({"policy": "round-robin", "keep": 0.125}, "near")
    assert [first(gaps, 1e-6), first(gaps, 1e-12)] == [pytest.approx(135, rel=0.15), pytest.approx(341, rel=0.15)]
    assert gaps_of({"policy": "round-robin", "keep": 0.125, "step": 1}, "near", rounds=100)[-1] > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 0.9},
        {"keep": 0.5},
        {"keep": 0.5, "policy": "round-robin"},
        {"keep": 0.5, "policy": "fixed"},
        {"keep": 0.5, "policy": "magnitude"},
        {"keep": 0.5, "step": 0.05},
    ],
    ids=str,
)
def test_as_printed_it_does_not_converge(settings):
    gaps = gaps_of({"as_printed": True, **settings}, "near")
    assert len(gaps) == 401 or gaps[-1] > 10 * gaps[0]  # the loop ends a run that diverges
    assert gaps[-1] > 1e-2
    assert gaps.min() > 1e-2


def test_what_no_repair_makes_exact():
    assert gaps_of({"policy": "fixed"}, "near")[-1] > 1  # some regions are never heard
    floor = gaps_of({"policy": "full", "batch": 0.25}, "near")[100:]  # minibatches: 9.3e-2 in the reference
    assert 1e-3 < np.median(floor) < 1


def test_workers_of_unlike_speed_that_send_what_they_can_are_twice_as_fast(monkeypatch):
    """Seconds of the slowest worker, summed over the rounds, where every other one takes 4 for a whole gradient."""
    slept: list[float] = []
    monkeypatch.setattr(ranl.time, "sleep", slept.append)
    seconds = []
    for settings in ({"policy": "full"}, {"policy": "resources", "budget": "123,31"}):
        slept.clear()
        gaps = gaps_of({"slowdown": "1,4", **settings}, "zero", goal=1e-6)
        assert gaps[-1] <= 1e-6
        seconds.append(np.reshape(slept, (-1, 15)).max(axis=1).sum())
    assert seconds[0] >= 2 * seconds[1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "a2a"
    options = ["--workers", "15", "--partition", "blocks", "--rows", "2265", "--features", "123"]
    assert run_command_line(LocalSession(), ["pack", str(SHARED / "a2a.xz"), "-o", str(folder), *options]) == 0
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["policy=resources", "budget=123,31,62"],
        ["as_printed=true", "policy=round-robin", "batch=0.25", "refresh=4"],
    ],
    ids=str,
)
def test_same_bits_on_1_and_3_ranks(shards, options, tmp_path):
    found = {}
    for ranks in (1, 3):
        out = tmp_path / str(ranks)
        settings = [part for option in options for part in ("--set", option)]
        stops = ["--max-iterations", "12", "--tol", "0", "--l2", "1e-3"]
        command = ["run", "ranl", str(shards), "-o", str(out), *stops, *settings]
        if ranks == 1:
            code = run_command_line(LocalSession(), command)
        else:
            code = launch(ranks, ["-m", "mpinewton", *command]).returncode
        result = json.loads((out / "result.json").read_text())
        assert code == (result["kind"] == "diverged")
        assert result["ranks"] == ranks
        notes = [row.note for row in read_history(out / "history.csv")]
        found[ranks] = (result["history_sha256"], result["w_sha256"], result["bits_up_total"], notes)
    assert found[1] == found[3]
