"""What a masked RANL worker saves: time and peak memory of its gradient, relative to the whole one, in one process."""

from __future__ import annotations

import os
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import sparse

from mpinewton.data.shard import Shard
from mpinewton.fleet.local import local_fleet
from mpinewton.losses import make_loss
from mpinewton.methods.ranl import Ranl

RNG = np.random.default_rng(0)
# Rows x weights: where the rows are many, the logits are what a worker needs most memory for, and no mask saves them.
SHARDS = {
    "sparse, 200 x 50,000": sparse.random_array((200, 50_000), density=0.002, format="csr", rng=RNG),
    "dense, 200 x 20,000": RNG.standard_normal((200, 20_000)),
    "dense, 20,000 x 200": RNG.standard_normal((20_000, 200)),
}


def main() -> None:
    for name, X in SHARDS.items():
        n, d = X.shape
        y = np.where(RNG.random(n) < 0.5, -1.0, 1.0)
        fleet = local_fleet([Shard(X, y)], make_loss("logistic"), (-1.0, 1.0), 1e-3)
        worker, w = fleet.host.workers[0], RNG.standard_normal(d)
        for printed in (False, True):
            whole = measured(Ranl(policy="full", as_printed=printed), worker, w)
            for keep in (0.5, 0.25, 0.125):
                part = measured(Ranl(policy="round-robin", keep=keep, as_printed=printed), worker, w)
                seconds, memory = (a / b for a, b in zip(part, whole))
                form = "as printed" if printed else "repaired"
                print(f"{name:22} {form:10}  keep {keep:5.3f}  time {seconds:4.2f}  memory {memory:4.2f}")


def measured(method: Ranl, worker, w) -> tuple[float, float]:
    """Seconds, the median of some, and peak bytes of a masked gradient."""
    method.pruned(worker, w)
    taken = []
    for _ in range(15):
        start = time.perf_counter()
        method.pruned(worker, w)
        taken.append(time.perf_counter() - start)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    method.pruned(worker, w)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return float(np.median(taken)), float(peak)


if __name__ == "__main__":
    main()
