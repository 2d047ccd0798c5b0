"""`mpinewton methods`."""

from __future__ import annotations

import inspect

import click

from mpinewton.methods import METHODS
from mpinewton.methods.registry import find_method, settings_of


@click.command("methods")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the methods with their cost and needs; with NAME, all that is to know of one, settings included."""
    if name is not None:
        kind = find_method(name)
        click.echo(
            f"{kind.name}\n\n{inspect.getdoc(kind)}\n\nneeds: {', '.join(kind.needs)}\n\nsettings (--set KEY=VALUE):"
        )
        for key, value in flattened(settings_of(kind())):
            click.echo(f"  {key} = {value}")
        return
    rows = [("METHOD", "ROUNDS", "FLOATS DOWN", "FLOATS UP", "NEEDS", "")]
    for kind in METHODS.values():
        rounds, down, up = kind.cost()
        title = (inspect.getdoc(kind) or "").partition("\n")[0].partition(":")[0]
        rows.append((kind.name, rounds, down, up, " ".join(kind.needs), title))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip())
    click.echo(
        "\nRounds and floats per worker are those of one iteration; d weights, m rows on the worker, k inner steps."
    )


def flattened(settings: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested settings as (part.key, value)."""
    flat: list[tuple[str, object]] = []
    for key, value in settings.items():
        flat += flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
