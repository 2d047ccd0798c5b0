"""Settings: fields with a meaning, a range and a unit, and the text `NAME:key=value` that makes an object of them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from mpinewton.errors import ConfigError, did_you_mean

T = TypeVar("T")
Kind = TypeVar("Kind")
WORDS = {bool: "true or false", float: "a number", int: "a whole number", str: "a word"}
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("greater than", lambda value, bound: value > bound),
    "ge": ("at least", lambda value, bound: value >= bound),
    "lt": ("less than", lambda value, bound: value < bound),
    "le": ("at most", lambda value, bound: value <= bound),
}


def setting(
    default: T | None = None,
    *,
    help: str,
    factory: Callable[[], T] | None = None,
    unit: str = "",
    alias: str | tuple[str, ...] = (),
    only_if: Mapping[str, Any] | None = None,
    **bounds: float,
) -> T:
    """A field of a method, loss, compressor or line search that users may set.

    Parameters
    ----------
    default : value, or `factory`, a function that makes one
    help : str
        What the setting means, in a phrase.
    unit : str
        What the value is measured in.
    alias : str or tuple of str
        Other names that users may write for it.
    only_if : dict
        Other settings, and the value of each (or a tuple of values) that this setting needs to have an effect. A value
        that is not the default is refused under any other.
    gt, ge, lt, le : float
        Bounds of the value. Where it may be None, they hold for numbers alone.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Descent(Configured):
    ...     name = "descent"
    ...     rate: float = setting(0.1, gt=0, help="step size")
    >>> Descent(rate=-1.0)
    Traceback (most recent call last):
    mpinewton.errors.ConfigError: descent: rate = -1.0: expected a value greater than 0
    """
    aliases = (alias,) if isinstance(alias, str) else alias
    assert bounds.keys() <= BOUNDS.keys()
    needs = {name: value if isinstance(value, tuple) else (value,) for name, value in (only_if or {}).items()}
    about = {"help": help, "unit": unit, "aliases": aliases, "bounds": bounds, "only_if": needs}
    found: T = (
        dataclasses.field(default_factory=factory, metadata=about)
        if factory is not None
        else dataclasses.field(default=default, metadata=about)  # type: ignore[assignment]
    )
    return found


@dataclass(frozen=True)
class Configured:
    """Base of what has settings: a frozen dataclass whose settings are checked when an object is made.

    Raises
    ------
    ConfigError
        If a value is out of range, or set to other than its default where it has no effect.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # a number of numpy is a number
                value = value.item()
                object.__setattr__(self, field.name, value)
            for bound, limit in field.metadata.get("bounds", {}).items():
                if isinstance(value, int | float) and not BOUNDS[bound][1](value, limit):
                    raise ConfigError(f"{self.name}: {field.name} = {value!r}: expected a value {range_of(field)}")
            for other, values in field.metadata.get("only_if", {}).items():
                if getattr(self, other) not in values and value != default_of(field):
                    raise ConfigError(
                        f"{self.name}: {field.name} = {value!r} has no effect with {other} = {getattr(self, other)!r}; "
                        f"leave {field.name} out, or set {other} to {' or '.join(map(shown, values))}"
                    )

    def require(self, holds: bool, setting: str, rule: str) -> None:
        """Refuse a setting that breaks a rule which is no range.

        Raises
        ------
        ConfigError
            If the rule does not hold.
        """
        if not holds:
            raise ConfigError(f"{self.name}: {setting} = {getattr(self, setting)!r}: expected {rule}")


def range_of(field: dataclasses.Field[Any]) -> str:
    """The range of a setting in words, as "at least 0 and less than 1"; "" where it has none."""
    return " and ".join(f"{BOUNDS[name][0]} {limit:.10g}" for name, limit in field.metadata.get("bounds", {}).items())


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a setting."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def shown(value: Any) -> str:
    """A value as users write it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def aliases_of(kind: type) -> dict[str, str]:
    """Other names of the settings of a kind, and the names of their fields."""
    return {alias: field.name for field in fields(kind) for alias in field.metadata.get("aliases", ())}


def describe(kind: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """The settings of a kind: name (`part.key` in a part), default, and meaning with range, unit and aliases."""
    rows: list[tuple[str, str, str]] = []
    hints = get_type_hints(kind)
    for field in fields(kind):
        default = default_of(field)
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            rows += describe(type(default), f"{prefix}{field.name}.")
            continue
        about = field.metadata
        needs = " and ".join(f"{k}={'|'.join(map(shown, values))}" for k, values in about.get("only_if", {}).items())
        facts = (type_in_words(hints[field.name]), range_of(field), about.get("unit"), needs and f"only with {needs}")
        rule = ", ".join(filter(None, facts))
        other = f"; also {', '.join(about['aliases'])}" if about.get("aliases") else ""
        rows.append((prefix + field.name, shown(default), f"{about.get('help', '')} ({rule}{other})".strip()))
    return rows


def parse_choice(text: str, kinds: Mapping[str, type[Kind]], what: str) -> Kind:
    """Build the one of `kinds`, frozen dataclasses, that a text such as `huber:delta=1.5` names.

    Parameters
    ----------
    text : str
        `NAME` or `NAME:key=value,key=value`.
    kinds : dict of str to class
    what : str
        What the kinds are, for messages: "loss", "compressor".

    Raises
    ------
    ConfigError
        If there is no such kind or setting, or a value does not fit.
    """
    name, _, rest = text.partition(":")
    if name not in kinds:
        raise ConfigError(f"no {what} is named {name!r}{did_you_mean(name, kinds)}")
    return build(kinds[name], rest, what)


def build(kind: type[Kind], text: str, what: str) -> Kind:
    """An object of the kind from its settings as text, `key=value,key=value`. Raises ConfigError."""
    name, hints, other_names = kind.name, get_type_hints(kind), aliases_of(kind)  # type: ignore[attr-defined]
    known = {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        key = other_names.get(key, key)
        if not equals:
            raise ConfigError(f"{what} {name}: {item!r} is not key=value; write {name}:key=value,key=value")
        if key not in known:
            raise ConfigError(f"{what} {name} has no setting {key!r}{did_you_mean(key, known)}")
        try:
            settings[key] = msgspec.convert(value, known[key], strict=False)
        except msgspec.ValidationError:
            raise ConfigError(f"{what} {name}: {key} = {value!r}: expected {type_in_words(known[key])}") from None
    return kind(**settings)


def type_in_words(kind: Any) -> str:
    """What values a type has: "a number", "true or false", "one of cg, exact"; with "or none" where it may be None."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return f"{' or '.join(map(type_in_words, parts))}{' or none' if len(parts) < len(get_args(kind)) else ''}"
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names such as "settings.search.rho"."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
