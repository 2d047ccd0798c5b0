"""Memory of a run: estimated before the start, and measured, with the rows in memory and on disk.

usage: python benchmarks/memory.py [--megabytes 300]

Every run is a process of its own; its peak is what the system reports at its end (ru_maxrss). A run with its rows on
disk must have the history of the run with its rows in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import sys; import numpy as np; from scipy import sparse
name, kind, megabytes = sys.argv[1], sys.argv[2], float(sys.argv[3])
rng = np.random.default_rng(0)
if kind == "dense":
    X = rng.standard_normal((int(megabytes * 1e6 / 800), 100)); y = (X[:, 0] + rng.standard_normal(len(X)) > 0) * 1.0
    np.savez(name, X=X, y=y)
else:
    n, k, p = int(megabytes * 1e6 / 14 / 40), 40, 4000
    indices = np.sort(rng.integers(0, p // k, (n, k)) + np.arange(k) * (p // k), axis=1).ravel()
    data = np.ones(n * k) if kind == "ones" else rng.standard_normal(n * k)
    np.savez(name, data=data, indices=indices, indptr=np.arange(n + 1) * k, shape=(n, p), y=(rng.random(n) > 0.5) * 1.0)
"""
RUNS = [("lbfgs", []), ("newton-cg", ["--intercept"]), ("newton", [])]


def main() -> int:
    """Print a line for each run; 1 if an estimate is off by more than a fifth, or the bits differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=float, default=300)
    megabytes = parser.parse_args().megabytes
    wrong = 0
    print("data    method     rows       estimate  measured  ratio  history")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("dense", "sparse", "ones"):
            data = Path(folder) / kind
            subprocess.run([sys.executable, "-c", MAKE, f"{data}.npz", kind, str(megabytes)], check=True)
            command(["pack", f"{data}.npz", "-o", str(data), "--workers", "2"])
            for method, options in RUNS:
                if method == "newton" and kind != "dense":
                    continue
                histories = set()
                for limit in ("100G", f"{0.45 * megabytes + 90:.0f}M"):
                    run = Path(folder) / f"{kind}-{method}-{limit}"
                    words = ["run", method, str(data), "-o", str(run), "--max-iterations", "3", "--memory", limit]
                    said, peak = command([*words, *options])
                    found = re.search(r"memory: about ([\d.]+) (MB|GB) .* are (in memory|on disk)", said)
                    assert found, said
                    estimate = float(found[1]) * (1 if found[2] == "MB" else 1000)
                    history = json.loads((run / "result.json").read_text())["history_sha256"][:12]
                    histories.add(history)
                    ratio = peak / estimate
                    wrong += not 0.8 <= ratio <= 1.2
                    print(
                        f"{kind:7} {method:10} {found[3]:9} {estimate:7.0f} MB {peak:6.0f} MB  {ratio:5.2f}  {history}"
                    )
                wrong += len(histories) != 1
    print(f"{wrong} wrong" if wrong else "all within a fifth, and the same histories")
    return int(wrong > 0)


def command(words: list[str]) -> tuple[str, float]:
    """What a command of mpinewton says, and its peak of memory in MB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mpinewton", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"mpinewton {' '.join(words)}: exit code {process.returncode}: {said}")
    return said, usage.ru_maxrss / (1 if sys.platform == "darwin" else 1000) * 1.024


if __name__ == "__main__":
    raise SystemExit(main())
