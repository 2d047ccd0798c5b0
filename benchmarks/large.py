"""Large data: two million rows with a million features, and dense rows that are ten times larger than the memory limit.

    python benchmarks/large.py [criteo-like] [streamed] [--share 1] [--page FILE.md] [--folder DIR]

criteo-like: 2,000,000 rows, 1,000,000 features, 39 entries of value 1 a row: 13 fields of 100 values each and 26 whose
values are drawn from a power law. streamed: 2,000,000 dense rows of 500 float32 numbers, 4 GB; the two worker ranks may
use a tenth of that. Logistic regression, l2 = 1 / rows, to 1e-5 times the first gradient norm. Peers: scikit-learn with
two threads and all rows in memory, at the loosest tolerance that meets the goal. --share: this share of the rows.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.bits import processor
from mpinewton.report.reading import read_run

ROWS, GOAL, LIMIT = 2_000_000, 1e-5, 180.0
METHODS = ("auto", "lbfgs")
PEERS = {"criteo-like": ("lbfgs", "newton-cg", "liblinear"), "streamed": ("lbfgs",)}
CONTENT = {
    "criteo-like": "1,000,000 features; 39 entries of value 1 in a row, 26 of them drawn from power laws",
    "streamed": "500 dense float32 features",
}
BLOCK = 100_000


def criteo_like(file: Path, rows: int) -> float:
    """Write rows of 39 fields, a feature each; their megabytes in memory."""
    rng = np.random.default_rng(1)
    small, large, p = 13 * 100, 26, 1_000_000
    size = (p - small) // large
    w = rng.standard_normal(p) * 0.3
    indices, y = np.empty((rows, 39), dtype=np.int32), np.empty(rows, dtype=np.float32)
    for first in range(0, rows, BLOCK):
        part = indices[first : first + BLOCK]
        part[:, :13] = rng.integers(0, 100, (len(part), 13)) + 100 * np.arange(13)
        values = np.minimum(rng.zipf(1.3, (len(part), large)) - 1, size - 1)
        part[:, 13:] = small + values + size * np.arange(large)
        y[first : first + BLOCK] = rng.random(len(part)) < 1 / (1 + np.exp(1 - w[part].sum(axis=1)))
    starts, ones = np.arange(rows + 1, dtype=np.int64) * 39, np.ones(indices.size, dtype=np.float32)
    np.savez(file, data=ones, indices=indices.ravel(), indptr=starts, shape=(rows, p), y=y)
    return float(indices.nbytes + ones.nbytes) / 1e6


def streamed(file: Path, rows: int) -> float:
    """Write dense rows of correlated features, labels of a linear model with noise; their megabytes in memory."""
    rng = np.random.default_rng(2)
    w = rng.standard_normal(500) / 10
    X, y = np.empty((rows, 500), dtype=np.float32), np.empty(rows, dtype=np.float32)
    for first in range(0, rows, BLOCK):
        part = X[first : first + BLOCK]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32) + rng.standard_normal((len(part), 1))
        y[first : first + BLOCK] = rng.random(len(part)) < 1 / (1 + np.exp(-part @ w))
    np.savez(file, X=X, y=y)
    return float(X.nbytes) / 1e6


def main() -> None:
    """Print a table per data set; write them to a page too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*PEERS, []], default=[])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--folder", type=Path, help="where the data are written, 15 GB")
    given = parser.parse_args()
    parts = []
    for name in given.names or PEERS:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            parts.append(compare(name, Path(folder), int(given.share * ROWS)))
            print(parts[-1], flush=True)
    if given.page:
        given.page.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


HEAD = f"""# Large data

Logistic regression, l2 = 1 / rows, to {GOAL:g} times the first gradient norm, {len(os.sched_getaffinity(0))} cores
({processor()}). mpinewton: a driver and two worker ranks. scikit-learn: two threads, all rows in memory, the loosest of
its tolerances that meets the goal; where one takes more than {LIMIT:g} s, with looser ones it ended above the goal.
mpinewton is stopped after {LIMIT:g} s of iterations; *limited* is with the memory limit. *whole* is the command from
its start to its end: for mpinewton it reads the shards from disk, for scikit-learn it reads an npz file. Memory is the
peak of the largest process. One run each. Written by `benchmarks/large.py`.
"""


