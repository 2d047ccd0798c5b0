"""Runs a job: fleet, method, record, checkpoints, result."""

from __future__ import annotations

import hashlib
import logging
import time
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpinewton import bits
from mpinewton.arrays import NAN, Array
from mpinewton.data.manifest import Manifest
from mpinewton.errors import MpinewtonError
from mpinewton.extensions import shown
from mpinewton.fleet import Fleet
from mpinewton.methods.support.method import State
from mpinewton.runs.ends import Ends, gap_bound
from mpinewton.runs.evaluation import Reference, find_optimum, initial_weights, tester
from mpinewton.runs.folder import RunFolder, environment, versions
from mpinewton.runs.history import Row, history_sha256
from mpinewton.runs.job import Job
from mpinewton.runs.loop import Clock, Evaluation, Outcome, run
from mpinewton.runs.model import Model, write_model
from mpinewton.runs.progress import Progress
from mpinewton.runs.signals import Signals, catch_signals

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

log = logging.getLogger("mpinewton")
EXIT_CODES = {
    "converged": 0, "precision": 0, "stalled": 0, "budget": 0, "unbounded": 0, "diverged": 1, "trouble": 1,
    "interrupted": 3,
}  # fmt: skip


def execute(session: Session, job: Job, manifest: Manifest, path: Path, fresh: bool = False) -> dict[str, Any]:
    """Run a complete job in a folder, or resume it.

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
        return done | {"exit_code": EXIT_CODES[done["kind"]]}
    try:
        with catch_signals() as signals:
            return _Execution(session, job, manifest, folder, signals).result()
    finally:
        folder.close()


class _Execution:
    """One run of a job."""

    def __init__(self, session: Session, job: Job, manifest: Manifest, folder: RunFolder, signals: Signals) -> None:
        self.session, self.job, self.manifest, self.folder, self.signals = session, job, manifest, folder, signals
        self.deadline = time.monotonic() + 3600 * job.max_hours if job.max_hours is not None else None
        self.ranks = introduce(session, job.bits)
        self.plan = job.plan(manifest)
        self.fleet: Fleet = session.open(self.plan)
        self.method = job.algorithm.choose(self.fleet.problem)
        self.clock = Clock()
        self.ends = Ends(self.fleet)

    def result(self) -> dict[str, Any]:
        job, fleet = self.job, self.fleet
        optimum = None if job.reference is None else find_optimum(fleet, self.plan, job.reference, self.pause)
        evaluation = Evaluation(
            NAN if optimum is None else optimum.loss,
            None if job.test is None else tester(self.plan, job.test, job.test_reading),
            job.measure_every or self.method.iterations_per_epoch(fleet.problem),
        )
        fleet.adopt(self.method)
        begin = self.open_folder(optimum)
        progress = Progress()
        outcome = run(
            self.method, fleet, begin, job.stops(), clock=self.clock, evaluation=evaluation,
            first=self.folder.rows[0] if self.folder.rows else None, ends=self.ends,
            watchers=[self.folder, progress, self.checkpoint], pause=self.pause,
        )  # fmt: skip
        progress.finish(outcome.row)
        return self.finish(outcome)

    def open_folder(self, optimum: Reference | None) -> Array | State:
        """Open the run folder. Returns the first w; or the state of the checkpoint, with fleet and clock restored."""
        saved = self.folder.checkpoint
        begin: Array | State = (
            initial_weights(self.fleet, self.plan, self.job.start, optimum)
            if saved is None
            else saved.state_of(self.method.state)
        )
        self.folder.open(self.fleet, self.job.toml(), environment(self.ranks, self.session.library, self.job.bits))
        if saved is not None and isinstance(begin, State):
            self.fleet.iteration = saved.facts["iteration"]
            self.fleet.restore(saved.workers, begin.w)
            self.ends.restore(saved.state, self.folder.rows, begin)
            log.info("resuming from the checkpoint at iteration %d: %s", self.fleet.iteration, self.summary())
            self.clock = Clock(saved.facts["seconds"])
        else:
            log.info(self.summary())
            self.clock = Clock()
        return begin

    def summary(self) -> str:
        """The run in one line."""
        job, m = self.job, self.manifest
        chosen = "" if self.method is job.algorithm else f" (which chooses {self.method.name})"
        return (
            f"{shown(job.method)}{chosen} on {job.data}: {shown(job.loss or '')}, l2 {job.l2:.6g}, "
            f"{m.rows} rows x {m.features} features, "
            f"{m.workers} workers on {self.session.ranks} rank{'s' if self.session.ranks > 1 else ''}"
        )

    def checkpoint(self, row: Row, state: State) -> None:
        """Watcher that saves a checkpoint when one is due."""
        if self.folder.is_due(self.job.checkpoint_seconds):
            self.folder.save(state, row.seconds, self.ends)

    def pause(self) -> str:
        """Why the run must be interrupted, or ""."""
        if self.signals.name or self.fleet.interrupted:
            return f"signal {self.signals.name or 'on a worker rank'}: run the same command again to continue"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return f"time limit (--max-hours {self.job.max_hours:g}) reached: run the same command again to continue"
        return ""

    def finish(self, outcome: Outcome) -> dict[str, Any]:
        """Write checkpoint, model and result, and log the result."""
        folder, row, best = self.folder, outcome.row, outcome.best_row
        if outcome.resumable:
            folder.save(outcome.state, row.seconds, self.ends)
        model = Model.of(outcome.best.w, self.plan)
        write_model(folder.path / "model.h5", model)
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
            "gap_bound": _known(gap_bound(self.fleet.problem, best.grad_norm)),
            "test_accuracy": _known(best.test_accuracy), "test_loss": _known(best.test_loss),
            "w_sha256": hashlib.sha256(outcome.best.w.tobytes()).hexdigest(),
            "history_sha256": history_sha256(folder.rows), "data_sha256": self.manifest.data_sha256,
            "versions": versions(), "bits": self.job.bits, "arithmetic": bits.describe(self.ranks),
        }  # fmt: skip
        folder.finish(result)
        log.log(
            logging.WARNING if outcome.kind in ("unbounded", "diverged") else logging.INFO, "%s after %d rounds: %s",
            "converged" if outcome.converged else "stopped", ledger.rounds, outcome.sentence,
        )  # fmt: skip
        return result | {"exit_code": EXIT_CODES[outcome.kind]}


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
