"""The runs of an experiment, one after the other, and what is drawn of them."""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import tomli_w

from mpinewton.data.blocks import Reading
from mpinewton.data.manifest import FILE, Manifest
from mpinewton.data.pack import pack
from mpinewton.errors import ConfigError, DataError, Interrupted, MpinewtonError
from mpinewton.experiments.claims import judged
from mpinewton.experiments.grid import Cell, Data, Experiment, cells, packed_folder, plain
from mpinewton.experiments.page import sheet, tables
from mpinewton.report.figures import draw
from mpinewton.report.html import page
from mpinewton.report.reading import RunRecord, read_run
from mpinewton.runs.execute import execute
from mpinewton.runs.folder import RunFolder
from mpinewton.runs.job import Job, load_job
from mpinewton.runs.signals import caught

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

log = logging.getLogger("mpinewton")


def compare(
    session: Session,
    experiment: Experiment,
    folder: Path,
    only: str = "",
    fresh: bool = False,
    page_file: Path | None = None,
) -> int:
    """Do what is missing of an experiment, and draw all of it; the exit code. `page_file`: where to write it up, too.

    Everything is checked before the first run starts. A run that fails is shown, and the others go on.

    Raises
    ------
    MpinewtonError
        If something does not fit: then no run was started.
    """
    chosen = cells(experiment, folder, only)
    with caught() as signals:
        for data in {cell.data.name: cell.data for cell in chosen}.values():
            _provide(data, folder, session, fresh)
        ready = [_ready(cell, folder, fresh) for cell in chosen]
        codes = []
        for number, (cell, job, manifest) in enumerate(ready, 1):
            if signals.name:
                log.info("signal %s: run the same command again to go on", signals.name)
                return 3
            log.info("[%d of %d] %s", number, len(ready), cell.name)
            codes.append(_code(session, job, manifest, folder / cell.name, fresh))
            if codes[-1] == 3:
                return 3
        _report(experiment, cells(experiment, folder), folder, page_file)
    return max(codes)


def _provide(data: Data, folder: Path, session: Session, fresh: bool) -> None:
    """Have the data packed, once: what was asked for is kept beside them."""
    if data.source is None:
        return
    target = packed_folder(data, folder)
    note = target.with_name(f"{data.name}.toml")
    options = msgspec.to_builtins(msgspec.structs.replace(data, test=None))
    asked = tomli_w.dumps({name: value for name, value in options.items() if value is not None})
    if (target / FILE).exists():
        if note.exists() and note.read_text() == asked:
            return
        if not fresh:
            raise ConfigError(f"{target}: was packed in another way than asked for now; --fresh packs it again")
    log.info("packing %s", data.name)
    note.unlink(missing_ok=True)
    assert data.workers is not None
    reading = Reading(
        format=data.format, features=data.features, rows=data.rows, label_column=data.label_column,
        allow_partial_last_line=data.allow_partial_last_line,
    )  # fmt: skip
    pack(
        data.source, target, data.workers, partition=data.partition, sample=data.sample, seed=data.seed,
        scale=data.scale, storage=data.storage, dtype=data.dtype or "auto", overwrite=fresh, reading=reading,
        each=session.each,
    )  # fmt: skip
    note.write_text(asked)


def _ready(cell: Cell, folder: Path, fresh: bool) -> tuple[Cell, Job, Manifest]:
    """The cell's job, completed, if it can run in its folder."""
    try:
        job, manifest = load_job(cell.job)
        RunFolder(folder / cell.name, job.identity(manifest), fresh)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{cell.name}: {error}") from None
    return cell, job, manifest


def _code(session: Session, job: Job, manifest: Manifest, path: Path, fresh: bool) -> int:
    """Run one cell; 0 where it finished or used up its budget, 1 where it failed, 3 where it is to be continued."""
    try:
        code: int = execute(session, job, manifest, path, fresh)["exit_code"]
    except Interrupted as error:
        log.info("stopped %s", error)
        return error.exit_code
    except MpinewtonError as error:
        log.error("failed: %s", error)
        return 1
    return code


def _report(experiment: Experiment, everything: Sequence[Cell], folder: Path, page_file: Path | None) -> None:
    """Figures, tables and claims of every problem, and one page, of all runs there are."""
    problems: dict[str, list[RunRecord]] = {}
    for cell in everything:
        if (folder / cell.name / "history.csv").exists():
            run = replace(read_run(folder / cell.name), label=cell.label)
            problems.setdefault(cell.problem, []).append(run)
    width = experiment.bits_per_float
    figures = _drawn(experiment, problems, folder)
    for problem, records in problems.items():
        for heading, table in tables(records, width):
            log.info("\n%s %s\n%s", problem, heading and f"({heading.lower()})", table.text())
    if experiment.claim:
        log.info("\n%s", judged(experiment.claim, problems, width).text())
    folder.mkdir(parents=True, exist_ok=True)
    command = f"mpinewton compare {experiment.file} -o DIR"
    for file in filter(None, (folder / "tables.md", page_file)):
        beside = _beside(figures, file)
        text = sheet(
            experiment.title, experiment.text, problems, experiment.claim, beside, command, width, experiment.digest
        )
        file.write_text(text, encoding="utf-8")
    if figures:
        runs = list(itertools.chain.from_iterable(problems.values()))
        (folder / "report.html").write_text(page(runs, experiment.title), encoding="utf-8")
        log.info("\n%s", folder / "report.html")


def _drawn(experiment: Experiment, problems: Mapping[str, Sequence[RunRecord]], folder: Path) -> dict[str, Path]:
    """A figure of every problem that has something to show."""
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("no figures and no page without matplotlib: pip install mpinewton[plot]")
        return {}
    figures = {}
    for problem, records in problems.items():
        path = folder / f"{plain(problem.replace('/', '-'))}.png"
        try:
            title, runs = problem.replace("/", ", "), _told_apart(records)
            draw(runs, path, experiment.axes, experiment.quantity, experiment.bits_per_float, title)
        except MpinewtonError as error:
            log.warning("%s: nothing to draw: %s", problem, error)
            continue
        figures[problem] = path
    return figures


def _told_apart(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records, labels saying whose rows travel where those of others stay."""
    mixed = len({run.rows_travel for run in records}) == 2
    return [replace(run, label=f"{run.label} (rows travel)") if mixed and run.rows_travel else run for run in records]


def _beside(figures: Mapping[str, Path], file: Path) -> dict[str, str]:
    """The figures as a page sees them: copied beside it, named after it, where it lies elsewhere."""
    names = {}
    for problem, path in figures.items():
        name = path.name
        if file.parent.resolve() != path.parent.resolve():
            name = f"{file.stem}-{path.name}"
            file.with_name(name).write_bytes(path.read_bytes())
        names[problem] = name
    return names
