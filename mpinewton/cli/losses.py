"""`mpinewton losses`."""

from __future__ import annotations

import inspect

import click

from mpinewton import settings
from mpinewton.extensions import find_class, load_installed
from mpinewton.losses import LOSSES, Loss, describe


@click.command("losses")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the losses: settings with defaults, formula, and what each provides; with NAME, describe one loss.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    if name is not None:
        kind, _ = find_class(name, Loss, LOSSES, "losses")  # type: ignore[type-abstract]
        about = f"convex: {'yes' if kind.convex else 'no'}\nprovides: {', '.join(sorted(kind.provides))}"
        click.echo(f"{kind.name}\n\n{inspect.getdoc(kind)}\n\n{about}\n\nsettings (NAME:key=value,key=value):")
        for key, default, meaning in settings.describe(kind):
            click.echo(f"  {key} = {default}\n      {meaning}")
        return
    kinds, warnings = load_installed(Loss, LOSSES, "losses")  # type: ignore[type-abstract]
    click.echo("\n".join(describe(kinds)))
    for warning in warnings:
        click.echo(warning, err=True)
