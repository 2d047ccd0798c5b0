"""Runs a job: fleet, method, record, checkpoints, result."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpinewton import bits
from mpinewton.arrays import NAN, Array
from mpinewton.data.manifest import Manifest
from mpinewton.errors import DataError, MpinewtonError, WorkerError
from mpinewton.extensions import shown
from mpinewton.fleet import Fleet
from mpinewton.methods.support.method import State
from mpinewton.runs.checkpoint import NAMES
from mpinewton.runs.columns import change_columns
from mpinewton.runs.ends import Ends, gap_bound
from mpinewton.runs.environment import environment, versions
from mpinewton.runs.evaluation import Reference, find_optimum, initial_weights, tester
from mpinewton.runs.folder import RunFolder
from mpinewton.runs.history import Row
from mpinewton.runs.job import Job
from mpinewton.runs.loop import Clock, Evaluation, Outcome, run
from mpinewton.runs.memory import place_rows
from mpinewton.runs.model import Model
from mpinewton.runs.progress import Progress
from mpinewton.signals import Signals, catch_signals

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

log = logging.getLogger("mpinewton")
MARGIN = 60.0  # seconds before the end of a SLURM job in which the last iteration ends and is saved
EXIT_CODES = {
    "converged": 0, "precision": 0, "stalled": 0, "budget": 0, "unbounded": 0, "diverged": 1, "trouble": 1,
    "interrupted": 3,
}  # fmt: skip


def execute(
    session: Session, job: Job, manifest: Manifest, path: Path, fresh: bool = False, survive: bool = False
) -> dict[str, Any]:
    """Run a complete job in a folder, or resume it.

    If ranks die and it shall survive, it is resumed from the last checkpoint on the ranks that are left.

    Returns
    -------
    dict
        The content of result.json, and `exit_code`.

    Raises
    ------
    ConfigError, DataError
        If the job does not fit the folder or the data, before anything is started.
    MpinewtonError
        If a worker fails.
    """
    folder = RunFolder(path, job.identity(manifest), fresh)
    if done := folder.final_result(job.toml()):
        log.info("%s is finished: %s. Raise the limit to continue, or start anew with --fresh", path, done["reason"])
        folder.remove_temporary_files()
        folder.close()
        return done | {"exit_code": EXIT_CODES[done["kind"]]}
    limits = time_limits(job.max_hours)
    with catch_signals() as signals:
        while True:
            refused = folder.refused
            with session.survival() if survive else nullcontext():
                try:
                    return _Execution(session, job, manifest, folder, signals, limits).result()
                except _Refused as error:
                    if not folder.has_other(error.number):
                        raise
                    log.warning("%s; the checkpoint before it is used", error)
                    refused = (*refused, error.number)
                finally:
                    folder.close()
            folder = RunFolder(path, folder.identity, folder.fresh, refused)


class _Refused(DataError):
    """A checkpoint that can be read does not fit the method, its rules or the workers."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


