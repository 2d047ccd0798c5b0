"""How the time of a round grows with rows, features, entries and workers, and that of a run with ranks.

    python benchmarks/scaling.py [--page FILE.md]

Rounds are timed in one process, as the smallest processor time of some; runs are `mpinewton run auto --nproc K`, as the
median of three. More ranks than this machine has cores are for `mpinewton plan` (docs/planning.md).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402
from workers import fleet_of, least_times  # noqa: E402

from mpinewton.bits import processor  # noqa: E402
from mpinewton.data.shard import Shard  # noqa: E402
from mpinewton.methods.support import tasks  # noqa: E402

CORES = len(os.sched_getaffinity(0))
RANKS, ROWS, FEATURES, TURNS = (1, 2, 3, 4, 5), 200_000, 100, 3
LARGEST = 1000  # features up to which Hessians are formed
HEAD = f"""# Scaling

Logistic regression, {CORES} cores ({processor()}). Written by `benchmarks/scaling.py`.

## A round

Milliseconds of one process, the smallest of some turns, and nanoseconds for each stored entry: objective and gradient;
a product of the Hessian with a vector; objective, gradient and Hessian, for at most {LARGEST:,} features.

| data | gradient | ns | product | ns | Hessian | ns |
|---|--:|--:|--:|--:|--:|--:|
"""
RUNS = f"""
## A run

Seconds that `mpinewton run auto` takes to a gradient norm of 1e-9 at l2 = 1e-3, on dense synthetic rows of {FEATURES}
features, median of {TURNS} runs. Strong scaling: {2 * ROWS:,} rows in all; weak scaling: {ROWS:,} rows a rank. The
driver is one more process. More than {CORES} ranks share cores here.

| ranks | strong, s | speed-up | weak, s | efficiency |
|---|--:|--:|--:|--:|
"""


def main() -> None:
    """Print the page; write it too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path)
    page = parser.parse_args().page
    text = HEAD + "".join(round_of(about, X, workers) for about, X, workers in data()) + RUNS + "".join(runs())
    print(text)
    if page:
        page.write_text(text, encoding="utf-8")


def data() -> Iterator[tuple[str, Any, int]]:
    """What is measured: words, rows and the number of workers."""
    rng = np.random.default_rng(0)
    for n in (1_000, 10_000, 100_000, 400_000):
        yield f"dense, {n:,} x 100", rng.standard_normal((n, 100)), 1
    for p in (10, 30, 300, 1000, 3000):
        yield f"dense, {4_000_000 // p:,} x {p:,}", rng.standard_normal((4_000_000 // p, p)), 1
    for k in (5, 20, 80, 320):
        yield f"sparse, {k} entries in each of 20,000 rows, 1,000 features", ones(rng, 20_000, 1000, k), 1
    for p in (10_000, 100_000, 1_000_000):
        yield f"sparse, 40 entries in each of 50,000 rows, {p:,} features", ones(rng, 50_000, p, 40), 1
    for m in (1, 10, 100, 1000):
        about = f"sparse, 20 entries in each of 50,000 rows, 300 features; {m:,} worker{'s' * (m > 1)}"
        yield about, ones(rng, 50_000, 300, 20), m


def ones(rng: np.random.Generator, n: int, p: int, k: int) -> sparse.csr_array:
    """0/1 rows with k entries each, one in every k-th part of the features."""
    indices = rng.integers(0, p // k, (n, k)) + np.arange(k) * (p // k)
    return sparse.csr_array((np.ones(n * k), indices.ravel(), np.arange(n + 1) * k), (n, p))


def round_of(about: str, X: Any, workers: int) -> str:
    """A row of the table of rounds."""
    n, p = X.shape
    rng = np.random.default_rng(1)
    fleet = fleet_of(Shard(X, np.where(rng.random(n) < 0.5, -1.0, 1.0)), workers)
    w, v = rng.standard_normal((2, p)) / p
    actions = [partial(fleet.mean, tasks.value_and_gradient, w), partial(fleet.mean, tasks.hvp, v)]
    if p <= LARGEST:
        actions.append(partial(fleet.mean, tasks.value_gradient_hessian, w))
    entries = X.nnz if sparse.issparse(X) else X.size
    cells = [f"{1e3 * t:.2f} | {1e9 * t / entries:.2f}" for t in least_times(actions, 7)]
    return f"| {about} | {' | '.join(cells + [' | '] * (3 - len(cells)))} |\n"


def runs() -> Iterator[str]:
    """The rows of the table of runs."""
    base = None
    with tempfile.TemporaryDirectory() as folder:
        for ranks in RANKS:
            strong, weak = (seconds(Path(folder), rows, ranks) for rows in (2 * ROWS, ROWS * ranks))
            base = base or (strong, weak)
            yield f"| {ranks} | {strong:.3f} | {base[0] / strong:.2f} | {weak:.3f} | {base[1] / weak:.2f} |\n"


def seconds(folder: Path, rows: int, ranks: int) -> float:
    """Of the solve, with so many ranks."""
    shards = folder / f"{rows}-{ranks}"
    command = [sys.executable, "-m", "mpinewton"]
    source = f"synthetic:logistic?rows={rows}&features={FEATURES}"
    pack = [*command, "pack", source, "-o", str(shards), "--workers", str(ranks)]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    run = [*command, "run", "auto", str(shards), "--loss", "logistic", "--l2", "1e-3", "--tol", "1e-9", "--fresh"]
    taken = []
    for _ in range(TURNS):
        subprocess.run([*run, "--nproc", str(ranks), "-o", f"{shards}-run"], check=True, stdout=subprocess.DEVNULL)
        taken.append(json.loads(Path(f"{shards}-run/result.json").read_text())["seconds"])
    return float(np.median(taken))


if __name__ == "__main__":
    main()
