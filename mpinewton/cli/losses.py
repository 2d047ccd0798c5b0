"""`mpinewton losses`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from mpinewton import settings
from mpinewton.cli.completion import complete_loss
from mpinewton.cli.facts import facts_of
from mpinewton.extensions import find_class, load_installed
from mpinewton.losses import LOSSES, Loss, describe


@click.command("losses")
@click.argument("name", required=False, shell_complete=complete_loss)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the losses: settings with defaults, formula, and what each provides; with NAME, describe one loss.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    if name is not None:
        kind, _ = find_class(name, Loss, LOSSES, "losses")  # type: ignore[type-abstract]
        if as_json:
            click.echo(json.dumps(facts(kind)))
            return
        about = f"convex: {'yes' if kind.convex else 'no'}\nprovides: {', '.join(sorted(kind.provides))}"
        click.echo(f"{kind.name}\n\n{inspect.getdoc(kind)}\n\n{about}\n\nsettings (NAME:key=value,key=value):")
        for key, default, meaning in settings.describe(kind):
            click.echo(f"  {key} = {default}\n      {meaning}")
        return
    kinds, warnings = load_installed(Loss, LOSSES, "losses")  # type: ignore[type-abstract]
    if as_json:
        click.echo(json.dumps([facts(kind) for kind in kinds.values()]))
        return
    click.echo("\n".join(describe(kinds)))
    for warning in warnings:
        click.echo(warning, err=True)


def facts(kind: type[Loss]) -> dict[str, Any]:
    """What is known of a loss, JSON-able."""
    return facts_of(kind, convex=kind.convex, provides=sorted(kind.provides))
