"""What `methods` and `losses` print."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import click

from mpinewton.settings import describe

Kinds = dict[str, Any]


def show(
    name: str | None,
    as_json: bool,
    find: Callable[[str], Any],
    load: Callable[[], tuple[Kinds, list[str]]],
    facts: Callable[[Any], Kinds],
    about: Callable[[Any], str],
    listing: Callable[[Kinds], str],
) -> None:
    """Print what is known of one class, or the list of all that are installed."""
    if name is not None:
        kind = find(name)
        lines = [f"{kind.name}\n\n{inspect.getdoc(kind)}\n\n{about(kind)}"]
        lines += [f"  {key} = {default}\n      {meaning}" for key, default, meaning in describe(kind)]
        click.echo(json.dumps(_all_facts(kind, facts)) if as_json else "\n".join(lines))
        return
    kinds, warnings = load()
    click.echo(json.dumps([_all_facts(kind, facts) for kind in kinds.values()]) if as_json else listing(kinds))
    for warning in () if as_json else warnings:
        click.echo(warning, err=True)


def _all_facts(kind: Any, facts: Callable[[Any], Kinds]) -> Kinds:
    """Name, documentation and settings of a class, and what else is known of it; JSON-able."""
    settings = [dict(zip(("name", "default", "meaning"), row)) for row in describe(kind)]
    return {"name": kind.name, "about": inspect.getdoc(kind), **facts(kind), "settings": settings}
