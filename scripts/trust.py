#!/usr/bin/env python
"""What becomes of data as people have them: 30 problems, each by many methods with their default settings and ends.

    python scripts/trust.py [--only PATTERN] [-o docs/trust.md]

The optimum that a result is compared with is computed here, in 80-bit numbers on columns scaled to length 1, from
formulas of its own. A cell says how the run ended, and its gap relative to the decrease from the start.
"""

from __future__ import annotations

import argparse
import fnmatch
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import gammaln
from sklearn import datasets

import mpinewton
from mpinewton.errors import MpinewtonError

METHODS = ("auto", "newton", "newton-cg", "lbfgs", "dino", "giant", "disco", "bfgs", "quantised-bfgs", "fednl-ls")
EXACT = ("auto", "newton", "newton-cg")  # must reach every minimiser
WORKERS, SECONDS = 4, 5.0
Long = np.ndarray[Any, np.dtype[np.longdouble]]


@dataclass
class Problem:
    """Rows X (n, p), labels y (n,), and the objective; `bounded` says whether there is a minimiser."""

    name: str
    X: Any
    y: Any
    loss: str
    l2: float
    intercept: bool = True
    bounded: bool = True


def problems() -> Iterator[Problem]:
    """The problems, real and made."""
    rng = np.random.default_rng(20)
    cancer, wine, diabetes = (
        getattr(datasets, f"load_{name}")(return_X_y=True, **more)
        for name, more in (("breast_cancer", {}), ("wine", {}), ("diabetes", {"scaled": False}))
    )
    X = rng.standard_normal((300, 8))
    z = X @ rng.standard_normal(8)
    label, number = z + rng.standard_normal(300) > 0, z + rng.standard_normal(300)
    counts = rng.poisson(np.exp(z / 4)).astype(float)
    small = 1 / 300
    yield Problem("breast cancer, raw columns", *cancer, "logistic", 1 / 569)
    yield Problem("breast cancer, raw columns, l2 = 1e-9", *cancer, "logistic", 1e-9)
    yield Problem("wine, three classes, raw columns", *wine, "softmax", 1 / 178)
    yield Problem("diabetes, raw columns", *diabetes, "squared", 1 / 442)
    yield Problem("diabetes, raw columns, l2 = 0", *diabetes, "squared", 0.0)
    yield Problem("columns of 1e-9 to 1e9", X * np.logspace(-9, 9, 8), label, "logistic", small)
    yield Problem("columns of 1e-9 to 1e9, l2 = 0", X * np.logspace(-9, 9, 8), label, "logistic", 0.0)
    yield Problem("columns of 1e-9", X * 1e-9, label, "logistic", 0.0)
    yield Problem("a column with offset 1e6", X + np.append(1e6, np.zeros(7)), label, "logistic", small)
    yield Problem("duplicated columns, l2 = 0", np.hstack([X, X]), label, "logistic", 0.0)
    yield Problem("constant columns beside an intercept", np.hstack([X, np.ones((300, 2))]), label, "logistic", 0.0)
    yield Problem("columns of zeros, l2 = 0", np.hstack([X, np.zeros((300, 2))]), number, "squared", 0.0)
    yield Problem("dummies of every category", np.eye(4)[rng.integers(0, 4, 300)], label, "logistic", 0.0)
    rare = np.zeros(20_000, dtype=bool)
    rare[[5, 9999]] = True
    yield Problem("2 positives of 20,000 rows", rng.standard_normal((20_000, 5)), rare, "logistic", 1e-6)
    yield Problem("separated classes, l2 = 1e-6", X, z > 0, "logistic", 1e-6)
    yield Problem("separated classes, l2 = 0", X, z > 0, "logistic", 0.0, bounded=False)
    yield Problem("counts", X, counts, "poisson", small)
    yield Problem("counts to 1e12", X, np.floor(1e12 * np.exp(z - z.max())), "poisson", small)
    yield Problem("counts that are all 0, l2 = 0", X, 0 * counts, "poisson", 0.0, bounded=False)
    yield Problem("numbers of 1e9", X, 1e9 * number, "squared", small)
    yield Problem("numbers about 1e6", X, 1e6 + number, "squared", 0.0)
    far = np.where(rng.random(300) < 0.1, 1e6, 0.0)
    yield Problem("a tenth of outliers of 1e6, huber", X, number + far, "huber:delta=1.0", small)
    yield Problem("a tenth of outliers of 1e6, squared", X, number + far, "squared", small)
    yield Problem("numbers about 100, huber", X, 100 + number, "huber:delta=1.0", 0.0)
    wide = rng.standard_normal((40, 100))
    yield Problem("more columns than rows", wide, wide[:, 0] > 0, "logistic", 1 / 40)
    yield Problem("more columns than rows, l2 = 0", wide, wide[:, 0] + rng.standard_normal(40), "squared", 0.0)
    dollars = 1e5 * np.exp(z / 4 + rng.standard_normal(300) / 2)
    yield Problem("dollars, huber, l2 = 0", X, dollars, "huber:delta=1.0", 0.0)
    lonely = np.where(np.arange(300) == 17, 2, label)
    yield Problem("a class of one row", X, lonely, "softmax", small)
    yield Problem("a class of one row, l2 = 0", X, lonely, "softmax", 0.0, bounded=False)
    yield Problem("one row", X[:1], number[:1], "squared", 1.0)
    yield Problem("one number for all rows", X, np.full(300, 7.0), "squared", small)
    yield Problem("l2 = 1e6", X, label, "logistic", 1e6)
    yield Problem("l2 = 1e-12", X, label, "logistic", 1e-12)


