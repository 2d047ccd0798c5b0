"""mpinewton plot: figures of runs."""

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
    help="The figure: .png, .pdf or .svg. The plotted points go beside it as .csv.",
)
@click.option("--axes", default="rounds,bits,seconds", show_default=True, help="Panels, left to right.")
@click.option(
    "--quantity",
    metavar="gap|grad_norm|loss|test_accuracy|test_loss",
    help="What to show; by default the gap where all runs have one.",
)
@click.option("--bits-per-float", type=int, help="Restate bits as if a float had this many; the papers count 32.")
@click.option("--title", help="Words above the figure.")
@click.option("--show-settings", is_flag=True, help="Print the settings inside figures drawn earlier.")
def command(
    paths: tuple[Path, ...],
    output: Path,
    axes: str,
    quantity: str | None,
    bits_per_float: int | None,
    title: str | None,
    show_settings: bool,
) -> None:
    """Draw run folders, or all runs inside a folder: gap against rounds, bits and seconds.

    The figure carries the settings, versions and data digests of its runs; --show-settings FIGURE prints them.
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
