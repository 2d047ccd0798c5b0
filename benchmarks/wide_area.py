"""Iterations in a minute on one node and over an emulated wide-area network: Table 3 of the DINO paper in form.

    python benchmarks/wide_area.py [-o DIR] [--page FILE.md]       make wan writes docs/wide-area.md

Runs benchmarks/wide_area.toml, 6 ranks: on this machine as it is, and with every rank on a host of its own, joined by
links with a delay and a rate (scripts/wan.sh). The processors are the same, so what differs is the network. Finished
runs in DIR are not run again. Needs root for the network, and MPINEWTON_DATA or the data sets beside the checkout.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mpinewton.experiments.grid import plain, read_experiment
from mpinewton.launcher import mpiexec
from mpinewton.report.reading import RunRecord, read_run
from mpinewton.report.tables import Table

HERE = Path(__file__).resolve()
JOB, WAN, SHARED = (
    HERE.with_suffix(".toml"),
    HERE.parents[1] / "scripts" / "wan.sh",
    HERE.parents[2] / "shared" / "data",
)
WORKERS = 5
PROBLEMS = ("digits/softmax", "mnist/softmax")
HOPS = math.ceil(math.log2(WORKERS + 1))  # from the first to the last of the ranks, by a binomial tree
# Change of the number of iterations in an hour, going from one node to six continents.
PAPER = {
    "DINO": "+300%",
    "DINGO": "+300%",
    "GIANT": "+350%",
    "DiSCO": "+171%",
    "InexactDANE": "+128%",
    "AIDE": "+127%",
    "SGD": "-32%",
}
SECOND_ORDER = tuple(PAPER)[:-1]
BUSY, IDLE = ("DINO", "DINGO", "GIANT"), ("DiSCO", "InexactDANE", "AIDE", "SGD")


@dataclass(frozen=True)
class Place:
    """Where the ranks are: a delay in ms one way and a rate in Mbit/s, or all on one node."""

    name: str
    delay: float = 0.0
    rate: float = 0.0


PLACES = (Place("one node"), Place("10 ms", 10, 100), Place("50 ms", 50, 100))


@dataclass(frozen=True)
class Pace:
    """What an iteration took: wall seconds, those of the slowest rank's work, rounds and floats of a worker's link."""

    seconds: float
    compute: float
    rounds: float
    floats: float
    iterations: int
    loss: float

    @property
    def a_minute(self) -> float:
        return 60 / self.seconds

    def predicted(self, place: Place) -> float:
        """Seconds an iteration over the network, of a pace on one node."""
        return self.seconds + self.rounds * place.delay / 1e3 + self.floats * 64 / (place.rate * 1e6)


Paces = dict[str, dict[str, Pace]]  # place -> method -> pace


def main() -> None:
    """Run what has not been run, print the tables, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("MPINEWTON_DATA", str(SHARED))
    if not Path(os.environ["MPINEWTON_DATA"]).exists():
        print("skipped: no MPINEWTON_DATA, and the data sets are not beside the checkout")
        return
    tried = subprocess.run(["bash", str(WAN), "-n", "1", "true"], env=environment(), capture_output=True, text=True)
    if tried.returncode == 2:
        print(f"skipped: {tried.stderr.strip()}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        for problem, place in itertools.product(PROBLEMS, PLACES):
            run(place, folder / plain(place.name), problem)
        problems = {problem: paces(folder, problem) for problem in PROBLEMS}
    parts = [table for problem, found in problems.items() for table in tables(problem, found)]
    judgement = claims(problems)
    print("\n\n".join(f"{heading}\n{table.text()}" for heading, table in [*parts, ("claims", judgement)]))
    if options.page:
        options.page.write_text(page(parts, judgement))


def environment() -> dict[str, str]:
    return {**os.environ, "MPIEXEC": mpiexec()}


def run(place: Place, folder: Path, problem: str) -> None:
    """Have one problem of the job run in this place, into this folder."""
    compare = [sys.executable, "-m", "mpinewton", "compare", str(JOB), "-o", str(folder), "--only", problem]
    if place.delay:
        network = ["-n", str(WORKERS + 1), "-d", str(place.delay), "-r", str(place.rate)]
        command = ["bash", str(WAN), *network, *compare]
    else:
        command = [*compare, "--nproc", str(WORKERS)]
    print(f"{problem}, {place.name} ...", flush=True)
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)


