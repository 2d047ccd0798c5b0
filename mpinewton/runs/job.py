"""The configuration of one run: validated before data are read, saved in full, compared when the run is resumed."""

from __future__ import annotations

import json
import math
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from mpinewton.bits import Bits
from mpinewton.data.manifest import Manifest, read_manifest
from mpinewton.data.sources import absolute
from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.extensions import resolve_paths, shown, source_sha256, verify
from mpinewton.fleet import Plan
from mpinewton.losses import make_loss
from mpinewton.methods import METHODS
from mpinewton.methods.settings import make_method, settings_of
from mpinewton.methods.support.method import Algorithm
from mpinewton.runs import stopping
from mpinewton.runs.memory import parse_size


class ReadingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How test data are read: those fields of `mpinewton.data.blocks.Reading` that `mpinewton pack` has options for."""

    format: str = "auto"
    header: bool | None = None
    delimiter: str | None = None
    label_column: str | None = None
    weight_column: str | None = None
    allow_partial_last_line: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The options of `mpinewton run`. None: not given; `loss` and `l2` then depend on the data."""

    method: str
    data: str
    settings: dict[str, Any] = {}
    loss: str | None = None
    l2: float | None = None
    intercept: bool = False
    seed: int = 0
    dtype: Literal["float64", "float32"] = "float64"
    sums: Literal["fixed", "mpi"] = "fixed"
    bits: Bits = "fast"
    start: str = "auto"
    reference: str | None = None
    test: str | None = None
    test_reading: ReadingOptions = ReadingOptions()
    measure_every: int | None = None
    tol: float | None = None
    rtol: float | None = None
    ftol: float | None = None
    gap: float | None = None
    max_iterations: int | None = None
    max_rounds: int | None = None
    max_bits: float | None = None
    max_seconds: float | None = None
    max_hours: float | None = None
    rank_timeout: float | None = None
    memory: str | None = None
    checkpoint_seconds: float = 600.0
    method_sha256: str | None = None  # of the file of an own method or loss
    loss_sha256: str | None = None

    # A run is resumed only if these are equal; the other options may change.
    IDENTITY = ("method", "settings", "loss", "l2", "intercept", "seed", "dtype", "sums", "bits", "start")

    @cached_property
    def algorithm(self) -> Algorithm:
        """The method with its settings. Raises ConfigError."""
        return make_method(self.method, self.settings)

    def check(self) -> None:
        """Validate what can be validated without data.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range, or the options contradict one another.
        """
        verify(self.method, self.method_sha256)
        method = self.algorithm
        if self.loss is not None:
            method.validate_loss(make_loss(self.loss, self.loss_sha256))
        if self.l2 == math.inf:
            raise ConfigError("--l2 inf: expected a finite number")
        bounds = {"l2": 0, "seed": 0, "measure_every": 1, "max_hours": 0, "rank_timeout": 1, "checkpoint_seconds": 0}
        for name, bound in bounds.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise ConfigError(f"--{name.replace('_', '-')} {value!r}: expected a number of at least {bound}")
        if self.memory is not None:
            parse_size(self.memory)
        if self.gap is not None and self.reference is None:
            raise ConfigError("--gap needs the optimal value: add --reference auto or --reference VALUE")
        if self.test is None and (given := list(msgspec.to_builtins(self.test_reading))):
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is for test data; add --test, or give it to mpinewton pack"
            )
        if optimum_shift(self.start) is not None and self.reference != "auto":
            raise ConfigError(f"--start {self.start} needs the optimal weights: add --reference auto")
        self.stops()

    def complete(self, manifest: Manifest) -> Job:
        """The same job with all defaults filled in.

        Raises
        ------
        ConfigError, DataError
            If the loss does not suit the method or the labels.
        """
        named = resolve_paths(self.loss or default_loss(manifest), Path())
        method, loss = self.algorithm, make_loss(named, self.loss_sha256)
        method.validate_loss(loss)
        loss.validate(manifest.features + self.intercept, manifest.classes, self.intercept)
        test = absolute(self.test, Path()) if self.test else None  # so that the run can be resumed from anywhere
        job = msgspec.structs.replace(
            self,
            method=method.name if METHODS.get(method.name) is type(method) else resolve_paths(self.method, Path()),
            method_sha256=source_sha256(self.method, type(method)),
            settings=settings_of(method),
            data=str(Path(self.data).resolve()),
            test=test,
            loss=named,
            loss_sha256=source_sha256(named, type(loss)),
            l2=1.0 / manifest.rows if self.l2 is None else self.l2,
            **stopping.default_stops(msgspec.structs.asdict(self)),
        )
        method.validate(job.plan(manifest).problem())
        return job

    def stops(self) -> list[stopping.Stop]:
        """The stopping rules that the options give. Raises ConfigError."""
        return stopping.make_stops(msgspec.structs.asdict(self))

    def plan(self, manifest: Manifest) -> Plan:
        """The plan of the fleet. The job must be complete."""
        assert self.loss is not None and self.l2 is not None
        return Plan(
            self.data, manifest, self.loss, self.l2, self.seed, self.intercept, self.dtype, self.sums, self.loss_sha256
        )  # fmt: skip

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """What must be equal for a run to be resumed; JSON-able."""
        kept = {name: getattr(self, name) for name in self.IDENTITY}
        return kept | self.names() | {"data_sha256": manifest.data_sha256}

    def names(self) -> dict[str, str]:
        """Names of method and loss, and the digests of their files, which may move with the run."""
        assert self.loss is not None
        digests = {"method_sha256": self.method_sha256, "loss_sha256": self.loss_sha256}
        names = {"method": shown(self.method), "loss": shown(self.loss)}
        return names | {name: digest for name, digest in digests.items() if digest}

    def toml(self) -> str:
        """The job as text of a TOML file, which `read_options` and `Job.of` read back."""
        content = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        content["settings"] = _without_none(content["settings"])
        content = {name: value for name, value in content.items() if name != "test_reading" or value}
        return tomli_w.dumps(content)

    @classmethod
    def of(cls, content: dict[str, Any], where: str) -> Job:
        """A job from names and values of options; `where` is named in errors. Raises ConfigError."""
        known = {field.name for field in msgspec.structs.fields(cls)}
        for name in content:
            if name not in known:
                raise ConfigError(f"{where}: unknown option {name!r}{did_you_mean(name, known)}")
        for name in ("method", "data"):
            if name not in content:
                raise ConfigError(f"{name.upper()} is missing: write mpinewton run METHOD DATA, or give it in --config")
        try:
            return msgspec.convert(content, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {error}") from None


def read_options(path: Path) -> dict[str, Any]:
    """The options of a TOML file, for `Job.of`. Raises ConfigError."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    if "\\u0000" in json.dumps(content, default=str).replace("\\\\", ""):
        raise ConfigError(f"{path}: a text contains a NUL character (\\u0000), which no name or path may contain")
    return content


def optimum_shift(start: str) -> float | None:
    """C of a start `optimum+C`; None for other starts. Raises ConfigError."""
    if not start.startswith("optimum"):
        return None
    try:
        shift = float(start.removeprefix("optimum") or 0)
    except ValueError:
        shift = math.nan
    if not math.isfinite(shift):
        raise ConfigError(f"--start {start!r}: expected optimum+C with a number C, as in optimum+0.1")
    return shift


# Labels of more distinct whole numbers than this are a regression, unless a loss is given.
MAX_CLASSES = 50


def default_loss(manifest: Manifest) -> str:
    """The loss for such labels: logistic for two classes, softmax for more, squared for numbers."""
    if manifest.classes is None or len(manifest.classes) > MAX_CLASSES:
        return "squared"
    return "logistic" if len(manifest.classes) == 2 else "softmax"


def load_job(job: Job) -> tuple[Job, Manifest]:
    """The job with all defaults filled in, and the manifest of its data. Raises ConfigError or DataError."""
    job.check()  # before the data are read: a typing error is reported before a missing folder
    manifest = read_manifest(Path(job.data))
    return job.complete(manifest), manifest


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null: None is written as "none".
    return {k: "none" if v is None else _without_none(v) if isinstance(v, dict) else v for k, v in settings.items()}
