"""All rows of a source, or of a packed folder, in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import sparse

from mpinewton.arrays import Array, Matrix
from mpinewton.data.blocks import ClassNames, Reading
from mpinewton.data.columns import ANY, Columns, Schema
from mpinewton.data.manifest import FILE, read_manifest
from mpinewton.data.pack import classes_of
from mpinewton.data.scale import factor
from mpinewton.data.shard import Shard
from mpinewton.data.shard_io import read_shard
from mpinewton.data.sources import open_source
from mpinewton.data.spool import scale_blocks
from mpinewton.data.standard import standardize
from mpinewton.data.text import TEXTS
from mpinewton.errors import DataError

Classes = tuple[float, ...] | None


def load_rows(
    source: str, schema: Schema = ANY, reading: Reading | None = None, dtype: str = "float64"
) -> tuple[Shard, Classes]:
    """All rows of a source, as one shard, and their classes.

    Parameters
    ----------
    source : str
        As for `pack`, or a packed folder.
    schema : Schema
        Of the training data (`Manifest.schema`, `Model.schema`): the rows become the same features and get the same
        numbers of classes. Sparse rows with fewer features are padded with zeros. A packed folder is scaled already.
    reading : Reading, optional
        How to read the source; `labels=False` if the labels are not needed. Columns and class names are those of the
        schema, and the label column, too, unless it is given.
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
    folder, names, features = Path(source), None, schema.features
    reading = replace(reading or Reading(), class_names=schema.class_names, schema=schema)
    packed = (folder / FILE).exists()
    exact = dtype if schema.factor is None else "float64"
    if packed:
        shard, names = _load_folder(folder, reading, exact)
    else:
        # A source with more features than the training data is refused below, not by `Reading.features`.
        reading = replace(reading, max_features=max(reading.max_features, features or 0))
        shard, names = _load_source(source, reading, schema.scale, exact)
    _check_features(shard, features, source, packed)
    known = schema.class_names or names
    if schema.class_names and reading.labels and not np.isin(shard.y, np.arange(len(schema.class_names))).all():
        raise DataError(
            f"{source}: expected labels out of {', '.join(schema.class_names)}, as in the training data; found numbers"
        )
    classes = tuple(map(float, range(len(known)))) if known else classes_of(shard.y)
    X = standardize(_pad_features(shard.X, features or shard.features), schema.shift, schema.factor)
    return replace(shard, X=X.astype(dtype, copy=False)), classes


def _check_features(shard: Shard, features: int | None, source: str, packed: bool) -> None:
    """Refuse more features than the training data have; and fewer of a table: sparse text may omit the last ones."""
    if features is None or shard.features == features or (shard.features < features and sparse.issparse(shard.X)):
        return
    fewer = packed and shard.features < features
    remedy = f"; if the last are all 0, pack it with --features {features}" if fewer else ""
    raise DataError(f"{source}: has {shard.features} features, but the training data have {features}{remedy}")


def _load_folder(folder: Path, reading: Reading, dtype: str) -> tuple[Shard, tuple[str, ...] | None]:
    """The rows of all shards of a packed folder, and their class names; labels are numbered as in the training data.

    Features are standardised as those of the folder only if there are no training data.
    """
    manifest, schema = read_manifest(folder), reading.schema
    own, names = manifest.class_names, reading.class_names
    if names and manifest.source.startswith(TEXTS) and own != names:  # features are numbers of characters, too
        raise DataError(
            f"{folder}: its characters have other numbers than in the training data; use the text, as text:FILE"
        )
    if schema.features is not None and factor(manifest.scale) != factor(schema.scale):
        raise DataError(
            f"{folder}: was packed with --scale {manifest.scale}, and the training data with --scale {schema.scale}; "
            "pack it again with the same, or use the source"
        )
    if schema is not ANY:
        manifest = msgspec.structs.replace(manifest, shift=None, factor=None)
    shard = _concatenate([read_shard(folder, manifest, index, dtype) for index in range(manifest.workers)])
    if schema.columns and manifest.columns and schema.columns.named and manifest.columns.named:
        shard = replace(shard, X=_match_features(shard.X, manifest.columns, schema.columns, folder))
    if not reading.labels:
        return replace(shard, y=np.zeros(shard.rows)), names or None
    if own is not None and names is not None:
        shard = replace(shard, y=_renumber(shard.y, own, names, str(folder)))
    return shard, own


def _match_features(X: Matrix, own: Columns, trained: Columns, folder: Path) -> Matrix:
    """The features of the training data, by their names. Categories that do not occur are 0.

    Raises
    ------
    DataError
        If a column of the training data is missing, or a category is new.
    """
    there = {column.name: column for column in own}
    for column in trained:
        if column.name not in there or there[column.name].kind != column.kind:
            kind = f"no column {column.name!r} of kind {column.kind}, as the training data have"
            raise DataError(f"{folder}: has {kind}; use the table, not its shards")
        if more := sorted(set(there[column.name].feature_names) - set(column.feature_names)):
            raise DataError(f"{folder}: the feature {more[0]!r} does not occur in the training data")
    place = {name: number for number, name in enumerate(own.feature_names)}
    order = [place.get(name, X.shape[1]) for name in trained.feature_names]
    return _pad_features(X, X.shape[1] + 1)[:, order]


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
