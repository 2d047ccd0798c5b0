"""Shards, read into memory or left in their files."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mpinewton.arrays import Matrix
from mpinewton.data.manifest import Manifest, scale_when_read
from mpinewton.data.scale import multiply
from mpinewton.data.shard import Shard
from mpinewton.data.shard_format import Header
from mpinewton.data.shard_reader import REPAIR, Reader, csr, open_shard
from mpinewton.data.standard import standardize
from mpinewton.data.stored_rows import StoredRows
from mpinewton.errors import DataError


def _in_memory(reader: Reader, dtype: str) -> Matrix:
    """All rows, in a type, to which they are converted piece by piece."""
    header, starts = reader.header, reader.starts
    piece: Any
    if starts is None:
        X = np.empty((header.rows, header.features), dtype)
        for rows, piece in reader.scan():
            X[rows] = piece
        return X
    data, indices = np.empty(starts[-1], dtype), np.empty(starts[-1], np.int32)
    for rows, piece in reader.scan():
        place = slice(starts[rows.start], starts[rows.stop])
        data[place], indices[place] = piece.data, piece.indices
    return csr(data, indices, starts, (header.rows, header.features))


def read_file(
    path: Path,
    dtype: str | None = None,
    verify: bool = True,
    finish: Callable[[Any], Any] | None = None,
    keep: bool = True,
) -> tuple[Header, Shard, str]:
    """A shard without its manifest: header, rows, digest of the content.

    Parameters
    ----------
    dtype : str or None
        Type of X, multiplied by its scale; None: as stored.
    verify : bool
        Compare the digest of every data set. Shapes, types, indices and checksums are always checked.
    finish : callable, optional
        What turns X into that of the shard.
    keep : bool
        Keep the rows in memory. False: they are read and checked, and read again whenever they are needed.

    Raises
    ------
    DataError
        Naming file and data set.
    """
    with open_shard(path) as file:
        reader = Reader(file, path, verify)
        scale, last = reader.scale(), finish or (lambda X: X)

        def made(X: Any) -> Any:
            return last(X if dtype is None else _converted(X, scale, dtype))

        if keep:
            X = made(_in_memory(reader, reader.header.dtype if dtype is None or scale != 1 else dtype))
        else:
            for _ in reader.scan():
                pass
            X = StoredRows(reader, made)
    shard = Shard(X, reader.y, reader.weight, scale if dtype is None else Fraction(1))
    return reader.header, shard, reader.digest()


def _converted(X: Any, scale: Fraction, dtype: str) -> Any:
    """Features times their scale, in a type."""
    return (X if scale == 1 else multiply(X, scale)).astype(dtype, copy=False)


def read_shard(
    folder: Path | str,
    manifest: Manifest,
    index: int,
    dtype: str | None = "float64",
    verify: bool = True,
    keep: bool = True,
) -> Shard:
    """The shard of worker `index` of a packed folder, with X standardised and in `dtype` (None: as stored).

    `keep` is that of `read_file`.

    Raises
    ------
    DataError
        If the file is damaged, of a newer format, or not the one that the manifest describes.
    """
    entry = manifest.shards[index]
    path = Path(folder) / entry.file
    if path.resolve().parent != Path(folder).resolve():
        raise DataError(f"{path}: is a symbolic link to another folder, which is not followed; {REPAIR}")
    finish = None
    if standard := manifest.factor is not None and dtype is not None:

        def finish(X: Any) -> Any:
            return standardize(X, manifest.shift, manifest.factor).astype(dtype)

    header, shard, digest = read_file(path, "float64" if standard else dtype, verify, finish, keep)
    for what, found, expected in (
        ("rows", header.rows, entry.rows),
        ("features", header.features, manifest.features),
        ("dtype", header.dtype, manifest.dtype),
        ("scale", header.scale, scale_when_read(manifest.dtype, manifest.scale)),
        ("classes", header.classes, manifest.classes),
        ("source", header.source, manifest.source),
        ("weighted", shard.sample_weight is not None, manifest.weighted),
        ("mass", np.round(shard.total_weight, 6), np.round(entry.mass, 6)),
        ("digest", digest, entry.digest),
    ):
        if found != expected:
            raise DataError(f"{path}: {what} is {found}, but the manifest says {expected}; {REPAIR}")
    return shard
