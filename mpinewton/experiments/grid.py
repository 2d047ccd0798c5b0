"""A comparison as its TOML file describes it: every objective on every data set by every method, setting and seed.

    title     heading of the page; `text`: what stands below it; `bits_per_float`: restate bits as if a float had these
    quantity  what the figures show: gap, loss, grad_norm, test_accuracy, test_loss; decided by the runs if left out
    axes      what they show it against; ["rounds", "bits", "seconds"] if left out
    seeds     of the methods' random numbers; [0] if left out
    measure_every  what is recorded but not used by a method: at every so many iterates
    [[data]]  `name`, and `folder` (shards packed before) or `source` with options of `mpinewton pack` by their names:
              workers, partition, sample, seed, scale, dtype, storage, rows, features, format, label_column,
              allow_partial_last_line; `test`: rows to test on
    [[objective]]  `loss`; `name`, for headings and files, where the loss's is too long; `l2`, one number or several;
              `intercept`; `start`; `data`: names of the data it is for, all if left out
    [[method]]     `method`; `label`; `settings`, where a list means one run for every value; `on`: patterns of the
              problems it is for, "a9a/*" for one
    [[claim]] what is said of the methods, put to the runs: the fields of `mpinewton.experiments.claims.Claim`
    [stop]    the stops of `mpinewton run` by their names: tol, rtol, gap, reference, max_iterations, ...

A section of which there is one may be written [data], [objective], [method]. Paths are relative to the file; $NAME in
them is an environment variable.
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

from mpinewton.data.sources import RECIPES, absolute
from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.experiments.claims import Claim
from mpinewton.runs.job import Job, read_options

STOPS = ("tol", "rtol", "gap", "reference", "max_iterations", "max_rounds", "max_bits", "max_seconds")
NAMED_STARTS = ("auto", "zero")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections."""


class Data(Section, frozen=True, kw_only=True):
    """Where rows come from."""

    name: str
    folder: str | None = None
    test: str | None = None
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
    label_column: str | None = None
    allow_partial_last_line: bool = False


class Objective(Section, frozen=True, kw_only=True):
    """What is minimised."""

    loss: str
    name: str | None = None
    l2: float | list[float] | None = None
    intercept: bool = False
    start: str = "auto"
    data: list[str] | None = None


class Runner(Section, frozen=True, kw_only=True):
    """Who minimises it."""

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
    axes: tuple[Literal["rounds", "bits", "seconds"], ...] = ("rounds", "bits", "seconds")
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
    """One run of a comparison. `problem` names data and objective, `label` the method with what is varied."""

    data: Data
    problem: str
    label: str
    job: Job

    @property
    def name(self) -> str:
        """The run folder inside the comparison's."""
        return f"{self.problem}/{plain(self.label)}"


