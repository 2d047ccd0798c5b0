"""What a round of the methods that learn the Hessian costs, in gradients: w8a on 142 workers, one process, medians."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from mpinewton.data.blocks import Reading
from mpinewton.data.manifest import read_manifest
from mpinewton.data.pack import pack
from mpinewton.fleet import Fleet, Plan
from mpinewton.fleet.transport.session import LocalSession
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.tasks import value_and_gradient

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "w8a.xz"
METHODS = {
    "nl1": {}, "nl1 top r=10": {"choice": "top", "r": 10}, "fednl-ls": {}, "quantised-bfgs": {}, "newton": {},
}  # fmt: skip


def main() -> None:
    if not SHARED.exists():
        sys.exit(f"skipped: {SHARED} is not there")
    with TemporaryDirectory() as folder:
        shards = Path(folder) / "w8a"
        pack(str(SHARED), shards, 142, partition="blocks", reading=Reading(rows=49700, features=300))
        fleet = LocalSession().open(Plan(str(shards), read_manifest(shards), "logistic", 1e-3))
        w = np.zeros(fleet.dim)
        fleet.adopt(make_method("newton", {}))
        gradient = median(lambda: fleet.mean(value_and_gradient, w))
        print(f"gradient alone: {1e3 * gradient:.2f} ms")
        for name, settings in METHODS.items():
            print(f"{name:15} {step_of(fleet, name.split()[0], settings) / gradient:5.2f} gradients a round")


def step_of(fleet: Fleet, name: str, settings: dict[str, object]) -> float:
    """Seconds of an iteration after the first two."""
    method = make_method(name, settings)
    fleet.adopt(method)
    fleet.iteration = 0
    states = [method.start(fleet, np.zeros(fleet.dim))]
    taken = []
    for fleet.iteration in range(1, 9):
        start = time.perf_counter()
        states.append(method.step(fleet, states[-1]))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[2:]))


def median(action, repeats: int = 15) -> float:
    """Seconds of the action."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


if __name__ == "__main__":
    main()
