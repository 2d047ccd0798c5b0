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
def command(path: Path) -> None:
    """Show the content of PATH: a folder of shards, a shard, a model or a checkpoint. `check` verifies it."""
    click.echo("\n".join(folder_lines(path) if path.is_dir() else file_lines(path)))


def folder_lines(folder: Path) -> list[str]:
    """Lines that describe a folder of shards: the manifest, then each shard."""
    import msgspec

    from mpinewton.data.manifest import read_manifest

    manifest = read_manifest(folder)
    facts = msgspec.to_builtins(manifest)
    shards = facts.pop("shards")
    facts["columns"] = manifest.columns and ", ".join(column.name for column in manifest.columns)
    lines = [f"{name:12} {_short(value)}" for name, value in facts.items()]
    return lines + [f"{shard['file']}  {shard['rows']} rows, total weight {shard['mass']:g}" for shard in shards]


def file_lines(path: Path) -> list[str]:
    """Lines that describe an HDF5 file of mpinewton: attributes and data sets."""
    from mpinewton.data.shard_io import attribute, open_shard

    with open_shard(path) as file:
        form = str(attribute(file, path, "format")) if "format" in file.attrs else ""
        if not form.startswith(OURS):
            raise DataError(f"{path}: not a file of mpinewton (format {form or 'not given'!r})")
        return _group_lines(file, path)


def _group_lines(group: h5py.Group, path: Path) -> list[str]:
    import h5py

    from mpinewton.data.shard_io import attribute

    prefix = group.name.strip("/") + "/" if group.name != "/" else ""
    lines = []
    for name in sorted(group.attrs):
        try:
            value = _short(attribute(group, path, name))
        except DataError:
            value = "(not a short text or a few numbers)"
        lines.append(f"{prefix + name:12} {value}")
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            lines.append(f"{prefix + name:12} (a link to another file, not followed)")
        elif isinstance(item := group[name], h5py.Group):
            deeper = prefix.count("/") < DEPTH  # a group may contain itself
            lines += _group_lines(item, path) if deeper else [f"{prefix + name:12} ..."]
        else:
            lines.append(f"{prefix + name:12} {item.dtype} {'x'.join(map(str, item.shape)) or 'one'}")
            lines += [f"{fact:12} {_short(value)}" for fact, value in _facts(item).items()] if name == "facts" else []
    return lines


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


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
