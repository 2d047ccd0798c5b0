"""`mpinewton losses`."""

from __future__ import annotations

import inspect

import click

from mpinewton.cli.completion import complete_loss
from mpinewton.cli.facts import show
from mpinewton.extensions import find_class, load_installed
from mpinewton.losses import LOSSES, Loss


@click.command("losses")
@click.argument("name", required=False, shell_complete=complete_loss)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the losses with their formulae; with NAME, describe one loss, what it provides and its settings.

    NAME is a name of the list, FILE.py:Class or package.module:Class.
    """
    show(
        name,
        as_json,
        lambda name: find_class(name, Loss, LOSSES, "losses")[0],  # type: ignore[type-abstract]
        lambda: load_installed(Loss, LOSSES, "losses"),
        lambda kind: {"convex": kind.convex, "provides": sorted(kind.provides)},
        lambda kind: (
            f"convex: {'yes' if kind.convex else 'no'}\nprovides: {', '.join(sorted(kind.provides))}\n\n"
            "settings (NAME:key=value,key=value):"
        ),
        listing,
    )


def listing(kinds: dict[str, type[Loss]]) -> str:
    """The table of losses."""
    from mpinewton.report.tables import Table

    rows = []
    for name, kind in kinds.items():
        formula = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
        rows.append((name, "yes" if kind.convex else "no", formula))
    table = Table(("LOSS", "CONVEX", "FORMULA, z = X w"), rows, 3).text()
    return f"{table}\n\nmpinewton losses NAME prints settings of a loss, and what methods may ask of it."
