"""The tests of tests/mpi on several numbers of ranks, each number as one test of an ordinary pytest run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from launch import launch_tests


@pytest.mark.timeout(960)
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_mpi_tests_pass_on(ranks: int) -> None:
    finished = launch_tests(ranks, Path(__file__).with_name("mpi"), timeout=900)
    assert finished.returncode == 0, str(finished)
    assert re.search(r"[1-9]\d* passed", finished.stdout), str(finished)  # all skipped is no proof