def compare(name: str, folder: Path, rows: int) -> str:
    """Run everybody on one data set; a table in Markdown."""
    file = folder / "rows.npz"
    # In a process of its own: the peak that the system says of a command is at least what its parent had at the start.
    making = [sys.executable, __file__, "--make", name, str(file), str(rows)]
    megabytes = float(subprocess.run(making, check=True, capture_output=True, text=True).stdout)
    pack = [sys.executable, "-m", "mpinewton", "pack", str(file), "-o", str(folder / "shards"), "--workers", "2"]
    seconds, _, _ = measured(pack)
    size = sum(file.stat().st_size for file in (folder / "shards").iterdir()) / 1e6
    about = f"{rows:,} rows, {CONTENT[name]}. {megabytes:,.0f} MB as float32; shards of {size:,.0f} MB, packed in "
    about += f"{seconds:.0f} s."
    limit = [] if name != "streamed" else ["--memory", f"{megabytes / 20:.0f}M"]
    if limit:
        about += f" Memory limit of a rank: {megabytes / 20:.0f} MB."
    lines = [f"## {name}", "", about, "", "| solver | solve, s | whole, s | memory, MB | gradient norm, relative |"]
    runs = [(method, limit) for method in METHODS] + ([("auto", ["--dtype", "float32"])] if limit else [])
    lines += ["|---|--:|--:|--:|--:|", *(ours(method, folder, options) for method, options in runs)]
    return "\n".join([*lines, *(peer(solver, file) for solver in PEERS[name]), ""])


def ours(method: str, folder: Path, options: list[str]) -> str:
    """The row of a method."""
    out = folder / "-".join([method, *options])
    words = ["run", method, str(folder / "shards"), "-o", str(out), "--loss", "logistic", "--no-intercept", *options]
    words += ["--rtol", str(GOAL), "--max-seconds", str(LIMIT), "--nproc", "2"]
    whole, memory, said = measured([sys.executable, "-m", "mpinewton", *words])
    run = read_run(out)
    chosen = str(run.result["chosen"])
    estimate = re.search(r"memory: about ([\d.]+ .B)", said)
    about = [chosen] if chosen != method else []
    if "--memory" in options:
        about.append(f"limited, estimate {estimate[1] if estimate else 'none'}")
    elif options:
        about.append("float32 in memory")
    relative = run.last("grad_norm") / run.columns["grad_norm"][0]
    name = f"mpinewton {method}" + (f" ({', '.join(about)})" if about else "")
    return f"| {name} | {run.last('seconds'):.1f} | {whole:.1f} | {memory:,.0f} | {relative:.1e} |"


def peer(solver: str, file: Path) -> str:
    """The row of a solver of scikit-learn."""
    name = f"| scikit-learn {solver} |"
    for exponent in (-4, -6, -8):
        command = [sys.executable, __file__, "--peer", solver, str(file), str(10.0**exponent)]
        try:
            whole, memory, said = measured(command, LIMIT)
        except subprocess.TimeoutExpired:
            return f"{name} not within {LIMIT:.0f} s at tolerance 1e{exponent} | | | |"
        if not said.startswith("solved"):
            return f"{name} {said.strip().splitlines()[-1] if said.strip() else 'ended without an answer'} | | | |"
        _, seconds, relative = said.split()
        if float(relative) <= GOAL:
            return f"{name} {float(seconds):.1f} | {whole:.1f} | {memory:,.0f} | {float(relative):.1e} |"
    return f"{name} does not meet the goal: {float(relative):.1e} at tolerance 1e{exponent} | | | |"


def measured(command: list[str], limit: float | None = None) -> tuple[float, float, str]:
    """Seconds, peak of the largest process in MB, and standard output of a command."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2") if "--peer" in command else {}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        usage: Any = None
        while usage is None:
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            usage = found if pid else None
            time.sleep(0.01)
            if limit and not pid and time.perf_counter() - start > limit:
                process.kill()
                os.wait4(process.pid, 0)
                process.returncode = -9
                raise subprocess.TimeoutExpired(command, limit)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        said = output.read()
    if process.returncode and "--peer" not in command:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}: {said}")
    return seconds, usage.ru_maxrss / 1000 * 1.024, said


def as_peer(solver: str, file: str, tolerance: str) -> None:
    """A peer's process: prints "solved", the seconds and the relative norm of the gradient."""
    import warnings

    from scipy.special import expit
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")
    with np.load(file) as a:
        if "X" in a:
            X: Any = a["X"]
        else:
            X = sparse.csr_matrix((a["data"], a["indices"], a["indptr"].astype(np.int32)), a["shape"])
        y = a["y"]
    n = len(y)
    start = time.perf_counter()
    model = LogisticRegression(C=1.0, fit_intercept=False, solver=solver, tol=float(tolerance), max_iter=2000)
    w = model.fit(X, y).coef_.ravel().astype(np.float64)
    seconds = time.perf_counter() - start

    def norm(w: np.ndarray) -> float:
        g = w / n
        for first in range(0, n, BLOCK):
            rows = X[first : first + BLOCK]
            g += rows.T @ (expit(rows @ w) - y[first : first + BLOCK]) / n
        return float(np.linalg.norm(g))

    print("solved", seconds, norm(w) / norm(np.zeros(len(w))))


def make(name: str, file: str, rows: str) -> None:
    """Write the rows of a data set and print their megabytes."""
    print({"criteo-like": criteo_like, "streamed": streamed}[name](Path(file), int(rows)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make(*sys.argv[2:])
    elif sys.argv[1:2] == ["--peer"]:
        as_peer(*sys.argv[2:])
    else:
        main()
