"""Every method on several ranks against the same in one process: states, ledger, what is saved and what resumes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from variants import VARIANTS

from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.fleet import Fleet, Plan
from mpinewton.fleet.transport.driver import MpiSession
from mpinewton.fleet.transport.mpi import DRIVER, Link
from mpinewton.fleet.transport.server import serve
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.methods import METHODS
from mpinewton.runs.checkpoint import state_fields

WORLD = MPI.COMM_WORLD
pytestmark = pytest.mark.mpi(min_size=2)

# One method in three on each number of ranks. Other settings are tried on simulated ranks, see `check_bits`.
TRIED = [name for number, name in enumerate(METHODS) if (2, 3, 5)[number % 3] == WORLD.size]
SIZES = (9, 6, 0, 11, 7, 0, 5)  # rows of seven workers


@pytest.fixture(scope="module")
def shards() -> Iterator[Path]:
    """Rows with weights, the same shards for all ranks."""
    name = np.zeros(256, dtype=np.uint8)
    if WORLD.rank == DRIVER:
        made = tempfile.mkdtemp()
        rng, n = np.random.default_rng(1), sum(SIZES)
        rows = {"X": rng.standard_normal((n, 6)), "y": rng.choice([-1.0, 1.0], n), "weight": rng.uniform(0.5, 2.0, n)}
        np.savez(f"{made}/rows.npz", **rows)
        rule = "blocks:" + ",".join(map(str, SIZES))
        pack(f"{made}/rows.npz", Path(made, "shards"), len(SIZES), partition=rule)
        name[: len(made)] = np.frombuffer(made.encode(), dtype=np.uint8)
    WORLD.Bcast(name, DRIVER)
    folder = Path(name.tobytes().rstrip(b"\0").decode())
    yield folder / "shards"
    if WORLD.rank == DRIVER:
        shutil.rmtree(folder)


def bits(state: Any) -> dict[str, Any]:
    return {name: v.tobytes() if isinstance(v, np.ndarray) else repr(v) for name, v in state_fields(state).items()}


def saved(fleet: Fleet, state: Any) -> list[dict[str, bytes]]:
    return [{name: np.asarray(v).tobytes() for name, v in memory.items()} for memory in fleet.save(state.w)]


def counts(fleet: Fleet) -> dict[str, list[float]]:
    """The ledger without what depends on layout and time."""
    return {name: fleet.ledger.state()[name].tolist() for name in fleet.ledger.COUNTS}


@pytest.mark.parametrize("variant", TRIED)
def test_a_method_has_the_bits_of_one_process_and_resumes_to_them(shards: Path, variant: str) -> None:
    link = Link(WORLD)
    if link.rank != DRIVER:
        assert serve(link) == 0
        return
    session, method = MpiSession(link), VARIANTS[variant].made()
    loss = "softmax" if variant in ("muon", "nsisa") else "logistic"  # the two need a matrix of weights
    plan = Plan(str(shards), read_manifest(shards), loss, 0.1, seed=7)
    try:
        fleet, local = session.open(plan), LocalSession().open(plan)
        method = method.choose(local.problem)
        fleet.adopt(method), local.adopt(method)
        w = fleet.problem.initial_weights()
        there, here = method.start(fleet, w), method.start(local, w)
        half = here, local.save(here.w)
        for step in range(1, 5):
            fleet.iteration = local.iteration = step
            there, here = method.step(fleet, there), method.step(local, here)
            assert bits(there) == bits(here)
            if step == 2:
                half = here, local.save(here.w)
                assert saved(fleet, there) == saved(local, here)
        assert counts(fleet) == counts(local)
        again = session.open(plan)
        again.adopt(method)
        resumed, memories = half
        again.restore(memories, resumed.w)
        for again.iteration in (3, 4):
            resumed = method.step(again, resumed)
        assert bits(resumed) == bits(here)
    finally:
        if not link.busy:
            session.stop(0)
