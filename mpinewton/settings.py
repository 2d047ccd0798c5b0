"""Things that people choose by a name with settings, `NAME:key=value,key=value`: losses, compressors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from mpinewton.errors import ConfigError, did_you_mean

Kind = TypeVar("Kind")
WORDS = {bool: "true or false", float: "a number", int: "a whole number"}


def chosen(text: str, kinds: Mapping[str, type[Kind]], what: str) -> Kind:
    """The one of `kinds`, frozen dataclasses, that `text` asks for, as `huber:delta=1.5`; `what` they are in a word.

    Raises
    ------
    ConfigError
        If there is no such kind or setting, or a value does not fit.
    """
    name, colon, rest = text.partition(":")
    if name not in kinds:
        raise ConfigError(f"there is no {what} {name!r}{did_you_mean(name, kinds)}")
    kind = kinds[name]
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ConfigError(f"{what} {text!r}: {item!r} is not key=value; write {name}:key=value,key=value")
        if key not in known:
            raise ConfigError(f"{what} {name} has no setting {key!r}{did_you_mean(key, known)}")
        try:
            settings[key] = msgspec.convert(value, known[key], strict=False)
        except msgspec.ValidationError:
            rule = WORDS.get(known[key]) or f"one of {', '.join(map(str, get_args(known[key])))}"
            raise ConfigError(f"{what} {name}: {key} = {value!r} must be {rule}") from None
    return kind(**settings)
