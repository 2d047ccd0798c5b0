"""The TOML file of a comparison: every objective on every data set, with every method, setting and seed.

    title     heading of the page; `text`: its introduction; `bits_per_float`: restate bits as if a float had this many
    quantity  quantity of the figures: gap, loss, grad_norm, test_accuracy or test_loss; by default it depends on the
              runs
    axes      horizontal axes of the figures; ["rounds", "bits", "seconds"] by default; "seconds:NETWORK" is the time
              on a network that `mpinewton replay` knows
    bits      "fast" by default; "portable": the same bits on every x86-64 processor with AVX2
    seeds     seeds of the methods' random numbers; [0] by default. Figures and tables show the median and the range; a
              method for which the first two seeds give the same bits is not run for others
    measure_every  number of iterations between measurements of what a method does not compute itself; 1 by default
    [[data]]  `name`, and `folder` (packed shards) or `source` with options of `mpinewton pack` by their names: workers,
              partition, sample, seed, scale, dtype, storage, rows, features, format, label_column,
              allow_partial_last_line; `test`: test data; `test_reading`: how they are read, a table of format, header,
              delimiter, label_column, weight_column, allow_partial_last_line
    [[objective]]  `loss`; `name`, for headings and files, by default that of the loss; `l2`, a number or a list;
              `intercept`; `start`; `data`: names of data sets, by default all
    [[method]]     `method`; `label`; `settings`, where a list means one run for each value; `on`: patterns of problems,
              such as ["a9a/*"], by default all
    [[claim]] a claim that is tested on the runs: the fields of `mpinewton.experiments.claims.Claim`
    [stop]    stopping rules of `mpinewton run` by their names: tol, rtol, gap, reference, max_iterations, ...

A single section may be written [data], [objective] or [method]. Paths are relative to the file; $NAME in them is an
environment variable.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpinewton.bits import Bits
from mpinewton.data.sources import RECIPES, absolute
from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.experiments.claims import Claim
from mpinewton.extensions import resolve_paths, shown
from mpinewton.report.curves import axis_title
from mpinewton.runs.job import Job, ReadingOptions, read_options

STOPS = ("tol", "rtol", "gap", "reference", "max_iterations", "max_rounds", "max_bits", "max_seconds")
NAMED_STARTS = ("auto", "zero")
VARIABLE = re.compile(r"\$\{?(\w+)")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections."""


class Data(Section, frozen=True, kw_only=True):
    """A data set: packed shards, or a source to pack."""

    name: str
    folder: str | None = None
    test: str | None = None
    test_reading: ReadingOptions = ReadingOptions()
    source: str | None = None
    workers: int | None = None
    partition: str = "iid"
    seed: int = 0
    scale: str = "1"
    storage: str = "auto"
    dtype: str | None = None  # auto
    rows: int | None = None
    sample: int | None = None
    features: int | None = None
    format: str = "auto"
    header: bool | None = None  # recognised
    delimiter: str | None = None  # recognised
    label_column: str | None = None
    weight_column: str | None = None
    categories: Literal["error", "onehot"] = "error"
    missing: Literal["error", "mean", "indicator"] = "error"
    standardize: bool = False
    class_weight: str | None = None
    allow_partial_last_line: bool = False


class Objective(Section, frozen=True, kw_only=True):
    """An objective."""

    loss: str
    name: str | None = None
    l2: float | list[float] | None = None
    intercept: bool = False
    start: str = "auto"
    data: list[str] | None = None


class Runner(Section, frozen=True, kw_only=True):
    """A method with its settings."""

    method: str
    label: str | None = None
    settings: dict[str, Any] = {}
    on: list[str] | None = None


class Experiment(Section, frozen=True, kw_only=True):
    """The whole file."""

    title: str = ""
    text: str = ""
    file: str = ""
    digest: str = ""
    bits_per_float: int | None = None
    quantity: Literal["gap", "loss", "grad_norm", "test_accuracy", "test_loss"] | None = None
    axes: tuple[str, ...] = ("rounds", "bits", "seconds")
    bits: Bits = "fast"
    seeds: tuple[int, ...] = (0,)
    measure_every: int | None = None
    data: list[Data]
    objective: list[Objective]
    method: list[Runner]
    claim: list[Claim] = []
    stop: dict[str, Any] = {}


