"""What a round costs as the logical workers of one process grow in number, against one worker with all the rows.

    python benchmarks/workers.py [DATA]

DATA is a LIBSVM file of two classes, by default w8a. All numbers of workers take turns in one process; a figure is the
ratio of the smallest processor times. The second table has iterations of methods in rounds that evaluate the gradient,
by the same workers and by one worker with all the rows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402

from mpinewton.data.loading import load_rows  # noqa: E402
from mpinewton.data.shard import Shard  # noqa: E402
from mpinewton.fleet import Fleet  # noqa: E402
from mpinewton.fleet.local import local_fleet  # noqa: E402
from mpinewton.losses import make_loss  # noqa: E402
from mpinewton.methods.settings import make_method  # noqa: E402
from mpinewton.methods.support import tasks  # noqa: E402

W8A = Path(__file__).resolve().parents[2] / "shared" / "data" / "w8a.xz"
WORKERS = (1, 2, 5, 10, 50, 142, 500, 1000)
TURNS = 15
MANY = 142  # workers of the second table
METHODS = {
    "fednl-ls": {}, "fednl": {}, "nl1": {}, "nl1 top r=10": {"choice": "top", "r": 10}, "quantised-bfgs": {},
    "pisa": {}, "newton": {},
}  # fmt: skip
NEWTON = make_method("newton", {})


def main() -> None:
    """Print both tables."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else W8A
    if not source.exists():
        sys.exit(f"skipped: {source} is not there")
    shard = load_rows(str(source))[0]
    fleets = {m: fleet_of(shard, m) for m in WORKERS}
    print(f"{source.name}, {shard.rows} rows, {shard.features} features: a round in ms, and its ratio to one worker's")
    print(f"{'workers':24}" + "".join(f"{m:>14}" for m in WORKERS))
    for task, run in rounds(shard.features).items():
        best = least_times([partial(run, fleet) for fleet in fleets.values()])
        print(f"{task:24}" + "".join(f"{1e3 * t:8.2f} {t / best[0]:5.2f}" for t in best))
    others = fleet_of(shard, MANY), fleets[1]
    print(f"an iteration with {MANY} workers, in gradients of all of them and of one worker")
    for method, settings in METHODS.items():
        ratios = iteration_in_gradients(fleets[MANY], others, method.split()[0], settings)
        print(f"{method:24}{ratios[0]:8.2f}{ratios[1]:8.2f}")


def fleet_of(shard: Shard, workers: int) -> Fleet:
    """The rows dealt out in blocks to so many workers."""
    blocks = np.array_split(np.arange(shard.rows), workers)
    shards = [Shard(shard.X[b[0] : b[-1] + 1], shard.y[b]) for b in blocks]
    fleet = local_fleet(shards, make_loss("logistic"), (-1.0, 1.0), 1e-3)
    fleet.adopt(NEWTON)
    return fleet


def rounds(d: int) -> dict[str, Callable[[Fleet], object]]:
    """What is timed."""
    rng = np.random.default_rng(1)
    w, v = 0.01 * rng.standard_normal(d), 0.01 * rng.standard_normal(d)
    search = NEWTON.search
    return {
        "value, gradient": lambda fleet: fleet.mean(tasks.value_and_gradient, w),
        "value, gradient, Hessian": lambda fleet: fleet.mean(tasks.value_gradient_hessian, w),
        "Hessian product": lambda fleet: fleet.mean(tasks.hvp, v),
        "8 trial losses": lambda fleet: fleet.mean(search.try_first, v),
        "step, value, gradient": lambda fleet: (fleet.send(search.try_first, v), fleet.mean(tasks.advance, 0.5)),
    }


def least_times(actions: list[Callable[[], object]], turns: int = TURNS) -> list[float]:
    """The smallest processor seconds of every action, in turns."""
    best = [np.inf] * len(actions)
    for _ in range(turns):
        for i, action in enumerate(actions):
            start = time.thread_time()
            action()
            best[i] = min(best[i], time.thread_time() - start)
    return best


def iteration_in_gradients(
    fleet: Fleet, others: tuple[Fleet, Fleet], name: str, settings: dict[str, object]
) -> list[float]:
    """The time of an iteration after the first two, by those of a gradient of the others, smallest times in turns."""
    method = make_method(name, settings)
    fleet.adopt(method)
    fleet.iteration = 0
    w = np.zeros(fleet.dim)
    states = [method.start(fleet, w)]
    taken, gradients = [], []
    for fleet.iteration in range(1, 13):
        start = time.thread_time()
        states.append(method.step(fleet, states[-1]))
        taken.append(time.thread_time() - start)
        gradients.append(least_times([partial(other.mean, tasks.value_and_gradient, w) for other in others], 3))
    return [min(taken[2:]) / gradient for gradient in np.min(gradients, axis=0)]


if __name__ == "__main__":
    main()
