"""comparison.json: what a folder of a comparison holds, for the report, also while runs are in progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpinewton.durable import write_whole
from mpinewton.errors import DataError
from mpinewton.experiments.claims import Claim, count_verdicts, verdicts
from mpinewton.experiments.grid import Cell, Experiment
from mpinewton.report.curves import bits_up
from mpinewton.report.html import Page
from mpinewton.report.reading import RunRecord, by_problem, read_run, read_runs

FILE = "comparison.json"
NUMBERS = ("iteration", "rounds", "seconds", "loss", "grad_norm", "gap", "test_accuracy", "test_loss")


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an experiment that its report shows.

    Attributes
    ----------
    title, text, digest, bits_per_float, quantity, axes, claim
        As of the experiment.
    command : str
        The command that generates the page.
    runs : dict of str to (str, str)
        Problem and label of every run, by the name of its folder.
    """

    title: str
    text: str = ""
    command: str = ""
    digest: str = ""
    bits_per_float: int | None = None
    quantity: str | None = None
    axes: tuple[str, ...] = ("rounds", "bits", "seconds")
    claim: tuple[Claim, ...] = ()
    runs: dict[str, tuple[str, str]] = {}

    def problems(self, folder: Path) -> dict[str, list[RunRecord]]:
        """The runs that have begun, by problem."""
        found: dict[str, list[RunRecord]] = {}
        for name, (problem, label) in self.runs.items():
            if (folder / name / "history.csv").exists():
                found.setdefault(problem, []).append(replace(read_run(folder / name), label=label))
        return found


def write_contents(experiment: Experiment, everything: Mapping[str, Cell], folder: Path) -> Contents:
    """Write what the folder of an experiment will hold."""
    asked = "--bits portable " if experiment.bits == "portable" else ""
    contents = Contents(
        title=experiment.title, text=experiment.text, digest=experiment.digest,
        command=f"mpinewton compare {experiment.file} {asked}-o DIR", bits_per_float=experiment.bits_per_float,
        quantity=experiment.quantity, axes=experiment.axes, claim=tuple(experiment.claim),
        runs={name: (cell.problem, cell.label) for name, cell in everything.items()},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / FILE, msgspec.json.format(msgspec.json.encode(contents)) + b"\n")
    return contents


def read_page(folder: Path, title: str | None = None) -> Page:
    """The page about a comparison, a run folder, or all runs inside a folder.

    Raises
    ------
    DataError
        If the folder contains no run, or a file is malformed.
    """
    if not (folder / FILE).is_file():
        return Page(title or folder.resolve().name, by_problem(read_runs([folder])))
    try:
        contents = msgspec.json.decode((folder / FILE).read_bytes(), type=Contents)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{folder / FILE} cannot be read: {error}; run `mpinewton compare` again") from None
    return page_of(contents, contents.problems(folder), title)


def page_of(contents: Contents, problems: Mapping[str, Sequence[RunRecord]], title: str | None = None) -> Page:
    """The page about a comparison."""
    table = verdicts(contents.claim, problems, contents.bits_per_float)
    claims = [("Claims", count_verdicts(table)), ("Claims by problem", table)]
    return Page(
        title or contents.title, problems, contents.text, claims if contents.claim else (), contents.axes,
        contents.quantity, contents.bits_per_float, contents.command, contents.digest,
    )  # fmt: skip


def document(page: Page) -> dict[str, Any]:
    """What the page shows, JSON-able: the last iterate of every run, and the claims."""
    return {
        "title": page.title,
        "bits_per_float": page.bits_per_float,
        "problems": {
            problem: [_facts(run, page.bits_per_float) for run in runs] for problem, runs in page.problems.items()
        },
        "claims": [dict(zip(page.claims[-1][1].header, row)) for row in page.claims[-1][1].rows] if page.claims else [],
    }


def _facts(run: RunRecord, bits_per_float: int | None) -> dict[str, Any]:
    bits = bits_up(run, bits_per_float)
    last = {name: run.last(name) for name in NUMBERS} | {"bits_up": float(bits[-1]) if len(bits) else np.nan}
    return {
        "label": run.label, "folder": str(run.folder), "ending": run.ending, "reason": run.reason,
        "rows_travel": run.rows_travel,
        **{name: value if np.isfinite(value) else None for name, value in last.items()},
    }  # fmt: skip
