"""Predicted and measured seconds over emulated wide-area networks; Table 3 of the DINO paper in form.

    python benchmarks/wide_area.py [-o DIR] [--page FILE.md]       make wan writes docs/wide-area.md

Runs benchmarks/wide_area.toml, 6 ranks: on this machine as it is, and with every rank on a host of its own, joined by
links with a delay and a rate (scripts/wan.sh). The processors are the same, so what differs is the network. Finished
runs in DIR are not run again. Needs root for the networks.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path

import numpy as np

from mpinewton.data.manifest import Manifest
from mpinewton.experiments.grid import plain, read_experiment
from mpinewton.experiments.plan import CANDIDATES, estimate
from mpinewton.launcher import mpiexec
from mpinewton.methods.auto import Auto
from mpinewton.report.network import Network, read_network
from mpinewton.report.reading import RunRecord, read_run
from mpinewton.report.replay import replay
from mpinewton.report.tables import Table
from mpinewton.runs.job import Job, load_job, read_options

HERE = Path(__file__).resolve()
JOB, WAN = HERE.with_suffix(".toml"), HERE.parents[1] / "scripts" / "wan.sh"
EXPERIMENT = read_experiment(JOB)
LABELS = [method.label or method.method for method in EXPERIMENT.method]
PROBLEM, WORKERS = "drawn/logistic", 5
TURNS, CALIBRATION = ("1", "2"), "network.toml"
GOAL = 1e-4  # |g| at most so many times the first, for `plan`
CLOSE, NEAR = 0.25, 1.5  # of a prediction; of a choice, relative to the best
# Change of the number of iterations in an hour, going from one node to six continents.
PAPER = {"DINO": "+300%", "DINGO": "+300%", "GIANT": "+350%", "DiSCO": "+171%", "SGD": "-32%"}


@dataclass(frozen=True)
class Place:
    """A network: a delay in ms one way and a rate in Mbit/s; both 0: this machine as it is."""

    delay: int = 0
    rate: int = 0

    @property
    def name(self) -> str:
        return f"{self.delay} ms, {self.rate} Mbit/s" if self.delay else "one node"

    @property
    def command(self) -> list[str]:
        """What a command starts with here."""
        return ["bash", str(WAN), "-n", str(WORKERS + 1), "-d", str(self.delay), "-r", str(self.rate)]


NODE, *NETWORKS = Place(), *(Place(delay, rate) for rate in (10, 100) for delay in (5, 20, 50))


def main() -> None:
    """Run what has not been run, print the tables, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    tried = subprocess.run(["bash", str(WAN), "-n", "1", "true"], env=environment(), capture_output=True, text=True)
    if tried.returncode == 2:
        print(f"skipped: {tried.stderr.strip()}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        for turn, place in itertools.product(TURNS, (NODE, *NETWORKS)):
            run(place, folder / turn / plain(place.name))
        calibrate(folder / CALIBRATION)
        found = Comparison(folder)
        print("\n\n".join(f"{heading}\n{table.text()}" for heading, table in found.tables()))
        if options.page:
            options.page.write_text(page(found))
            draw(found, options.page.with_suffix(".png"))


def environment() -> dict[str, str]:
    return {**os.environ, "MPIEXEC": mpiexec()}


def run(place: Place, folder: Path) -> None:
    """Run the experiment in this place, into this folder."""
    print(f"{place.name} ...", flush=True)
    command = [sys.executable, "-m", "mpinewton", "compare", str(JOB), "-o", str(folder)]
    whole = [*place.command, *command] if place.delay else [*command, "--nproc", str(WORKERS)]
    subprocess.run(whole, env=environment(), check=True, stdout=subprocess.DEVNULL)


def calibrate(path: Path) -> None:
    """Measure what a message takes on this machine, unless it has been measured."""
    if not path.exists():
        doctor = [sys.executable, "-m", "mpinewton", "doctor", str(path.parent), "--network", str(path)]
        subprocess.run([*doctor, "--nproc", str(WORKERS)], check=True, stdout=subprocess.DEVNULL)


class Comparison:
    """The runs of a folder, by place and method.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.runs = {
            place: {label: faster(folder, f"{plain(place.name)}/{PROBLEM}/{plain(label)}") for label in LABELS}
            for place in (NODE, *NETWORKS)
        }
        self.message = read_network(str(folder / CALIBRATION)).message
        self.networks = {
            place: Network(latency=place.delay / 1e3, bandwidth=place.rate * 1e6, message=self.message)
            for place in NETWORKS
        }

    @cached_property
    def seconds(self) -> dict[tuple[str, Place], tuple[float, float]]:
        """Predicted and measured seconds to the last iterate of the run over the network, or of that on one node."""
        found = {}
        for place, network in self.networks.items():
            for label, there in self.runs[place].items():
                here = self.runs[NODE][label]
                last = min(run.last("iteration") for run in (here, there))
                rows = [int(np.searchsorted(run.columns["iteration"], last)) for run in (here, there)]
                predicted = float(replay(here, network).seconds[rows[0]])
                found[label, place] = predicted, float(there.columns["seconds"][rows[1]])
        return found

    @property
    def close(self) -> int:
        """Number of predictions that are close."""
        return sum(abs(p / m - 1) <= CLOSE for p, m in self.seconds.values())

    def tables(self) -> list[tuple[str, Table]]:
        """All tables, under their headings."""
        return [
            ("Predicted and measured seconds", self.predictions()),
            (f"The method that takes least to |g| <= {GOAL:g} |g_0|", self.choices()),
            ("Iterations a minute", self.speeds()),
            ("Claims of the DINO paper about Table 3", self.claims()),
        ]

    def predictions(self) -> Table:
        """Predicted and measured seconds, and their difference."""
        rows = []
        for label in LABELS:
            pairs = [self.seconds[label, place] for place in NETWORKS]
            rows.append((label, *(f"{p:.3g} / {m:.3g} ({p / m - 1:+.0%})" for p, m in pairs)))
        return Table(("method", *(place.name for place in NETWORKS)), rows)

    def choices(self) -> Table:
        """What `plan` and `auto` choose in each network, and what takes least as measured."""
        rows = []
        for place, network in self.networks.items():
            names = [label for label in LABELS if method_of(self.runs[NODE][label]) in CANDIDATES]
            taken = {label: seconds_to_goal(self.runs[place][label]) for label in names}
            jobs = {label: job_of(self.runs[NODE][label]) for label in names}
            plans = {label: estimate(self.runs[NODE][label], *jobs[label], network).seconds for label in names}
            planned = min(plans, key=lambda label: plans[label][::-1])
            job, manifest = jobs[planned]
            rule = Auto(latency=network.latency, rate=network.bandwidth).choose(job.plan(manifest).problem())
            chosen = next((label for label in names if jobs[label][0].algorithm == rule), None)
            best = min(taken, key=taken.__getitem__)
            predicted = f"{plans[planned][1]:.3g} s"
            ratios = [
                f"{each}, {taken[each]:.3g} s, {taken[each] / taken[best]:.2f}" for each in (planned, chosen) if each
            ]
            ratios += [] if chosen else [f"{rule.name}, other settings: not run"]
            rows.append((place.name, f"{best}, {taken[best]:.3g} s", predicted, *ratios))
        header = ("network", "least, measured", "plan predicts", "plan's choice, measured, ratio", "auto's")
        return Table(header, rows)

    def pace(self, label: str, place: Place) -> float:
        """Iterations a minute, the start left out."""
        run = self.runs[place][label]
        seconds = run.columns["seconds"]
        return 60 * run.last("iteration") / float(seconds[-1] - seconds[0])

    def speeds(self) -> Table:
        """Iterations a minute, and what the paper has."""
        rows = [(label, *(f"{self.pace(label, at):.3g}" for at in self.runs), PAPER.get(label, "")) for label in LABELS]
        return Table(("method", *(place.name for place in self.runs), "change in the paper"), rows)

    def claims(self) -> Table:
        """What the paper says of its Table 3, put to the runs."""
        rows: list[tuple[str, ...]] = []
        for place in NETWORKS:
            kept = {label: self.pace(label, place) / self.pace(label, NODE) for label in PAPER}
            second_order = [share for label, share in kept.items() if label != "SGD"]
            before, after = (self.pace("SGD", where) / self.pace("DINO", where) for where in (NODE, place))
            rows += [
                (claim, place.name, found, "holds" if truth else "does not hold")
                for claim, found, truth in (
                    (
                        "second-order methods do more iterations over the network than on one node (003, 4)",
                        f"{sum(share > 1 for share in second_order)} of {len(second_order)}",
                        min(second_order) > 1,
                    ),
                    (
                        "SGD loses more than any second-order method (003, Table 3)",
                        ", ".join(f"{label} keeps {share:.1%}" for label, share in kept.items()),
                        kept["SGD"] < min(second_order),
                    ),
                    (
                        "SGD's lead over DINO in iterations shrinks (003, Table 3: from 581 times to 99)",
                        f"from {before:.3g} times to {after:.3g}",
                        after < before,
                    ),
                )
            ]
        return Table(("claim", "network", "what was found", "verdict"), sorted(rows, key=lambda row: row[0]), 4)


def faster(folder: Path, name: str) -> RunRecord:
    """Of the turns, the run that took least for an iteration: what else computes here makes runs slower."""
    runs = [read_run(folder / turn / name) for turn in TURNS]
    return min(runs, key=lambda run: run.last("seconds") / max(1, run.last("iteration")))


def method_of(run: RunRecord) -> str:
    return str(run.config["method"])


def job_of(run: RunRecord) -> tuple[Job, Manifest]:
    """The job of a run with the goal of `plan`, and the manifest of its data."""
    return load_job(Job.of({**read_options(run.folder / "config.toml"), "rtol": GOAL}, str(run.folder)))


def seconds_to_goal(run: RunRecord) -> float:
    """Seconds until the goal; infinite where it was not reached."""
    norms = run.columns["grad_norm"]
    reached = np.flatnonzero(norms <= GOAL * norms[0])
    return float(run.columns["seconds"][reached[0]]) if len(reached) else inf


def draw(found: Comparison, path: Path) -> None:
    """Predicted against measured seconds, one mark for every method and network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    for place, mark in zip(NETWORKS, "os^DvP"):
        pairs = np.array([found.seconds[label, place] for label in LABELS])
        axes.loglog(pairs[:, 0], pairs[:, 1], mark, label=place.name, alpha=0.8)
    ends = np.array([0.8 * min(map(min, found.seconds.values())), 1.2 * max(map(max, found.seconds.values()))])
    axes.plot(ends, ends, color="0.5", linewidth=1)
    axes.fill_between(ends, ends / (1 + CLOSE), ends / (1 - CLOSE), color="0.9", label="within 25 %")
    axes.set(xlabel="predicted seconds", ylabel="measured seconds", xlim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def page(found: Comparison) -> str:
    """The page, in Markdown."""
    stop, cores = EXPERIMENT.stop, len(os.sched_getaffinity(0))
    text = EXPERIMENT.text.format(
        seconds=stop["max_seconds"], most=stop["max_iterations"], cores=cores, ranks=WORKERS + 1,
        message=1e6 * found.message, close=found.close, cells=len(found.seconds),
        goal=GOAL,
    )  # fmt: skip
    sections = [f"# {EXPERIMENT.title}", text.strip(), "Written by the runs themselves; `make wan` does them again."]
    for heading, table in found.tables():
        sections += [f"## {heading}", table.markdown()]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
