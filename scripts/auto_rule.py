#!/usr/bin/env python
"""`auto` against every method of the package, on problems that gave none of its constants.

    python scripts/auto_rule.py [--only PATTERN] [--seconds 10] [-o docs/auto.md]

Every method that can handle the loss runs with its default settings, on 8 workers in this process, to a gradient norm
of 1e-6 times the first. Of each it takes the rounds; the bits, both ways, of the busiest worker; the seconds on a
network of 20 ms and 100 Mbit/s (the messages of the ledger on the model of mpinewton.report.network, the work of the
workers divided by 8, and the rest of the computing); and the seconds of this process, for one node. It prints
what `auto` needs when asked for that cost, divided by what the best method needs.

A run ends as soon as it has used more of everything than the best of the runs before it: it cannot be the best then.
Methods that move rows are left out, and those that suppose the Hessian at the optimum to be known.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn import datasets

import mpinewton
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.methods import METHODS, auto
from mpinewton.methods.lazy_newton import OWN_ROWS_PER_WEIGHT, ROWS_PER_WEIGHT, LazyNewton
from mpinewton.report.network import Network, Tree
from mpinewton.report.replay import HEAD

WORKERS, GOAL, WORSE, TURNS, RIVALS = 8, 1e-6, 1.5, 7, 3
NETWORK = Network(latency=0.02, bandwidth=1e8)
ASKED: dict[str, dict[str, Any]] = {
    "rounds": {"goal": "rounds"},
    "bits": {"goal": "bits"},
    "seconds, 20 ms and 100 Mbit/s": {"latency": NETWORK.latency, "rate": NETWORK.bandwidth},
    "seconds, one node": {},
}
KNOWING = ("newton-star", "max-newton")  # suppose the Hessian at the optimum to be known
FIRST = (
    "newton",
    "lazy-newton",
    "newton-cg",
    "lbfgs",
    "disco",
)  # the sooner good runs are known, the sooner bad ones end
Costs = dict[str, float]


class Run(NamedTuple):
    """The costs of a run, by the keys of `ASKED`, and the method that ran."""

    costs: Costs
    method: str


def problems() -> Iterator[tuple[str, Any, Any, str]]:
    """Name, rows, labels and loss of 12 problems, real and made; l2 is 1 / (number of rows)."""
    rng = np.random.default_rng(13)
    for name, loss in (("breast_cancer", "logistic"), ("wine", "softmax"), ("digits", "softmax")):
        yield name, *getattr(datasets, f"load_{name}")(return_X_y=True), loss
    yield "diabetes", *datasets.load_diabetes(return_X_y=True, scaled=False), "squared"
    X = rng.standard_normal((4000, 40)) * np.logspace(0, -2, 40)
    z = X @ rng.standard_normal(40)
    yield "dense, condition 1e4", X, z + rng.standard_normal(4000) > 0, "logistic"
    yield "numbers with outliers", X, z + rng.standard_t(1.5, 4000), "huber"
    yield "counts", X, rng.poisson(np.exp(np.clip(z, -3, 3))).astype(float), "poisson"
    W = sparse.random_array((3000, 1500), density=0.01, rng=rng, format="csr")
    s = W @ rng.standard_normal(1500)
    yield "sparse, 1500 columns", W, s + 0.3 * rng.standard_normal(3000) > 0, "logistic"
    yield "sparse numbers, 1500 columns", W, s + 0.1 * rng.standard_normal(3000), "squared"
    yield "few rows, 300 columns", rng.standard_normal((200, 300)), rng.random(200) > 0.5, "logistic"
    yield "tall, 5 columns", rng.standard_normal((20_000, 5)), rng.random(20_000) > 0.3, "logistic"
    yield "not convex", X[:1000], z[:1000] + rng.standard_normal(1000) > 0, "softplus"


def costs_of(result: Any, seconds: float) -> Costs:
    """The costs of a run that took so many seconds."""
    ledger, tree = result.ledger, Tree(NETWORK, WORKERS)
    entries = [entry for entry in ledger.entries() if entry.round]
    messages, order = 0.0, 0.0
    for e in entries:
        if e.direction == "down":
            messages += tree.down(order + HEAD) if order else 0.0  # an order without an answer
            order = e.bits / 8
        else:
            messages, order = messages + tree.exchange(order + HEAD, e.bits / 8 + HEAD), 0.0
    work = sum(e.compute for e in entries)  # this process does the work of all workers
    totals = ledger.totals()
    bits = float(totals["bits_down"] + totals["bits_up"])
    return dict(
        zip(ASKED, (float(ledger.rounds), bits, messages + seconds - work + work / WORKERS, seconds), strict=True)
    )


def out_of_time(number: int, frame: Any) -> None:
    """The handler of the timer of a run."""
    raise TimeoutError


def measure(
    method: str, X: Any, y: Any, loss: str, limit: float, settings: Any = None, best: Costs | None = None
) -> Run | None:
    """A run to the goal; None where the method refuses the problem, does not come to the goal or cannot be the best."""
    begin = time.perf_counter()
    signal.setitimer(signal.ITIMER_PROF, limit)  # CPU seconds, of long iterations too

    def hopeless(row: Any, w: Any) -> bool:
        used = (row.rounds, row.bits_down + row.bits_up, row.rounds * NETWORK.latency, time.perf_counter() - begin)
        return best is not None and all(u > b for u, b in zip(used, best.values(), strict=True))

    try:
        result = mpinewton.minimize(
            method, (X, y), loss=loss, settings=settings, intercept=True, workers=WORKERS, rtol=GOAL,
            max_iterations=5000, callback=hopeless,
        )  # fmt: skip
    except (MpinewtonError, WorkerError, TimeoutError):
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.perf_counter() - begin
    return Run(costs_of(result, seconds), result.method) if result.kind == "converged" else None


class Cell(NamedTuple):
    """What auto needs when asked for a cost, as a multiple of what the best method needs."""

    problem: str
    asked: str
    chosen: str
    ratio: float
    best: str
    least: float
    arrived: int


def compare(name: str, X: Any, y: Any, loss: str, limit: float) -> Iterator[Cell]:
    """The cells of one problem."""
    compared = [m for m, kind in METHODS.items() if m not in ("auto", *KNOWING) and not kind.rows_travel]
    best: Costs = dict.fromkeys(ASKED, np.inf)
    runs: list[Run] = []
    for method in sorted(compared, key=lambda m: FIRST.index(m) if m in FIRST else len(FIRST)):
        if run := measure(method, X, y, loss, limit, best=best):
            runs.append(run)
            best = {asked: min(least, run.costs[asked]) for asked, least in best.items()}
    for asked, settings in ASKED.items():
        timed = asked.startswith("seconds")
        rivals = sorted(runs, key=lambda run: run.costs[asked])[: RIVALS if timed else 1]
        turns = [
            (run, [measure(rival.method, X, y, loss, limit) or rival for rival in rivals])
            for _ in range(TURNS if timed else 1)
            if (run := measure("auto", X, y, loss, limit, settings))
        ]
        if not turns:
            yield Cell(name, asked, "-", np.inf, rivals[0].method, rivals[0].costs[asked], len(runs))
            continue
        costs = np.array([[run.costs[asked] for run in others] for _, others in turns])
        ratios = np.median(np.array([[run.costs[asked]] for run, _ in turns]) / costs, axis=0)
        near = int(np.argmax(ratios))
        least = float(np.median(costs[:, near]))
        yield Cell(name, asked, turns[0][0].method, ratios[near], rivals[near].method, least, len(runs))


HEAD_OF_PAGE = """# How auto chooses

