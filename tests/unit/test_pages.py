"""The pages of docs/ that runs have written: each of the experiment as it is now, and with the figures it gives."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from mpinewton.experiments import compare as comparison
from mpinewton.experiments.grid import cells, read_experiment
from mpinewton.fleet.transport.session import LocalSession

HERE = Path(__file__).parents[2]
PAPERS = HERE / "docs" / "papers"
WRITTEN = re.compile(
    r"^Written by the runs themselves; `mpinewton compare (jobs/\w+\.toml) -o DIR` does them again\.$", re.M
)
PAGES = {path.stem: found[1] for path in sorted((PAPERS).glob("*.md")) if (found := WRITTEN.search(path.read_text()))}


def sections(page: str) -> dict[str, list[list[str]]]:
    """The rows of all tables under each heading, split into cells, headers and rules left out."""
    found: dict[str, list[list[str]]] = {}
    heading, previous = "", ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| --") and previous.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("| ").split(" | ")])
        previous = line
    return found


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somewhere for the data, which are not read."""
    monkeypatch.setenv("MPINEWTON_DATA", os.environ.get("MPINEWTON_DATA", "/data"))


def test_there_are_pages():
    assert len(PAGES) >= 16


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_of_its_experiment_as_it_is_now(name):
    experiment, page = read_experiment(HERE / PAGES[name]), (PAPERS / f"{name}.md").read_text()
    again = f"docs/papers/{name}.md is out of date: mpinewton compare {PAGES[name]} -o DIR --page docs/papers/{name}.md"
    assert page.startswith("\n\n".join(filter(None, (f"# {experiment.title}", experiment.text.strip(), "Written"))))
    assert page.endswith(f"; experiment {experiment.digest}.\n"), again
    assert "| running " not in page, again
    tables, runs = sections(page), {}
    for cell in cells(experiment, Path("runs")):
        runs.setdefault(cell.problem, set()).add(cell.label.replace("|", r"\|"))
    assert {problem: {row[0] for row in tables.get(problem, [])} for problem in runs} == runs, again
    said = {claim.says + (f" ({claim.source})" if claim.source else "") for claim in experiment.claim}
    assert {row[0] for row in tables.get("Claims", [])} == said, again
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page):
        assert (PAPERS / picture).exists(), picture


def test_a_page_has_the_figures_that_its_runs_give(tmp_path, monkeypatch):
    """Three of the quick runs of the PISA paper's Figure 4: all cells but the seconds."""
    job, some = read_experiment(HERE / "jobs" / "pisa_quadratics.toml"), "4[ad]/*[=.][58]"
    monkeypatch.setattr(comparison, "_drawn", lambda *_: {})  # pictures take longer than the runs
    assert comparison.compare(LocalSession(), job, tmp_path / "c", some, page_file=tmp_path / "page.md") == 0
    new, old = (sections(path.read_text()) for path in (tmp_path / "page.md", PAPERS / "pisa-quadratics.md"))
    new, old = (
        {heading: [without_seconds(row) for row in rows] for heading, rows in page.items()} for page in (new, old)
    )
    assert sorted(new) == ["4a/squared-l2=0", "4d/squared-l2=0", "Claims", "Claims, problem by problem"]
    assert {row[0] for row in new["4a/squared-l2=0"] + new["4d/squared-l2=0"]} == {
        "Hessian, sigma=8", "SISA, k0, gamma=0.5", "SISA, k0, gamma=0.8",
    }  # fmt: skip
    for heading in ("4a/squared-l2=0", "4d/squared-l2=0", "Claims, problem by problem"):
        for row in new[heading]:
            assert row in old[heading]


def without_seconds(row: list[str]) -> list[str]:
    return row[:5] + row[6:] if len(row) == 7 else row
