"""The ground the fleet stands on: the launcher really starts one world, and buffers cross it."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

pytestmark = pytest.mark.mpi


def test_every_rank_is_in_one_world_of_one_size() -> None:
    world = MPI.COMM_WORLD
    sizes, ranks = np.empty(world.size, dtype="i"), np.empty(world.size, dtype="i")
    world.Allgather(np.array([world.size], dtype="i"), sizes)
    world.Allgather(np.array([world.rank], dtype="i"), ranks)
    assert set(sizes.tolist()) == {world.size}
    assert ranks.tolist() == list(range(world.size))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u1"])
def test_a_broadcast_brings_the_drivers_bytes(dtype: str) -> None:
    sent = np.arange(1000).astype(dtype)
    buffer = sent.copy() if MPI.COMM_WORLD.rank == 0 else np.zeros_like(sent)
    MPI.COMM_WORLD.Bcast(buffer)
    assert buffer.tobytes() == sent.tobytes()


@pytest.mark.mpi(min_size=2)
def test_an_empty_buffer_crosses() -> None:
    received = np.empty(0)
    MPI.COMM_WORLD.Bcast(received)
    world = MPI.COMM_WORLD
    counts = np.zeros(world.size, dtype="i")
    counts[-1] = 2
    gathered = np.empty(2) if world.rank == 0 else None
    mine = np.arange(2.0) if world.rank == world.size - 1 else np.empty(0)
    world.Gatherv(mine, None if gathered is None else [gathered, counts])
    assert gathered is None or gathered.tolist() == [0.0, 1.0]