`auto` is a rule that chooses a method. From the loss, the number of weights d, the rows, the share of stored entries, the
number of workers and the network it estimates the cost of a typical run of every candidate, and takes the cheapest. The
cost is seconds, on one node or on the network that `--network 20ms,100Mbit` describes; `--network measured` times
messages between the ranks at the start. With `--set goal=rounds` or `--set goal=bits` it is rounds or bits.

## Candidates

| method | where | a typical run |
|---|---|---|
| newton | the loss has a Hessian, d <= {largest} | {newton} iterations: a triangle of d (d + 1) / 2 floats, f and g in each |
| lazy-newton | as newton, and the loss is convex | {own[0]:g} rounds, {own[1]:g} triangles, {own[2]:g} gradients and {own[3]:g} Hessians of all rows; where a worker has few rows ({own_few:g} d > its rows) {mean[0]:g}, {mean[1]:g}, {mean[2]:g}, {mean[3]:g}; where all have ({few:g} d > rows) {whole[0]:g}, {whole[1]:g}, {whole[2]:g}, {whole[3]:g} |
| lazy-newton, levels={levels}, refresh={refresh} | the same | {coded[0]:g} rounds, {coded[1]:g} triangles of {bits:g} bits an entry, {coded[2]:g} gradients and {coded[3]:g} Hessians |
| newton-cg | the loss has products with its Hessian | {steps} iterations, {products} products, two rounds each |
| preconditioned-lbfgs | the loss is not convex, or d > {largest} | {pairs} iterations; in each 50 products with a worker's own Hessian |
| lbfgs | the loss is convex, but not huber or softmax, and l2 >= {least:g} / rows; for all other losses it is the only candidate | {lbfgs} iterations, a gradient in each; {searches} of them with a search |

