"""What every test shares: one thread a process, examples that repeat, no MPI in the process that starts jobs.

The limits of pytest-timeout are in seconds of own time, see `launch.OwnTime`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from functools import partial
from importlib.abc import MetaPathFinder

import pytest
import pytest_timeout
from launch import JOB_ENVIRONMENT, MARK, Watchdog, new_mark, under_mpi

# Before numpy is imported, since OpenBLAS reads its share then; children started without `launch` inherit it too.
os.environ.update(JOB_ENVIRONMENT)
# A shell starts background jobs with SIGINT ignored, and their children inherit that: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ[MARK] = new_mark()
# Jobs load the modules that the first of them compiled, and tests those that the last run rewrote.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


class NoMpiHere(MetaPathFinder):
    """Refuses mpi4py.MPI: a process that has called MPI_Init may be unable to start mpiexec."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "mpi4py.MPI":
            raise ImportError("the test process must not start MPI: put the test into tests/mpi, or use launch.launch")


def pytest_configure(config: pytest.Config) -> None:
    if under_mpi(config):
        return  # ranks draw no examples, and do without the import
    sys.meta_path.insert(0, NoMpiHere())
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
    settings.load_profile("repeatable")


def pytest_timeout_set_timer(item: pytest.Item, settings: pytest_timeout.Settings) -> bool:
    """Set the timer of pytest-timeout: the test and the jobs that it starts count together."""
    give_up = partial(pytest_timeout.timeout_timer, item, settings)
    item.cancel_timeout = Watchdog(settings.timeout, give_up, os.environ[MARK], os.getpid()).cancel
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest tests first, so that no process waits for one of them in the end.
    items.sort(key=lambda item: item.path.parent.name not in ("tests", "slurm"))
    # pytest-mpi goes by keywords, and the name of a parameter is one: such tests would be skipped and nobody the wiser.
    skipped = [item.nodeid for item in items if "mpi" in item.keywords and not under_mpi(config)]
    if skipped:
        raise pytest.UsageError(
            f"skipped without mpiexec: {', '.join(skipped)}; the marker mpi belongs into tests/mpi, "
            "and elsewhere no parameter may have the id 'mpi': give another with pytest.param(..., id=...)"
        )


@pytest.fixture(autouse=True)
def _own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `caplog` read the log, and end a command's handlers with its test: each has another standard output."""
    log = logging.getLogger("mpinewton")
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(log, "handlers", list(log.handlers))
