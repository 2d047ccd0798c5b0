"""`mpinewton report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpinewton.errors import ConfigError

if TYPE_CHECKING:
    from mpinewton.report.html import Page

PORT = 8765


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page (.html), or only its tables (.md or .txt).  [default: DIR/report.html]",
)
@click.option("--title", help="Heading of the page.  [default: that of the comparison, or the name of DIR]")
@click.option(
    "--serve",
    type=click.IntRange(0, 65535),
    is_flag=False,
    flag_value=PORT,
    metavar="[PORT]",
    help=f"Serve the page on 127.0.0.1 until Ctrl-C and follow runs in progress; 0: any free port.  [default: {PORT}]",
)
@click.option(
    "--benchopt",
    type=click.Path(path_type=Path),
    metavar="FILE.parquet",
    help="Write every iterate as a result file of benchopt, instead of the page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the last iterate of every run, and the claims, as JSON.")
def command(
    folder: Path, output: Path | None, title: str | None, serve: int | None, benchopt: Path | None, as_json: bool
) -> None:
    """Write an HTML page about a comparison, a run folder, or all runs inside a folder: figures, tables, settings."""
    from mpinewton.experiments.contents import document, read_page

    if serve is not None:
        if as_json or output is not None or benchopt is not None:
            raise ConfigError("--serve writes no file and prints no result: leave out -o, --benchopt and --json")
        from mpinewton.report.serve import serve as serve_page

        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder")
        serve_page(lambda: read_page(folder, title), serve, lambda address: click.echo(f"{address}  (Ctrl-C ends it)"))
        return
    page = read_page(folder, title)
    if as_json:
        click.echo(json.dumps(document(page), indent=2))
    if benchopt is not None:
        if benchopt.suffix != ".parquet":
            raise ConfigError(f"--benchopt {benchopt}: unknown suffix {benchopt.suffix!r}; expected .parquet")
        from mpinewton.report.benchopt import write_benchopt

        write_benchopt(page.problems, benchopt, page.title, page.bits_per_float)
        click.echo(str(benchopt), err=as_json)
    if output is not None or not (as_json or benchopt):
        _write(page, output or folder / "report.html", quiet=as_json)


def _write(page: Page, output: Path, quiet: bool) -> None:
    suffix = output.suffix.lower()
    if suffix == ".html":
        content = page.html()
    elif suffix in (".md", ".txt"):
        content = _tables(page, suffix)
    else:
        raise ConfigError(f"{output}: unknown suffix {output.suffix!r}; choose from: .html, .md, .txt")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another -o FILE") from error
    click.echo(str(output), err=quiet)


def _tables(page: Page, suffix: str) -> str:
    from mpinewton.report.tables import Table, tables

    mark, write = ("## ", Table.markdown) if suffix == ".md" else ("", Table.text)
    parts: list[str] = []
    for problem, runs in page.problems.items():
        for heading, group in tables(runs, page.bits_per_float).items():
            parts += [mark + ", ".join(filter(None, (problem, heading))), *map(write, group)]
    return "\n\n".join(parts) + "\n"
