"""The ranks go through the tests in lock step, so that a rank which fails or hangs ends the job and is named.

Without --only-mpi or --with-mpi nothing in this folder is imported; tests/test_mpi_suite.py runs it under mpiexec.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from launch import MARK, POLL, OwnTime, Watchdog, under_mpi

# Seconds of the job's own time that a test may take, and how much longer a rank that is done waits for the others: they
# print their stacks first.
LIMIT = float(os.environ.get("MPI_TEST_TIMEOUT", "30"))
GRACE = 3.0


def pytest_configure(config: pytest.Config) -> None:
    if under_mpi(config):
        config.pluginmanager.register(LockStep())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if under_mpi(config) else True


class LockStep:
    """After every test the ranks tell each other whether it failed; then all go on, or all stop."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self.comm = MPI.COMM_WORLD.Dup()
        pids = np.empty(self.comm.size, dtype="i")
        self.comm.Allgather(np.array([os.getpid()], dtype="i"), pids)
        self.pids = pids.tolist()
        self.failed = False
        # pytest captures file descriptor 2 while a test runs; what must be seen when a rank dies there goes past it.
        self.stderr = os.dup(2)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        unmarked = [item.nodeid for item in items if item.get_closest_marker("mpi") is None]
        if unmarked:
            raise pytest.UsageError(f"tests/mpi: not marked pytest.mark.mpi, would be skipped: {', '.join(unmarked)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            self.failed = True
            # At once: this rank may be aborted before it can print its summary.
            self.say(f"{item.nodeid} failed in {report.when}\n{report.longreprtext}")
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.failed = False
        watchdog = Watchdog(LIMIT, self.give_up, os.environ[MARK], *self.pids)
        done = yield
        watchdog.cancel()
        failed = self.total_failed(item, watchdog.clock)
        if failed:
            item.session.shouldfail = f"failed on {failed} of {self.comm.size} ranks"
        return done

    def give_up(self) -> None:
        faulthandler.dump_traceback(file=self.stderr)
        os._exit(1)

    def total_failed(self, item: pytest.Item, clock: OwnTime) -> int:
        """Number of ranks on which the test failed; ends the job where a rank does not come."""
        mine, total = np.array([self.failed], dtype="i"), np.zeros(1, dtype="i")
        request = self.comm.Iallreduce(mine, total)
        # On a loaded machine this rank's clock is ahead of that of a rank which hangs: that one sees this one wait.
        limit = clock.read() + GRACE if self.failed else 4 * LIMIT + GRACE
        while not request.Test():
            if time.monotonic() > clock.then + POLL and clock.late(limit):
                self.say(f"{item.nodeid}: done here, but some rank did not finish")
                self.comm.Abort(1)
            time.sleep(1e-3)
        return int(total[0])

    def say(self, text: str) -> None:
        os.write(self.stderr, f"\n[rank {self.comm.rank}] {text}\n".encode())
