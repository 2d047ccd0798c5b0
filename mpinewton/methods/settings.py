"""Methods by name, with settings as users write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.extensions import find_class
from mpinewton.methods import METHODS
from mpinewton.methods.support.method import Algorithm
from mpinewton.settings import aliases_of

BARE_POINT = re.compile(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)  # .3 and 3., which people write, JSON not


def find_method(name: str) -> type[Algorithm]:
    """The class of a method: a built-in name with hyphens or underscores, `FILE.py:Class`, `package.module:Class`, or a
    name that an installed package registers. Raises ConfigError where there is none.
    """
    name = name if ":" in name else name.replace("_", "-")
    kind, rest = find_class(name, Algorithm, METHODS, "methods")  # type: ignore[type-abstract]
    if rest:
        raise ConfigError(f"{name}: settings of a method are given by --set key=value, not after the name")
    return kind


def make_method(name: str | type[Algorithm], settings: Mapping[str, Any]) -> Algorithm:
    """A method with these settings.

    Parameters
    ----------
    name : str or class
        As `find_method` takes it, or the class itself.
    settings : dict
        Settings by name or alias; those of a part nested, {"search": {"rho": 0.1}}. The others keep their defaults.

    Raises
    ------
    ConfigError
        If the name or a setting is unknown, or a value has the wrong type, is out of range or has no effect.
    """
    kind = find_method(name) if isinstance(name, str) else name
    # A part that is only partly set keeps this method's own defaults for the rest.
    complete = overlay(msgspec.to_builtins(kind()), _resolve(kind, settings, kind.name))
    try:
        return msgspec.convert(complete, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind.name}: {_in_words(error, kind)}") from None


def settings_of(method: Algorithm) -> dict[str, Any]:
    """All settings of a method, nested as `make_method` takes them."""
    settings: dict[str, Any] = msgspec.to_builtins(method)
    return settings


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Nested settings from texts `key=value`, or `part.key=value` for a setting of a part. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (equals and key):
            raise ConfigError(f"--set {pair!r}: write it as key=value, --set theta=0.1 for one")
        *parts, last = key.replace("-", "_").split(".")
        place = settings
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {pair!r}: {part} is set to a value already")
        place[last] = repr(float(value)) if BARE_POINT.fullmatch(value) else value
    return settings


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both nested settings in one; where both have a value, that of `above` is taken."""
    both = {**below, **above}
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
            both[name] = overlay(below[name], value)
    return both


def _resolve(kind: type, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings by field name instead of alias, with None for the word none: TOML and the command line have no null.

    Unknown names are refused here, as msgspec ignores them for dataclasses. Raises ConfigError.
    """
    known, types, aliases = {field.name for field in fields(kind)}, get_type_hints(kind), aliases_of(kind)
    resolved: dict[str, Any] = {}
    for written, value in settings.items():
        key = aliases.get(written, written)
        if key not in known:
            raise ConfigError(f"{name} has no setting {written!r}{did_you_mean(written, known)}")
        if key in resolved:
            raise ConfigError(f"{name}: {key} is set twice, by two of its names; leave one out")
        part = _part(types[key])
        if isinstance(value, Mapping):
            if part is None:
                raise ConfigError(f"{name}: {key} is one value, not a part with settings of its own")
            value = _resolve(part, value, f"{name}: {key}")
        resolved[key] = None if value == "none" and type(None) in get_args(types[key]) else value
    return resolved


def _part(kind: Any) -> type | None:
    """The class of a part with settings of its own, which may be optional; None for a setting that is one value."""
    return next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and is_dataclass(k)), None)


def _in_words(error: msgspec.ValidationError, kind: Any) -> str:
    """A sentence that names the setting and what it can be."""
    text, _, path = str(error).partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    for part in filter(None, where.split(".")):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
        kind = _part(kind) or kind
    if get_origin(kind) is Literal:
        return f"{where}: {text[:1].lower()}{text[1:]}; choose from {', '.join(map(str, get_args(kind)))}"
    if where and is_dataclass(kind):
        return f"{where} is a part with settings of its own: {', '.join(f'{where}.{f.name}' for f in fields(kind))}"
    return f"{where}: {text[:1].lower()}{text[1:]}" if where else text
