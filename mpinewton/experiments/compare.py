"""Runs an experiment and writes its figures, tables and pages."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import tomli_w

from mpinewton.data.blocks import Reading
from mpinewton.data.manifest import FILE, Manifest
from mpinewton.data.pack import pack
from mpinewton.durable import alone_in
from mpinewton.errors import ConfigError, DataError, FolderBusyError, Interrupted, MpinewtonError
from mpinewton.experiments.claims import verdicts
from mpinewton.experiments.contents import Contents, page_of, write_contents
from mpinewton.experiments.grid import Cell, Data, Experiment, all_cells, cells, packed_folder, plain
from mpinewton.experiments.page import latex_tables, markdown_page
from mpinewton.report.figures import draw
from mpinewton.report.html import mark_travelling
from mpinewton.report.reading import RunRecord, are_equal, read_result
from mpinewton.report.tables import tables, write_runs
from mpinewton.runs.execute import execute, introduce
from mpinewton.runs.folder import RunFolder
from mpinewton.runs.job import Job, load_job
from mpinewton.signals import Signals, catch_signals

if TYPE_CHECKING:
    from mpinewton.fleet.transport.session import Session

BUSY_SECONDS = 5.0  # between two looks at runs of other processes
log = logging.getLogger("mpinewton")


def compare(
    session: Session,
    experiment: Experiment,
    folder: Path,
    only: str = "",
    fresh: bool = False,
    page_file: Path | None = None,
    number: int | None = None,
    memory: str | None = None,
) -> int:
    """Run the missing runs of an experiment and write the report. If a run fails, the others continue.

    Parameters
    ----------
    session : Session
    experiment : Experiment
    folder : Path
        Where the runs, figures, tables and report.html are written.
    only : str
        A pattern; only runs whose names match it are run.
    fresh : bool
        Whether to move older runs aside.
    page_file : Path, optional
        Where to write the Markdown page, besides `folder`.
    number : int, optional
        Which run to run, from 1 on, as one task of an array; no report is then written.
    memory : str, optional
        Memory limit of a rank, such as "2G".

    Returns
    -------
    int
        Exit code: 0 if all runs finished, 1 if some failed, 3 if interrupted.

    Raises
    ------
    ConfigError, DataError
        If the experiment is not valid, before the first run starts.
    """
    chosen = cells(experiment, folder, only)
    chosen = chosen if number is None else [chosen[number - 1]]
    introduce(session, experiment.bits)
    with catch_signals() as signals:
        for data in {cell.data.name: cell.data for cell in chosen}.values():
            _pack(data, folder, session, fresh)
        ready = [_prepare(cell, folder, fresh, memory) for cell in chosen]
        contents = write_contents(experiment, all_cells(experiment, folder), folder)
        code = _run_all(session, ready, folder, fresh, signals)
        if code == 3:
            return code
        if number is None:
            with alone_in(folder / ".reporting", "is writing the report"):
                _report(contents, folder, page_file)
    return code


def _run_all(
    session: Session, ready: Sequence[tuple[Cell, Job, Manifest]], folder: Path, fresh: bool, signals: Signals
) -> int:
    """Run the cells; those that another process runs come last, when it has ended. Returns the exit code of all."""
    left, codes = list(enumerate(ready, 1)), [0]
    while left:
        busy = []
        for position, (cell, job, manifest) in left:
            if signals.name:
                log.info("signal %s: run the same command again to continue", signals.name)
                return 3
            if _seed_makes_no_difference(cell, [other for other, *_ in ready[: position - 1]], folder):
                log.info("[%d of %d] %s draws no random numbers: left out", position, len(ready), cell.name)
                continue
            log.info("[%d of %d] %s", position, len(ready), cell.name)
            try:
                codes.append(_run_cell(session, job, manifest, folder / cell.name, fresh))
            except FolderBusyError:
                log.info("another process runs it; back to it later")
                busy.append((position, (cell, job, manifest)))
            if codes[-1] == 3:
                return 3
        if len(busy) == len(left):
            time.sleep(BUSY_SECONDS)
        left = busy
    return max(codes)


def _pack(data: Data, folder: Path, session: Session, fresh: bool) -> None:
    """Pack the data, unless they have been packed with the same options, which are saved beside them."""
    if data.source is None:
        return
    target = packed_folder(data, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(target.with_name(f".{data.name}.comparing"), f"is packing {data.name}"):
        _pack_missing(data, target, session, fresh)


def _pack_missing(data: Data, target: Path, session: Session, fresh: bool) -> None:
    assert data.source is not None
    note = target.with_name(f"{data.name}.toml")
    options = msgspec.to_builtins(data)
    about_test = ("test", "test_reading")
    packing = tomli_w.dumps({k: value for k, value in options.items() if value is not None and k not in about_test})
    if (target / FILE).exists():
        if note.exists() and note.read_text(encoding="utf-8") == packing:
            return
        if not fresh:
            raise ConfigError(f"{target} was packed with other options; --fresh packs it again")
    log.info("packing %s", data.name)
    note.unlink(missing_ok=True)
    assert data.workers is not None
    reading = Reading(
        format=data.format, features=data.features, rows=data.rows, header=data.header, delimiter=data.delimiter,
        label_column=data.label_column, weight_column=data.weight_column, categories=data.categories,
        missing=data.missing, allow_partial_last_line=data.allow_partial_last_line,
    )  # fmt: skip
    pack(
        data.source, target, data.workers, partition=data.partition, sample=data.sample, seed=data.seed,
        scale=data.scale, storage=data.storage, dtype=data.dtype or "auto", standardize=data.standardize,
        class_weight=data.class_weight, overwrite=fresh, reading=reading, each=session.each,
    )  # fmt: skip
    note.write_text(packing, encoding="utf-8")


def _prepare(cell: Cell, folder: Path, fresh: bool, memory: str | None) -> tuple[Cell, Job, Manifest]:
    """The cell, its complete job and the manifest. Raises ConfigError or DataError if it cannot run in its folder."""
    try:
        job, manifest = load_job(msgspec.structs.replace(cell.job, memory=memory))
        RunFolder(folder / cell.name, job.identity(manifest), fresh)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{cell.name}: {error}") from None
    return cell, job, manifest


def _seed_makes_no_difference(cell: Cell, before: Sequence[Cell], folder: Path) -> bool:
    """Whether two earlier cells that differ from this one in the seed alone gave the same bits."""
    repeats = [other for other in before if (other.problem, other.series) == (cell.problem, cell.series)]
    results = [result for other in repeats if (result := read_result(folder / other.name))]
    return len(results) > 1 and are_equal(results)


def _run_cell(session: Session, job: Job, manifest: Manifest, path: Path, fresh: bool) -> int:
    """Run one cell. Returns 0 if it finished, 1 if it failed, 3 if it was interrupted. Raises FolderBusyError."""
    try:
        code: int = execute(session, job, manifest, path, fresh)["exit_code"]
    except Interrupted as error:
        log.info("%s", error)
        return error.exit_code
    except FolderBusyError:
        raise
    except MpinewtonError as error:
        log.error("failed: %s", error)
        return 1
    return code


def _report(contents: Contents, folder: Path, page_file: Path | None) -> None:
    """Write figures, tables, claims and pages of all runs that exist."""
    problems = contents.problems(folder)
    width = contents.bits_per_float
    figures = _draw_figures(contents, problems, folder)
    for problem, records in problems.items():
        for heading, group in tables(records, width).items():
            for table in group:
                log.info("\n%s %s\n%s", problem, heading and f"({heading.lower()})", table.text())
    if contents.claim:
        log.info("\n%s", verdicts(contents.claim, problems, width).text())
    for file in filter(None, (folder / "tables.md", page_file)):
        text = markdown_page(contents, problems, _place_figures(figures, file))
        file.write_text(text, encoding="utf-8")
    (folder / "tables.tex").write_text(latex_tables(problems, width), encoding="utf-8")
    with (folder / "runs.csv").open("w", newline="", encoding="utf-8") as lines:
        write_runs(problems, lines, width)
    (folder / "report.html").write_text(page_of(contents, problems).html(), encoding="utf-8")
    log.info("\n%s", folder / "report.html")


def _draw_figures(contents: Contents, problems: Mapping[str, Sequence[RunRecord]], folder: Path) -> dict[str, Path]:
    """Draw a figure of every problem. Returns the paths by problem."""
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("figures need matplotlib: pip install mpinewton[plot]")
        return {}
    figures = {}
    for problem, records in problems.items():
        path = folder / f"{plain(problem.replace('/', '-'))}.png"
        try:
            title, runs = problem.replace("/", ", "), mark_travelling(records)
            draw(runs, path, contents.axes, contents.quantity, contents.bits_per_float, title)
        except MpinewtonError as error:
            log.warning("%s: no figure: %s", problem, error)
            continue
        figures[problem] = path
    return figures


def _place_figures(figures: Mapping[str, Path], file: Path) -> dict[str, str]:
    """Names of the figures relative to a page; if it lies in another folder, they are copied beside it."""
    names = {}
    for problem, path in figures.items():
        name = path.name
        if file.parent.resolve() != path.parent.resolve():
            name = f"{file.stem}-{path.name}"
            file.with_name(name).write_bytes(path.read_bytes())
        names[problem] = name
    return names
