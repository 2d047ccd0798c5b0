"""The options of `minimize`: method, goals, budgets, callback."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from mpinewton.arrays import Array
from mpinewton.errors import ConfigError
from mpinewton.extensions import Reference
from mpinewton.methods.settings import make_method
from mpinewton.methods.support.method import Algorithm
from mpinewton.runs.history import Row
from mpinewton.runs.stopping import default_stops

Callback = Callable[[Row, Array], Any]


@dataclass(frozen=True)
class Options:
    """The options of a run that do not depend on the objective."""

    method: Algorithm
    limits: dict[str, float | None]
    w0: Array | None
    seed: int
    callback: Callback | None
    measure_every: int | None
    reference: str | None

    @classmethod
    def of(
        cls,
        method: str | Algorithm,
        settings: Mapping[str, Any] | None,
        w0: ArrayLike | None,
        seed: int,
        callback: Callback | None,
        measure_every: int | None,
        reference: float | str | None,
        **limits: float | None,
    ) -> Options:
        """The validated options. Raises ConfigError."""
        if isinstance(method, Algorithm) and settings:
            raise ConfigError(
                "settings are for a method given by name; give those of a method object to its constructor"
            )
        if not isinstance(method, str | type | Algorithm):
            raise ConfigError(f"method = {method!r}: expected the name of a method, or a method")
        if not isinstance(settings, Mapping | None) or not all(isinstance(name, str) for name in settings or ()):
            raise ConfigError(f"settings = {settings!r}: expected a dict of names and values")
        if not (callback is None or callable(callback)):
            raise ConfigError(f"callback = {callback!r}: expected a function of (Row, w)")
        plain = msgspec.to_builtins(dict(settings or {}), enc_hook=plain_number)
        made = method if isinstance(method, Algorithm) else make_method(method, plain)
        known = {name: number(name, limit) for name, limit in limits.items()}
        for name in known.keys() & {"max_iterations", "max_rounds"}:
            known[name] = None if known[name] is None else whole_number(name, known[name], 0)
        if known["gap"] is not None and reference is None:
            raise ConfigError('gap: the optimal value is not known; add reference="auto", or reference=VALUE')
        text = reference if reference in (None, "auto") else repr(number("reference", reference, None))
        start = None if w0 is None else finite_array("w0", w0).ravel()
        return cls(
            made, {**known, **default_stops(known)}, start, whole_number("seed", seed, 0), callback,
            None if measure_every is None else whole_number("measure_every", measure_every, 1),
            str(text) if text else None,
        )  # fmt: skip

    def asked(self) -> dict[str, Any]:
        """What must be equal on all ranks; JSON-able."""
        method = Reference.of(self.method)
        return {
            "method": [method.kind, method.settings, method.sha256], **self.limits, "w0": digest(self.w0),
            "seed": self.seed, "measure_every": self.measure_every, "reference": self.reference,
        }  # fmt: skip


def number(name: str, value: Any, least: float | None = 0.0) -> float | None:
    """The value as a Python number; None stays None. Raises ConfigError if it is less than `least`."""
    if value is None:
        return None
    plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    real = isinstance(plain, int | float) and not isinstance(plain, bool) and abs(plain) <= sys.float_info.max
    if not real or (least is not None and not plain >= least):
        rule = "" if least is None else f" of at least {least:g}"
        raise ConfigError(f"{name} = {value!r:.40}: expected a number{rule}")
    return plain  # type: ignore[no-any-return]


def whole_number(name: str, value: Any, least: int) -> int:
    """The value as an int. Raises ConfigError if it is not whole, or less than `least`."""
    found = number(name, value, least)
    if found is None or not float(found).is_integer():
        raise ConfigError(f"{name} = {value!r}: expected a whole number of at least {least}")
    return int(found)


def flag(name: str, value: Any) -> bool:
    """The value as a bool. Raises ConfigError unless it is true, false, 0 or 1."""
    if not isinstance(value, bool | int | np.bool_) or value not in (0, 1):
        raise ConfigError(f"{name} = {value!r}: expected True or False")
    return bool(value)


def finite_array(name: str, values: Any) -> Array:
    """A new float64 array of any shape. Raises ConfigError unless all its values are finite numbers."""
    try:
        found = np.asarray(values)
        array = np.array(found, dtype=np.float64) if found.dtype.kind in "fiuO" else np.full(1, np.nan)
    except (TypeError, ValueError, OverflowError):
        array = np.full(1, np.nan)
    if not np.isfinite(array).all():
        raise ConfigError(f"{name}: expected an array of finite numbers, but it is {str(values)[:60]}")
    return array


def plain_number(value: Any) -> Any:
    """Hook of msgspec for numbers of numpy. Raises ConfigError."""
    if isinstance(value, np.generic):
        return value.item()
    raise ConfigError(f"settings: {value!r}: expected a number, a word or a dict of settings")


def digest(array: Array | None) -> str | None:
    """SHA-256 of the bytes of an array; None for None."""
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()