def read_experiment(path: Path) -> Experiment:
    """Read and check the file; paths come out absolute.

    Raises
    ------
    ConfigError
        If something in it is unknown, missing or of the wrong kind, naming the place.
    """
    content = read_options(path)
    _refuse_unknown(content, Experiment, str(path))
    for name, section in SECTIONS.items():
        tables = content.get(name, [])
        content[name] = tables = [tables] if isinstance(tables, dict) else tables
        if not tables and name != "claim":
            raise ConfigError(f"{path}: there is no [[{name}]], and a comparison needs at least one")
        for number, table in enumerate(tables if isinstance(tables, list) else [], 1):
            _refuse_unknown(table, section, f"{path}: [[{name}]] number {number}")
    stop = content.get("stop", {})
    for key in stop if isinstance(stop, dict) else ():
        if key not in STOPS:
            raise ConfigError(f"{path}: [stop] has no {key!r}{did_you_mean(key, STOPS)}")
    try:
        experiment = msgspec.convert(content, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    _refuse_contradiction(experiment, path)
    return msgspec.structs.replace(
        experiment,
        title=experiment.title or path.stem,
        file=_shown(path),
        digest=_digest(content),
        data=[_located(data, path.parent, ("folder", "source", "test")) for data in experiment.data],
        objective=[_located(objective, path.parent, ("start",)) for objective in experiment.objective],
    )


def cells(experiment: Experiment, folder: Path, only: str = "") -> list[Cell]:
    """The runs of the comparison in `folder`, all or those whose name fits the pattern, in the order of the file.

    Raises
    ------
    ConfigError
        If a job is not valid as far as can be told without data, two have the same name, or none fits.
    """
    found: dict[str, Cell] = {}
    for data, objective in itertools.product(experiment.data, experiment.objective):
        if objective.data is None or data.name in objective.data:
            for cell in _cells_of(experiment, data, objective, folder):
                if cell.name in found:
                    raise ConfigError(f"two runs would be called {cell.name}: give the methods different labels")
                found[cell.name] = cell
    for claim in experiment.claim:
        claim.check(list(dict.fromkeys(cell.label for cell in found.values())))
    chosen = [cell for name, cell in found.items() if not only or fnmatch(name, f"*{only}*")]
    if not chosen:
        raise ConfigError(f"--only {only!r} fits no run; there are: {', '.join(found)}")
    return chosen


def packed_folder(data: Data, folder: Path) -> Path:
    """Where the shards are."""
    return folder / "data" / data.name if data.folder is None else Path(data.folder)


def plain(text: str) -> str:
    """A text as a file name."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.")


def variants(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Every choice from the lists among nested settings, and the words that tell it from the others."""
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
            told = (*words, f"seed {seed}") if len(experiment.seeds) > 1 else words
            label = ", ".join([runner.label or runner.method, *told])
            content = {
                "method": runner.method, "settings": settings, "seed": seed,
                "data": str(packed_folder(data, folder)), "test": data.test,
                "loss": objective.loss, "l2": l2, "intercept": objective.intercept, "start": objective.start,
                "measure_every": experiment.measure_every,
                **experiment.stop,
            }  # fmt: skip
            try:
                job = Job.of(content, "settings")
                job.check()
            except ConfigError as error:
                raise ConfigError(f"{problem}, {label}: {error}") from None
            yield Cell(data, problem, label, job)


def _objective_name(objective: Objective, l2: float | None) -> str:
    parts = [objective.name or objective.loss, *([] if l2 is None else [f"l2={l2:g}"])]
    parts += ["intercept"] if objective.intercept else []
    return plain("-".join(parts if objective.start in NAMED_STARTS else [*parts, Path(objective.start).name]))


def _refuse_unknown(table: object, section: type[msgspec.Struct], where: str) -> None:
    known = {field.name for field in msgspec.structs.fields(section)}
    for key in table if isinstance(table, dict) else ():
        if key not in known:
            raise ConfigError(f"{where} has no {key!r}{did_you_mean(key, known)}")


def _digest(content: Mapping[str, Any]) -> str:
    """Of all that is run, shown and claimed: what a page says in full, title and text, is left out."""
    asked = {name: part for name, part in content.items() if name not in ("title", "text")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _refuse_contradiction(experiment: Experiment, path: Path) -> None:
    names = [data.name for data in experiment.data]
    for data in experiment.data:
        where = f"{path}: data {data.name!r}"
        if plain(data.name) != data.name or not data.name:
            raise ConfigError(f"{where}: the name becomes a folder: letters, digits and - _ . = + only")
        if names.count(data.name) > 1:
            raise ConfigError(f"{where}: this name is there twice; give every data set its own")
        if (data.folder is None) == (data.source is None):
            raise ConfigError(f"{where}: give either folder (shards packed before) or source (to be packed)")
        if data.source is not None and data.workers is None:
            raise ConfigError(f"{where}: workers is missing: on how many is {data.source} to be packed?")
    for objective in experiment.objective:
        for name in objective.data or ():
            if name not in names:
                raise ConfigError(f"{path}: objective {objective.loss!r}: no data {name!r}{did_you_mean(name, names)}")


def _located(section: Any, base: Path, names: Iterable[str]) -> Any:
    """The section, its paths absolute."""
    texts = {name: text for name in names if (text := getattr(section, name)) is not None}
    fixed = {name: _path(text, base) for name, text in texts.items() if not _is_recipe(text)}
    return msgspec.structs.replace(section, **fixed)


def _shown(path: Path) -> str:
    """The path as one would type it from where the command was given."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _is_recipe(text: str) -> bool:
    return text.startswith((*RECIPES, "optimum")) or text in NAMED_STARTS


def _path(text: str, base: Path) -> str:
    expanded = os.path.expandvars(text)
    if missing := re.search(r"\$\{?(\w+)", expanded):
        name = missing[1]
        raise ConfigError(f"{text}: the environment variable {name} is not set; say export {name}=FOLDER first")
    return absolute(expanded, base)
