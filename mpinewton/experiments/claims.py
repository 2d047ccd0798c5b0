"""What is said of methods, put to the runs: holds, does not hold, or cannot be told, with the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import msgspec
import numpy as np

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.report.curves import bits_up
from mpinewton.report.reading import RunRecord
from mpinewton.report.tables import Table

MEASURES = ("iterations", "rounds", "floats_up", "floats_down", "bits_up", "bits_down", "seconds")
TARGETS = ("gap", "loss", "grad_norm", "test_accuracy", "test_loss")
KINDS = ("better", "monotone", "fails", "reaches")
# Losses that rise by less than this part of themselves have not risen: the sums behind them are rounded.
NOISE = 1e-12


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[claim]] of an experiment. Runs are named by their labels; a run stands for its seeds, by their median.

    says : the claim, in words; source : who makes it, and where.
    better, than, by : `better` needs at most 1/by of the `measure` of `than` to come to the target (gap, loss, ...).
    reaches : this run comes to the target, if `within` is given with at most that much of the `measure`.
    monotone : the loss of this run never rises. fails : this run ends in numerical trouble.
    opposite : the claim is that it is not so: the loss does rise, the run never comes to the target.
    on : problems it is about, as patterns of their names; all if left out.
    """

    says: str
    source: str = ""
    better: str | None = None
    than: str | None = None
    by: float = 1.0
    reaches: str | None = None
    within: float | None = None
    monotone: str | None = None
    fails: str | None = None
    opposite: bool = False
    measure: str = "rounds"
    gap: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    on: list[str] | None = None

    def check(self, labels: Sequence[str]) -> None:
        """Refuse a claim that nobody can put to the test. Raises ConfigError."""
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        targets = [target for target in TARGETS if getattr(self, target) is not None]
        if len(kinds) != 1 or (self.better is None) != (self.than is None):
            raise ConfigError(f"claim {self.says!r}: give one of {', '.join(KINDS)}; than goes with better")
        if len(targets) != (1 if kinds[0] in ("better", "reaches") else 0):
            raise ConfigError(f"claim {self.says!r}: better and reaches need one target of {', '.join(TARGETS)}")
        if self.measure not in MEASURES:
            raise ConfigError(f"claim {self.says!r}: no measure {self.measure!r}; there are {', '.join(MEASURES)}")
        for name in (getattr(self, kinds[0]), self.than):
            if name is not None and not any(_named(label, name) for label in labels):
                raise ConfigError(f"claim {self.says!r}: no run is called {name!r}; there are {', '.join(labels)}")

    @property
    def target(self) -> tuple[str, float]:
        """What is to be reached, and the value."""
        return next((name, value) for name in TARGETS if (value := getattr(self, name)) is not None)

    def about(self, problem: str) -> bool:
        return self.on is None or any(fnmatch(problem, pattern) for pattern in self.on)


def judged(
    claims: Sequence[Claim], problems: Mapping[str, Sequence[RunRecord]], bits_per_float: int | None = None
) -> Table:
    """Every claim on every problem it is about and has runs of: the figures, and whether it holds there.

    bits_per_float : restate `bits_up` as if a float had this many.
    """
    rows = [
        (claim.says + (f" ({claim.source})" if claim.source else ""), problem, *_verdict(claim, runs, bits_per_float))
        for claim in claims
        for problem, runs in problems.items()
        if claim.about(problem) and _has_all(claim, runs)
    ]
    return Table(("claim", "problem", "what was found", "verdict"), rows, words=4)


def tallied(table: Table) -> Table:
    """Of a table of `judged`: in how many problems each claim holds, does not hold, and cannot be told."""
    counts: dict[str, Counter[str]] = {}
    for claim, _, _, verdict in table.rows:
        counts.setdefault(claim, Counter())[verdict.partition(":")[0]] += 1
    verdicts = ("holds", "does not hold", "cannot be told")
    rows = [(claim, *(str(count[verdict]) for verdict in verdicts)) for claim, count in counts.items()]
    return Table(("claim; problems in which it", *verdicts), rows)


def _named(label: str, name: str) -> bool:
    return label == name or label.startswith(f"{name}, seed ")


def _has_all(claim: Claim, runs: Sequence[RunRecord]) -> bool:
    names = [getattr(claim, kind) for kind in (*KINDS, "than") if getattr(claim, kind) is not None]
    return all(any(_named(run.label, name) for run in runs) for name in names)


def _verdict(claim: Claim, runs: Sequence[RunRecord], width: int | None) -> tuple[str, str]:
    def of(name: str | None) -> list[RunRecord]:
        return [run for run in runs if name is not None and _named(run.label, name)]

    if claim.monotone is not None:
        rise = max(_largest_rise(run) for run in of(claim.monotone))
        return f"{claim.monotone}: largest rise of the loss {rise:.1e} of itself", _said(claim, rise <= NOISE)
    if claim.fails is not None:
        ends = {run.reason for run in of(claim.fails)}
        failed = all(run.ending == "failed" for run in of(claim.fails))
        return f"{claim.fails}: {'; '.join(sorted(ends))}", _said(claim, failed)
    what, value = claim.target
    to = f"{claim.measure} to {what} {value:g}"
    if claim.reaches is not None:
        used = _median(of(claim.reaches), claim, width)
        enough = bool(np.isfinite(used)) and (claim.within is None or used <= claim.within)
        return f"{to}: {claim.reaches} {_shown(used)}", _said(claim, enough)
    mine, theirs = (_median(of(name), claim, width) for name in (claim.better, claim.than))
    found = f"{to}: {claim.better} {_shown(mine)}, {claim.than} {_shown(theirs)}"
    if np.isinf(mine) and np.isinf(theirs):
        return found, "cannot be told: neither arrived"
    ratio = f" ({theirs / mine:.3g} times)" if np.isfinite(mine) and np.isfinite(theirs) and mine > 0 else ""
    return found + ratio, _said(claim, mine * claim.by <= theirs)


def _said(claim: Claim, so: bool) -> str:
    return "holds" if so != claim.opposite else "does not hold"


def _shown(value: float) -> str:
    return "never arrived" if np.isinf(value) else f"{value:.6g}"


def _median(runs: Sequence[RunRecord], claim: Claim, width: int | None) -> float:
    """The measure at the first row that reaches the target; infinite where none does. Of several seeds the median."""
    what, value = claim.target
    used = []
    for run in runs:
        values = run.columns[what]
        reached = np.flatnonzero(values >= value if what == "test_accuracy" else values <= value)
        column = _column(run, claim.measure, width)
        used.append(float(column[reached[0]]) if len(reached) else np.inf)
    return sorted(used)[len(used) // 2]


def _column(run: RunRecord, measure: str, width: int | None) -> Array:
    if measure == "bits_up":
        return bits_up(run, width)
    return run.columns["iteration" if measure == "iterations" else measure]


def _largest_rise(run: RunRecord) -> float:
    loss = run.columns["loss"]
    loss = loss[np.isfinite(loss)]  # it may have been measured now and then
    return float(np.max(np.diff(loss) / np.maximum(np.abs(loss[:-1]), 1e-300), initial=0.0))
