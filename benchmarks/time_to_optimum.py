"""Seconds to a small gradient norm, data in memory: mpinewton beside other solvers of logistic regression.

    python benchmarks/time_to_optimum.py [SET ...] [--page FILE.md] [--python PYTHON]

l2 = 1e-3, no intercept, two cores for everybody: mpinewton with two worker ranks of one thread each (the driver waits),
peers with two threads where they can. Only the solve is timed, the first of a new process, as a user runs it; for peers
also the second one there. What a peer returns is judged here, by the norm of the gradient, and the loosest of its
tolerances that meets the target is used. Everybody takes turns; medians of nine, of three for sets where a turn takes
long. Peers that are not installed, never meet the target or take more than 20 s are left out and named. --python:
an interpreter that has them. All sets but `dense` and `wide` lie beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.bits import processor

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
L2, LIMIT = 1e-3, 20.0
LARGE = ("auto", "newton-cg", "lbfgs")


@dataclass(frozen=True)
class Problem:
    """A data set, and the gradient norm to reach; `positive` is the label of one class, to be told from all others."""

    source: str
    about: str
    pack: tuple[str, ...] = ()
    loss: str = "logistic"
    target: float = 1e-9
    turns: int = 9
    positive: str = ""
    methods: tuple[str, ...] = ("auto", "newton", "lazy-newton")

    @property
    def is_there(self) -> bool:
        """Whether the data can be had."""
        return self.source.startswith("synthetic:") or Path(self.source).exists()


SETS = {
    "a9a": Problem(str(SHARED / "a9a.xz"), "32,561 rows, 123 features", ("--features", "123")),
    "w8a": Problem(str(SHARED / "w8a.xz"), "49,749 rows, 300 features", ("--features", "300")),
    "ijcnn1": Problem(str(SHARED / "ijcnn1.xz"), "49,990 rows, 22 features, dense"),
    "news20": Problem(
        str(SHARED / "news20.xz"), "15,935 rows, 62,061 features; class 1 against all others",
        ("--features", "62061"), turns=3, positive="1", methods=LARGE,
    ),
    "dense": Problem(
        "synthetic:logistic?rows=600000&features=100", "600,000 rows, 100 features, dense, synthetic", turns=3
    ),
    "wide": Problem(
        "synthetic:logistic?rows=50000&features=2000", "50,000 rows, 2,000 features, dense, synthetic", turns=3,
        methods=LARGE,
    ),
    "mnist": Problem(
        str(SHARED / "train-images-idx3-ubyte.gz"), "60,000 rows, 784 features divided by 255, softmax of 10 classes",
        ("--scale", "1/255"), "softmax", 1e-6, turns=3, methods=LARGE,
    ),
}  # fmt: skip
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
        if not SETS[name].is_there:
            print(f"{name}: skipped, the data sets are not beside the checkout")
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts.append(compare(name, Path(folder), given.python))
            print(parts[-1], flush=True)
        if given.page:
            given.page.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


CORES = len(os.sched_getaffinity(0))
HEAD = f"""# Seconds to the optimum

