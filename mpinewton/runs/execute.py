"""A job from beginning to end: fleet, method, record, checkpoint, result."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpinewton.arrays import NAN
from mpinewton.data.manifest import Manifest
from mpinewton.errors import MpinewtonError
from mpinewton.fleet import Fleet
from mpinewton.methods.support.method import State
from mpinewton.runs.evaluation import Reference, beginning, reference, tested
from mpinewton.runs.folder import RunFolder, environment, versions
from mpinewton.runs.history import Row, history_sha256
from mpinewton.runs.job import Job
from mpinewton.runs.loop import Clock, Evaluation, Outcome, run
from mpinewton.runs.model import Model, write_model
from mpinewton.runs.progress import Progress
from mpinewton.runs.signals import Signals, caught

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

log = logging.getLogger("mpinewton")
EXIT_CODES = {"converged": 0, "budget": 0, "stalled": 0, "trouble": 1, "interrupted": 3}


def execute(session: Session, job: Job, manifest: Manifest, path: Path, fresh: bool = False) -> dict[str, Any]:
    """Run a completed job in a folder, or go on with it; the content of its result.json, and `exit_code`.

    Raises
    ------
    MpinewtonError
        If something does not fit (before anything is started), or a worker fails.
    """
    folder = RunFolder(path, job.identity(manifest), fresh)
    if done := folder.finished(job.toml()):
        log.info("%s is finished: %s. Ask for more to go on, or for a new run with --fresh", path, done["reason"])
        return done | {"exit_code": EXIT_CODES[done["kind"]]}
    try:
        with caught() as signals:
            return _Execution(session, job, manifest, folder, signals).result()
    finally:
        folder.close()


class _Execution:
    """What the parts of one run share."""

    def __init__(self, session: Session, job: Job, manifest: Manifest, folder: RunFolder, signals: Signals) -> None:
        self.session, self.job, self.manifest, self.folder, self.signals = session, job, manifest, folder, signals
        self.deadline = time.monotonic() + 3600 * job.max_hours if job.max_hours is not None else None
        self.plan = job.plan(manifest)
        self.fleet: Fleet = session.open(self.plan)
        self.clock = Clock()

    def result(self) -> dict[str, Any]:
        job, fleet = self.job, self.fleet
        optimum = None if job.reference is None else reference(fleet, self.plan, job.reference, self.pause)
        evaluation = Evaluation(
            NAN if optimum is None else optimum.loss,
            None if job.test is None else tested(self.plan, job.test),
            job.measure_every or 1,
        )
        method = job.build_method()
        fleet.adopt(method)
        begin = self.begun(optimum)
        progress = Progress()
        outcome = run(
            method, fleet, begin, job.stops(), clock=self.clock, evaluation=evaluation,
            first=self.folder.rows[0] if self.folder.rows else None,
            watchers=[self.folder, progress, self.checkpoint], pause=self.pause,
        )  # fmt: skip
        progress.finish(outcome.row)
        return self.finished(outcome)

    def begun(self, optimum: Reference | None) -> Any:
        """Where to begin: w, or the state that was saved, the workers standing where they stood."""
        found = self.folder.found
        begin: Any
        if found is None:
            begin = beginning(self.plan, self.job.start, optimum)
        else:
            begin = found.state_of(self.job.build_method().state)
        self.folder.begin(self.fleet, self.job.toml(), environment(introduce(self.session), self.session.library))
        if found is None:
            log.info(self.described())
            self.clock = Clock()
        else:
            self.fleet.iteration = found.facts["iteration"]
            self.fleet.restore(found.workers, begin.w)
            log.info("going on from the checkpoint at iteration %d: %s", self.fleet.iteration, self.described())
            self.clock = Clock(found.facts["seconds"])
        return begin

    def described(self) -> str:
        job, m = self.job, self.manifest
        return (
            f"{job.method} on {job.data}: {job.loss}, l2 {job.l2:.6g}, {m.rows} rows x {m.features} features, "
            f"{m.workers} workers on {self.session.ranks} rank{'s' if self.session.ranks > 1 else ''}"
        )

    def checkpoint(self, row: Row, state: State) -> None:
        """A watcher: save when it is time."""
        if self.folder.due(self.job.checkpoint_seconds):
            self.folder.save(state, row.seconds)

    def pause(self) -> str:
        """Why to go on another time, if there is a reason."""
        if self.signals.name or self.fleet.interrupted:
            return f"signal {self.signals.name or 'on a worker rank'}: run the same command again to go on"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return f"--max-hours {self.job.max_hours:g} are over: run the same command again to go on"
        return ""

    def finished(self, outcome: Outcome) -> dict[str, Any]:
        """Save everything, write the result, say it."""
        folder, row = self.folder, outcome.row
        if outcome.kind != "trouble":  # then the workers have gone on from the last good iterate; older ones are saved
            folder.save(outcome.state, row.seconds)
        model = Model.of(outcome.state.w, self.plan)
        write_model(folder.path / "model.h5", model)
        ledger = self.fleet.ledger
        result = {
            "method": self.job.method, "loss": self.job.loss, "l2": self.job.l2, "data": self.job.data,
            "rows_travel": self.job.build_method().rows_travel,
            "workers": self.manifest.workers, "ranks": self.session.ranks,
            "converged": outcome.converged, "kind": outcome.kind, "reason": outcome.reason,
            "iterations": row.iteration, "rounds": ledger.rounds, **ledger.totals(),
            "wire_bytes": ledger.wire, "control_bytes": ledger.control,
            "seconds": row.seconds, "compute_seconds": ledger.compute,
            "objective": _known(row.loss), "grad_norm": _known(row.grad_norm), "gap": _known(row.gap),
            "test_accuracy": _known(row.test_accuracy), "test_loss": _known(row.test_loss),
            "w_sha256": hashlib.sha256(outcome.state.w.tobytes()).hexdigest(),
            "history_sha256": history_sha256(folder.rows), "data_sha256": self.manifest.data_sha256,
            "versions": versions(),
        }  # fmt: skip
        folder.finish(result)
        log.info(
            "%s after %d rounds: %s", "converged" if outcome.converged else "stopped", ledger.rounds, outcome.reason
        )
        return result | {"exit_code": EXIT_CODES[outcome.kind]}


def introduce(session: Session) -> list[dict[str, Any]]:
    """What every rank says of itself. Raises MpinewtonError where they do not run the same version."""
    ranks = session.introductions()
    odd = sorted({r["host"] for r in ranks if r["mpinewton"] != ranks[0]["mpinewton"]})
    if odd:
        raise MpinewtonError(
            f"{', '.join(odd)}: another version of mpinewton than the driver's; install one on all hosts"
        )
    return ranks


def _known(value: float) -> float | None:
    return None if value != value else value
