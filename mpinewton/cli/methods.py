"""`mpinewton methods`."""

from __future__ import annotations

import inspect

import click

from mpinewton.extensions import load_installed
from mpinewton.methods import METHODS, Method
from mpinewton.methods.settings import find_method
from mpinewton.settings import describe


@click.command("methods")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the methods with cost and requirements; with NAME, describe one method and its settings.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    if name is not None:
        kind = find_method(name)
        click.echo(f"{kind.name}\n\n{inspect.getdoc(kind)}\n\nneeds: {', '.join(kind.needs)}")
        click.echo("\nsettings (--set KEY=VALUE):")
        for key, default, meaning in describe(kind):
            click.echo(f"  {key} = {default}\n      {meaning}")
        return
    rows = [("METHOD", "ROUNDS", "FLOATS DOWN", "FLOATS UP", "NEEDS", "")]
    kinds, warnings = load_installed(Method, METHODS, "methods")  # type: ignore[type-abstract]
    for name, kind in kinds.items():
        cost = (kind.cost.rounds, kind.cost.down, kind.cost.up) if kind.cost else ("?", "?", "?")
        title = (inspect.getdoc(kind) or "").partition("\n")[0].partition(":")[0]
        rows.append((name, *cost, " ".join(kind.needs), title))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip())
    for warning in warnings:
        click.echo(warning, err=True)
    click.echo("\nRounds, and floats per worker, of one iteration: d weights, m rows of the worker, k inner steps.")
