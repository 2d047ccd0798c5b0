"""`mpinewton losses`."""

from __future__ import annotations

import click

from mpinewton.losses import describe


@click.command("losses")
def command() -> None:
    """List the losses: settings with defaults, formula, and what each provides to methods."""
    click.echo("\n".join(describe()))
