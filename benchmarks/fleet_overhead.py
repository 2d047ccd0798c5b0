"""What a call of the fleet costs over the same collectives by hand, and the fixed-order sum over MPI's own.

    python benchmarks/fleet_overhead.py [RANKS]

One job: a broadcast of d floats and a reduction of d floats, by hand with mpi4py's buffers; by `fleet.mean`, sums in
fixed order and by MPI.SUM; by hand gathering every rank's part and adding them up on the driver. Phases take turns;
each figure is the median of the phases' means, and the ratio that of the same turn. Aim: at most 1.15.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mpinewton.launcher import launcher_environment, mpiexec

SIZES = (10, 1000, 45_150)
TURNS, CALLS = 7, 200


def main() -> None:
    """Start the job and print its table."""
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        for d in SIZES:
            pack = [sys.executable, "-m", "mpinewton", "pack", f"synthetic:least-squares?rows=8&features={d}"]
            options = ["--workers", str(2 * (ranks - 1)), "-o", f"{folder}/{d}"]
            subprocess.run([*pack, *options], check=True, stdout=subprocess.DEVNULL)
        command = [mpiexec(), "-n", str(ranks), sys.executable, __file__, "--in-job", folder]
        done = subprocess.run(command, env=launcher_environment(ranks), check=True, capture_output=True, text=True)
    print(f"{ranks} ranks; microseconds a call (broadcast and reduce), and the ratio to the same by hand")
    print(f"{'d':>7} {'by hand':>9} {'gather':>15} {'fleet, fixed':>15} {'fleet, MPI.SUM':>15}")
    for line in done.stdout.splitlines():
        d, times = json.loads(line)
        hand = np.array(times["hand"])
        cells = [f"{np.median(times[k]):8.0f} ({np.median(times[k] / hand):4.2f})" for k in ("gather", "fixed", "mpi")]
        print(f"{d:7d} {np.median(hand):9.0f} " + " ".join(cells))


def in_job(folder: Path) -> None:
    """One rank's part."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    for d in SIZES:
        times: dict[str, list[float]] = {"hand": [], "gather": [], "fixed": [], "mpi": []}
        for _ in range(TURNS):
            times["hand"].append(by_hand(comm, d))
            times["gather"].append(by_gathering(comm, d))
            for sums in ("fixed", "mpi"):
                times[sums].append(by_fleet(folder / str(d), sums))
        if comm.rank == 0:
            print(json.dumps([d, times]), flush=True)


def by_hand(comm, d: int) -> float:
    """Microseconds of a broadcast and a reduction."""
    x, out = np.ones(d), np.zeros(d) if comm.rank == 0 else None

    def call() -> None:
        comm.Bcast(x, 0)
        comm.Reduce(x, out, root=0)

    return timed(comm, call)


def by_gathering(comm, d: int) -> float:
    """Microseconds of a broadcast, a gathering and the sum in rank order."""
    x, out = np.ones(d), np.zeros((comm.size, d)) if comm.rank == 0 else None

    def call() -> None:
        comm.Bcast(x, 0)
        comm.Gather(x, out, root=0)
        if out is not None:
            out.sum(axis=0)

    return timed(comm, call)


def timed(comm, call) -> float:
    for _ in range(20):
        call()
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def by_fleet(folder: Path, sums: str) -> float:
    """Microseconds of `fleet.mean` on the driver; 0 elsewhere."""
    from mpinewton.data.manifest import read_manifest
    from mpinewton.fleet.plan import Plan
    from mpinewton.fleet.transport.session import join

    taken = [0.0]

    def drive(session) -> int:
        fleet = session.open(Plan(str(folder), read_manifest(folder), "squared", 0.1, sums=sums))
        x = np.ones(fleet.dim)
        for _ in range(20):
            fleet.mean(echo, x)
        start = time.perf_counter()
        for _ in range(CALLS):
            fleet.mean(echo, x)
        taken[0] = (time.perf_counter() - start) / CALLS * 1e6
        return 0

    join(drive)
    return taken[0]


def echo(worker, x):
    """The task: what was sent."""
    return x


if __name__ == "__main__":
    in_job(Path(sys.argv[2])) if sys.argv[1:2] == ["--in-job"] else main()
