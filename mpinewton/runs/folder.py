"""The folder of a run: everything that is written, and what a resumed run reads."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from mpinewton.bits import differences, signature
from mpinewton.durable import explain, open_regular, remove_temporary_files, write_whole
from mpinewton.errors import ConfigError, DataError, FolderBusyError, MpinewtonError
from mpinewton.fleet import Entry, Fleet
from mpinewton.methods.support.method import State
from mpinewton.output import Lines
from mpinewton.runs import checkpoint as checkpoints
from mpinewton.runs.checkpoint import Checkpoint
from mpinewton.runs.ends import Ends
from mpinewton.runs.history import COLUMNS, HistoryDigest, Row, read_rows
from mpinewton.runs.model import Model, write_model
from mpinewton.runs.storage import Table
from mpinewton.settings import flatten

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
    refused : tuple of int
        Numbers of checkpoints from which the run is not resumed.

    Attributes
    ----------
    checkpoint : Checkpoint or None
        The newest one in the folder; from `open` on, the one from which the run is resumed.
    first : Row or None
        The first row.
    digest : HistoryDigest
        Of the rows so far, which are not kept.

    Raises
    ------
    ConfigError
        If the folder holds another run, or something that is not a run.
    DataError
        If there are checkpoints, but none can be read.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool, refused: tuple[int, ...] = ()) -> None:
        self.path, self.identity, self.fresh, self.refused = path, dict(identity), fresh, refused
        if path.exists() and not _may_hold_run(path):
            raise ConfigError(f"{path} exists and is not a run folder; choose another folder with -o")
        self._intact = [] if fresh else self._candidates()
        self.checkpoint = next(iter(self._intact), None)
        if self.checkpoint is not None:
            _check_identity(path, self.checkpoint.facts.get("identity", {}), self.identity)
        self.first: Row | None = None
        self.digest = HistoryDigest()
        self._fleet: Fleet | None = None
        self._number, self._failures, self._fault = 0, 0, ""
        self._saved = -math.inf  # the first row is saved at once: from then on the folder belongs to this run
        self._stack = ExitStack()

    def _candidates(self) -> list[Checkpoint]:
        """The checkpoints in the folder from which the run may be resumed, the newest first."""
        return [saved for saved in checkpoints.intact(self.path) if saved.number not in self.refused]

    def has_other(self, number: int) -> bool:
        """Whether there is another checkpoint from which the run may be resumed than that of this number."""
        return any(saved.number != number for saved in self._intact)

    def final_result(self, config: str) -> dict[str, Any] | None:
        """The content of result.json if this configuration has finished, else None."""
        try:
            before, text = (_read_text(self.path / name) for name in ("config.toml", "result.json"))
            result = json.loads(text)
        except (OSError, ValueError, RecursionError):
            return None
        if self.checkpoint is None or before != config or not isinstance(result, dict):
            return None
        return None if result.get("kind") == "interrupted" else result

    def open(self, fleet: Fleet, config: str, environment: Mapping[str, Any], kind: type[State]) -> State | None:
        """Lock the folder and open log and tables; to resume, cut the tables to the checkpoint and restore the ledger.

        Parameters
        ----------
        fleet : Fleet
        config : str
            Content of config.toml.
        environment : dict
            Content of env.json.
        kind : type
            Class of the method's states.

        Returns
        -------
        State or None
            The state of the newest checkpoint that fits fleet, method and tables; None if there is no checkpoint.

        Raises
        ------
        ConfigError
            If the folder cannot be created, or another process uses it.
        DataError
            If there are checkpoints, but none fits.
        """
        self._fleet, self._arithmetic = fleet, signature(environment["ranks"], environment["bits"])
        try:
            if self.fresh and self.path.exists():
                self._lock()
                _move_aside(self.path)
            self.fresh = False
            self.path.mkdir(parents=True, exist_ok=True)
            self._open_log(self._lock())
            self._check_unchanged()
            remove_temporary_files(self.path)
            state = self._resume(fleet, kind)
            # To resume, only now: the tables match the checkpoint.
            self._write_setup(config, environment)
            if state is None:
                self._open_tables({})
        except OSError as error:
            reason = explain(error, self.path)
            raise ConfigError(f"{self.path}: cannot be written ({reason}); or choose another with -o") from None
        return state

    def _resume(self, fleet: Fleet, kind: type[State]) -> State | None:
        """The state of the newest checkpoint that fits; tables and ledger are then at that checkpoint."""
        faults = []
        for saved in self._intact:
            try:
                saved.check(fleet.dim, fleet.n_workers)
                state = saved.state_of(kind)
                self._open_tables(saved.facts)
                self._count_rows(saved.facts["iteration"])
            except DataError as error:
                faults.append(error)
                continue
            for fault in faults:
                log.warning("%s; the checkpoint before it is used", fault)
            if changes := differences(saved.facts.get("arithmetic", {}), self._arithmetic):
                log.warning("the bits may differ from here on: the run began with %s", changes)
            self.checkpoint, self._number = saved, saved.number
            fleet.ledger.restore(saved.ledger)
            return state
        if faults:
            raise faults[0]
        return None

    def _open_tables(self, facts: Mapping[str, Any]) -> None:
        self.history = Table(self.path / "history.csv", COLUMNS, facts.get("history"))
        try:
            self.ledger = Table(self.path / "ledger.csv", LEDGER_COLUMNS, facts.get("ledger"))
        except (OSError, DataError):
            self.history.close()
            raise
        self._stack.callback(self.history.close)
        self._stack.callback(self.ledger.close)

    def read_rows(self) -> Iterator[Row]:
        """The rows in the folder, one at a time. Raises DataError."""
        return read_rows(self.path / "history.csv")

    def _count_rows(self, last: int) -> None:
        """Take the rows in the folder into account. Raises DataError if they do not end with this iteration."""
        self.first, self.digest, found = None, HistoryDigest(), -1
        for row in self.read_rows():
            self._count(row)
            found = row.iteration
        if found != last:
            raise DataError(f"{self.path}: the history ends with iteration {found}, and the checkpoint is of {last}")

    def _count(self, row: Row) -> None:
        self.first = self.first or row
        self.digest.add(row)

    def remove_temporary_files(self) -> None:
        """Remove what runs that were killed have left in the folder of a finished run."""
        with suppress(OSError, MpinewtonError):
            self._lock()
            remove_temporary_files(self.path)

    def _lock(self) -> IO[str]:
        """Lock the folder until `close` or the end of the process, against two runs in one folder. Returns log.txt."""
        handle = os.open(self.path / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        file = self._stack.enter_context(os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusyError(
                f"{self.path}: another mpinewton is running in this folder; wait for it, or choose another with -o"
            ) from None
        except OSError as error:  # some parallel file systems have no locks: the user must then avoid a second run
            log.debug("%s: cannot be locked (%s)", self.path, error.strerror)
        return file

    def _check_unchanged(self) -> None:
        now, then = [saved.number for saved in self._candidates()], self.checkpoint
        if now[:1] != ([then.number] if then else []):
            raise FolderBusyError(f"{self.path}: another mpinewton has changed this folder; run the command again")

    def _write_setup(self, config: str, environment: Mapping[str, Any]) -> None:
        # The old result is removed first: with a new configuration beside it, the run would count as finished.
        (self.path / "result.json").unlink(missing_ok=True)
        self._write_text("config.toml", config)
        self._write_text("env.json", json.dumps(environment, indent=2) + "\n")

    def _open_log(self, file: IO[str]) -> None:
        handler = Lines(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        self._stack.callback(log.removeHandler, handler)

    def __call__(self, row: Row, state: State) -> None:
        """Watcher that adds a row to history and ledger. A file that cannot be written now is written later."""
        self._count(row)
        self.history.append(row.cells(COLUMNS))
        self._write_ledger()
        try:
            self.history.flush()
            self._fault = ""
        except OSError as error:
            if self._fault != str(error.errno):
                log.warning("%s cannot be written now (%s); the run continues", self.history.path, error.strerror)
            self._fault = str(error.errno)

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
                "arithmetic": self._arithmetic,
            }  # fmt: skip
            kept = checkpoints.state_fields(state) | ends.saved(state)
            checkpoints.write(
                self.path, Checkpoint(self._number, facts, kept, fleet.ledger.state(), fleet.save(state.w))
            )
        except OSError as error:
            self._failures += 1
            reason = error.strerror or error
            log.warning("checkpoint %d could not be written (%s); the previous one is kept", self._number, reason)
            if self._failures >= MAX_FAILURES:
                raise MpinewtonError(
                    f"{self.path}: {self._failures} checkpoints in a row could not be written ({reason}). "
                    "The same command then resumes from the last checkpoint"
                ) from error
        else:
            self._failures = 0
        self._saved = time.monotonic()

    def is_due(self, every: float) -> bool:
        """Whether the last checkpoint is at least `every` seconds old."""
        return time.monotonic() - self._saved >= every

    def finish(self, model: Model, result: Mapping[str, Any]) -> None:
        """Write model.h5 and result.json, and to the ledger the cost of a last step that failed.

        Raises
        ------
        MpinewtonError
            If a file cannot be written.
        """
        self._write_ledger()
        try:
            self.history.sync()
            self.ledger.sync()
            write_model(self.path / "model.h5", model)
            self._write_text("result.json", json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise MpinewtonError(
                f"{self.path}: the result could not be written ({explain(error, self.path)}). "
                "The same command then resumes from the last checkpoint"
            ) from error

    def close(self) -> None:
        """Close tables and log."""
        self._stack.close()

    def _write_text(self, name: str, text: str) -> None:
        write_whole(self.path / name, text.encode("utf-8", "surrogateescape"))


def _read_text(path: Path) -> str:
    with open_regular(path) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _may_hold_run(path: Path) -> bool:
    # A run writes log.txt first, then config.toml under a temporary name.
    return path.is_dir() and (any(path.glob("config.toml*")) or {file.name for file in path.iterdir()} <= {"log.txt"})


def _check_identity(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, now = flatten(before), flatten(now)
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if "method" in differing:
        differing = [name for name in differing if not name.startswith("settings.")]
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
