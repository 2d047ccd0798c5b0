"""Figures that the processor decides, within what scripts/processors.py has seen on many: see docs/processors.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpinewton.runs.history import Row

# Gaps that tests ask for, by test: what is to be measured.
ASKED: dict[str, list[float]] = {}
SEEN = json.loads(Path(__file__).with_suffix(".json").read_text())["runs"]
# Loss figures of the reference have four digits or more.
DIGITS = 1e-4


def current_test(number: int = 1) -> str:
    """Name of the test that runs, without its folder, and number of the run in it."""
    test = os.environ["PYTEST_CURRENT_TEST"].removeprefix("tests/papers/").rpartition(" (")[0]
    return test if number == 1 else f"{test} run {number}"


def assert_as_seen(
    rows: Sequence[Row],
    rounds: Mapping[float, int] | None = None,
    losses: Mapping[str, float] | None = None,
    each: int = 1,
    number: int = 1,
) -> None:
    """Rounds to gaps and losses are within the range seen, widened by its width, or by one iteration and 1e-4.

    The reference is one more processor: its figures are held to the same bounds.

    Parameters
    ----------
    rounds : by gap, the reference's rounds to it.
    losses : the reference's losses; "3" is that after iteration 3, "60 rounds" that within so many rounds.
    each : rounds of an iteration.
    number : of the run in its test.
    """
    ASKED[current_test(number)] = list(rounds or {})
    seen = SEEN[current_test(number)]
    for gap, wanted in (rounds or {}).items():
        low, high = widened(seen["rounds"][f"{gap:g}"], each)
        found = next((row.rounds for row in rows if row.gap <= gap), None)
        assert found is not None, (gap, "is not reached")
        assert low <= found <= high, (gap, found, (low, high))
        assert low <= wanted <= high, (gap, "the reference", wanted, (low, high))
    for place, wanted in (losses or {}).items():
        low, high = widened(seen["losses"][place], DIGITS * wanted)
        found = loss_at(rows, place)
        assert low <= found <= high, (place, found, (low, high))
        assert low <= wanted <= high, (place, "the reference", wanted, (low, high))


def widened(seen: Sequence[float], least: float) -> tuple[float, float]:
    """The range, and as much again on either side, at least `least`."""
    low, high = seen
    margin = max(high - low, least)
    return low - margin, high + margin


def loss_at(rows: Sequence[Row], place: str) -> float:
    """The loss after an iteration, "3", or at the last iterate within some rounds, "60 rounds"."""
    number, _, unit = place.partition(" ")
    if unit:
        return [row.loss for row in rows if row.rounds <= int(number)][-1]
    return rows[int(number)].loss