def paces(folder: Path, problem: str) -> Paces:
    """Every method's pace in every place."""
    labels = [method.label or method.method for method in read_experiment(JOB).method]
    return {
        place.name: {label: pace(read_run(folder / plain(place.name) / problem / plain(label))) for label in labels}
        for place in PLACES
    }


def pace(record: RunRecord) -> Pace:
    """The pace of a run, its start left out."""
    columns, iterations = record.columns, int(record.last("iteration"))
    if not iterations:
        raise SystemExit(f"{record.folder}: no iteration was finished; give the runs more max_seconds in {JOB.name}")
    with (record.folder / "ledger.csv").open(newline="") as file:
        entries = [entry for entry in csv.DictReader(file) if int(entry["iteration"]) > 0]
    rounds = len({entry["round"] for entry in entries})
    floats = sum(int(entry["floats"]) for entry in entries)
    compute = sum(float(entry["compute"]) for entry in entries)
    seconds = float(columns["seconds"][-1] - columns["seconds"][0])
    each = (total / iterations for total in (seconds, compute, rounds, floats))
    return Pace(*each, iterations, float(columns["loss"][-1]))


def tables(problem: str, found: Paces) -> list[tuple[str, Table]]:
    """The tables of a problem, under their headings."""
    return [
        (f"{problem}: iterations a minute", speeds(found)),
        (f"{problem}: an iteration in milliseconds, and where they go", costs(found)),
        (f"{problem}: loss at the end", losses(found)),
    ]


def speeds(found: Paces) -> Table:
    """Iterations a minute, and what the network takes of them."""
    node, far = found[PLACES[0].name], [place.name for place in PLACES[1:]]
    rows = [
        (
            label,
            f"{one.a_minute:.4g}",
            *(f"{found[name][label].a_minute:.4g}" for name in far),
            *(f"{found[name][label].a_minute / one.a_minute - 1:+.0%}" for name in far),
            PAPER.get(label, ""),
        )
        for label, one in node.items()
    ]
    return Table(("method", "one node", *far, *(f"change at {name}" for name in far), "paper"), rows)


def costs(found: Paces) -> Table:
    """An iteration's rounds and floats, its milliseconds, and what they were predicted to be."""
    node, far = found[PLACES[0].name], PLACES[1:]
    rows = []
    for label, one in node.items():
        there = [(place, found[place.name][label]) for place in far]
        rows.append(
            (
                *(label, f"{one.rounds:.4g}", f"{one.floats:.4g}", f"{1e3 * one.seconds:.3g}"),
                f"{one.compute / one.seconds:.0%}",
                *(f"{1e3 * s:.3g}" for place, pace in there for s in (one.predicted(place), pace.seconds)),
                *("-" if math.isnan(times := excess(one, pace, place)) else f"{times:.2g}" for place, pace in there),
            )
        )
    header = ["method", "rounds", "floats", "one node", "of it work"]
    header += [cell for place in far for cell in (f"{place.name} predicted", "measured")]
    return Table((*header, *(f"added / predicted at {place.name}" for place in far)), rows)


def losses(found: Paces) -> Table:
    """Where the methods were when time was up."""
    node = found[PLACES[0].name]
    rows = [(label, *(f"{found[place.name][label].loss:.4f}" for place in PLACES)) for label in node]
    return Table(("method", *(place.name for place in PLACES)), rows)


def excess(one: Pace, other: Pace, place: Place) -> float:
    """How many times the predicted seconds the network added; NaN where these are few beside the others."""
    expected = one.predicted(place) - one.seconds
    return math.nan if expected < one.seconds / 2 else (other.seconds - one.seconds) / expected


