"""The memory that ranks need, estimated before a run, and which of them leave their rows on disk."""

from __future__ import annotations

import logging
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from mpinewton.errors import ConfigError
from mpinewton.fleet import Plan
from mpinewton.fleet.problem import Problem
from mpinewton.fleet.tree import hosted_workers
from mpinewton.linalg.rows import BLOCK_NUMBERS, FEW, SEGMENT_ENTRIES
from mpinewton.losses.linear import LinearLoss
from mpinewton.methods.support.method import AnyMethod

log = logging.getLogger("mpinewton")
UNITS = "kMGT"
PROCESS = 150 * 10**6  # bytes of a rank without data, where the system does not say
# Numbers of 8 bytes that a worker holds for each row: labels and targets; and for each logit of a row: at the point, on
# the ray, and while derivatives are computed.
PER_ROW, PER_LOGIT, PER_WEIGHT = 2, 5, 16


@dataclass(frozen=True)
class Need:
    """Bytes that a rank needs.

    Attributes
    ----------
    work : float
        Of the process, labels, logits, weights and matrices.
    rows : float
        Of the rows in memory, at their peak: while they are converted or get an intercept, there are two copies.
    buffers : float
        Of the rows on disk: one block is in use while the next one is read.
    """

    work: float
    rows: float
    buffers: float

    @property
    def held(self) -> float:
        """With the rows in memory."""
        return self.work + self.rows

    @property
    def stored(self) -> float:
        """With the rows on disk."""
        return self.work + self.buffers


def parse_size(text: str) -> int:
    """Bytes of a size such as 500M, 2G or 1.5GB (of 1000), or 2GiB (of 1024). Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kMGT])(i?)B?)?", text.strip())
    if not found or not float(found[1]):
        raise ConfigError(f"memory limit {text!r}: expected a size above 0, such as 500M, 2G or 1.5GiB")
    unit = (1024 if found[3] else 1000) ** (UNITS.index(found[2]) + 1 if found[2] else 0)
    return int(float(found[1]) * unit)


def show_size(size: float) -> str:
    """A size in MB or GB."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def estimate(plan: Plan, problem: Problem, block: Sequence[int], matrices: float) -> Need:
    """What a rank needs that hosts the workers of `block`.

    Parameters
    ----------
    matrices : float
        Matrices of d x d that the method forms on a rank.
    """
    m, p, d = plan.manifest, problem.features, problem.dim
    width, bytes_kept = np.dtype(plan.dtype).itemsize, m.dtype == "uint8" and problem.loss.keeps_bytes
    sparse, twice = m.sparse and m.shift is None, plan.intercept or m.factor is not None or plan.dtype == "float32"
    work, rows, buffers = _process() + 8.0 * d * (PER_WEIGHT + matrices * d), 0.0, 0.0
    for index in block:
        n = m.shards[index].rows
        numbers = (problem.entries or 0) * n / max(1, m.rows) if sparse else float(n * p)
        if sparse:
            # Values and indices; the indices of the compiled loops; the starts of the rows.
            rows += numbers * (width + 4 + (2 if p <= 1 << 16 else 4)) + 12 * n
            last = numbers * (width + 4)
            buffers = max(buffers, min(numbers, SEGMENT_ENTRIES) * 5 * (width + 4))  # measured
            work += 8 * n
        else:
            last = numbers * (1 if bytes_kept else width)
            rows += last
            buffers = max(buffers, min(numbers, SEGMENT_ENTRIES + BLOCK_NUMBERS) * 8 * 3)
        work += 8 * n * (PER_ROW + 2 * m.weighted + PER_LOGIT * max(1, d // max(1, p)))
    return Need(work, rows + (last if block and twice else 0.0), buffers)


def place_rows(plan: Plan, method: AnyMethod, ranks: int, memory: str | None) -> Plan:
    """The plan, in which the rows of ranks that they do not fit stay on disk; the estimate is logged.

    Parameters
    ----------
    method : Method
        The one that runs.
    ranks : int
        Processes of the job, the driver's included.
    memory : str or None
        Limit of the memory of a rank; None: all rows are in memory.

    Raises
    ------
    ConfigError
        If a rank needs more than the limit, or the rows must be in memory, but do not fit.
    """
    if memory is None:
        return plan
    problem, limit, hosts = plan.problem(), parse_size(memory), max(1, ranks - 1)
    blocks = [hosted_workers(rank, hosts, plan.n_workers) for rank in range(hosts)]
    needs = [estimate(plan, problem, block, method.matrices) for block in blocks]
    full = [rank for rank, need in enumerate(needs) if need.held > limit]
    if full:
        _refuse(problem, method, memory, needs, full)
    used = max(need.stored if rank in full else need.held for rank, need in enumerate(needs))
    where = "in memory" if not full else f"on disk on {len(full)} of {hosts} ranks" if hosts > 1 else "on disk"
    log.info(
        "memory: about %s a rank of at most %s; the rows need %s and are %s",
        show_size(used), show_size(limit), show_size(max(need.rows for need in needs)), where,
    )  # fmt: skip
    return msgspec.structs.replace(plan, on_disk=tuple(index for rank in full for index in blocks[rank]))


def _refuse(problem: Problem, method: AnyMethod, memory: str, needs: Sequence[Need], full: Sequence[int]) -> None:
    """Refuse what cannot be done with the rows of some ranks on disk, or within the limit. Raises ConfigError."""
    held, stored = (max(getattr(needs[rank], name) for rank in full) for name in ("held", "stored"))
    begin = f"memory limit {memory}: a rank needs about {show_size(held)} with its rows in memory"
    remedy = "raise the limit, or use more ranks"
    few = [n for n in problem.rows if problem.entries is None and 0 < FEW * n <= problem.features]
    if not isinstance(problem.loss, LinearLoss):
        raise ConfigError(f"{begin}, where {problem.loss.name} expects them: it is not a linear model; {remedy}")
    if method.uses_single_rows:
        raise ConfigError(f"{begin}, where {method.name} expects them: it uses single rows; {remedy}")
    if few:
        raise ConfigError(
            f"{begin}, where shards of few rows are expected: {few[0]} rows of {problem.features} features; {remedy}"
        )
    if stored > parse_size(memory):
        raise ConfigError(f"{begin}, and {show_size(stored)} with its rows on disk; {remedy}")


def _process() -> float:
    """Bytes of a process without data: those of this one."""
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    except (OSError, ValueError, IndexError):
        return PROCESS
