#!/usr/bin/env python
"""`auto` against every method of the package, on problems that gave none of its constants.

    python scripts/auto_rule.py [--only PATTERN] [--seconds 10]

Every method that can handle the loss runs with its default settings, on 8 workers in this process, to a gradient norm
of 1e-6 times the first. For `rounds`, `bits` (both ways, of the busiest worker) and `seconds` on a network of 20 ms and
100 Mbit/s (the messages of the ledger on the model of mpinewton.report.network, and the computing of this machine, the
slowest worker's), it prints what `auto` needs when asked for that cost, divided by what the best method needs.
"""

from __future__ import annotations

import argparse
import fnmatch
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import datasets

import mpinewton
from mpinewton.errors import MpinewtonError, WorkerError
from mpinewton.methods import METHODS
from mpinewton.report.network import Network, Tree
from mpinewton.report.replay import HEAD

WORKERS, GOAL, WORSE = 8, 1e-6, 1.5
NETWORK = Network(latency=0.02, bandwidth=1e8)
ASKED = {
    "rounds": {"goal": "rounds"},
    "bits": {"goal": "bits"},
    "seconds": {"goal": "seconds", "latency": NETWORK.latency, "rate": NETWORK.bandwidth},
}


def problems() -> Iterator[tuple[str, Any, Any, str]]:
    """Name, rows, labels and loss of 12 problems, real and made; l2 is 1 / (number of rows)."""
    rng = np.random.default_rng(12)
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


def costs(result: Any) -> dict[str, float]:
    """Rounds, bits and seconds of a run."""
    ledger, tree = result.ledger, Tree(NETWORK, WORKERS)
    seconds = sum(
        (tree.down if entry.direction == "down" else tree.up)(entry.bits / 8 + HEAD) + entry.compute
        for entry in ledger.entries()
        if entry.round
    )
    totals = ledger.totals()
    return {"rounds": ledger.rounds, "bits": totals["bits_down"] + totals["bits_up"], "seconds": seconds}


def measure(method: str, X: Any, y: Any, loss: str, limit: float, settings: Any = None) -> dict[str, float] | None:
    """What a run to the goal costs; None where the method refuses the problem or does not come to the goal."""
    try:
        result = mpinewton.minimize(
            method, (X, y), loss=loss, settings=settings, intercept=True, workers=WORKERS, rtol=GOAL,
            max_iterations=500, max_seconds=limit,
        )  # fmt: skip
    except (MpinewtonError, WorkerError):
        return None
    return costs(result) if result.kind == "converged" else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="problems whose name matches")
    parser.add_argument("--seconds", default=10.0, type=float, help="limit of a run")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    worse = 0
    for name, X, y, loss in problems():
        if not fnmatch.fnmatch(name, options.only):
            continue
        found = {method: measure(method, X, y, loss, options.seconds) for method in METHODS if method != "auto"}
        arrived = {method: cost for method, cost in found.items() if cost and not METHODS[method].rows_travel}
        for what, settings in ASKED.items():
            mine = measure("auto", X, y, loss, options.seconds, settings)
            best = min(arrived, key=lambda method: arrived[method][what], default="none")
            least = arrived[best][what] if arrived else np.nan
            ratio = mine[what] / least if mine else np.inf
            worse += not ratio <= WORSE
            print(f"{name:30} {what:8} {ratio:6.2f}  best {best} {least:.4g} of {len(arrived)}", flush=True)
    print(f"{worse} of the cells above are worse than {WORSE} times the best")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
