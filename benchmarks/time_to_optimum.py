"""Seconds to a gradient norm of 1e-9, data in memory: mpinewton beside scikit-learn's newton-cholesky and LIBLINEAR.

    python benchmarks/time_to_optimum.py [a9a] [w8a]

Logistic regression, l2 = 1e-3, no intercept, two cores for everybody: mpinewton with two worker ranks of one thread
each (the driver waits), scikit-learn with two threads, LIBLINEAR with the one it has. Only the solve is timed; what a
peer returns is judged here, by the norm of the gradient, and its loosest tolerance that meets the target is used.
Everybody takes turns; medians of five. Needs the data sets that lie beside the checkout.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"a9a": (123, 32561), "w8a": (300, 49749)}
L2, TARGET, TURNS = 1e-3, 1e-9, 5
PEERS = ("liblinear", "newton-cholesky")


def main() -> None:
    """Print a table per data set."""
    if not SHARED.exists():
        print("skipped: the data sets are not beside the checkout")
        return
    for name in sys.argv[1:] or SETS:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder))


def compare(name: str, folder: Path) -> None:
    """Measure everybody on one data set, in turns."""
    data, (features, _) = str(SHARED / f"{name}.xz"), SETS[name]
    pack = [sys.executable, "-m", "mpinewton", "pack", data, "-o", str(folder / "shards")]
    subprocess.run([*pack, "--workers", "2", "--features", str(features)], check=True, stdout=subprocess.DEVNULL)
    peers = {peer: started(peer, data, features) for peer in PEERS}
    times: dict[str, list[float]] = {"mpinewton newton": [], "mpinewton newton, 1 process": []}
    for turn in range(TURNS):
        times["mpinewton newton"].append(ours(folder, turn, ["--nproc", "2"]))
        times["mpinewton newton, 1 process"].append(ours(folder, turn, []))
        for peer, process in peers.items():
            times.setdefault(peer, []).append(asked(process))
    for process in peers.values():
        process.stdin.close()
        process.wait()
    print(f"\n{name}: seconds to a gradient norm of {TARGET:g}, median of {TURNS} (least - most); ratio to mpinewton")
    base = np.array(times["mpinewton newton"])
    for who, seconds in times.items():
        ratio = np.median(np.array(seconds) / base)
        print(f"  {who:<30} {np.median(seconds):7.3f}  ({min(seconds):.3f} - {max(seconds):.3f})  {ratio:5.2f}")


def ours(folder: Path, turn: int, options: list[str]) -> float:
    """Seconds of one run, as its result says."""
    run = [sys.executable, "-m", "mpinewton", "run", "newton", str(folder / "shards"), "--l2", str(L2)]
    out = folder / f"run-{turn}-{len(options)}"
    command = [*run, "--tol", str(TARGET), "-o", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((out / "result.json").read_text())
    assert result["grad_norm"] <= TARGET
    return float(result["seconds"])


def started(peer: str, data: str, features: int) -> subprocess.Popen:
    """A peer in a process of its own, the data loaded, its tolerance found, waiting to be asked."""
    threads = "1" if peer == "liblinear" else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    command = [sys.executable, __file__, "--peer", peer, data, str(features)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "ready"
    return process


def asked(process: subprocess.Popen) -> float:
    """Have a peer solve once; its seconds."""
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def as_peer(peer: str, data: str, features: str) -> None:
    """A peer's process."""
    import warnings

    from scipy.special import expit
    from sklearn.datasets import load_svmlight_file
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")
    with lzma.open(data) as file:
        X, y = load_svmlight_file(file, n_features=int(features))
    n = X.shape[0]
    X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)  # all that LIBLINEAR takes

    def solve(tolerance: float) -> tuple[float, float]:
        model = LogisticRegression(C=1 / (n * L2), fit_intercept=False, solver=peer, tol=tolerance, max_iter=500)
        start = time.perf_counter()
        model.validate(X, y)
        taken, w = time.perf_counter() - start, model.coef_.ravel()
        return taken, float(np.linalg.norm(X.T @ (-y * expit(-y * (X @ w))) / n + L2 * w))

    for exponent in np.arange(-4, -16, -0.5):
        if solve(10.0**exponent)[1] <= TARGET:
            break
    else:
        raise SystemExit(f"{peer} never reached {TARGET}")
    print("ready", flush=True)
    for _ in sys.stdin:
        print(solve(10.0**exponent)[0], flush=True)


if __name__ == "__main__":
    as_peer(*sys.argv[2:]) if sys.argv[1:2] == ["--peer"] else main()
