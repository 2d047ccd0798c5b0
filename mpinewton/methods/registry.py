"""Settings as people type them to a method as it runs, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from mpinewton.errors import ConfigError, did_you_mean
from mpinewton.methods import METHODS
from mpinewton.methods.support.method import AnyMethod
from mpinewton.settings import aliases_of

BARE_POINT = re.compile(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)  # .3 and 3., which people write, JSON not


def find_method(name: str) -> type[AnyMethod]:
    """The class of a method, by name, hyphens or underscores. Raises ConfigError where there is none."""
    kind = METHODS.get(name.replace("_", "-"))
    if kind is None:
        raise ConfigError(f"no method {name!r}{did_you_mean(name, METHODS)}")
    return kind


def make_method(name: str, settings: Mapping[str, Any]) -> AnyMethod:
    """The method of this name with these settings; settings of a part are nested, {"search": {"rho": 0.1}}.

    Raises
    ------
    ConfigError
        For an unknown name or setting (with the nearest known one), a value of the wrong kind or out of its range.
    """
    kind = find_method(name)
    aliases = aliases_of(kind)
    settings = {aliases.get(key, key): value for key, value in settings.items()}
    settings = _with_none(kind, settings)
    _refuse_unknown(kind, settings, kind.name)
    # A part that is only partly set keeps this method's own defaults for the rest.
    complete = overlaid(msgspec.to_builtins(kind()), settings)
    try:
        return msgspec.convert(complete, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind.name}: {_in_words(error, kind)}") from None


def settings_of(method: AnyMethod) -> dict[str, Any]:
    """All settings of a method, nested as `make_method` takes them."""
    settings: dict[str, Any] = msgspec.to_builtins(method)
    return settings


def parsed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts, `part.key=value` for a setting of a part, as nested settings. Raises ConfigError."""
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


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings where those of `above` count if both have them."""
    both = {**below, **above}
    for name, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping):
            both[name] = overlaid(below[name], value)
    return both


def _with_none(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, None where the word none is written for it: neither TOML nor the command line has a null."""
    types = get_type_hints(kind)
    read: dict[str, Any] = {}
    for key, value in settings.items():
        part = _part(types.get(key))
        if isinstance(value, Mapping) and part is not None:
            read[key] = _with_none(part, value)
        else:
            read[key] = None if value == "none" and type(None) in get_args(types.get(key)) else value
    return read


def _refuse_unknown(kind: type, settings: Mapping[str, Any], name: str) -> None:
    # msgspec drops unknown names silently where the type is a dataclass.
    known, types = {field.name for field in fields(kind)}, get_type_hints(kind)
    for key, value in settings.items():
        if key not in known:
            raise ConfigError(f"{name} has no setting {key!r}{did_you_mean(key, known)}")
        if isinstance(value, Mapping):
            part = _part(types[key])
            if part is None:
                raise ConfigError(f"{name}: {key} is one value, not a part with settings of its own")
            _refuse_unknown(part, value, f"{name}: {key}")


def _part(kind: Any) -> type | None:
    """The class of a part that has settings of its own, be it optional; None for a setting that is one value."""
    return next((k for k in (kind, *get_args(kind)) if isinstance(k, type) and is_dataclass(k)), None)


def _in_words(error: msgspec.ValidationError, kind: Any) -> str:
    text, _, path = str(error).partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    for part in filter(None, where.split(".")):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
        kind = _part(kind) or kind
    if get_origin(kind) is Literal:
        return f"{where}: {text[:1].lower()}{text[1:]}; it is one of {', '.join(map(str, get_args(kind)))}"
    if where and is_dataclass(kind):
        return f"{where} is a part with settings of its own: {', '.join(f'{where}.{f.name}' for f in fields(kind))}"
    return f"{where}: {text[:1].lower()}{text[1:]}" if where else text