The numbers of iterations, products and triangles are rounded medians over the problems of
[jobs/auto.toml](papers/auto.md) (for lazy-newton with floats: a9a, w8a, ijcnn1). Computing times follow from them and from the
rates of one core: {speed:g} operations a second of products with rows, {dense:g} multiply-adds a second of dense Hessians,
{pairs_speed:g} pairs of stored entries a second of sparse ones, {cholesky:g} a second of Cholesky factors, {coding:g} entries a second of
Rice's code. Messages take latency + min(m, {fan}) * bits / rate for m workers, since a rank of the tree sends to at most
{fan} others, one after another. The rule is in `mpinewton/methods/auto.py`.

## Measured on {count} other problems

None of these problems was used for the constants above. `python scripts/auto_rule.py -o docs/auto.md` runs them: {workers} workers in
one process, to a gradient norm of {goal:g} times the first. *ratio* is the cost of `auto`, with this cost as its goal, divided by
that of the best method with its default settings; *of* is the number of methods that reached the gradient norm before all
their costs were above those of the best. Methods that move rows are left out, and so are {knowing},
which know the Hessian at the optimum.

Seconds on the network: the messages of the ledger by the model of [planning](planning.md), plus the seconds of the workers
divided by {workers}, plus those of the driver. Seconds on one node: those of the process. For both, `auto` and the {rivals} methods that
took least run in turns, {turns} times; the ratio is the median over the turns, to the method for which it is largest.

{verdict}

| problem | cost | auto chose | ratio | best | its cost | of |
|---|---|---|---|---|---|---|
"""  # noqa: E501


def page(cells: list[Cell]) -> str:
    """The page in Markdown."""
    bad = [cell for cell in cells if not cell.ratio <= WORSE]
    verdict = f"{len(cells) - len(bad)} of {len(cells)} cells are within {WORSE} times the best."
    verdict += "".join(f"\n- not: {cell.problem}, {cell.asked}: {cell.ratio:.2f}" for cell in bad)
    head = HEAD_OF_PAGE.format(
        largest=auto.LARGEST, newton=auto.NEWTON_STEPS, few=ROWS_PER_WEIGHT / LazyNewton().sample,
        own_few=OWN_ROWS_PER_WEIGHT / LazyNewton().sample,
        own=auto.LAZY_OWN, mean=auto.LAZY_MEAN, whole=auto.LAZY_WHOLE, coded=auto.LAZY_CODED,
        levels=auto.LEVELS, refresh=auto.REFRESH, bits=64 * auto.CODED, steps=auto.CG_STEPS, products=auto.CG_PRODUCTS,
        pairs=auto.PAIRS, least=auto.LEAST_L2, lbfgs=auto.LBFGS_STEPS,
        searches=auto.LBFGS_SEARCHES, speed=auto.SPEED, dense=auto.DENSE_SPEED, pairs_speed=auto.PAIRS_SPEED,
        cholesky=auto.CHOLESKY, coding=auto.CODING, fan=auto.FAN, count=len({cell.problem for cell in cells}),
        workers=WORKERS, goal=GOAL, knowing=" and ".join(KNOWING), turns=TURNS, rivals=RIVALS, verdict=verdict,
    )  # fmt: skip
    return head + "".join(
        f"| {c.problem} | {c.asked} | {c.chosen} | {c.ratio:.2f} | {c.best} | {c.least:.3g} | {c.arrived} |\n"
        for c in cells
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="problems whose name matches")
    parser.add_argument("--seconds", default=10.0, type=float, help="CPU seconds of a run at most")
    parser.add_argument("-o", "--output", type=Path, help="page to write")
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, out_of_time)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    cells: list[Cell] = []
    for name, X, y, loss in problems():
        if fnmatch.fnmatch(name, options.only):
            for cell in compare(name, X, y, loss, options.seconds):
                cells.append(cell)
                print(*cell, sep="; ", flush=True)
    if options.output:
        options.output.write_text(page(cells))
    worse = sum(not cell.ratio <= WORSE for cell in cells)
    print(f"{worse} of {len(cells)} cells are worse than {WORSE} times the best")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