class _Execution:
    """One run of a job."""

    def __init__(
        self,
        session: Session,
        job: Job,
        manifest: Manifest,
        folder: RunFolder,
        signals: Signals,
        limits: Mapping[str, float],
    ) -> None:
        self.session, self.job, self.manifest, self.folder = session, job, manifest, folder
        self.signals, self.limits = signals, limits
        session.watch(self.limit, job.rank_timeout or inf)
        self.ranks = introduce(session, job.bits)
        plan = job.plan(manifest)
        self.method = job.algorithm.choose(plan.problem())
        self.plan = place_rows(plan, self.method, session.ranks, job.memory)
        self.fleet: Fleet = session.open(self.plan)
        self.columns = change_columns(self.fleet, self.method)
        self.clock = Clock()
        self.ends = Ends(self.fleet)

    def result(self) -> dict[str, Any]:
        job, fleet = self.job, self.fleet
        columns = self.columns
        optimum = None if job.reference is None else find_optimum(fleet, self.plan, job.reference, columns, self.pause)
        evaluation = Evaluation(
            NAN if optimum is None else optimum.loss,
            None if job.test is None else tester(self.plan, job.test, job.test_reading),
            job.measure_every or self.method.iterations_per_epoch(fleet.problem),
            columns,
        )
        fleet.adopt(self.method)
        progress = Progress()
        with self.checking():
            begin = self.open_folder(optimum)
            outcome = run(
                self.method, fleet, begin, job.stops(), clock=self.clock, evaluation=evaluation,
                first=self.folder.first, ends=self.ends,
                watchers=[self.folder, progress, self.checkpoint], pause=self.pause,
            )  # fmt: skip
        progress.finish(outcome.row)
        return self.finish(outcome)

    def open_folder(self, optimum: Reference | None) -> Array | State:
        """Open the run folder. Returns the first w; or the state of the checkpoint, with fleet and clock restored."""
        job, folder, fleet = self.job, self.folder, self.fleet
        w = None if folder.checkpoint else initial_weights(fleet, self.plan, job.start, optimum, self.columns)
        facts = environment(self.ranks, self.session.library, job.bits)
        state = folder.open(fleet, job.toml(), facts, self.method.state)
        if mixture := bits.mixture(self.ranks, job.bits):
            log.warning("the ranks differ, and so may the bits of a run on other ranks: %s", mixture)
        if (idle := self.session.ranks - 1 - self.manifest.workers) > 0:
            log.warning(
                "%s no workers and will be idle; start at most one for each worker, beside the driver",
                _counted(idle, "rank has", "ranks have"),
            )
        if state is None:
            assert w is not None
            log.info(self.summary())
            self.clock = Clock()
            return self.columns.inside(w)
        saved = folder.checkpoint
        assert saved is not None
        fleet.iteration = saved.facts["iteration"]
        fleet.restore(saved.workers, state.w)
        self.ends.restore(saved.state, folder.read_rows(), state)
        log.info("resuming from the checkpoint at iteration %d: %s", fleet.iteration, self.summary())
        self.clock = Clock(saved.facts["seconds"])
        return state

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Context of a run. What fails before the first iteration of a resumed run is complete is the checkpoint.

        Raises
        ------
        DataError
        """
        try:
            yield
        except (ArithmeticError, LookupError, TypeError, ValueError, WorkerError) as error:
            saved = self.folder.checkpoint
            if saved is None or self.fleet.iteration > saved.facts["iteration"] + 1:
                raise
            reason = f"{type(error).__name__}: {str(error).rstrip().rpartition(chr(10))[2]}"
            name = self.folder.path / NAMES[saved.number % 2]
            raise _Refused(
                f"{name} does not fit {self.method.name} ({reason}); start again with --fresh", saved.number
            ) from error

    def summary(self) -> str:
        """The run in one line."""
        job, m = self.job, self.manifest
        chosen = "" if self.method is job.algorithm else f" (which chooses {self.method.name})"
        return (
            f"{shown(job.method)}{chosen} on {job.data}: {shown(job.loss or '')}, l2 {job.l2:.6g}, "
            f"{m.rows} rows x {m.features} features, "
            f"{_counted(m.workers, 'worker', 'workers')} on {_counted(self.session.ranks, 'rank', 'ranks')}"
        )

    def checkpoint(self, row: Row, state: State) -> None:
        """Watcher that saves a checkpoint when one is due."""
        if self.folder.is_due(self.job.checkpoint_seconds):
            self.folder.save(state, row.seconds, self.ends)

    def pause(self) -> str:
        """Why the run must be interrupted, or ""."""
        if self.fleet.interrupted and not self.signals.name:
            return "signal on a worker rank: run the same command again to continue"
        return self.limit()

    def limit(self) -> str:
        """The signal received or the time limit reached, or "": asked while ranks work, too."""
        if self.signals.name:
            return f"signal {self.signals.name}: run the same command again to continue"
        for name, end in self.limits.items():
            if time.time() >= end:
                return f"time limit ({name}) reached: run the same command again to continue"
        return ""

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """Write checkpoint, model and result, and log the result."""
        folder, row, best, w = self.folder, outcome.row, outcome.best_row, self.columns.outside(outcome.best.w)
        if outcome.resumable:
            folder.save(outcome.state, row.seconds, self.ends)
        ledger = self.fleet.ledger
        result = {
            **self.job.names(), "l2": self.job.l2,
            "data": self.job.data,
            "chosen": self.method.name, "rows_travel": self.method.rows_travel,
            "workers": self.manifest.workers, "ranks": self.session.ranks,
            "converged": outcome.converged, "kind": outcome.kind, "reason": outcome.sentence,
            "iterations": row.iteration, "best_iteration": best.iteration, "rounds": ledger.rounds, **ledger.totals(),
            "wire_bytes": ledger.wire, "control_bytes": ledger.control,
            "seconds": row.seconds, "compute_seconds": ledger.compute,
            "objective": _known(best.loss), "grad_norm": _known(best.grad_norm), "gap": _known(best.gap),
            "gap_bound": _known(gap_bound(self.plan.problem(), best.grad_norm)),
            "test_accuracy": _known(best.test_accuracy), "test_loss": _known(best.test_loss),
            "w_sha256": hashlib.sha256(w.tobytes()).hexdigest(),
            "history_sha256": folder.digest.hexdigest(), "data_sha256": self.manifest.data_sha256,
            "versions": versions(), "bits": self.job.bits, "arithmetic": bits.describe(self.ranks, self.job.bits),
        }  # fmt: skip
        folder.finish(Model.of(w, self.plan), result)
        log.log(
            logging.WARNING if outcome.kind in ("unbounded", "diverged") else logging.INFO, "%s after %d rounds: %s",
            "converged" if outcome.converged else "stopped", ledger.rounds, outcome.sentence,
        )  # fmt: skip
        return result | {"exit_code": EXIT_CODES[outcome.kind]}


def time_limits(max_hours: float | None, environment: Mapping[str, str] = os.environ) -> dict[str, float]:
    """Names of the time limits of a run, and when they are reached, in seconds since the epoch."""
    limits = {} if max_hours is None else {f"--max-hours {max_hours:g}": time.time() + 3600 * max_hours}
    if (end := environment.get("SLURM_JOB_END_TIME", "")).isdigit():
        limits[f"{MARGIN:.0f} s before SLURM_JOB_END_TIME"] = int(end) - MARGIN
    return limits


def introduce(session: Session, asked: bits.Bits) -> list[dict[str, Any]]:
    """Host, versions and process of every rank.

    Raises
    ------
    MpinewtonError
        If the ranks run different versions of mpinewton, or one cannot compute these bits.
    """
    ranks = session.introductions()
    odd = sorted({r["host"] for r in ranks if r["mpinewton"] != ranks[0]["mpinewton"]})
    if odd:
        raise MpinewtonError(
            f"mpinewton on {', '.join(odd)} is another version than on the driver; install one version on all hosts"
        )
    if asked == "portable":
        bits.refuse(ranks)
    return ranks


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