def derivatives(loss: str, Z: Long, y: Any, delta: Any = 1) -> tuple[Long, Long, Long]:
    """Mean loss terms, first and second derivatives in the logits Z (n, C): shapes (n,), (n, C), (n, C, C).

    `delta` is that of huber.
    """
    z = Z[:, 0]
    if loss == "softmax":
        shifted = Z - Z.max(axis=1, keepdims=True)
        P = np.exp(shifted)
        total = P.sum(axis=1)
        P /= total[:, None]
        own = np.eye(Z.shape[1], dtype=np.longdouble)[y]
        value = np.log(total) - (shifted * own).sum(axis=1)
        return value, P - own, P[:, :, None] * np.eye(Z.shape[1]) - P[:, :, None] * P[:, None, :]
    if loss == "logistic":
        e = np.exp(-abs(z))
        s = np.where(z > 0, 1, e) / (1 + e)
        value = np.where(z > 0, z, 0) + np.log1p(e) - y * z
        return value, (s - y)[:, None], (s * (1 - s))[:, None, None]
    if loss == "poisson":
        constant = np.longdouble(gammaln(y.astype(np.float64) + 1.0))
        return np.exp(z) - y * z + constant, (np.exp(z) - y)[:, None], np.exp(z)[:, None, None]
    r = z - y
    if loss == "squared":
        return r**2 / 2, r[:, None], np.ones_like(r)[:, None, None]
    inside = abs(r) <= delta
    value = np.where(inside, r**2 / 2, delta * (abs(r) - delta / 2))
    return value, r.clip(-delta, delta)[:, None], inside.astype(np.longdouble)[:, None, None]


class Truth:
    """The objective in 80-bit numbers, and its minimum."""

    def __init__(self, problem: Problem) -> None:
        self.loss, y = problem.loss, problem.y
        X = np.asarray(problem.X, dtype=np.longdouble)
        self.X = np.hstack([X, np.ones((len(X), 1), dtype=np.longdouble)]) if problem.intercept else X
        self.outputs = len(np.unique(y)) if self.loss == "softmax" else 1
        self.y = np.unique(y, return_inverse=True)[1] if self.loss in ("softmax", "logistic") else np.longdouble(y)
        self.l2 = np.full(self.X.shape[1], problem.l2, dtype=np.longdouble)
        if problem.intercept:
            self.l2[-1] = 0

    def value(self, W: Long, delta: Any = 1) -> Any:
        """P at W (p, C); `delta` is that of huber."""
        return derivatives(self.loss, self.X @ W, self.y, delta)[0].mean() + (self.l2[:, None] * W**2).sum() / 2

    def minimum(self) -> Any:
        """The minimum. For huber by continuation: from a delta beyond all residuals, where it is squared, down to 1."""
        W = np.zeros((self.X.shape[1], self.outputs), dtype=np.longdouble)
        deltas = [np.longdouble(1)]
        if self.loss in ("squared", "huber:delta=1.0"):
            W[-1] = np.median(self.y)
        elif self.loss == "poisson" and self.y.any():
            W[-1] = np.log(self.y.mean())
        if self.loss.startswith("huber"):
            deltas = list(np.geomspace(2 * abs(self.y - W[-1]).max() + 1, 1, 60).astype(np.longdouble))
            deltas[-1] = np.longdouble(1)
        for delta in deltas:
            W = self.descend(W, delta)
        return self.value(W)

    @np.errstate(all="ignore")  # a step that is not finite lowers nothing, and the next one is damped more
    def descend(self, W: Long, delta: Any) -> Long:
        """The minimiser (p, C) by damped Newton steps on scaled columns, from W."""
        p, C = W.shape
        best, damping = self.value(W, delta), np.longdouble(1e-6)
        for _ in range(400):
            _, slope, bend = derivatives(self.loss, self.X @ W, self.y, delta)
            g = (self.X.T @ slope / len(self.X) + self.l2[:, None] * W).ravel()
            H = np.einsum("ij,iab,ik->jakb", self.X, bend, self.X).reshape(p * C, p * C) / len(self.X)
            H[np.diag_indices(p * C)] += np.repeat(self.l2, C)
            scale = np.sqrt(np.diagonal(H).clip(min=0))
            scale[scale == 0] = np.sqrt((self.X**2).mean(axis=0)).repeat(C)[scale == 0] + np.longdouble(1e-300)
            A = H / scale[:, None] / scale
            A[np.diag_indices(p * C)] += damping
            step = -(solve(A, g / scale) / scale).reshape(p, C)
            after = self.value(W + step, delta)
            if after < best:
                W, best, damping = W + step, after, damping / 10
            elif damping > 1e6:
                break
            else:
                damping = damping * 10
        return W


