"""`mpinewton plot`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mpinewton.errors import ConfigError


@click.command("plot")
@click.argument("paths", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("figure.png"),
    show_default=True,
    help="The figure: .png, .pdf or .svg. The plotted points are written beside it as .csv.",
)
@click.option("--axes", default="rounds,bits,seconds", show_default=True, help="Horizontal axes, one panel each.")
@click.option(
    "--quantity",
    metavar="gap|grad_norm|loss|test_accuracy|test_loss",
    help="Vertical axis.  [default: gap, if all runs have one]",
)
@click.option("--bits-per-float", type=int, help="Restate bits as if a float had this many; the papers count 32.")
@click.option("--title", help="Title of the figure.")
@click.option("--show-settings", is_flag=True, help="Print the settings in figures instead; RUN... are figures.")
def command(
    paths: tuple[Path, ...],
    output: Path,
    axes: str,
    quantity: str | None,
    bits_per_float: int | None,
    title: str | None,
    show_settings: bool,
) -> None:
    """Plot run folders, or all runs inside a folder: the gap against rounds, bits and seconds.

    The figure contains the settings, versions and data digests of its runs; --show-settings FIGURE prints them.
    """
    from mpinewton.report.figures import draw
    from mpinewton.report.provenance import read_settings
    from mpinewton.report.reading import read_runs

    if show_settings:
        for path in paths:
            click.echo(json.dumps(read_settings(path), indent=2))
        return
    named = [axis.strip() for axis in axes.split(",") if axis.strip()]
    try:
        written = draw(read_runs(paths), output, named, quantity, bits_per_float, title)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another -o FILE") from error
    click.echo("\n".join(map(str, written)))
