"""Seconds to a small gradient norm, data in memory: mpinewton beside other solvers of logistic regression.

    python benchmarks/time_to_optimum.py [SET ...] [--page FILE.md] [--python PYTHON]...

l2 = 1e-3, no intercept, two cores for everybody: mpinewton with two worker ranks of one thread each (the driver waits),
peers (`peers.py`) with two threads or two ranks where they can. Only the solve is timed, the first of a new process, as
a user runs it; for peers also the second one there. What a peer returns is judged by the norm of the gradient, and the
loosest of its tolerances that meets the target is used. Everybody takes turns; medians of nine, of three for sets where
a turn takes long. Peers that are not installed, never meet the target or take more than 20 s are left out and named.
--python: an interpreter that has peers; the first that has a peer runs it. All sets but `dense` and `wide` lie beside
the checkout.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from peers import PEERS

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
    "news20-softmax": Problem(
        str(SHARED / "news20.xz"), "15,935 rows, 62,061 features, softmax of 20 classes",
        ("--features", "62061"), "softmax", 6e-6, turns=3, methods=LARGE,
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


def main() -> None:
    """Print a table per data set; write them to a page too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*SETS, []], default=[])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--python", action="append")
    given = parser.parse_args()
    parts = []
    for name in given.names or SETS:
        if not SETS[name].is_there:
            print(f"{name}: skipped, the data sets are not beside the checkout")
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts.append(compare(name, Path(folder), tuple(given.python or [sys.executable])))
            print(parts[-1], flush=True)
        if given.page:
            given.page.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


CORES = len(os.sched_getaffinity(0))
HEAD = f"""# Seconds to the optimum

Logistic regression, l2 = {L2:g}, no intercept, data in memory, {CORES} cores ({processor()}).
Medians of some turns, least and most in parentheses: the first solve of a new process; "again": the second one. The
ratio is to `mpinewton run auto --nproc 2` in the same turn. |g| of peers is computed by the benchmark from the weights
that they return, mpinewton's is that of its result. Where auto chooses another method of the table, the two rows are
the same method: their difference is noise.
Peers have {LIMIT:g} s. Written by `benchmarks/time_to_optimum.py`.
"""


def compare(name: str, folder: Path, pythons: tuple[str, ...]) -> str:
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
        answer = asked(peer, pythons, rows, str(problem.target))
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
            first, second = map(float, asked(peer, pythons, rows, str(problem.target), tolerance).split())
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


@cache
def interpreter(distribution: str, pythons: tuple[str, ...]) -> str | None:
    """The first interpreter that has a distribution; None if none has it."""
    has_it = f"import importlib.metadata as m; m.version({distribution!r})"
    for python in pythons:
        if not subprocess.run([python, "-c", has_it], stderr=subprocess.DEVNULL, check=False).returncode:
            return python
    return None


def asked(name: str, pythons: tuple[str, ...], rows: Path, *about: str) -> str:
    """What `peers.py` says of a solver, run by the first interpreter that has it."""
    peer = PEERS[name]
    python = interpreter(peer.distribution, pythons)
    if python is None:
        return f"{peer.distribution} is not installed"
    threads = str(peer.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    command = [python, str(Path(__file__).with_name("peers.py")), name, str(rows), str(L2), str(LIMIT), *about]
    if peer.ranks > 1:
        command = ["mpiexec", "-n", str(peer.ranks), *command]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode in (-signal.SIGALRM, 128 + signal.SIGALRM):
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


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        export(*sys.argv[2:])
    else:
        main()