def solve(A: Long, b: Long) -> Long:
    """A^-1 b for A (k, k) positive definite, by Cholesky in 80-bit numbers."""
    k = len(b)
    L, x = A.copy(), b.copy()
    for j in range(k):
        L[j, j] = np.sqrt(max(L[j, j] - L[j, :j] @ L[j, :j], np.longdouble(1e-30)))
        L[j + 1 :, j] = (L[j + 1 :, j] - L[j + 1 :, :j] @ L[j, :j]) / L[j, j]
    for j in range(k):
        x[j] = (x[j] - L[j, :j] @ x[:j]) / L[j, j]
    for j in reversed(range(k)):
        x[j] = (x[j] - L[j + 1 :, j] @ x[j + 1 :]) / L[j, j]
    return x


@dataclass
class Cell:
    """How a run ended."""

    kind: str
    gap: float
    note: str = ""

    def __str__(self) -> str:
        return self.kind if np.isnan(self.gap) else f"{self.kind} {max(self.gap, 0.0):.0e}"


def run(method: str, problem: Problem, truth: Truth, minimum: Any) -> Cell:
    """One method on one problem, with its default settings and ends."""
    begin = time.process_time()
    try:
        found = mpinewton.minimize(
            method, (problem.X, problem.y), loss=problem.loss, l2=problem.l2, intercept=problem.intercept,
            workers=min(WORKERS, len(problem.y)), max_iterations=1000,
            callback=lambda row, w: time.process_time() - begin > SECONDS,
        )  # fmt: skip
    except MpinewtonError as error:
        return Cell("refused", np.nan, str(error))
    shape = (truth.X.shape[1], truth.outputs)
    start, end = truth.value(np.zeros(shape, dtype=np.longdouble)), truth.value(np.longdouble(found.x).reshape(shape))
    if found.kind == "interrupted":
        found.kind, found.message = "budget", f"{SECONDS:g} s of computing"
    if end > start + 1e-12 * abs(start) and found.kind not in ("diverged", "trouble"):
        return Cell("WRONG", float((end - minimum) / abs(start - minimum)), f"ends above the start: {found.message}")
    return Cell(found.kind, float((end - minimum) / max(abs(start - minimum), abs(minimum))), found.message)


def table(pattern: str, show: Callable[[str], None]) -> tuple[list[tuple[Problem, dict[str, Cell]]], list[str]]:
    """The cells of all problems whose name matches, and what breaks the promise."""
    rows, broken = [], []
    for problem in problems():
        if not fnmatch.fnmatch(problem.name, pattern):
            continue
        truth = Truth(problem)
        minimum = truth.minimum()
        cells = {method: run(method, problem, truth, minimum) for method in METHODS}
        rows.append((problem, cells))
        for method, cell in cells.items():
            show(f"{problem.name:45} {method:15} {cell!s:18} {cell.note[:110]}")
            exact = method in EXACT and problem.bounded
            wrong = cell.kind == "WRONG" or (problem.bounded and cell.kind == "unbounded")
            if wrong or (exact and not cell.gap <= 1e-8):
                broken.append(f"{problem.name}, {method}: {cell} ({cell.note})")
    return rows, broken


HEAD = """# Difficult data

{count} problems with data as they often are, {methods} methods with their default settings, {workers} workers, at most
1000 iterations or {seconds:g} CPU seconds; `make trust` repeats the runs. A cell says [how the run ended](ends.md), and
the gap to the minimum, relative to the larger of the minimum and the decrease from the start. The minimum is computed
independently, in 80-bit arithmetic. "refused": the run was refused before its start, with a reason.

A large gap with "budget" means that the problem is too ill-conditioned for the method. dino and giant average the
solutions of systems with the workers' own Hessians. If a worker has few rows for its columns, or the columns differ in
size, these Hessians are nearly singular, and the average contains little of the small eigenvalues of the mean Hessian.

{verdict}

"""


def page(rows: list[tuple[Problem, dict[str, Cell]]], broken: list[str]) -> str:
    """The page in Markdown."""
    promise = f"{', '.join(EXACT)} come within 1e-8 of every minimum; no run with exit code 0 ends above its start."
    verdict = promise if not broken else "\n".join([f"Not met: {promise}", "", *(f"- {line}" for line in broken)])
    head = HEAD.format(count=len(rows), methods=len(METHODS), workers=WORKERS, seconds=SECONDS, verdict=verdict)
    lines = ["| problem | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for problem, cells in rows:
        lines.append(f"| {problem.name} | " + " | ".join(str(cells[method]) for method in METHODS) + " |")
    return head + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="problems whose name matches")
    parser.add_argument("-o", "--output", type=Path, help="page to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    rows, broken = table(options.only, lambda line: print(line, flush=True))
    if options.output:
        options.output.write_text(page(rows, broken))
    print("\n".join(["", *broken]) if broken else "\nall as promised")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
