"""`mpinewton report`."""

from __future__ import annotations

from pathlib import Path

import click

from mpinewton.errors import ConfigError


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page (.html), or only its tables (.md or .txt).  [default: DIR/report.html]",
)
@click.option("--title", help="Heading of the page.  [default: the name of DIR]")
def command(folder: Path, output: Path | None, title: str | None) -> None:
    """Write an HTML page about a run folder, or all runs inside a folder: figures, tables, settings."""
    from mpinewton.report.html import page
    from mpinewton.report.reading import read_runs
    from mpinewton.report.tables import rounds_to, summary

    runs = read_runs([folder])
    output = output or folder / "report.html"
    suffix = output.suffix.lower()
    if suffix == ".html":
        content = page(runs, title or folder.resolve().name)
    elif suffix == ".md":
        content = f"{summary(runs).markdown()}\n\n{rounds_to(runs).markdown()}\n"
    elif suffix == ".txt":
        content = f"{summary(runs).text()}\n\n{rounds_to(runs).text()}\n"
    else:
        raise ConfigError(f"{output}: unknown suffix {output.suffix!r}; choose from: .html, .md, .txt")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another -o FILE") from error
    click.echo(str(output))
