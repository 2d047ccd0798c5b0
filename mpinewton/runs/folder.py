"""The folder of a run: what is written while it goes on, and what it takes to go on with it."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpinewton import __version__
from mpinewton.durable import atomic_path
from mpinewton.errors import ConfigError, DataError, MpinewtonError
from mpinewton.fleet import Entry, Fleet
from mpinewton.methods.support.method import State
from mpinewton.runs import checkpoint as checkpoints
from mpinewton.runs.checkpoint import Checkpoint
from mpinewton.runs.history import COLUMNS, Row
from mpinewton.runs.storage import Table

log = logging.getLogger("mpinewton")
LEDGER_COLUMNS = Entry._fields
# So many checkpoints may fail one after the other (a full disk, say) before the run stops.
FAILURES_ALLOWED = 3


class RunFolder:
    """config.toml, history.csv, ledger.csv, log.txt, checkpoints, model and result of one run.

    Parameters
    ----------
    path : the folder; nothing is written before `begin`
    identity : what makes this run this run; a folder of another one is refused
    fresh : `begin` moves an older run aside

    Raises
    ------
    ConfigError
        If the folder holds another run, or something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool) -> None:
        self.path, self.identity, self.fresh = path, dict(identity), fresh
        if path.exists() and not _may_hold_run(path):
            raise ConfigError(f"{path}: there is something in this place, and it is no run; choose another with -o")
        self.found = None if fresh else checkpoints.newest(path)
        if self.found is not None:
            _refuse_other(path, self.found.facts["identity"], self.identity)
        self.rows: list[Row] = []
        self._fleet: Fleet | None = None
        self._number, self._failures = 0, 0
        self._saved = -math.inf  # the first row is saved at once: from then on the folder is known to be this run's
        self._open = ExitStack()

    def finished(self, config: str) -> dict[str, Any] | None:
        """The result, if this very configuration has been run to its end; None where there is something to do."""
        try:
            before = (self.path / "config.toml").read_text()
            result: dict[str, Any] = json.loads((self.path / "result.json").read_text())
        except (OSError, ValueError):
            return None
        done = self.found is not None and before == config and result.get("kind") != "interrupted"
        return result if done else None

    def begin(self, fleet: Fleet, config: str, environment: Mapping[str, Any]) -> None:
        """Open log and tables: anew, or as the checkpoint that was found vouches for them; the ledger is restored.

        Raises
        ------
        ConfigError
            If the folder cannot be made, or another process is at work in it.
        DataError
            If a table is not what the checkpoint remembers.
        """
        self._fleet, found = fleet, self.found
        try:
            if self.fresh and self.path.exists():
                self._claim()
                _move_aside(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._claim()
            self._refuse_what_came_meanwhile()
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be made ({error.strerror}); choose another with -o") from None
        if found is None:
            self._describe(config, environment)
        facts = {} if found is None else found.facts
        self.history = Table(self.path / "history.csv", COLUMNS, facts.get("history"))
        self._open.callback(self.history.close)
        self.ledger = Table(self.path / "ledger.csv", LEDGER_COLUMNS, facts.get("ledger"))
        self._open.callback(self.ledger.close)
        if found is not None:
            self._number = found.number
            self.rows = read_history(self.path / "history.csv")
            fleet.ledger.restore(found.ledger)
            self._describe(config, environment)  # only now: the tables are what they should be
        self._keep_log()

    def _claim(self) -> None:
        """Hold the folder until `close`, or death: two jobs at once would write over each other's tables."""
        file = self._open.enter_context((self.path / "log.txt").open("ab"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.path}: another mpinewton is at work in this folder; wait for its end, or choose another with -o"
            ) from None
        except OSError as error:  # some parallel file systems know no locks: one job a folder is then the user's care
            log.debug("%s: cannot be locked (%s)", self.path, error.strerror)

    def _refuse_what_came_meanwhile(self) -> None:
        now, then = checkpoints.newest(self.path), self.found
        if (now and now.number) != (then and then.number):
            raise ConfigError(f"{self.path}: another mpinewton has been at work in this folder meanwhile; run again")

    def _describe(self, config: str, environment: Mapping[str, Any]) -> None:
        # The result goes first: an old one beside a new configuration would say that it is done.
        (self.path / "result.json").unlink(missing_ok=True)
        self._write_text("config.toml", config)
        self._write_text("env.json", json.dumps(environment, indent=2) + "\n")

    def _keep_log(self) -> None:
        handler = logging.FileHandler(self.path / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        self._open.callback(handler.close)
        self._open.callback(log.removeHandler, handler)

    def __call__(self, row: Row, state: State) -> None:
        """Record a row."""
        self.rows.append(row)
        self.history.append(row.cells(COLUMNS))
        self._enter()
        self.history.flush()

    def _enter(self) -> None:
        assert self._fleet is not None
        for entry in self._fleet.ledger.entries():
            self.ledger.append([f"{x:.6f}" if isinstance(x, float) else x for x in entry])

    def save(self, state: State, seconds: float) -> None:
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
            self._enter()  # what a last step cost that led nowhere
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
        """Write result.json; what crossed since the last row, in a step that led nowhere, goes into the ledger."""
        self._enter()
        self.history.sync()
        self.ledger.sync()
        self._write_text("result.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        """Close tables and log."""
        self._open.close()

    def _write_text(self, name: str, text: str) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text)


def read_history(path: Path) -> list[Row]:
    """The rows of a history.csv. Raises DataError where it is none."""
    import csv

    try:
        with path.open(newline="") as file:
            return [Row.of(cells) for cells in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a history of this version ({error})") from None


def _may_hold_run(path: Path) -> bool:
    # The configuration is the first file of a run after its log, under a temporary name for a moment.
    return path.is_dir() and (any(path.glob("config.toml*")) or {file.name for file in path.iterdir()} <= {"log.txt"})


def _refuse_other(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, now = _flat(before), _flat(now)
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


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names with dots for values in mappings: a setting that differs is named alone, not all of them."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
