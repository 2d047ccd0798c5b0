"""A whole source, or a packed folder, in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import Reading, Words
from mpinewton.data.manifest import FILE, read_manifest
from mpinewton.data.pack import classes_of
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_shard
from mpinewton.data.sources import open_source
from mpinewton.data.spool import scaled
from mpinewton.data.text import TEXTS
from mpinewton.errors import DataError

Classes = tuple[float, ...] | None


def load_rows(
    source: str,
    features: int | None = None,
    class_names: tuple[str, ...] | None = None,
    scale: str = "1",
    reading: Reading | None = None,
    dtype: str = "float64",
) -> tuple[Shard, Classes]:
    """All rows of a source, as one shard, and their classes.

    Parameters
    ----------
    source : str
        As for `pack`, or a packed folder (its features are as they were packed: `scale` is not applied again).
    features, class_names
        Those of the training data's manifest: a sparse source with fewer features is widened,
        words get the same numbers.
        `class_names` () says that the labels must be numbers, None that anything goes.

    Raises
    ------
    DataError
        If the source has more features, or is a table with fewer, or has labels that are no class of the training data.
    """
    folder = Path(source)
    if (folder / FILE).exists():
        shard, names = _packed(folder, class_names, dtype)
        y = shard.y if names is None or class_names is None else _renamed(shard.y, names, class_names, source)
    else:
        # Not `features`: a source that has more is refused below, in words that fit a source which is not packed.
        reading = reading or Reading()
        widest = max(reading.max_features, features or 0)
        reading = replace(reading, max_features=widest, class_names=class_names)
        shard, y, names = _read(source, reading, scale, dtype)
    if features is not None and shard.features > features:
        raise DataError(f"{source}: has {shard.features} features, but the training data have {features}")
    if features is not None and shard.features < features and not sparse.issparse(shard.X):
        # Text of index:value pairs ends where the last features are all 0; a table with fewer columns is another one.
        remedy = f"; if the last are all 0, pack it with --features {features}" if (folder / FILE).exists() else ""
        raise DataError(f"{source}: has {shard.features} features, but the training data have {features}{remedy}")
    X = _widened(shard.X, features or shard.features)
    known = class_names or names
    classes = tuple(map(float, range(len(known)))) if known else classes_of(y)
    if class_names and not np.isin(y, np.arange(len(class_names))).all():
        raise DataError(
            f"{source}: the labels are numbers, but those of the training data are {', '.join(class_names)}"
        )
    return Shard(X, y, shard.sample_weight), classes


def _packed(folder: Path, wanted: tuple[str, ...] | None, dtype: str) -> tuple[Shard, tuple[str, ...] | None]:
    manifest = read_manifest(folder)
    if wanted and manifest.source.startswith(TEXTS) and manifest.class_names != wanted:  # its rows go by them, too
        raise DataError(
            f"{folder}: its numbers mean other characters than the training data's; give the text itself, as text:FILE"
        )
    shards = [read_shard(folder, manifest, index, dtype) for index in range(manifest.workers)]
    return _stacked(shards), manifest.class_names


def _read(source: str, reading: Reading, scale: str, dtype: str) -> tuple[Shard, Array, tuple[str, ...] | None]:
    opened = open_source(source, reading)
    blocks = [
        Shard(block.X.astype(dtype), block.y, block.weight) for block in scaled(opened.checked_blocks(), scale, source)
    ]
    if not sum(block.rows for block in blocks):
        raise DataError(f"{source}: holds no rows")
    shard = _stacked(blocks)
    return shard, opened.words.final(shard.y), opened.words.names


def _stacked(shards: list[Shard]) -> Shard:
    p = max(shard.features for shard in shards)
    parts = [_widened(shard.X, p) for shard in shards]
    X = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
    weights = [shard.sample_weight for shard in shards if shard.sample_weight is not None]
    return Shard(X, np.concatenate([shard.y for shard in shards]), np.concatenate(weights) if weights else None)


def _widened(X: Any, features: int) -> Any:
    n, p = X.shape
    if p == features:
        return X
    if sparse.issparse(X):
        return sparse.csr_array((X.data, X.indices, X.indptr), shape=(n, features))
    return np.hstack([X, np.zeros((n, features - p), X.dtype)])


def _renamed(y: Array, names: tuple[str, ...], wanted: tuple[str, ...], source: str) -> Array:
    words = Words(wanted)
    try:
        return np.array([words(name) for name in names], dtype=np.float64)[y.astype(np.int64)]
    except ValueError as error:
        raise DataError(f"{source}: the label {error}") from None
