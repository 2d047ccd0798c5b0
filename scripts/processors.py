#!/usr/bin/env python
"""What a processor decides: the runs of tests/papers under the kernels of OpenBLAS, and on data rounded otherwise.

    scripts/processors.py record FOLDER [--roundings N] [--only NAME] [ARGUMENTS OF PYTEST]
    scripts/processors.py page FOLDER ...
    scripts/processors.py kernels

`record` runs the tests for every kernel that this processor can run, also with numpy's own loops held at AVX2, once
with numpy's loops in place of the compiled ones, and N times with the features moved by one unit in the last place, at
random: that stands for processors that are not at hand. What pytest says of the tests goes into FOLDER/NAME.log, the
rows of their runs into FOLDER/NAME.json; what is there is not done again. `page` writes where the runs part, and
between which bounds they stay, into docs/processors.md and, for the tests, tests/support/rounding.json. `kernels`
prints the kernels that run here but are not the processor's own choice.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from mpinewton.bits import numpy_features

HERE = Path(__file__).resolve().parents[1]
# As OPENBLAS_CORETYPE; a build of OpenBLAS has some of them, and takes one of those for others.
KERNELS = [
    *("Haswell", "Zen", "Prescott", "Core2", "Penryn", "Dunnington", "Atom", "Nano", "Opteron", "Opteron_SSE3"),
    *("Barcelona", "Bobcat", "Nehalem", "Sandybridge", "Bulldozer", "Piledriver", "Steamroller", "Excavator"),
    *("SkylakeX", "Cooperlake", "Sapphirerapids"),
]
# Says which kernels run, and runs them: those for another processor die of an illegal instruction.
PROBE = """
import numpy, scipy.linalg, threadpoolctl
pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
others = [pool for pool in pools if pool.get("prefix") != "libscipy_openblas"]  # preloaded: then the wheels' is idle
A = numpy.random.default_rng(0).standard_normal((300, 300))
A @ A[0], scipy.linalg.cho_factor(A @ A.T + 300 * numpy.eye(300)), numpy.exp(A), scipy.linalg.eigh(A + A.T)
print(*sorted({pool["architecture"] for pool in others or pools}), max(pool["version"][:6] for pool in others or pools))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    recording = actions.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--roundings", type=int, default=8)
    recording.add_argument("--only", action="append")
    actions.add_parser("page").add_argument("folders", type=Path, nargs="+")
    actions.add_parser("kernels")
    options, rest = parser.parse_known_args()
    if options.action == "record":
        record(options.folder, options.roundings, options.only, rest or ["tests/papers"])
    elif options.action == "page":
        write_page(options.folders)
    else:
        own = probe({})
        print(
            *(
                name
                for name in ("Haswell", "Sandybridge", "Nehalem", "Prescott")
                if probe({"OPENBLAS_CORETYPE": name}) not in (own, "")
            )
        )


def record(folder: Path, roundings: int, only: list[str] | None, tests: list[str]) -> None:
    """Run the tests in every environment."""
    folder.mkdir(parents=True, exist_ok=True)
    environments = find_kernels()
    avx2 = {"NPY_ENABLE_CPU_FEATURES": " ".join(numpy_features(version("numpy")))}
    environments |= {f"{name}, numpy at AVX2": own | avx2 for name, own in environments.items()}
    environments |= {"loops of numpy": {"MPINEWTON_KERNELS": "numpy"}}
    environments |= {f"rounding {seed}": {"MPINEWTON_ROUNDING": str(seed)} for seed in range(1, roundings + 1)}
    for name, environment in environments.items():
        target = (folder / f"{name.replace(' ', '-')}.json").resolve()
        if target.exists() or (only and name not in only):
            continue
        with target.with_suffix(".log").open("w") as log:
            options = ["-q", "-p", "processors", "-p", "no:cacheprovider", "--timeout=0"]
            path = os.pathsep.join([str(HERE), str(HERE / "scripts")])
            own = os.environ | environment | {"PYTHONPATH": path, "MPINEWTON_RECORD": str(target)}
            command = [sys.executable, "-m", "pytest", *options, *tests]
            code = subprocess.run(command, cwd=HERE, env=own, stdout=log, stderr=log).returncode
        print(f"{name}: pytest ended with {code}")


