"""Checkpoints: whole or not there, the newest sound one, and tables that are cut back to what it vouches for."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from mpinewton.durable import write_whole
from mpinewton.errors import DataError
from mpinewton.methods.lbfgs import LbfgsState
from mpinewton.methods.support.method import State
from mpinewton.runs import checkpoint
from mpinewton.runs.checkpoint import Checkpoint, newest, read, state_fields, write
from mpinewton.runs.storage import Table, sealed_file, write_text

RNG = np.random.default_rng(0)


def made(number=1, scale=1.0):
    state = LbfgsState(
        RNG.normal(size=7) * scale, 0.1 + number, RNG.normal(size=7), step=0.5, note="tilted",
        S=tuple(RNG.normal(size=(3, 7))), Y=(), M=np.zeros(0),
    )  # fmt: skip
    workers = [{"point/z": RNG.normal(size=(n, 2)), "steps": np.array(n)} for n in (4, 0, 3)]
    ledger = {"bits_up": np.arange(3), "scalars": np.array([1, 2, 3]), "compute": np.array(0.25)}
    facts = {"iteration": 12, "seconds": 1.5, "identity": {"l2": 0.1, "settings": {"a": None}}}
    return Checkpoint(number, facts, state_fields(state), ledger, workers), state


def test_round_trip_is_exact(tmp_path):
    saved, state = made()
    again = read(write(tmp_path, saved))
    assert again.number == 1
    assert {name: again.facts[name] for name in saved.facts} == saved.facts
    found = again.state_of(LbfgsState)
    assert (len(found.S), found.Y) == (3, ())
    for a, b in zip((found.w, found.gradient, *found.S), (state.w, state.gradient, *state.S)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    assert (found.loss, found.step, found.note) == (state.loss, state.step, state.note)
    for mine, theirs in zip(again.workers, saved.workers):
        assert mine.keys() == theirs.keys()
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)
        assert all(mine[name].shape == theirs[name].shape for name in mine)
    assert all(np.array_equal(again.ledger[name], saved.ledger[name]) for name in saved.ledger)


def test_nan_fields_survive(tmp_path):
    plain = State(np.zeros(2), 1.0, np.zeros(2))
    again = read(write(tmp_path, Checkpoint(1, {}, state_fields(plain), {}, []))).state_of(State)
    assert np.isnan(again.step)


def test_a_state_has_the_order_it_is_read_back_in():
    columns = np.arange(6.0).reshape(2, 3).T
    state = LbfgsState(np.zeros(2), 1.0, np.zeros(2), S=(), Y=(), M=columns)
    assert state.M.flags.c_contiguous and np.array_equal(state.M, columns)


def test_numpy_numbers_in_a_state_are_saved_as_numbers(tmp_path):
    mixed = State(np.zeros(2), np.float64(0.1), np.zeros(2), step=np.int64(3))
    again = read(write(tmp_path, Checkpoint(1, {}, state_fields(mixed), {}, []))).state_of(State)
    assert (again.loss, again.step) == (0.1, 3)


def test_two_files_in_turn_the_newest_wins(tmp_path):
    assert newest(tmp_path) is None
    for number in range(1, 6):
        write(tmp_path, made(number)[0])
        assert newest(tmp_path).number == number
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(checkpoint.NAMES)
    assert {read(tmp_path / name).number for name in checkpoint.NAMES} == {4, 5}


@pytest.mark.slow
def test_every_damaged_newest_falls_back_to_the_older(tmp_path):
    for number in (1, 2):
        write(tmp_path, made(number)[0])
    path = tmp_path / checkpoint.NAMES[0]
    whole = path.read_bytes()
    cuts = [whole[:n] for n in np.linspace(0, len(whole) - 1, 40).astype(int)]
    flips = []
    for at in RNG.integers(0, len(whole), 150):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(RNG.integers(8))
        flips.append(bytes(damaged))
    for damaged in cuts + flips:
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            read(path)
        assert newest(tmp_path).number == 1


HOSTILE = {
    "number": ({"number": "1"}, [], "Expected `int`"),
    "workers": ({"workers": 10**9}, [], "Expected `int` <= 16777216"),
    "history": ({"history": ["x", 3]}, [], "Expected `int`"),
    "objects": ({}, [["state/w", "|O", [1]]], "has dtype |O"),
    "negative": ({}, [["state/w", "<f8", [-1]]], "and shape [-1]"),
    "longer": ({}, [["state/w", "<f8", [1000000]]], "the index does not describe the arrays"),
}


@pytest.mark.parametrize(("changed", "index", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_sealed_checkpoint_with_a_wrong_inside_is_refused(tmp_path, changed, index, words):
    path = tmp_path / checkpoint.NAMES[0]
    facts = {"number": 1, "workers": 0, "state": {}, "identity": {}} | changed
    with sealed_file(path, checkpoint.FORMAT) as file:
        write_text(file, "facts", json.dumps(facts).encode())
        write_text(file, "index", json.dumps(index).encode())
        write_text(file, "data", bytes(8))
    with pytest.raises(DataError) as error:
        read(path)
    assert words in str(error.value)


def test_the_state_of_another_method_is_refused(tmp_path):
    plain = read(write(tmp_path, Checkpoint(1, {}, state_fields(State(np.zeros(2), 1.0, np.zeros(2))), {}, [])))
    with pytest.raises(DataError, match="holds no LbfgsState of this version"):
        plain.state_of(LbfgsState)


def test_both_damaged_is_an_error_that_names_the_remedy(tmp_path):
    for number in (1, 2):
        write(tmp_path, made(number)[0])
    for name in checkpoint.NAMES:
        (tmp_path / name).write_bytes(b"no")
    with pytest.raises(DataError, match="--fresh"):
        newest(tmp_path)


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path, made(1)[0])
    write(tmp_path, made(2)[0])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(file, content):
        file.create_dataset("facts", data=np.zeros(3))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_fill", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, made(3)[0])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replacing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"the disk is full: 3e-06 MB needed, .* free in"):
        patch.setattr(os, "fsync", full)
        write_whole(path, b"new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "old"}
    write_whole(path, b"new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "new"}


class TestTable:
    COLUMNS = ("a", "b")

    def filled(self, path):
        table = Table(path, self.COLUMNS)
        table.append([1, "x,y"])
        vouched = (table.size, table.sha256)
        table.append([2, ""])
        table.close()
        return vouched

    def test_goes_on_behind_what_is_vouched_for(self, tmp_path):
        path = tmp_path / "t.csv"
        table = Table(path, self.COLUMNS, self.filled(path))
        table.append([3, "z"])
        table.close()
        assert path.read_text() == 'a,b\n1,"x,y"\n3,z\n'

    @pytest.mark.parametrize("damage", ["shorter", "changed", "gone"])
    def test_refuses_what_has_changed_and_leaves_it(self, tmp_path, damage):
        path = tmp_path / "t.csv"
        vouched = self.filled(path)
        text = path.read_text()
        if damage == "gone":
            path.unlink()
        else:
            path.write_text(text[:8] if damage == "shorter" else text.replace("1", "7"))
        before = path.read_text() if path.exists() else None
        with pytest.raises(DataError, match="nothing was changed"):
            Table(path, self.COLUMNS, vouched)
        assert (path.read_text() if path.exists() else None) == before
