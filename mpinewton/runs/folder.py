"""The folder of a run: everything that is written, and what a resumed run reads."""

from __future__ import annotations

import csv
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
from mpinewton.runs.ends import Ends
from mpinewton.runs.history import COLUMNS, Row
from mpinewton.runs.storage import Table

log = logging.getLogger("mpinewton")
LEDGER_COLUMNS = Entry._fields
# The run stops when this many checkpoints in a row cannot be written, for instance on a full disk.
MAX_FAILURES = 3


class RunFolder:
    """config.toml, history.csv, ledger.csv, log.txt, checkpoints, model and result of one run.

    Parameters
    ----------
    path : Path
        Nothing is written before `open`.
    identity : dict
        What must be equal for a run to be resumed.
    fresh : bool
        Whether `open` moves an older run aside instead of resuming it.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        The newest one in the folder.
    rows : list of Row
        The history so far.

    Raises
    ------
    ConfigError
        If the folder holds another run, or something that is not a run.
    DataError
        If there are checkpoints, but none can be read.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool) -> None:
        self.path, self.identity, self.fresh = path, dict(identity), fresh
        if path.exists() and not _may_hold_run(path):
            raise ConfigError(f"{path} exists and is not a run folder; choose another folder with -o")
        self.checkpoint = None if fresh else checkpoints.newest(path)
        if self.checkpoint is not None:
            _check_identity(path, self.checkpoint.facts["identity"], self.identity)
        self.rows: list[Row] = []
        self._fleet: Fleet | None = None
        self._number, self._failures = 0, 0
        self._saved = -math.inf  # the first row is saved at once: from then on the folder belongs to this run
        self._stack = ExitStack()

    def final_result(self, config: str) -> dict[str, Any] | None:
        """The content of result.json if this configuration has finished, else None."""
        try:
            before = (self.path / "config.toml").read_text(encoding="utf-8")
            result: dict[str, Any] = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        done = self.checkpoint is not None and before == config and result.get("kind") != "interrupted"
        return result if done else None

    def open(self, fleet: Fleet, config: str, environment: Mapping[str, Any]) -> None:
        """Lock the folder and open log and tables; to resume, cut the tables to the checkpoint and restore the ledger.

        Raises
        ------
        ConfigError
            If the folder cannot be created, or another process uses it.
        DataError
            If a table does not match the checkpoint.
        """
        self._fleet, saved = fleet, self.checkpoint
        try:
            if self.fresh and self.path.exists():
                self._lock()
                _move_aside(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._check_unchanged()
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be created ({error.strerror}); choose another with -o") from None
        if saved is None:
            self._write_setup(config, environment)
        facts = {} if saved is None else saved.facts
        self.history = Table(self.path / "history.csv", COLUMNS, facts.get("history"))
        self._stack.callback(self.history.close)
        self.ledger = Table(self.path / "ledger.csv", LEDGER_COLUMNS, facts.get("ledger"))
        self._stack.callback(self.ledger.close)
        if saved is not None:
            self._number = saved.number
            self.rows = read_history(self.path / "history.csv")
            fleet.ledger.restore(saved.ledger)
            self._write_setup(config, environment)  # only now: the tables match the checkpoint
        self._open_log()

    def _lock(self) -> None:
        """Lock the folder until `close` or the end of the process, against two runs in one folder."""
        file = self._stack.enter_context((self.path / "log.txt").open("ab"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.path}: another mpinewton is running in this folder; wait for it, or choose another with -o"
            ) from None
        except OSError as error:  # some parallel file systems have no locks: the user must then avoid a second run
            log.debug("%s: cannot be locked (%s)", self.path, error.strerror)

    def _check_unchanged(self) -> None:
        now, then = checkpoints.newest(self.path), self.checkpoint
        if (now and now.number) != (then and then.number):
            raise ConfigError(f"{self.path}: another mpinewton has changed this folder; run the command again")

    def _write_setup(self, config: str, environment: Mapping[str, Any]) -> None:
        # The old result is removed first: with a new configuration beside it, the run would count as finished.
        (self.path / "result.json").unlink(missing_ok=True)
        self._write_text("config.toml", config)
        self._write_text("env.json", json.dumps(environment, indent=2) + "\n")

    def _open_log(self) -> None:
        handler = logging.FileHandler(self.path / "log.txt")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        self._stack.callback(handler.close)
        self._stack.callback(log.removeHandler, handler)

    def __call__(self, row: Row, state: State) -> None:
        """Watcher that adds a row to history and ledger."""
        self.rows.append(row)
        self.history.append(row.cells(COLUMNS))
        self._write_ledger()
        self.history.flush()

    def _write_ledger(self) -> None:
        assert self._fleet is not None
        for entry in self._fleet.ledger.entries():
            self.ledger.append([f"{x:.6f}" if isinstance(x, float) else x for x in entry])

    def save(self, state: State, seconds: float, ends: Ends) -> None:
        """Write a checkpoint; if that fails, log a warning.

        Parameters
        ----------
        state : State
            At the last row.
        seconds : float
            Clock of the run.
        ends : Ends
            What the rules for the end of the run remember.

        Raises
        ------
        MpinewtonError
            If `MAX_FAILURES` checkpoints in a row could not be written.
        """
        assert self._fleet is not None
        fleet = self._fleet
        self._number += 1
        try:
            self._write_ledger()  # the cost of a last step that failed
            self.history.sync()
            self.ledger.sync()
            facts = {
                "identity": self.identity, "iteration": fleet.iteration, "seconds": seconds,
                "history": [self.history.size, self.history.sha256], "ledger": [self.ledger.size, self.ledger.sha256],
            }  # fmt: skip
            kept = checkpoints.state_fields(state) | ends.saved(state)
            checkpoints.write(
                self.path, Checkpoint(self._number, facts, kept, fleet.ledger.state(), fleet.save(state.w))
            )
        except OSError as error:
            self._failures += 1
            log.warning("checkpoint %d could not be written (%s); the previous one is kept", self._number, error)
            if self._failures >= MAX_FAILURES:
                raise MpinewtonError(
                    f"{self.path}: {self._failures} checkpoints in a row could not be written "
                    f"({error}). Free some disk space and run the same command again"
                ) from error
        else:
            self._failures = 0
        self._saved = time.monotonic()

    def is_due(self, every: float) -> bool:
        """Whether the last checkpoint is at least `every` seconds old."""
        return time.monotonic() - self._saved >= every

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, and to the ledger the cost of a last step that failed."""
        self._write_ledger()
        self.history.sync()
        self.ledger.sync()
        self._write_text("result.json", json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        """Close tables and log."""
        self._stack.close()

    def _write_text(self, name: str, text: str) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def read_history(path: Path) -> list[Row]:
    """The rows of a history.csv. Raises DataError if it cannot be read."""
    try:
        with path.open(newline="") as file:
            return [Row.of(cells) for cells in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a history.csv of this version ({error})") from None


def _may_hold_run(path: Path) -> bool:
    # A run writes log.txt first, then config.toml under a temporary name.
    return path.is_dir() and (any(path.glob("config.toml*")) or {file.name for file in path.iterdir()} <= {"log.txt"})


def _check_identity(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, now = _flat(before), _flat(now)
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in differing)
        raise ConfigError(
            f"{path} holds another run: {changes}. Choose another folder with -o, or move it aside with --fresh"
        )


def _move_aside(path: Path) -> None:
    for number in range(1, 10_000):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists():
            path.rename(aside)
            return


def environment(ranks: list[dict[str, Any]], mpi_library: str, bits: str) -> dict[str, Any]:
    """The content of env.json: command, time, platform and versions."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(),
        "mpi": mpi_library,
        "versions": versions(),
        "bits": bits,
        "ranks": ranks,
    }


def versions() -> dict[str, str]:
    """Versions of mpinewton, Python and the libraries that results depend on."""
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
    """Nested mappings as one, with names such as "settings.search.rho"."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