def find_kernels() -> dict[str, dict[str, str]]:
    """An environment for each kernel that runs here, by its own name; what became of each asked for is printed."""
    environments: dict[str, dict[str, str]] = {}
    for name in KERNELS:
        found = probe({"OPENBLAS_CORETYPE": name})
        print(f"{name}: {found or 'cannot run here'}")
        if found:
            environments.setdefault(found, {"OPENBLAS_CORETYPE": name})
    return environments


def probe(environment: dict[str, str]) -> str:
    """The kernel that runs in an environment; "" where the processor cannot run it."""
    tried = subprocess.run([sys.executable, "-c", PROBE], env=os.environ | environment, capture_output=True, text=True)
    return tried.stdout.strip() if tried.returncode == 0 else ""


# -- as a plugin of pytest: rows of all runs, and data rounded otherwise ----------------------------------------------


def pytest_configure(config: object) -> None:
    """Wrap the loop before the tests import it."""
    if "MPINEWTON_RECORD" in os.environ:
        import mpinewton.runs.loop as loop
        from mpinewton.fleet.worker import Worker

        loop.run = _recording(loop.run)
        if seed := os.environ.get("MPINEWTON_ROUNDING"):
            Worker.__init__ = _rounding(Worker.__init__, int(seed))


def pytest_sessionfinish(session: object, exitstatus: int) -> None:
    if target := os.environ.get("MPINEWTON_RECORD"):
        from rounding import ASKED

        Path(target).write_text(json.dumps({"runs": _runs, "gaps": ASKED}))


_runs: dict[str, list[list[list[float]]]] = collections.defaultdict(list)


def _recording(run):
    def recorded(*arguments, watchers=(), **options):
        from rounding import current_test  # tests/support is on pytest's path

        rows: list[list[float]] = []
        _runs[current_test()].append(rows)

        def watch(row, state):
            rows.append([row.iteration, row.rounds, row.loss, row.grad_norm, row.gap])

        return run(*arguments, watchers=[*watchers, watch], **options)

    return recorded


def _rounding(start, seed):
    """Dense features move one by one; columns of a sparse matrix as a whole, so that equal rows stay equal."""
    import numpy as np
    from scipy import sparse

    def begun(worker, index, shard, *rest, **options):
        X = shard.X
        if X.dtype == np.float64:
            unit, columns = np.finfo(float).eps, X.shape[1]
            if sparse.issparse(X):
                factors = 1 + unit * np.random.default_rng(seed).integers(-1, 2, columns)
                shard = replace(shard, X=sparse.csr_array(X @ sparse.diags_array(factors)))
            else:
                shard = replace(shard, X=X * (1 + unit * np.random.default_rng([seed, index]).integers(-1, 2, X.shape)))
        start(worker, index, shard, *rest, **options)

    return begun


# -- the page ---------------------------------------------------------------------------------------------------------

MARK = "<!-- From here on written by scripts/processors.py. -->\n"
JSON = HERE / "tests" / "support" / "rounding.json"
PAGE = HERE / "docs" / "processors.md"
GAPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
ITERATIONS, ROUNDS = (1, 2, 3), (30, 60, 120, 180)
PARTED = 1e-6  # relative difference of two losses that shows in figures of six digits
SHOWN = 1e-4  # and in the figures that the tests assert