SECTIONS: dict[str, type[msgspec.Struct]] = {"data": Data, "objective": Objective, "method": Runner, "claim": Claim}


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes
    ----------
    data : Data
    problem : str
        Name of data and objective.
    label : str
        Name of the method, with the settings and the seed that vary.
    series : str
        The label without the seed.
    job : Job
    """

    data: Data
    problem: str
    label: str
    series: str
    job: Job

    @property
    def name(self) -> str:
        """The run folder inside the comparison's."""
        return f"{self.problem}/{plain(self.label)}"


def read_experiment(path: Path, bits: str | None = None) -> Experiment:
    """Read and validate the file, and make its paths absolute.

    Parameters
    ----------
    path : Path
    bits : str, optional
        "fast" or "portable"; takes precedence over the file.

    Raises
    ------
    ConfigError
        If an entry is unknown, missing or of the wrong type.
    """
    content = read_options(path)
    _check_names(content, Experiment, str(path))
    for name, section in SECTIONS.items():
        tables = content.get(name, [])
        content[name] = tables = [tables] if isinstance(tables, dict) else tables
        if not tables and name != "claim":
            raise ConfigError(f"{path}: [[{name}]] is missing; a comparison needs at least one")
        for number, table in enumerate(tables if isinstance(tables, list) else [], 1):
            _check_names(table, section, f"{path}: [[{name}]] number {number}")
    stop = content.get("stop", {})
    for key in stop if isinstance(stop, dict) else ():
        if key not in STOPS:
            raise ConfigError(f"{path}: [stop]: unknown entry {key!r}{did_you_mean(key, STOPS)}")
    try:
        experiment = msgspec.convert(content, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check_consistency(experiment, path)
    return msgspec.structs.replace(
        experiment,
        bits=bits or experiment.bits,
        title=experiment.title or path.stem,
        file=_relative(path),
        digest=_digest(content),
        data=[_with_absolute_paths(data, path.parent, ("folder", "source", "test")) for data in experiment.data],
        objective=[
            _with_absolute_paths(objective, path.parent, ("start", "loss")) for objective in experiment.objective
        ],
        method=[_with_absolute_paths(runner, path.parent, ("method",)) for runner in experiment.method],
    )


def cells(experiment: Experiment, folder: Path, only: str = "") -> list[Cell]:
    """The runs of the comparison, in the order of the file.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Folder of the comparison.
    only : str
        A pattern that the names of the runs must match; "" for all.

    Raises
    ------
    ConfigError
        If a job is not valid, two runs have the same name, no name matches, or data that are used are not known.
    """
    found = all_cells(experiment, folder)
    chosen = [cell for name, cell in found.items() if not only or fnmatch(name, f"*{only}*")]
    if not chosen:
        raise ConfigError(f"--only {only!r} matches no run; choose from: {', '.join(found)}")
    for cell in chosen:
        used = (cell.data.folder, cell.data.source, cell.data.test, cell.job.start, cell.job.loss, cell.job.method)
        _require_variables(used)
    return chosen


def all_cells(experiment: Experiment, folder: Path) -> dict[str, Cell]:
    """All runs of the comparison by name, also those whose data are not known here. Raises ConfigError as `cells`."""
    found: dict[str, Cell] = {}
    for data, objective in itertools.product(experiment.data, experiment.objective):
        if objective.data is None or data.name in objective.data:
            for cell in _cells_of(experiment, data, objective, folder):
                if cell.name in found:
                    raise ConfigError(f"two runs have the name {cell.name}; give the methods different labels")
                found[cell.name] = cell
    for claim in experiment.claim:
        claim.check(list(dict.fromkeys(cell.label for cell in found.values())))
    return found


def packed_folder(data: Data, folder: Path) -> Path:
    """The folder of the shards."""
    return folder / "data" / data.name if data.folder is None else Path(data.folder)


def plain(text: str) -> str:
    """The text as a file name."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")


def variants(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """All combinations of the lists in nested settings, each with words such as "solver=lsmr" that name the choice."""
    options: list[list[tuple[dict[str, Any], tuple[str, ...]]]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            options.append([({key: part}, words) for part, words in variants(value, f"{prefix}{key}.")])
        elif isinstance(value, list):
            options.append([({key: one}, (f"{prefix}{key}={one}",)) for one in value])
        else:
            options.append([({key: value}, ())])
    return [
        ({key: value for part, _ in choice for key, value in part.items()}, tuple(w for _, ws in choice for w in ws))
        for choice in itertools.product(*options)
    ]


def _cells_of(experiment: Experiment, data: Data, objective: Objective, folder: Path) -> Iterable[Cell]:
    many = objective.l2 if isinstance(objective.l2, list) else [objective.l2]
    for l2, runner in itertools.product(many, experiment.method):
        problem = f"{data.name}/{_objective_name(objective, l2)}"
        if runner.on is not None and not any(fnmatch(problem, pattern) for pattern in runner.on):
            continue
        for (settings, words), seed in itertools.product(variants(runner.settings), experiment.seeds):
            series = ", ".join([runner.label or shown(runner.method), *words])
            label = f"{series}, seed {seed}" if len(experiment.seeds) > 1 else series
            content = {
                "method": runner.method, "settings": settings, "seed": seed,
                "data": str(packed_folder(data, folder)), "test": data.test,
                "test_reading": msgspec.to_builtins(data.test_reading),
                "loss": objective.loss, "l2": l2, "intercept": objective.intercept, "start": objective.start,
                "bits": experiment.bits,
                "measure_every": experiment.measure_every or 1,
                **experiment.stop,
            }  # fmt: skip
            try:
                job = Job.of(content, "settings")
                job.check()
            except ConfigError as error:
                raise ConfigError(f"{problem}, {label}: {error}") from None
            yield Cell(data, problem, label, series, job)


def _objective_name(objective: Objective, l2: float | None) -> str:
    parts = [objective.name or shown(objective.loss), *([] if l2 is None else [f"l2={l2:g}"])]
    parts += ["intercept"] if objective.intercept else []
    return plain("-".join(parts if objective.start in NAMED_STARTS else [*parts, Path(objective.start).name]))


def _check_names(table: object, section: type[msgspec.Struct], where: str) -> None:
    known = {field.name for field in msgspec.structs.fields(section)}
    for key in table if isinstance(table, dict) else ():
        if key not in known:
            raise ConfigError(f"{where}: unknown entry {key!r}{did_you_mean(key, known)}")


def _digest(content: Mapping[str, Any]) -> str:
    """Digest of the experiment without title and text, which a page contains in full."""
    entries = {name: part for name, part in content.items() if name not in ("title", "text")}
    return hashlib.sha256(json.dumps(entries, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _check_consistency(experiment: Experiment, path: Path) -> None:
    for axis in experiment.axes:
        axis_title(axis)
    names = [data.name for data in experiment.data]
    for data in experiment.data:
        where = f"{path}: data {data.name!r}"
        if plain(data.name) != data.name or not data.name:
            raise ConfigError(f"{where}: the name is that of a folder; expected letters, digits and - _ . = + only")
        if names.count(data.name) > 1:
            raise ConfigError(f"{where}: two data sets have this name; give each its own")
        if (data.folder is None) == (data.source is None):
            raise ConfigError(f"{where}: give either folder (packed shards) or source (to pack)")
        if data.source is not None and data.workers is None:
            raise ConfigError(f"{where}: workers is missing: the number of workers to pack {data.source} for")
        packing = [name for name in Data.__struct_fields__ if name not in ("name", "folder", "test", "test_reading")]
        given = [name for name in packing if getattr(data, name) != getattr(Data(name=""), name)]
        if data.folder is not None and given:
            raise ConfigError(f"{where}: {given[0]} has no effect on shards that are packed already; remove it")
    for objective in experiment.objective:
        for name in objective.data or ():
            if name not in names:
                raise ConfigError(
                    f"{path}: objective {objective.loss!r}: unknown data {name!r}{did_you_mean(name, names)}"
                )


def _with_absolute_paths(section: Any, base: Path, names: Iterable[str]) -> Any:
    """The section with absolute paths in these fields."""
    texts = {name: text for name in names if (text := getattr(section, name)) is not None}
    own = {name: resolve_paths(text, base) for name, text in texts.items() if name in ("method", "loss")}
    fixed = {name: _path(text, base) for name, text in texts.items() if not (name in own or _is_recipe(text))} | own
    return msgspec.structs.replace(section, **fixed)


def _relative(path: Path) -> str:
    """The path relative to the working folder; the name alone if it lies elsewhere."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _is_recipe(text: str) -> bool:
    return text.startswith((*RECIPES, "optimum")) or text in NAMED_STARTS


def _path(text: str, base: Path) -> str:
    """The absolute path; the text itself if it has an environment variable that is not set."""
    expanded = os.path.expandvars(text)
    return text if VARIABLE.search(expanded) else absolute(expanded, base)


def _require_variables(texts: Iterable[object]) -> None:
    """Refuse a path of which an environment variable is not set. Raises ConfigError."""
    for text in texts:
        if isinstance(text, str) and (missing := VARIABLE.search(text)):
            name = missing[1]
            raise ConfigError(f"{text}: the environment variable {name} is not set; set it with export {name}=FOLDER")
