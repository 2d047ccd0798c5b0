"""`mpinewton losses`."""

from __future__ import annotations

import click

from mpinewton.cli.completion import complete_loss
from mpinewton.cli.facts import show
from mpinewton.extensions import find_class, load_installed
from mpinewton.losses import LOSSES, Loss, describe


@click.command("losses")
@click.argument("name", required=False, shell_complete=complete_loss)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the losses: settings with defaults, formula, and what each provides; with NAME, describe one loss.

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
        lambda kinds: "\n".join(describe(kinds)),
    )
