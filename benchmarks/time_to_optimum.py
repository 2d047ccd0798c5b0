"""Seconds to a gradient norm of 1e-9, data in memory: mpinewton beside other solvers of logistic regression.

    python benchmarks/time_to_optimum.py [a9a] [w8a] [ijcnn1] [dense] [--page FILE.md] [--python PYTHON]

l2 = 1e-3, no intercept, two cores for everybody: mpinewton with two worker ranks of one thread each (the driver waits),
peers with two threads where they can. Only the solve is timed, the first of a new process, as a user runs it; for peers
also the second one there. What a peer returns is judged here, by the norm of the gradient, and the loosest of its
tolerances that meets the target is used. Everybody takes turns; medians of nine. Peers that are not installed, or that
never meet the target, are left out and named. --python: an interpreter that has them.
All but `dense` need the data sets that lie beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.bits import processor

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"a9a": 123, "w8a": 300, "ijcnn1": 22, "dense": 100}
DENSE = "synthetic:logistic?rows=600000&features=100"
L2, TARGET, TURNS = 1e-3, 1e-9, 9
METHODS = ("auto", "newton", "lazy-newton")
PEERS = {
    "scikit-learn liblinear": "sklearn", "scikit-learn newton-cg": "sklearn", "scikit-learn newton-cholesky": "sklearn",
    "scikit-learn lbfgs": "sklearn", "LIBLINEAR": "liblinear", "glum irls-ls": "glum", "Snap ML": "snapml",
}  # fmt: skip
Solver = Callable[[float], np.ndarray]


def main() -> None:
    """Print a table per data set; write them to a page too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*SETS, []], default=[])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--python", default=sys.executable)
    given = parser.parse_args()
    parts = []
    for name in given.names or SETS:
        if name != "dense" and not SHARED.exists():
            print(f"{name}: skipped, the data sets are not beside the checkout")
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts.append(compare(name, Path(folder), given.python))
            print(parts[-1], flush=True)
    if given.page:
        given.page.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


CORES = len(os.sched_getaffinity(0))
HEAD = f"""# Seconds to the optimum

Logistic regression, l2 = {L2:g}, no intercept, to a gradient norm of {TARGET:g}, data in memory, {CORES} cores
({processor()}). Medians of {TURNS} turns, least and most in parentheses: the first solve of a new process; "again": the
second one. The ratio is to `mpinewton run auto --nproc 2` in the same turn. |g| is computed by the benchmark from the
weights that were returned. Where auto chooses lazy-newton, as on a9a and w8a, both rows are the same method: their
difference is noise. Written by `benchmarks/time_to_optimum.py`.
"""


def compare(name: str, folder: Path, python: str) -> str:
    """Measure everybody on one data set, in turns; a table in Markdown."""
    file = DENSE if name == "dense" else str(SHARED / f"{name}.xz")
    pack = [sys.executable, "-m", "mpinewton", "pack", file, "-o", str(folder / "shards"), "--workers", "2"]
    pack += [] if name == "dense" else ["--features", str(SETS[name])]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    rows = folder / "rows.npz"
    subprocess.run([sys.executable, __file__, "--export", str(folder / "shards"), str(rows)], check=True)
    left_out, tolerances, norms = [], {}, {}
    for peer in PEERS:
        answer = asked(peer, python, rows)
        if answer.startswith("ready"):
            _, tolerances[peer], norms[peer] = answer.split()
        else:
            left_out.append(f"{peer}: {answer}")
    times: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    for turn in range(TURNS):
        for method in METHODS:
            for words, options in ((", 2 ranks", ["--nproc", "2"]), (", 1 process", [])):
                who = f"mpinewton {method}{words}"
                seconds, norms[who] = ours(folder, method, turn, options)
                times.setdefault(who, []).append(seconds)
        for peer, tolerance in tolerances.items():
            first, second = map(float, asked(peer, python, rows, tolerance).split())
            times.setdefault(peer, []).append(first)
            again.setdefault(peer, []).append(second)
    base = np.array(times["mpinewton auto, 2 ranks"])
    lines = [
        f"## {name}",
        "",
        "| solver | milliseconds | ratio | again | norm of the gradient |",
        "|---|--:|--:|--:|--:|",
    ]
    for who, seconds in sorted(times.items(), key=lambda item: np.median(item[1])):
        ms, ratio = 1e3 * np.array(seconds), np.median(np.array(seconds) / base)
        second = f"{1e3 * np.median(again[who]):.1f}" if who in again else ""
        words = f"{np.median(ms):.1f} ({ms.min():.1f} to {ms.max():.1f}) | {ratio:.2f} | {second}"
        lines.append(f"| {who} | {words} | {norms[who]} |")
    return "\n".join([*lines, "", *(f"- {words}" for words in left_out), ""])


