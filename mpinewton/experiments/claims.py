"""Claims about methods, tested on the runs: a claim holds, does not hold, or is undecided."""

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
# A relative increase of the loss below this is rounding error.
NOISE = 1e-12


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[claim]] of an experiment. Runs are named by their labels; of several seeds, the median counts.

    Attributes
    ----------
    says, source : str
        The claim in words; who makes it, and where.
    better, than : str
        The run `better` reaches the target with at most 1/`by` of the `measure` that the run `than` needs.
    reaches : str
        This run reaches the target, with at most `within` of the `measure` if that is given.
    monotone : str
        The loss of this run never increases.
    fails : str
        This run ends in numerical failure.
    opposite : bool
        The claim is the opposite: the loss increases, the run does not reach the target.
    measure : str
        One of `MEASURES`.
    gap, loss, grad_norm, test_accuracy, test_loss : float
        The target; one of them.
    on : list of str
        Patterns of the problems that the claim is about; by default all.
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
        """Refuse a claim that cannot be tested on runs of these labels. Raises ConfigError."""
        kinds = [kind for kind in KINDS if getattr(self, kind) is not None]
        targets = [target for target in TARGETS if getattr(self, target) is not None]
        if len(kinds) != 1 or (self.better is None) != (self.than is None):
            raise ConfigError(f"claim {self.says!r}: give one of {', '.join(KINDS)}; better and than go together")
        if len(targets) != (1 if kinds[0] in ("better", "reaches") else 0):
            raise ConfigError(f"claim {self.says!r}: better and reaches need one target of {', '.join(TARGETS)}")
        if self.measure not in MEASURES:
            raise ConfigError(
                f"claim {self.says!r}: unknown measure {self.measure!r}; choose from: {', '.join(MEASURES)}"
            )
        unused = ["within"] if self.within is not None and self.reaches is None else []
        unused += ["by"] if self.by != 1 and self.better is None else []
        unused += ["measure"] if self.measure != "rounds" and not targets else []
        if unused:
            raise ConfigError(f"claim {self.says!r}: {unused[0]} has no effect with {kinds[0]}; remove it")
        for name in (getattr(self, kinds[0]), self.than):
            if name is not None and not any(_has_label(label, name) for label in labels):
                raise ConfigError(f"claim {self.says!r}: no run is named {name!r}; choose from: {', '.join(labels)}")

    @property
    def target(self) -> tuple[str, float]:
        """The column of the history that is the target, and its value."""
        return next((name, value) for name in TARGETS if (value := getattr(self, name)) is not None)

    def is_about(self, problem: str) -> bool:
        """Whether the claim is about the problem of this name."""
        return self.on is None or any(fnmatch(problem, pattern) for pattern in self.on)


def verdicts(
    claims: Sequence[Claim], problems: Mapping[str, Sequence[RunRecord]], bits_per_float: int | None = None
) -> Table:
    """A table of every claim on every problem that it is about and that has the runs.

    Parameters
    ----------
    claims : sequence of Claim
    problems : dict of str to list of RunRecord
        The runs of each problem.
    bits_per_float : int, optional
        Restate `bits_up` as if a float had this many; by default as measured.
    """
    rows = [
        (claim.says + (f" ({claim.source})" if claim.source else ""), problem, *_verdict(claim, runs, bits_per_float))
        for claim in claims
        for problem, runs in problems.items()
        if claim.is_about(problem) and _has_all(claim, runs)
    ]
    return Table(("claim", "problem", "result", "verdict"), rows, words=4)


def count_verdicts(table: Table) -> Table:
    """From a table of `verdicts`, the number of problems with each verdict, for every claim."""
    counts: dict[str, Counter[str]] = {}
    for claim, _, _, verdict in table.rows:
        counts.setdefault(claim, Counter())[verdict.partition(":")[0]] += 1
    words = ("holds", "does not hold", "undecided")
    rows = [(claim, *(str(count[word]) for word in words)) for claim, count in counts.items()]
    return Table(("claim (number of problems)", *words), rows)


def _has_label(label: str, name: str) -> bool:
    return label == name or label.startswith(f"{name}, seed ")


def _has_all(claim: Claim, runs: Sequence[RunRecord]) -> bool:
    names = [getattr(claim, kind) for kind in (*KINDS, "than") if getattr(claim, kind) is not None]
    return all(any(_has_label(run.label, name) for run in runs) for name in names)


def _verdict(claim: Claim, runs: Sequence[RunRecord], width: int | None) -> tuple[str, str]:
    def of(name: str | None) -> list[RunRecord]:
        return [run for run in runs if name is not None and _has_label(run.label, name)]

    if claim.monotone is not None:
        increase = max(_largest_increase(run) for run in of(claim.monotone))
        return f"{claim.monotone}: largest relative increase of the loss {increase:.1e}", _verdict_word(
            claim, increase <= NOISE
        )
    if claim.fails is not None:
        ends = {run.reason for run in of(claim.fails)}
        failed = all(run.ending == "failed" for run in of(claim.fails))
        return f"{claim.fails}: {'; '.join(sorted(ends))}", _verdict_word(claim, failed)
    what, value = claim.target
    to = f"{claim.measure} to {what} {value:g}"
    if claim.reaches is not None:
        used = _median(of(claim.reaches), claim, width)
        enough = bool(np.isfinite(used)) and (claim.within is None or used <= claim.within)
        return f"{to}: {claim.reaches} {_format(used)}", _verdict_word(claim, enough)
    mine, theirs = (_median(of(name), claim, width) for name in (claim.better, claim.than))
    found = f"{to}: {claim.better} {_format(mine)}, {claim.than} {_format(theirs)}"
    if np.isinf(mine) and np.isinf(theirs):
        return found, "undecided: neither reaches the target"
    ratio = f" ({theirs / mine:.3g} times)" if np.isfinite(mine) and np.isfinite(theirs) and mine > 0 else ""
    return found + ratio, _verdict_word(claim, mine * claim.by <= theirs)


def _verdict_word(claim: Claim, so: bool) -> str:
    return "holds" if so != claim.opposite else "does not hold"


def _format(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.6g}"


def _median(runs: Sequence[RunRecord], claim: Claim, width: int | None) -> float:
    """Median over the seeds of the measure at the first row that reaches the target; infinite if none does."""
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


def _largest_increase(run: RunRecord) -> float:
    loss = run.columns["loss"]
    loss = loss[np.isfinite(loss)]  # it is not known in every row with measure_every
    return float(np.max(np.diff(loss) / np.maximum(np.abs(loss[:-1]), 1e-300), initial=0.0))
