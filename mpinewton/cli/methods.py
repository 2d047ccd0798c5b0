"""`mpinewton methods`."""

from __future__ import annotations

import inspect
import json
from typing import Any

import click

from mpinewton.cli.completion import complete_method
from mpinewton.cli.facts import facts_of
from mpinewton.extensions import load_installed
from mpinewton.methods import METHODS, Method
from mpinewton.methods.settings import find_method
from mpinewton.methods.support.method import AnyMethod
from mpinewton.settings import describe


@click.command("methods")
@click.argument("name", required=False, shell_complete=complete_method)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the methods with cost and requirements; with NAME, describe one method and its settings.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    if name is not None:
        kind = find_method(name)
        if as_json:
            click.echo(json.dumps(facts(kind)))
            return
        click.echo(f"{kind.name}\n\n{inspect.getdoc(kind)}\n\nneeds: {', '.join(kind.needs)}")
        click.echo("\nsettings (--set KEY=VALUE):")
        for key, default, meaning in describe(kind):
            click.echo(f"  {key} = {default}\n      {meaning}")
        return
    kinds, warnings = load_installed(Method, METHODS, "methods")  # type: ignore[type-abstract]
    if as_json:
        click.echo(json.dumps([facts(kind) for kind in kinds.values()]))
        return
    rows = [("METHOD", "ROUNDS", "FLOATS DOWN", "FLOATS UP", "NEEDS", "")]
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


def facts(kind: type[AnyMethod]) -> dict[str, Any]:
    """What is known of a method, JSON-able."""
    cost = kind.cost and {"rounds": kind.cost.rounds, "floats_down": kind.cost.down, "floats_up": kind.cost.up}
    return facts_of(kind, cost=cost, needs=list(kind.needs), convex_only=kind.convex_only, rows_travel=kind.rows_travel)
