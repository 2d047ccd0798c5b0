"""mpinewton info: what is inside?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpinewton.errors import DataError

if TYPE_CHECKING:
    import h5py

OURS = ("mpinewton-shard/", "mpinewton-model/", "mpinewton-checkpoint/")
SHOWN, DEPTH = 400, 3


@click.command("info")
@click.argument("path", type=click.Path(path_type=Path))
def command(path: Path) -> None:
    """Say what is inside a packed folder, a shard, a model or a checkpoint. Nothing is verified: see check."""
    click.echo("\n".join(folder_lines(path) if path.is_dir() else file_lines(path)))


def folder_lines(folder: Path) -> list[str]:
    """The manifest, one fact a line, then the shards."""
    import msgspec

    from mpinewton.data.manifest import read_manifest

    manifest = read_manifest(folder)
    facts = msgspec.to_builtins(manifest)
    shards = facts.pop("shards")
    lines = [f"{name:12} {_short(value)}" for name, value in facts.items()]
    return lines + [f"{shard['file']}  {shard['rows']} rows, mass {shard['mass']:g}" for shard in shards]


def file_lines(path: Path) -> list[str]:
    """Attributes and data sets of one of our HDF5 files."""
    from mpinewton.data.shard_io import attribute, opened

    with opened(path) as file:
        form = str(attribute(file, path, "format")) if "format" in file.attrs else ""
        if not form.startswith(OURS):
            raise DataError(f"{path}: is not a file of mpinewton (its format is {form or 'not given'!r})")
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
            value = "(neither short text nor a few numbers)"
        lines.append(f"{prefix + name:12} {value}")
    for name in sorted(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            lines.append(f"{prefix + name:12} (a link elsewhere, not followed)")
        elif isinstance(item := group[name], h5py.Group):
            deeper = prefix.count("/") < DEPTH  # a group may hold itself
            lines += _group_lines(item, path) if deeper else [f"{prefix + name:12} ..."]
        else:
            lines.append(f"{prefix + name:12} {item.dtype} {'x'.join(map(str, item.shape)) or 'one'}")
    return lines


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text)} characters)"
