"""One run, as asked for: validated before any data are read, written down complete, compared when it is resumed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from mpinewton.data.manifest import Manifest, read_manifest
from mpinewton.data.sources import absolute
from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.fleet import Plan
from mpinewton.losses import make_loss
from mpinewton.methods.registry import make_method, settings_of
from mpinewton.methods.support.method import AnyMethod
from mpinewton.runs import stopping


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """Everything `mpinewton run` can be told. None: not asked for, or decided from the data."""

    method: str
    data: str
    settings: dict[str, Any] = {}
    loss: str | None = None
    l2: float | None = None
    intercept: bool = False
    seed: int = 0
    dtype: Literal["float64", "float32"] = "float64"
    sums: Literal["fixed", "mpi"] = "fixed"
    start: str = "auto"
    reference: str | None = None
    test: str | None = None
    measure_every: int | None = None
    tol: float | None = None
    rtol: float | None = None
    gap: float | None = None
    max_iterations: int | None = None
    max_rounds: int | None = None
    max_bits: float | None = None
    max_seconds: float | None = None
    max_hours: float | None = None
    checkpoint_seconds: float = 600.0

    # What makes it another run if it changes; the rest may change from one resume to the next.
    IDENTITY = ("method", "settings", "loss", "l2", "intercept", "seed", "dtype", "sums", "start")

    def build_method(self) -> AnyMethod:
        return make_method(self.method, self.settings)

    def check(self) -> None:
        """Refuse what can be seen to be wrong without data.

        Raises
        ------
        ConfigError
            If a setting is unknown or out of range, or the parts do not fit one another.
        """
        method = self.build_method()
        if self.loss is not None:
            method.validate_loss(make_loss(self.loss))
        if self.l2 is not None and not (0 <= self.l2 < math.inf):
            raise ConfigError(f"--l2 {self.l2!r}: it must be 0 or more")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: it must be 0 or more")
        if self.measure_every is not None and self.measure_every < 1:
            raise ConfigError(f"--measure-every {self.measure_every}: it must be 1 or more")
        for name in ("max_hours", "checkpoint_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"--{name.replace('_', '-')} {value!r}: it must be a number, 0 or more")
        if self.gap is not None and self.reference is None:
            raise ConfigError("--gap needs to know the optimum: add --reference auto, or --reference VALUE")
        self.stops()

    def completed(self, manifest: Manifest) -> Job:
        """The same job with every default written out.

        Raises
        ------
        ConfigError, DataError
            If the loss does not suit the method, or the labels.
        """
        method, loss = self.build_method(), make_loss(self.loss or usual_loss(manifest))
        method.validate_loss(loss)
        loss.validate(manifest.features + self.intercept, manifest.classes, self.intercept)
        test = absolute(self.test, Path()) if self.test else None  # so that the run can be resumed from anywhere
        job = msgspec.structs.replace(
            self,
            method=method.name,
            settings=settings_of(method),
            data=str(Path(self.data).resolve()),
            test=test,
            loss=self.loss or usual_loss(manifest),
            l2=1.0 / manifest.rows if self.l2 is None else self.l2,
            **self.usual_stops(),
        )
        method.validate(job.plan(manifest).problem())
        return job

    def usual_stops(self) -> dict[str, Any]:
        """A gradient norm of 1e-8 where no goal is given, 1000 iterations where no budget is."""
        stops = self.stops()
        goal = {} if any(stop.converged for stop in stops) else {"tol": 1e-8}
        return goal | ({} if any(not stop.converged for stop in stops) else {"max_iterations": 1000})

    def stops(self) -> list[stopping.Stop]:
        """The rules asked for."""
        kinds: dict[str, Callable[[float], stopping.Stop]] = {
            "tol": stopping.GradientBelow, "rtol": stopping.GradientReduced, "gap": stopping.GapBelow,
            "max_iterations": stopping.Iterations, "max_rounds": stopping.Rounds, "max_bits": stopping.Bits,
            "max_seconds": stopping.Seconds,
        }  # fmt: skip
        return [kind(getattr(self, name)) for name, kind in kinds.items() if getattr(self, name) is not None]

    def plan(self, manifest: Manifest) -> Plan:
        """The fleet of a completed job."""
        assert self.loss is not None and self.l2 is not None
        return Plan(self.data, manifest, self.loss, self.l2, self.seed, self.intercept, self.dtype, self.sums)

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """What a checkpoint must agree with, JSON-able."""
        return {name: getattr(self, name) for name in self.IDENTITY} | {"data_sha256": manifest.data_sha256}

    def toml(self) -> str:
        """The job as text that `from_toml` reads."""
        content = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        content["settings"] = _without_none(content["settings"])
        return tomli_w.dumps(content)

    @classmethod
    def of(cls, content: dict[str, Any], where: str) -> Job:
        """A job from names and values. Raises ConfigError naming the place and the nearest known name."""
        known = {field.name for field in msgspec.structs.fields(cls)}
        for name in content:
            if name not in known:
                raise ConfigError(f"{where}: no option {name!r}{did_you_mean(name, known)}")
        for name in ("method", "data"):
            if name not in content:
                raise ConfigError(f"{name.upper()} is missing: mpinewton run METHOD DATA, or name it in --config")
        try:
            return msgspec.convert(content, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {error}") from None


def read_options(path: Path) -> dict[str, Any]:
    """The options of a TOML file, as `Job.of` takes them. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a file as config.toml of a run") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


# More distinct whole numbers than this are taken for measurements, unless a loss is named.
USUAL_CLASSES = 50


def usual_loss(manifest: Manifest) -> str:
    """What one would train on such labels: logistic for two classes, softmax for some more, squared for numbers."""
    if manifest.classes is None or len(manifest.classes) > USUAL_CLASSES:
        return "squared"
    return "logistic" if len(manifest.classes) == 2 else "softmax"


def load_job(job: Job) -> tuple[Job, Manifest]:
    """The job completed, and the manifest of its data. Raises ConfigError or DataError."""
    job.check()  # before the data are looked for: a typing error is reported before a missing folder
    manifest = read_manifest(Path(job.data))
    job = job.completed(manifest)
    job.check()  # again, with the loss that goes with the labels
    return job, manifest


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null; what is missing in the file is None by default or was set to "none".
    return {k: "none" if v is None else _without_none(v) if isinstance(v, dict) else v for k, v in settings.items()}
