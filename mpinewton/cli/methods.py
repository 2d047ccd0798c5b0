"""`mpinewton methods`."""

from __future__ import annotations

import inspect
from typing import Any

import click

from mpinewton.cli.completion import complete_method
from mpinewton.cli.facts import show
from mpinewton.extensions import load_installed
from mpinewton.methods import METHODS
from mpinewton.methods.settings import find_method
from mpinewton.methods.support.method import Algorithm


@click.command("methods")
@click.argument("name", required=False, shell_complete=complete_method)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the methods with their cost; with NAME, describe one method, its requirements and settings.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    show(
        name,
        as_json,
        find_method,
        lambda: load_installed(Algorithm, METHODS, "methods"),
        facts,
        lambda kind: f"needs: {', '.join(kind.needs)}\n\nsettings (--set KEY=VALUE):",
        listing,
    )


def listing(kinds: dict[str, type[Algorithm]]) -> str:
    """The table of methods."""
    from mpinewton.report.tables import Table

    rows = []
    for name, kind in kinds.items():
        cost = (kind.cost.rounds, kind.cost.down, kind.cost.up) if kind.cost else ("?", "?", "?")
        title = (inspect.getdoc(kind) or "").partition("\n")[0].partition(":")[0]
        rows.append((name, *cost, title.partition(" (")[0]))
    table = Table(("METHOD", "ROUNDS", "FLOATS DOWN", "FLOATS UP", ""), rows, 5).text()
    return (
        f"{table}\n\nRounds, and floats per worker, of one iteration: d weights, m rows of the worker, k inner steps.\n"
        "mpinewton methods NAME prints source, requirements and settings of a method."
    )


def facts(kind: type[Algorithm]) -> dict[str, Any]:
    """What is known of a method, JSON-able."""
    cost = kind.cost and {"rounds": kind.cost.rounds, "floats_down": kind.cost.down, "floats_up": kind.cost.up}
    return {"cost": cost, "needs": list(kind.needs), "convex_only": kind.convex_only, "rows_travel": kind.rows_travel}