def claims(problems: dict[str, Paces]) -> Table:
    """What the paper says of its Table 3, and we of ours, put to the runs."""
    rows: dict[str, list[tuple[str, ...]]] = {}  # by claim
    for (problem, paces_there), place in itertools.product(problems.items(), PLACES[1:]):
        node, there = paces_there[PLACES[0].name], paces_there[place.name]
        for claim, found, truth in [*judged(node, there), forecast(node, there, place)]:
            words = "holds" if truth else "does not hold"
            rows.setdefault(claim, []).append((claim, f"{problem}, {place.name}", found, words))
    header = ("claim", "problem, network", "what was found", "verdict")
    return Table(header, list(itertools.chain(*rows.values())), 4)


def judged(node: dict[str, Pace], there: dict[str, Pace]) -> list[tuple[str, str, bool]]:
    """Claims, what was found and whether they hold, for one problem and one network."""
    kept = {label: there[label].a_minute / node[label].a_minute for label in node}
    shares = {label: f"{label} {share:.1%}" for label, share in kept.items()}
    faster = [label for label in SECOND_ORDER if kept[label] > 1]
    busy, idle = min(BUSY, key=kept.__getitem__), max(IDLE, key=kept.__getitem__)
    lowest = min(PAPER, key=lambda label: there[label].loss)
    before, after = (paces["SGD"].a_minute / paces["DINO"].a_minute for paces in (node, there))
    dino, adaptive, sgd = (there[label].loss for label in ("DINO", "DINO adaptive", "SGD"))
    return [
        (
            "second-order methods do more iterations over the network than on one node (003, 4 and Table 3)",
            f"{len(faster)} of {len(SECOND_ORDER)}",
            len(faster) == len(SECOND_ORDER),
        ),
        ("SGD does fewer (003, Table 3)", f"keeps {shares['SGD']}", kept["SGD"] < 1),
        (
            "SGD loses more than any second-order method (003, Table 3)",
            f"keep {', '.join(shares[label] for label in PAPER)}",
            kept["SGD"] < min(kept[label] for label in SECOND_ORDER),
        ),
        (
            "DINO, DINGO and GIANT, which compute most, keep most (003, 4)",
            f"least of these {shares[busy]}, most of the others {shares[idle]}",
            kept[busy] > kept[idle],
        ),
        (
            "SGD's lead over DINO in iterations shrinks (003, Table 3: from 581 times to 99)",
            f"from {before:.3g} times to {after:.3g}",
            after < before,
        ),
        (
            "(ours) at the end DINO has a lower loss than SGD (not claimed)",
            f"DINO {dino:.4f}, SGD {sgd:.4f}; lowest of the paper's methods: {lowest}",
            dino < sgd,
        ),
        (
            "(ours) DINO adaptive has a lower loss then than DINO as published (not claimed)",
            f"{adaptive:.4f}, {dino:.4f}",
            adaptive < dino,
        ),
    ]


def forecast(node: dict[str, Pace], there: dict[str, Pace], place: Place) -> tuple[str, str, bool]:
    """The claim that rounds and bits tell what a network costs, up to the depth of the trees."""
    factors = {label: excess(node[label], there[label], place) for label in node}
    told = {label: factor for label, factor in factors.items() if not math.isnan(factor)}
    claim = f"(ours) the network adds at most {HOPS} times what was predicted, the depth of the trees (not claimed)"
    if not told:
        return claim, "it should add little to any", True
    least, most = min(told, key=told.__getitem__), max(told, key=told.__getitem__)
    found = f"from {told[least]:.2g} times ({least}) to {told[most]:.2g} ({most})"
    return claim, found, told[most] <= HOPS


def page(parts: list[tuple[str, Table]], found: Table) -> str:
    """The page, in Markdown."""
    experiment, cores = read_experiment(JOB), len(os.sched_getaffinity(0))
    stop = experiment.stop
    text = experiment.text.format(
        seconds=stop["max_seconds"], most=stop["max_iterations"], cores=cores, ranks=WORKERS + 1,
        slower=max(1, WORKERS / cores), hops=HOPS,
    )  # fmt: skip
    sections = [f"# {experiment.title}", text.strip(), "Written by the runs themselves; `make wan` does them again."]
    sections += ["## Claims", found.markdown()]
    for heading, table in parts:
        sections += [f"## {heading}", table.markdown()]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
