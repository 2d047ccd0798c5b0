"""The Markdown page of a comparison: figures, tables and claims, as the runs themselves found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpinewton.experiments.claims import Claim, judged, tallied
from mpinewton.report.reading import RunRecord
from mpinewton.report.tables import Table, kilobits_to, rounds_to, summary

APART = {
    False: "Rows stay with their workers",
    True: "Rows travel to the driver",
}


def apart(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """The runs whose rows stay and those whose rows travel, each under its heading; an empty one where all stay."""
    if not any(run.rows_travel for run in runs):
        return {"": list(runs)}
    return {heading: [run for run in runs if run.rows_travel is travel] for travel, heading in APART.items()}


def tables(runs: Sequence[RunRecord], bits_per_float: int | None = None) -> list[tuple[str, Table]]:
    """How the runs of one problem ended, and rounds and bits to each level, kept apart by where the rows are."""
    return [
        (heading, table)
        for heading, group in apart(runs).items()
        if group
        for table in (
            summary(group, bits_per_float),
            rounds_to(group),
            kilobits_to(group, bits_per_float=bits_per_float),
        )
        if len(table.header) > 1  # there is a level that is come to
    ]


def sheet(
    title: str,
    text: str,
    problems: Mapping[str, Sequence[RunRecord]],
    claims: Sequence[Claim],
    figures: Mapping[str, str],
    command: str,
    bits_per_float: int | None = None,
    digest: str = "",
) -> str:
    """The page.

    Parameters
    ----------
    text : what the experiment says of itself.
    problems : runs by problem, in order.
    figures : problem -> where its picture is, seen from the page.
    command : how to redo it.
    bits_per_float : restate the bits as if a float had this many.
    digest : of the experiment, by which one can tell a page that is out of date.
    """
    parts = [f"# {title}", *([text.strip()] if text.strip() else [])]
    parts.append(f"Written by the runs themselves; `{command}` does them again.")
    verdicts = judged(claims, problems, bits_per_float)
    if claims:
        parts += ["## Claims", tallied(verdicts).markdown()]
    for problem, runs in problems.items():
        parts.append(f"## {problem}")
        if problem in figures:
            parts.append(f"![{problem}: how the runs went]({figures[problem]})")
        last = None
        for heading, table in tables(runs, bits_per_float):
            if heading != last and heading:
                parts.append(f"### {heading}")
            last = heading
            parts.append(table.markdown())
    if claims:
        parts += ["## Claims, problem by problem", verdicts.markdown()]
    parts.append(_provenance([run for runs in problems.values() for run in runs], digest))
    return "\n\n".join(parts) + "\n"


def _provenance(runs: Sequence[RunRecord], digest: str) -> str:
    """Versions and data of the runs and the experiment they are of, in a sentence."""
    versions = {f"{name} {version}" for run in runs for name, version in run.result.get("versions", {}).items()}
    data = {str(run.result["data_sha256"])[:12] for run in runs if "data_sha256" in run.result}
    job = f"; experiment {digest}" if digest else ""
    return f"Made with {', '.join(sorted(versions))}; data {', '.join(sorted(data))}{job}."
