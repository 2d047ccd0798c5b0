"""What each of several methods would take to a goal on a network: short runs here, replayed there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpinewton.arrays import Array
from mpinewton.data.manifest import Manifest
from mpinewton.errors import ConfigError
from mpinewton.experiments.grid import plain
from mpinewton.report.network import Network
from mpinewton.report.reading import RunRecord, read_run
from mpinewton.report.replay import replay
from mpinewton.runs.execute import execute
from mpinewton.runs.job import Job, load_job

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

# Methods that are tried if none are named: those that need few rounds, few bits or little time on some problem.
CANDIDATES = (
    "lazy-newton", "newton", "newton-cg", "preconditioned-lbfgs", "lbfgs", "giant", "dino", "quantised-bfgs",
)  # fmt: skip
ENTRY_BYTES = 12  # of a stored entry of sparse rows: value and index
log = logging.getLogger("mpinewton")


@dataclass(frozen=True)
class Estimate:
    """What one method takes to the goal on the network.

    Attributes
    ----------
    method, chosen : str
        The method, and what it chose where it is a rule.
    workers : int
        Logical workers of the data.
    iterations : tuple of float
        Least and largest number; equal where the probe reached the goal, infinite where it made no progress.
    seconds : tuple of float
        The same for the seconds there.
    bits : float
        Bits up per worker at the largest number of iterations.
    communication : float
        Share of the seconds that messages take.
    memory : float
        Bytes of a worker rank: rows and matrices.
    reason : str
        Why there is no estimate; "" where there is one.
    """

    method: str
    workers: int
    chosen: str = ""
    iterations: tuple[float, float] = (inf, inf)
    seconds: tuple[float, float] = (inf, inf)
    bits: float = inf
    communication: float = 0.0
    memory: float = 0.0
    reason: str = ""


def probe(
    session: Session, options: dict[str, Any], methods: Sequence[str], network: Network, seconds: float, folder: Path
) -> list[Estimate]:
    """Run every method for at most so many seconds and estimate what it takes there, the fastest first.

    Parameters
    ----------
    session : Session
    options : dict
        Options of `mpinewton run` without the method, with `rtol`, the goal.
    methods : sequence of str
    network : Network
    seconds : float
    folder : Path
        Where the runs are written.

    Raises
    ------
    ConfigError, DataError
        If the options are not valid.
    MpinewtonError
        If a worker fails, or a signal comes before a run has started.
    """
    jobs: dict[str, Job | ConfigError] = {}
    for method in methods:
        try:
            jobs[method], manifest = load_job(Job.of({**options, "method": method, "max_seconds": seconds}, "options"))
        except ConfigError as error:
            jobs[method] = error
    refused = [error for error in jobs.values() if isinstance(error, ConfigError)]
    if len(refused) == len(jobs):
        raise refused[0]
    found = []
    for number, (method, job) in enumerate(jobs.items(), 1):
        if isinstance(job, ConfigError):
            found.append(Estimate(method, manifest.workers, reason=str(job)))
            continue
        log.info("[%d of %d] %s", number, len(jobs), method)
        execute(session, job, manifest, folder / plain(method), fresh=True)
        found.append(estimate(read_run(folder / plain(method)), job, manifest, network))
    return sorted(found, key=lambda e: (e.seconds[1], e.seconds[0]))


def estimate(run: RunRecord, job: Job, manifest: Manifest, network: Network) -> Estimate:
    """What a run takes to its goal `rtol` on the network: replayed, and extrapolated where it did not reach the goal.

    The extrapolation is that of linear convergence: |g| continues to decrease by the factor of the last half, or of the
    last quarter of the run, whichever gives more iterations for the upper bound, fewer for the lower one.
    """
    assert job.rtol is not None
    norm, there = run.columns["grad_norm"], replay(run, network)
    goal = job.rtol * norm[0]
    reached = np.flatnonzero(norm <= goal)
    workers = ceil(manifest.workers / (network.ranks or manifest.workers))
    chosen, memory = str(run.result.get("chosen", "")), _memory(job, manifest, workers)
    unknown = Estimate(job.method, manifest.workers, chosen, memory=memory)
    if run.ending in ("failed", "running") and not len(reached):
        return replace(unknown, reason=run.reason)
    last = int(reached[0]) if len(reached) else len(norm) - 1
    more = (0.0, 0.0) if len(reached) else _iterations_left(norm, goal)
    if last < 1 or not isfinite(more[0]):
        return replace(unknown, reason=f"no progress in {run.last('iteration'):.0f} iterations; give it more --seconds")
    seconds, bits = there.seconds, run.columns["bits_up"]
    half = last // 2
    pace, load = ((values[last] - values[half]) / max(1, last - half) for values in (seconds, bits))
    messages = there.latency + there.bandwidth
    return replace(
        unknown,
        iterations=(last + more[0], last + more[1]),
        seconds=(float(seconds[last] + more[0] * pace), float(seconds[last] + more[1] * pace)),
        bits=float(bits[last] + (more[1] * load if more[1] else 0.0)),
        communication=float(messages[last] / max(seconds[last], 1e-300)),
    )


def _iterations_left(norm: Array, goal: float) -> tuple[float, float]:
    """The least and the largest number of iterations that are left, by linear convergence."""
    left = []
    for begin in (len(norm) // 2, 3 * len(norm) // 4):
        places = np.flatnonzero(np.isfinite(norm) & (norm > 0) & (np.arange(len(norm)) >= begin))
        if len(places) < 2:
            continue
        slope = float(np.polyfit(places, np.log10(norm[places]), 1)[0])
        here = float(np.median(np.log10(norm[places[-3:]])))
        left.append(ceil((here - log10(goal)) / -slope) if slope < 0 else inf)
    return (min(left), max(left)) if left else (inf, inf)


def _memory(job: Job, manifest: Manifest, workers: int) -> float:
    """Bytes of the rows of so many workers and of the method's matrices of d x d."""
    problem = job.plan(manifest).problem()
    dense = manifest.rows * manifest.features * 8
    rows = (dense if manifest.entries is None else manifest.entries * ENTRY_BYTES) * workers / manifest.workers
    return float(rows + 8 * job.algorithm.choose(problem).matrices * problem.dim**2)