def ours(folder: Path, method: str, turn: int, options: list[str]) -> tuple[float, str]:
    """Seconds of one run, as its result says, and the norm of its gradient."""
    run = [sys.executable, "-m", "mpinewton", "run", method, str(folder / "shards"), "--l2", str(L2)]
    out = folder / f"{method}-{turn}-{len(options)}"
    command = [*run, "--loss", "logistic", "--tol", str(TARGET), "-o", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((out / "result.json").read_text())
    assert result["grad_norm"] <= TARGET
    return float(result["seconds"]), f"{result['grad_norm']:.1e}"


def asked(peer: str, python: str, rows: Path, *tolerance: str) -> str:
    """What a peer says in a process of its own: its tolerance and |g|; given a tolerance, the seconds of two solves."""
    threads = "1" if "lib" in peer.lower() else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    command = [python, __file__, "--peer", peer, str(rows), *tolerance]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False).stdout
    return said.strip() or "ended without an answer"


def export(shards: str, file: str) -> None:
    """Write the rows of packed shards, as two equal classes -1 and 1, for peers to read."""
    from scipy import sparse

    from mpinewton.data.manifest import read_manifest
    from mpinewton.data.shard_io import read_shard

    manifest = read_manifest(Path(shards))
    parts = [read_shard(Path(shards), manifest, index) for index in range(manifest.workers)]
    assert manifest.classes is not None
    y = np.where(np.concatenate([part.y for part in parts]) == manifest.classes[-1], 1.0, -1.0)
    X = sparse.csr_array(sparse.vstack([sparse.csr_array(part.X) for part in parts]))
    np.savez(file, data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape, y=y, dense=not manifest.sparse)


def as_peer(peer: str, file: str, tolerance: str = "") -> None:
    """A peer's process: says "ready", its tolerance and |g|, or why it is left out; with a tolerance, solves twice."""
    import warnings

    from scipy import sparse
    from scipy.special import expit

    warnings.simplefilter("ignore")
    try:
        __import__(PEERS[peer])
    except ImportError as error:
        print(f"not installed ({error})")
        return
    with np.load(file) as a:
        X: Any = sparse.csr_matrix((a["data"], a["indices"].astype(np.int32), a["indptr"].astype(np.int32)), a["shape"])
        y, X = a["y"], X.toarray() if a["dense"] else X
    solve = solver(peer, X, y)
    if tolerance:
        start = time.perf_counter()
        solve(float(tolerance))
        first = time.perf_counter()
        solve(float(tolerance))
        print(first - start, time.perf_counter() - first)
        return

    def norm(w: np.ndarray) -> float:
        return float(np.linalg.norm(X.T @ (-y * expit(-y * (X @ w))) / len(y) + L2 * w))

    least = np.inf
    for exponent in np.arange(-4, -16, -0.5):
        found = norm(solve(10.0**exponent))
        least = min(least, found)
        if found <= TARGET:
            break
    else:
        print(f"never reached {TARGET:g}; its best is {least:.1e}")
        return
    print(f"ready {10.0**exponent} {found:.1e}")


def solver(peer: str, X: Any, y: np.ndarray) -> Solver:
    """A function of the tolerance that returns the weights."""
    n = X.shape[0]
    if PEERS[peer] == "sklearn":
        from sklearn.linear_model import LogisticRegression

        name = peer.split()[1]

        def by_sklearn(tolerance: float) -> np.ndarray:
            model = LogisticRegression(C=1 / (n * L2), fit_intercept=False, solver=name, tol=tolerance, max_iter=2000)
            return model.fit(X, y).coef_.ravel()

        return by_sklearn
    if PEERS[peer] == "glum":
        from glum import GeneralizedLinearRegressor
        from scipy import sparse

        columns, positive = (sparse.csc_matrix(X) if sparse.issparse(X) else X), (y > 0).astype(float)

        def by_glum(tolerance: float) -> np.ndarray:
            model = GeneralizedLinearRegressor(
                family="binomial", l1_ratio=0, alpha=L2, fit_intercept=False, solver="irls-ls", gradient_tol=tolerance
            )
            return model.fit(columns, positive).coef_

        return by_glum
    if PEERS[peer] == "snapml":
        from snapml import LogisticRegression as Snap

        def by_snap(tolerance: float) -> np.ndarray:
            model = Snap(regularizer=n * L2, fit_intercept=False, n_jobs=2, tol=tolerance, max_iter=3000, dual=True)
            return np.asarray(model.fit(X, y).coef_).ravel()

        return by_snap
    from liblinear.liblinear import parameter, problem
    from liblinear.liblinearutil import train

    rows = problem(y, X)

    def by_liblinear(tolerance: float) -> np.ndarray:
        model = train(rows, parameter(f"-s 0 -c {1 / (n * L2)} -e {tolerance} -q"))
        return np.array(model.get_decfun()[0])

    return by_liblinear


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        as_peer(*sys.argv[2:])
    elif sys.argv[1:2] == ["--export"]:
        export(*sys.argv[2:])
    else:
        main()
