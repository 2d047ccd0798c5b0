"""`mpinewton check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mpinewton.errors import DataError


@click.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Verify digests, shapes and values of a folder of shards or of one shard.

    Prints one line per shard: ok, or the fault. Exit code 2 if there is a fault. Check data from untrusted sources in a
    sandbox.
    """
    from mpinewton.data.manifest import read_manifest
    from mpinewton.data.pack import one_by_one

    each = getattr(ctx.obj, "each", None) or one_by_one
    if path.is_dir():
        manifest = read_manifest(path)
        items = [{"path": str(path), "index": index} for index in range(manifest.workers)]
        names = [entry.file for entry in manifest.shards]
    else:
        items, names = [{"path": str(path), "index": None}], [path.name]
    results = each(check_shard, items)
    if as_json:
        click.echo(json.dumps([{"file": name, **result} for name, result in zip(names, results)]))
    for name, result in () if as_json else zip(names, results):
        click.echo(result["fault"] or f"{name}: ok, {result['rows']} rows")
    if faulty := sum(result["fault"] is not None for result in results):
        raise DataError(
            f"{path}: {faulty} of {len(results)} shards have faults; copy them again or pack the data again"
        )


def check_shard(item: dict[str, Any]) -> dict[str, Any]:
    """Number of rows of one shard, or its fault. JSON-able."""
    from mpinewton.data.manifest import read_manifest
    from mpinewton.data.shard_io import read_file, read_shard

    path, index = Path(item["path"]), item["index"]
    try:
        shard = read_file(path)[1] if index is None else read_shard(path, read_manifest(path), index, dtype=None)
    except DataError as error:
        return {"rows": None, "fault": str(error)}
    return {"rows": shard.rows, "fault": None}
