"""`mpinewton datasets`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("datasets")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the files are, or are written.  [default: $MPINEWTON_DATA, or a folder in the user's cache]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(names: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """List public data sets; with NAMEs, download those that are missing, verify all, and print their paths.

    An interrupted download is resumed.
    """
    from mpinewton.data.public import PUBLIC, fetch, find, public_folder

    folder = output or public_folder()
    if names:
        paths = {name: str(fetch(name, folder)) for name in names}
        click.echo(json.dumps(paths) if as_json else "\n".join(paths.values()))
        return
    known = {name: find(name, folder) for name in PUBLIC}
    if as_json:
        facts = {
            name: {"rows": data.rows, "features": data.features, "url": data.url, "sha256": data.sha256}
            | {"path": str(known[name]) if known[name] else None}
            for name, data in PUBLIC.items()
        }
        click.echo(json.dumps(facts))
        return
    click.echo(f"{'NAME':24} {'ROWS':>6} {'FEATURES':>8}  IN {folder}")
    for name, data in PUBLIC.items():
        there = known[name]
        click.echo(f"{name:24} {data.rows:6} {data.features or '':>8}  {there.name if there else '-'}")
