"""The ledger, counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpinewton
from mpinewton.fleet import Ledger, Worker
from mpinewton.fleet.local import LocalFleet, local_fleet
from mpinewton.testing.problems import ZOO


@pytest.fixture
def fleet() -> LocalFleet:
    """Five workers, d = 6."""
    zoo = ZOO["squared-dense"]
    return local_fleet(zoo.shards, zoo.loss, zoo.classes, zoo.l2)


def pair(worker: Worker, *arrays: Any) -> tuple[float, np.ndarray]:
    return 1.0, np.ones(3)


def sparse_reply(worker: Worker) -> tuple[np.ndarray, np.ndarray]:
    """As many places (int32) and values (float64) as the worker's number."""
    return np.arange(worker.index, dtype=np.int32), np.ones(worker.index)


def nothing(worker: Worker, *arrays: Any) -> None:
    pass


def entries(fleet: LocalFleet) -> list[tuple[Any, ...]]:
    """(direction, kind, task, workers, floats, indices, bits, bits_total) of every new entry."""
    return [
        (e.direction, e.kind, e.task, e.workers, e.floats, e.indices, e.bits, e.bits_total)
        for e in fleet.ledger.entries()
    ]


NAME = f"{__name__}:"


def test_a_mean_is_a_broadcast_and_a_reduce(fleet: LocalFleet) -> None:
    fleet.mean(pair, np.zeros(6), 2.0)
    assert entries(fleet) == [
        ("down", "mean", f"{NAME}pair", 5, 7, 0, 448, 2240),
        ("up", "mean", f"{NAME}pair", 5, 4, 0, 256, 1280),
    ]
    assert fleet.ledger.rounds == 2
    assert fleet.ledger.totals() == {
        "floats_down": 7, "floats_up": 4, "bits_down": 448, "bits_up": 256,
        "floats_down_total": 35, "floats_up_total": 20, "bits_down_total": 2240, "bits_up_total": 1280,
    }  # fmt: skip


def test_a_direction_that_carries_nothing_is_no_round(fleet: LocalFleet) -> None:
    fleet.sum(pair)
    assert entries(fleet) == [("up", "sum", f"{NAME}pair", 5, 4, 0, 256, 1280)]
    fleet.send(nothing, np.ones(2, dtype=np.float32), 7)  # 2 floats of 32 bits and a number of 64
    assert entries(fleet) == [("down", "send", f"{NAME}nothing", 5, 2, 1, 128, 640)]
    fleet.send(nothing)
    assert entries(fleet) == []
    assert fleet.ledger.rounds == 2


def test_a_gather_counts_what_every_worker_sent(fleet: LocalFleet) -> None:
    fleet.gather(sparse_reply)
    assert entries(fleet) == [("up", "gather", f"{NAME}sparse_reply", 5, 4, 4, 4 * 96, 96 * (1 + 2 + 3 + 4))]
    assert fleet.ledger.floats_up.tolist() == [0, 1, 2, 3, 4]
    assert fleet.ledger.bits_up.tolist() == [0, 96, 192, 288, 384]


def test_only_those_asked_are_charged_and_the_busiest_link_is_one_workers(fleet: LocalFleet) -> None:
    fleet.mean(pair, 1.0, among=[0, 1])
    fleet.mean(pair, 1.0, among=[3, 1])
    assert entries(fleet)[0] == ("down", "mean", f"{NAME}pair", 2, 1, 0, 64, 128)  # not the mask of those asked
    assert fleet.ledger.floats_down.tolist() == [1, 2, 0, 1, 0]
    totals = fleet.ledger.totals()
    assert (totals["floats_up"], totals["floats_up_total"]) == (8, 16)
    assert fleet.ledger.rounds == 4
    fleet.gather(sparse_reply, among=[4])
    assert entries(fleet)[-1] == ("up", "gather", f"{NAME}sparse_reply", 1, 4, 4, 384, 384)


def test_a_sum_of_whole_numbers_travels_as_floats(fleet: LocalFleet) -> None:
    assert fleet.sum(index) == 10.0
    assert entries(fleet)[0][4:7] == (1, 0, 64)


def index(worker: Worker) -> int:
    return worker.index


def test_nothing_is_charged_while_it_is_closed_and_after_an_error_it_is_open_again(fleet: LocalFleet) -> None:
    with pytest.raises(KeyError), fleet.ledger.closed():
        fleet.mean(pair, 1.0)
        with fleet.ledger.closed():
            pass
        fleet.mean(pair, 1.0)  # the inner one did not open it
        raise KeyError
    assert fleet.ledger.rounds == 0 and not any(fleet.ledger.totals().values()) and fleet.ledger.compute == 0
    fleet.mean(pair, 1.0)
    assert fleet.ledger.rounds == 2


def test_entries_are_numbered_dated_and_taken_once(fleet: LocalFleet) -> None:
    fleet.iteration = 3
    fleet.mean(pair, 1.0)
    fleet.iteration = 4
    fleet.mean(pair, 1.0)
    assert [(e.round, e.iteration) for e in fleet.ledger.entries()] == [(1, 3), (2, 3), (3, 4), (4, 4)]
    assert fleet.ledger.entries() == []
    assert fleet.ledger.rounds == 4


def test_wire_control_and_compute_add_up() -> None:
    ledger = Ledger(2)
    everyone = np.ones(2, dtype=bool)
    ledger.charge("down", 0, "mean", "t", [[np.zeros(3)]], everyone, 100)
    ledger.charge("up", 0, "mean", "t", [[]], everyone, 50, 2.0, 1.5)  # carries nothing, and still is traffic
    assert (ledger.wire, ledger.control, ledger.compute, ledger.rounds) == (150, 126, 1.5, 1)
    (entry,) = ledger.entries()
    assert (entry.wire, entry.control, entry.seconds) == (100, 76, 0.0)


def test_a_restored_ledger_goes_on_counting(fleet: LocalFleet) -> None:
    fleet.mean(pair, np.zeros(6))
    fleet.gather(sparse_reply, among=[2])
    kept = {name: value.copy() for name, value in fleet.ledger.state().items()}
    again = Ledger(5)
    again.restore(kept)
    assert (again.totals(), again.rounds, again.compute) == (
        fleet.ledger.totals(), fleet.ledger.rounds, fleet.ledger.compute,
    )  # fmt: skip
    again.charge("up", 9, "sum", "t", [[np.zeros(1)]], np.ones(5, dtype=bool), 0)
    assert again.entries()[0].round == fleet.ledger.rounds + 1
    assert again.floats_up.tolist() == (fleet.ledger.floats_up + 1).tolist()
    assert np.array_equal(kept["floats_up"], fleet.ledger.floats_up)  # counting on has not reached into the state


@pytest.mark.parametrize("room", ["methods", "losses", "linalg"])
def test_who_sends_has_no_hand_in_the_counts(room: str) -> None:
    files = sorted((Path(mpinewton.__file__).parent / room).glob("*.py"))
    assert files and not [path.name for path in files if "ledger" in path.read_text().lower()]