Logistic regression, l2 = {L2:g}, no intercept, data in memory, {CORES} cores ({processor()}).
Medians of some turns, least and most in parentheses: the first solve of a new process; "again": the second one. The
ratio is to `mpinewton run auto --nproc 2` in the same turn. |g| of peers is computed by the benchmark from the weights
that they return, mpinewton's is that of its result. Where auto chooses lazy-newton or newton-cg, the two rows are the
same method: their difference is noise.
Peers have {LIMIT:g} s. Written by `benchmarks/time_to_optimum.py`.
"""


def compare(name: str, folder: Path, python: str) -> str:
    """Measure everybody on one data set, in turns; a table in Markdown."""
    problem = SETS[name]
    source = problem.source
    if problem.positive:
        source = str(folder / "rows.libsvm")
        with lzma.open(problem.source, "rt") as lines, Path(source).open("w", encoding="utf-8") as file:
            for line in lines:
                label, rest = line.split(maxsplit=1)
                file.write(f"{1 if label == problem.positive else -1} {rest}")
    pack = [sys.executable, "-m", "mpinewton", "pack", source, "-o", str(folder / "shards"), "--workers", "2"]
    subprocess.run([*pack, *problem.pack], check=True, stdout=subprocess.DEVNULL)
    rows = folder / "rows.npz"
    subprocess.run([sys.executable, __file__, "--export", str(folder / "shards"), str(rows)], check=True)
    left_out, tolerances, norms = [], {}, {}
    for peer in PEERS:
        answer = asked(peer, python, rows, str(problem.target))
        if answer.startswith("ready"):
            _, tolerances[peer], norms[peer] = answer.split()
        else:
            left_out.append(f"{peer}: {answer}")
    times: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}
    for turn in range(problem.turns):
        for method in problem.methods:
            for words, options in ((", 2 ranks", ["--nproc", "2"]), (", 1 process", [])):
                who = f"mpinewton {method}{words}"
                seconds, norms[who] = ours(folder, problem, method, turn, options)
                times.setdefault(who, []).append(seconds)
        for peer, tolerance in tolerances.items():
            first, second = map(float, asked(peer, python, rows, str(problem.target), tolerance).split())
            times.setdefault(peer, []).append(first)
            again.setdefault(peer, []).append(second)
    base = np.array(times["mpinewton auto, 2 ranks"])
    lines = [
        f"## {name}",
        "",
        f"{problem.about}. Gradient norm {problem.target:g}, {problem.turns} turns.",
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


def ours(folder: Path, problem: Problem, method: str, turn: int, options: list[str]) -> tuple[float, str]:
    """Seconds of one run, as its result says, and the norm of its gradient."""
    run = [sys.executable, "-m", "mpinewton", "run", method, str(folder / "shards"), "--l2", str(L2)]
    out = folder / f"{method}-{turn}-{len(options)}"
    command = [*run, "--loss", problem.loss, "--tol", str(problem.target), "-o", str(out), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((out / "result.json").read_text())
    assert result["grad_norm"] <= problem.target
    return float(result["seconds"]), f"{result['grad_norm']:.1e}"


def asked(peer: str, python: str, rows: Path, *about: str) -> str:
    """What a peer says in a process of its own: its tolerance and |g|; given a tolerance, the seconds of two solves."""
    threads = "1" if "lib" in peer.lower() else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    command = [python, __file__, "--peer", peer, str(rows), *about]
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=3 * LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"not within {LIMIT:g} s"
    return done.stdout.strip() or "ended without an answer"


def export(shards: str, file: str) -> None:
    """Write the rows of packed shards for peers to read; of two classes the labels are -1 and 1."""
    from scipy import sparse

    from mpinewton.data.manifest import read_manifest
    from mpinewton.data.shard_io import read_shard

    manifest = read_manifest(Path(shards))
    parts = [read_shard(Path(shards), manifest, index) for index in range(manifest.workers)]
    y = np.concatenate([part.y for part in parts])
    if manifest.classes is not None and len(manifest.classes) == 2:
        y = np.where(y == manifest.classes[-1], 1.0, -1.0)
    if manifest.sparse:
        X = sparse.csr_array(sparse.vstack([sparse.csr_array(part.X) for part in parts]))
        np.savez(file, data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape, y=y)
    else:
        np.savez(file, X=np.concatenate([part.X for part in parts]).astype(np.float64), y=y)


def as_peer(peer: str, file: str, target: str, tolerance: str = "") -> None:
    """A peer's process: says "ready", its tolerance and |g|, or why it is left out; with a tolerance, solves twice."""
    import warnings

    from scipy import sparse

    warnings.simplefilter("ignore")
    try:
        __import__(PEERS[peer])
    except ImportError as error:
        print(f"not installed ({error})")
        return
    with np.load(file) as a:
        y = a["y"]
        X: Any = (
            a["X"]
            if "X" in a
            else sparse.csr_matrix((a["data"], a["indices"].astype(np.int32), a["indptr"].astype(np.int32)), a["shape"])
        )
    if len(np.unique(y)) > 2 and (PEERS[peer] != "sklearn" or "liblinear" in peer):
        print("has no softmax loss")
        return
    solve = solver(peer, X, y)
    if tolerance:
        start = time.perf_counter()
        solve(float(tolerance))
        first = time.perf_counter()
        solve(float(tolerance))
        print(first - start, time.perf_counter() - first)
        return
    least = np.inf
    for exponent in np.arange(-4, -16, -0.5):
        start = time.perf_counter()
        try:
            found = gradient_norm(X, y, solve(10.0**exponent))
        except MemoryError as error:
            print(f"out of memory: {error}")
            return
        least = min(least, found)
        if time.perf_counter() - start > LIMIT:
            print(f"not within {LIMIT:g} s; its best is {least:.1e}")
            return
        if found <= float(target):
            break
    else:
        print(f"never reached {target}; its best is {least:.1e}")
        return
    print(f"ready {10.0**exponent} {found:.1e}")


def gradient_norm(X: Any, y: np.ndarray, w: np.ndarray) -> float:
    """|g| at weights w, shape (p,), or (C, p) for softmax."""
    from scipy.special import expit, softmax

    if w.ndim == 1:
        return float(np.linalg.norm(X.T @ (-y * expit(-y * (X @ w))) / len(y) + L2 * w))
    r = softmax(X @ w.T, axis=1)
    r[np.arange(len(y)), y.astype(int)] -= 1.0
    return float(np.linalg.norm(r.T @ X / len(y) + L2 * w))


def solver(peer: str, X: Any, y: np.ndarray) -> Solver:
    """A function of the tolerance that returns the weights."""
    n = X.shape[0]
    if PEERS[peer] == "sklearn":
        from sklearn.linear_model import LogisticRegression

        name = peer.split()[1]

        def by_sklearn(tolerance: float) -> np.ndarray:
            model = LogisticRegression(C=1 / (n * L2), fit_intercept=False, solver=name, tol=tolerance, max_iter=2000)
            w = model.fit(X, y).coef_
            return w if len(w) > 1 else w[0]

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
