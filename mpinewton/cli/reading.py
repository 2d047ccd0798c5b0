"""Options that several commands have: how rows are read (`pack`, `predict`, `evaluate`, `run` for --test); networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mpinewton.data.blocks import Reading

OPTIONS = (
    click.option("--format", default="auto", show_default=True, help="libsvm, csv, npz, npy, idx or parquet."),
    click.option("--header/--no-header", default=None, help="Whether a table has a header.  [default: recognised]"),
    click.option("--delimiter", help="Separator of a table: one character, tab or whitespace.  [default: recognised]"),
    click.option("--label-column", help="Name or number (from 1) of the label column of a table.  [default: the last]"),
    click.option("--weight-column", help="Name or number of the column of weights of a table.  [default: none]"),
    click.option("--allow-partial-last-line", is_flag=True, help="Accept a text without a newline at its end."),
)
NETWORK_FORMS = "node, infiniband, ethernet, continents or phones; LATENCY,RATE as 20ms,100Mbit; or a TOML file"
NAMES = ("format", "header", "delimiter", "label_column", "weight_column", "allow_partial_last_line")


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_reading(settings: dict[str, Any], **others: Any) -> Reading:
    """Remove the options from the settings of a command; return them, and others, as a Reading."""
    from mpinewton.data.blocks import Reading

    return Reading(**{name: settings.pop(name) for name in NAMES}, **others)


def take_given(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove the options from the settings of a command; return those that differ from their defaults."""
    taken = {name: settings.pop(name, None) for name in NAMES}
    defaults = {"format": "auto", "allow_partial_last_line": False}
    return {name: value for name, value in taken.items() if value is not None and value != defaults.get(name)}
