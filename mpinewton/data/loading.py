"""All rows of a source, or of a packed folder, in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import ClassNames, Reading
from mpinewton.data.manifest import FILE, read_manifest
from mpinewton.data.pack import classes_of
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_shard
from mpinewton.data.sources import open_source
from mpinewton.data.spool import scale_blocks
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
        As for `pack`, or a packed folder.
    features : int or None
        Number of features of the training data. Sparse rows with fewer are padded with zeros.
    class_names : tuple of str or None
        Class names of the training data: labels get the same numbers. (): the labels must be numbers; None: any.
    scale : str
        Factor of the features; a packed folder is scaled already.
    reading : Reading, optional
        How to read the source.
    dtype : str
        Type of the features in memory.

    Returns
    -------
    Shard
    tuple of float, or None
        The distinct labels, increasing; None for real numbers.

    Raises
    ------
    DataError
        If the source has more features than the training data, is a table with fewer, or has an unknown label.
    """
    folder, names = Path(source), None
    packed = (folder / FILE).exists()
    if packed:
        shard, names = _load_folder(folder, class_names, dtype)
    else:
        # A source with more features than the training data is refused below, not by `Reading.features`.
        reading = reading or Reading()
        widest = max(reading.max_features, features or 0)
        shard, names = _load_source(
            source, replace(reading, max_features=widest, class_names=class_names), scale, dtype
        )
    _check_features(shard, features, source, packed)
    known = class_names or names
    if class_names and not np.isin(shard.y, np.arange(len(class_names))).all():
        raise DataError(
            f"{source}: expected labels out of {', '.join(class_names)}, as in the training data; found numbers"
        )
    classes = tuple(map(float, range(len(known)))) if known else classes_of(shard.y)
    return replace(shard, X=_pad_features(shard.X, features or shard.features)), classes


def _check_features(shard: Shard, features: int | None, source: str, packed: bool) -> None:
    """Refuse more features than the training data have; and fewer of a table: sparse text may omit the last ones."""
    if features is None or shard.features == features or (shard.features < features and sparse.issparse(shard.X)):
        return
    fewer = packed and shard.features < features
    remedy = f"; if the last are all 0, pack it with --features {features}" if fewer else ""
    raise DataError(f"{source}: has {shard.features} features, but the training data have {features}{remedy}")


def _load_folder(folder: Path, names: tuple[str, ...] | None, dtype: str) -> tuple[Shard, tuple[str, ...] | None]:
    """The rows of all shards of a packed folder, and their class names; labels are numbered as `names` are."""
    manifest = read_manifest(folder)
    own = manifest.class_names
    if names and manifest.source.startswith(TEXTS) and own != names:  # features are numbers of characters, too
        raise DataError(
            f"{folder}: its characters have other numbers than in the training data; use the text, as text:FILE"
        )
    shard = _concatenate([read_shard(folder, manifest, index, dtype) for index in range(manifest.workers)])
    if own is not None and names is not None:
        shard = replace(shard, y=_renumber(shard.y, own, names, str(folder)))
    return shard, own


def _load_source(source: str, reading: Reading, scale: str, dtype: str) -> tuple[Shard, tuple[str, ...] | None]:
    """The rows of a source, and their class names."""
    rows = open_source(source, reading)
    blocks = [
        Shard(block.X.astype(dtype), block.y, block.weight)
        for block in scale_blocks(rows.valid_blocks(), scale, source)
    ]
    if not sum(block.rows for block in blocks):
        raise DataError(f"{source}: has no rows")
    shard = _concatenate(blocks)
    return replace(shard, y=rows.class_names.renumber(shard.y)), rows.class_names.names


def _concatenate(shards: list[Shard]) -> Shard:
    p = max(shard.features for shard in shards)
    parts = [_pad_features(shard.X, p) for shard in shards]
    X = sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)
    weights = [shard.sample_weight for shard in shards if shard.sample_weight is not None]
    return Shard(X, np.concatenate([shard.y for shard in shards]), np.concatenate(weights) if weights else None)


def _pad_features(X: Any, features: int) -> Any:
    """X with zeros as last columns, `features` wide."""
    n, p = X.shape
    if p == features:
        return X
    if sparse.issparse(X):
        return sparse.csr_array((X.data, X.indices, X.indptr), shape=(n, features))
    return np.hstack([X, np.zeros((n, features - p), X.dtype)])


def _renumber(y: Array, own: tuple[str, ...], names: tuple[str, ...], source: str) -> Array:
    """Numbers among `names` of labels that are numbers among `own`."""
    numbers = ClassNames(names)
    try:
        return np.array([numbers(name) for name in own], dtype=np.float64)[y.astype(np.int64)]
    except ValueError as error:
        raise DataError(f"{source}: the label {error}") from None
