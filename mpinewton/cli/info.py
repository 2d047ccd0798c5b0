"""`mpinewton info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpinewton.errors import DataError

if TYPE_CHECKING:
    import h5py

OURS = ("mpinewton-shard/", "mpinewton-model/", "mpinewton-checkpoint/")
SHOWN, DEPTH, LARGEST_TEXT = 400, 3, 1 << 24


@click.command("info")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: Path, as_json: bool) -> None:
    """Show the content of PATH: a folder of shards, a shard, a model or a checkpoint. `check` verifies it."""
    facts = folder_facts(path) if path.is_dir() else file_facts(path)
    if as_json:
        click.echo(json.dumps(dict(facts), default=_plain))
    else:
        click.echo("\n".join(f"{name:12} {_short(value)}" for name, value in facts))


def folder_facts(folder: Path) -> list[tuple[str, object]]:
    """Names and values that describe a folder of shards: the manifest, then each shard."""
    import msgspec

    from mpinewton.data.manifest import read_manifest

    manifest = read_manifest(folder)
    facts = msgspec.to_builtins(manifest)
    shards = facts.pop("shards")
    facts["columns"] = manifest.columns and ", ".join(column.name for column in manifest.columns)
    return [*facts.items(), *((s["file"], f"{s['rows']} rows, total weight {s['mass']:g}") for s in shards)]


def file_facts(path: Path) -> list[tuple[str, object]]:
    """Names and values that describe an HDF5 file of mpinewton: attributes and data sets."""
    from mpinewton.data.shard_reader import attribute, open_shard

    with open_shard(path) as file:
        form = str(attribute(file, path, "format")) if "format" in file.attrs else ""
        if not form.startswith(OURS):
            raise DataError(f"{path}: not a file of mpinewton (format {form or 'not given'!r})")
        return _group_facts(file, path)


def _group_facts(group: h5py.Group, path: Path) -> list[tuple[str, object]]:
    import h5py

    from mpinewton.data.shard_reader import attribute

    prefix = group.name.strip("/") + "/" if group.name != "/" else ""
    facts: list[tuple[str, object]] = []
    for name in sorted(group.attrs):
        try:
            value = attribute(group, path, name)
        except DataError:
            value = "(not a short text or a few numbers)"
        facts.append((prefix + name, value))
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            facts.append((prefix + name, "(a link to another file, not followed)"))
        elif isinstance(item := group[name], h5py.Group):
            deeper = prefix.count("/") < DEPTH  # a group may contain itself
            facts += _group_facts(item, path) if deeper else [(prefix + name, "...")]
        else:
            facts.append((prefix + name, f"{item.dtype} {'x'.join(map(str, item.shape)) or 'one'}"))
            facts += _facts(item).items() if name == "facts" else []
    return facts


def _facts(dataset: h5py.Dataset) -> dict[str, object]:
    """What the text of a model or a checkpoint says, without what it does not say."""
    if dataset.is_virtual or dataset.external or dataset.dtype != "uint8" or dataset.size > LARGEST_TEXT:
        return {}
    try:
        facts = json.loads(dataset[()].tobytes())
        facts |= facts.pop("schema", {})
    except (ValueError, TypeError, AttributeError):
        return {}
    return {name: value for name, value in facts.items() if value is not None}


def _plain(value: object) -> object:
    """A value of numpy as JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
