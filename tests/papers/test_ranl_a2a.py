"""RANL on a2a, 15 workers of 151 rows in file order, 8 regions, l2 = 1e-3: figures of an independent implementation.

Rounds are iterations here, one gradient each. Tolerances: deterministic policies one round; chance 15 % in the median
of three seeds; x0 is the optimum + 0.1, or 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from launch import launch, launch_serial

from mpinewton.data.manifest import read_manifest
from mpinewton.data.packing import pack
from mpinewton.data.source import Reading
from mpinewton.fleet import Plan
from mpinewton.fleet.host import Host
from mpinewton.fleet.local import LocalFleet
from mpinewton.methods import ranl
from mpinewton.methods.settings import make_method
from mpinewton.runs.folder import read_history
from mpinewton.runs.loop import Evaluation, run
from mpinewton.runs.stopping import GapBelow, GradientBelow, Iterations

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
OPTIMUM = 0.350757461  # to 1e-8
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the checkout"),
]


class A2a:
    """The packed data, and where the objective is least."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        reading = Reading(rows=2265, features=123)
        pack(str(SHARED / "a2a.xz"), folder, 15, partition="blocks", reading=reading)
        ended = self.ran("newton", {}, np.zeros(123), [GradientBelow(1e-13), Iterations(30)])[0]
        self.w, self.value = ended.state.w, ended.row.loss
        self.starts = {"near": self.w + 0.1, "zero": np.zeros(123)}

    def ran(self, name, settings, w, stops, seed=0, value=np.nan):
        """How a run ended, and its gaps, one an iterate."""
        plan = Plan(str(self.folder), read_manifest(self.folder), "logistic", 1e-3, seed)
        fleet, method, gaps = LocalFleet(Host.loaded(plan, range(15))), make_method(name, settings), []
        method.fit(fleet.problem)
        fleet.adopt(method)
        watch = [lambda row, _: gaps.append(row.gap)]
        return run(method, fleet, w, stops, evaluation=Evaluation(value), watchers=watch), np.array(gaps)

    def gaps(self, settings, start, rounds=400, goal=1e-12, seed=0):
        """Gaps of a run from one of the starts, down to the goal."""
        stops = [GapBelow(goal), Iterations(rounds)]
        return self.ran("ranl", settings, self.starts[start], stops, seed, self.value)[1]


@pytest.fixture(scope="module")
def a2a(tmp_path_factory) -> A2a:
    return A2a(tmp_path_factory.mktemp("shards") / "a2a")


def first(gaps, goal):
    """The first iterate within a gap."""
    return int(np.argmax(gaps <= goal)) if (gaps <= goal).any() else len(gaps)


def test_the_optimum_is_the_known_one(a2a):
    assert a2a.value == pytest.approx(OPTIMUM, abs=1e-8)
    assert np.linalg.norm(a2a.w) == pytest.approx(4.673161, abs=1e-5)


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
def test_deterministic_policies(a2a, settings, start, rounds):
    gaps = a2a.gaps(settings, start)
    assert [first(gaps, 1e-6), first(gaps, 1e-12)] == [pytest.approx(wanted, abs=1) for wanted in rounds]


def test_whole_masks_are_newton_zero(a2a):
    stops = [Iterations(40)]
    zero, ours = (
        a2a.ran(name, settings, a2a.starts["near"], stops)[0].state.w
        for name, settings in (("newton-zero", {}), ("ranl", {"policy": "full"}))
    )
    np.testing.assert_allclose(ours, zero, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "start", "rounds"),
    # From 0, where 1e-6 is passed is a matter of luck: 26 to 75 rounds over 8 seeds, the reference had 43.
    [({}, "near", (36, 68)), ({}, "zero", (None, 145)), ({"keep": 0.125}, "near", (173, 336))],
    ids=str,
)
def test_bernoulli_masks(a2a, settings, start, rounds):
    runs = [a2a.gaps(settings, start, seed=seed) for seed in range(3)]
    for goal, wanted in zip((1e-6, 1e-12), rounds):
        if wanted:
            assert np.median([first(gaps, goal) for gaps in runs]) == pytest.approx(wanted, rel=0.15)


def test_a_small_share_in_turn_wants_the_short_step(a2a):
    gaps = a2a.gaps({"policy": "round-robin", "keep": 0.125}, "near")
    assert [first(gaps, 1e-6), first(gaps, 1e-12)] == [pytest.approx(135, rel=0.15), pytest.approx(341, rel=0.15)]
    assert a2a.gaps({"policy": "round-robin", "keep": 0.125, "step": 1}, "near", rounds=100)[-1] > 1


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
def test_as_printed_it_does_not_converge(a2a, settings):
    gaps = a2a.gaps({"as_printed": True, **settings}, "near")
    assert len(gaps) == 401
    assert gaps[-1] > 1e-2
    assert gaps.min() > 1e-2


def test_what_no_repair_makes_exact(a2a):
    assert a2a.gaps({"policy": "fixed"}, "near")[-1] > 1  # some regions are never heard
    floor = a2a.gaps({"policy": "full", "batch": 0.25}, "near")[100:]  # minibatches: 9.3e-2 in the reference
    assert 1e-3 < np.median(floor) < 1


def test_workers_of_unlike_speed_that_send_what_they_can_are_twice_as_fast(a2a, monkeypatch):
    """Seconds of the slowest worker, summed over the rounds, where every other one takes 4 for a whole gradient."""
    slept: list[float] = []
    monkeypatch.setattr(ranl.time, "sleep", slept.append)
    seconds = []
    for settings in ({"policy": "full"}, {"policy": "resources", "budget": "123,31"}):
        slept.clear()
        gaps = a2a.gaps({"slowdown": "1,4", **settings}, "zero", goal=1e-6)
        assert gaps[-1] <= 1e-6
        seconds.append(np.reshape(slept, (-1, 15)).max(axis=1).sum())
    assert seconds[0] >= 2 * seconds[1]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["policy=resources", "budget=123,31,62"],
        ["as_printed=true", "policy=round-robin", "batch=0.25", "refresh=4"],
    ],
    ids=str,
)
def test_same_bits_on_1_and_3_ranks(a2a, options, tmp_path):
    found = {}
    for ranks in (1, 3):
        out = tmp_path / str(ranks)
        settings = [part for option in options for part in ("--set", option)]
        stops = ["--max-iterations", "12", "--tol", "0", "--l2", "1e-3"]
        command = ["-m", "mpinewton", "run", "ranl", str(a2a.folder), "-o", str(out), *stops, *settings]
        ended = launch_serial(command) if ranks == 1 else launch(ranks, command)
        assert ended.returncode == 0, str(ended)
        result = json.loads((out / "result.json").read_text())
        assert result["ranks"] == ranks
        notes = [row.note for row in read_history(out / "history.csv")]
        found[ranks] = (result["history_sha256"], result["w_sha256"], result["bits_up_total"], notes)
    assert found[1] == found[3]