def write_page(folders: list[Path]) -> None:
    """Where the runs part, for readers and for tests."""
    files = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    contents = {file.stem: json.loads(file.read_text()) for file in files}
    records = {name: content["runs"] for name, content in contents.items()}
    asked = {test: gaps for content in contents.values() for test, gaps in content["gaps"].items()}
    kernels = [name for name in records if not name.startswith("rounding")]
    roundings = [name for name in records if name.startswith("rounding")]
    tests = {test: max(len(r.get(test, ())) for r in records.values()) for r in records.values() for test in r}
    seen, lines, together = {}, [], 0
    for test, count in tests.items():
        for number in range(count):
            runs = {name: r[test][number] for name, r in records.items() if len(r.get(test, ())) > number}
            at = parting(list(runs.values()))
            if at is None:
                together += 1
                continue
            name = test if number == 0 else f"{test} run {number + 1}"
            gaps = asked.get(name, GAPS)
            ranges = ranges_of(list(runs.values()), gaps)
            seen[name] = {"parts": at, **ranges}
            if differ(ranges):
                cells = []
                for names in (kernels, roundings):
                    part = [runs[n] for n in names if n in runs]
                    cells.append(f"{len(part)}: {told(ranges_of(part, gaps), ranges)}")
                lines.append(f"| {name} | {at} | {' | '.join(cells)} |")
    about = {"kernels": kernels, "roundings": len(roundings)}
    JSON.write_text(json.dumps({**about, "runs": seen}, indent=1) + "\n")
    head, _, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(
        f"{head}{MARK}\n"
        f"The runs of the tests were repeated with {len(kernels)} kernels of OpenBLAS or loops of numpy "
        f"({'; '.join(name.replace('-', ' ') for name in kernels)}), and {len(roundings)} times with features moved at "
        "random by one unit in the last place (roundings). "
        f"Of {sum(tests.values())} runs {together} agree to {PARTED:g}, and {len(seen) - len(lines)} others agree to "
        f"{SHOWN:g} in all figures that the tests compare. The others are below: a cell has the number "
        "of kernels or roundings, and the range of every figure.\n\n"
        "A test accepts a figure within the range over kernels and roundings, widened on either side by its width, or "
        "by one iteration and 1e-4 of a loss where that is more. The reference's own figure must lie there, too. "
        "DiSCO's rounds may differ by one step of CG in every iteration.\n\n"
        "| run | differs from iteration | kernels | roundings |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def parting(runs: list[list[list[float]]]) -> int | None:
    """The first iteration at which losses differ; None where there is none."""
    for rows in zip(*runs):
        losses = [row[2] for row in rows]
        if not max(losses) - min(losses) <= PARTED * abs(losses[0]):
            return int(rows[0][0])
    return None if len({len(rows) for rows in runs}) == 1 else min(map(len, runs))


def ranges_of(runs: list[list[list[float]]], gaps: Sequence[float]) -> dict[str, dict[str, list[float]]]:
    """Least and largest of the figures that all runs have: rounds to gaps, and losses."""
    all_of = [figures(rows, gaps) for rows in runs]
    return {
        kind: {
            name: [min(f[kind][name] for f in all_of), max(f[kind][name] for f in all_of)]
            for name in (all_of[0][kind] if all_of else ())
            if all(name in f[kind] for f in all_of)
        }
        for kind in ("rounds", "losses")
    }


def figures(rows: list[list[float]], gaps: Sequence[float]) -> dict[str, dict[str, float]]:
    """What tests ask a run for."""
    rounds = {f"{gap:g}": next((row[1] for row in rows if row[4] <= gap), None) for gap in gaps}
    losses = {str(i): rows[i][2] for i in ITERATIONS if i < len(rows)}
    losses |= {f"{n} rounds": [row[2] for row in rows if row[1] <= n][-1] for n in ROUNDS if rows[-1][1] >= n - 5}
    return {"rounds": {gap: found for gap, found in rounds.items() if found is not None}, "losses": losses}


def differ(ranges: dict[str, dict[str, list[float]]]) -> bool:
    """Whether the range of a figure is more than its last digit."""
    losses = any(high - low > SHOWN * abs(high) for low, high in ranges["losses"].values())
    return losses or any(high > low for low, high in ranges["rounds"].values())


def told(part: dict[str, dict[str, list[float]]], whole: dict[str, dict[str, list[float]]]) -> str:
    """The ranges of those figures that differ anywhere."""
    texts = []
    for kind, unit in (("rounds", "rounds to {}"), ("losses", "loss {}")):
        for name, (low, high) in part[kind].items():
            bottom, top = whole[kind].get(name, (0, 0))
            if top - bottom > (SHOWN * abs(top) if kind == "losses" else 0):
                place = f"after iteration {name}" if name.isdigit() else f"within {name}"
                texts.append(f"{unit.format(name if kind == 'rounds' else place)}: {low:.6g} to {high:.6g}")
    return "<br>".join(texts)


if __name__ == "__main__":
    main()
