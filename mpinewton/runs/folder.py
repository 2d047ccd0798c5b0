"""The folder of a run: what is written while it goes on, and what it takes to go on with it."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpinewton import __version__
from mpinewton.errors import ConfigError, DataError, MpinewtonError
from mpinewton.fleet import Entry, Fleet
from mpinewton.methods.base import Iterate
from mpinewton.runs import checkpoint as checkpoints
from mpinewton.runs.checkpoint import Checkpoint
from mpinewton.runs.files import Table, replacing
from mpinewton.runs.history import COLUMNS, Row

log = logging.getLogger("mpinewton")
LEDGER_COLUMNS = tuple(field.name for field in fields(Entry))
# So many checkpoints may fail one after the other (a full disk, say) before the run stops.
FAILURES_ALLOWED = 3


class RunFolder:
    """config.toml, history.csv, ledger.csv, checkpoints, model and result of one run.

    Parameters
    ----------
    path : the folder; made if it is not there
    identity : what makes this run this run; a folder of another one is refused
    fresh : move an older run aside first

    Raises
    ------
    ConfigError
        If the folder holds another run, or something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool) -> None:
        self.path, self.identity = path, dict(identity)
        if fresh and path.exists():
            _move_aside(path)
        path.mkdir(parents=True, exist_ok=True)
        self.found = checkpoints.newest(path)
        if self.found is None and any(path.iterdir()) and not (path / "config.toml").exists():
            raise ConfigError(f"{path}: there is something in this folder, and it is no run; choose another with -o")
        if self.found is not None:
            _refuse_other(path, self.found.facts["identity"], self.identity)
        self.rows: list[Row] = []
        self._fleet: Fleet | None = None
        self._number, self._failures, self._saved = 0, 0, time.monotonic()

    def begin(self, fleet: Fleet, config: str, environment: Mapping[str, Any]) -> None:
        """Open the tables: anew, or as the checkpoint that was found vouches for them; ledger and rows are restored."""
        self._fleet = fleet
        self._write_text("config.toml", config)
        self._write_text("env.json", json.dumps(environment, indent=2) + "\n")
        (self.path / "result.json").unlink(missing_ok=True)
        found = self.found
        if found is None:
            self.history = Table(self.path / "history.csv", COLUMNS)
            self.ledger = Table(self.path / "ledger.csv", LEDGER_COLUMNS)
            return
        self._number = found.number
        self.history = Table(self.path / "history.csv", COLUMNS, found.facts["history"])
        self.ledger = Table(self.path / "ledger.csv", LEDGER_COLUMNS, found.facts["ledger"])
        self.rows = read_history(self.path / "history.csv")
        fleet.ledger.restore(found.ledger)

    def __call__(self, row: Row, state: Iterate) -> None:
        """Record a row."""
        assert self._fleet is not None
        self.rows.append(row)
        self.history.append(row.cells(COLUMNS))
        for entry in self._fleet.ledger.entries():
            self.ledger.append([f"{x:.6f}" if isinstance(x, float) else x for x in astuple(entry)])
        self.history.flush()

    def save(self, state: Iterate, seconds: float) -> None:
        """Write a checkpoint. A failure is a warning, and an error the third time in a row.

        Raises
        ------
        MpinewtonError
            Then.
        """
        assert self._fleet is not None
        fleet = self._fleet
        self._number += 1
        try:
            self.history.sync()
            self.ledger.sync()
            facts = {
                "identity": self.identity, "iteration": fleet.iteration, "seconds": seconds,
                "history": [self.history.size, self.history.sha256], "ledger": [self.ledger.size, self.ledger.sha256],
            }  # fmt: skip
            kept = checkpoints.state_fields(state)
            checkpoints.write(
                self.path, Checkpoint(self._number, facts, kept, fleet.ledger.state(), fleet.saved(state.w))
            )
        except OSError as error:
            self._failures += 1
            log.warning("checkpoint %d could not be written (%s); the older one stands", self._number, error)
            if self._failures >= FAILURES_ALLOWED:
                raise MpinewtonError(
                    f"{self.path}: {self._failures} checkpoints in a row could not be written, "
                    f"the last because: {error}. Make room and run the same command again"
                ) from error
        else:
            self._failures = 0
        self._saved = time.monotonic()

    def due(self, every: float) -> bool:
        """Whether the last checkpoint is `every` seconds old."""
        return time.monotonic() - self._saved >= every

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json and close the tables."""
        self.history.sync()
        self.ledger.sync()
        self.history.close()
        self.ledger.close()
        self._write_text("result.json", json.dumps(result, indent=2) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        with replacing(self.path / name) as temporary:
            temporary.write_text(text)


def read_history(path: Path) -> list[Row]:
    """The rows of a history.csv. Raises DataError where it is none."""
    import csv

    try:
        with path.open(newline="") as file:
            return [Row.of(cells) for cells in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a history of this version ({error})") from None


def _refuse_other(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in differing)
        raise ConfigError(
            f"{path} holds another run: {changes}. Use another folder (-o), or --fresh to move the old run aside"
        )


def _move_aside(path: Path) -> None:
    for number in range(1, 10_000):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists():
            path.rename(aside)
            return


def environment(ranks: list[dict[str, Any]], mpi_library: str) -> dict[str, Any]:
    """What the run ran on, for env.json."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(),
        "mpi": mpi_library,
        "versions": versions(),
        "ranks": ranks,
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import h5py
    import scipy

    return {
        "mpinewton": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "msgspec": msgspec.__version__,
    }
