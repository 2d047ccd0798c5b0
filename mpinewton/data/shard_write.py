"""One HDF5 file per logical worker, written in pieces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpinewton.data.blocks import Block
from mpinewton.data.manifest import MIN_READER
from mpinewton.data.narrow import storage_type
from mpinewton.data.shard_format import FORMAT, Header, content_digest
from mpinewton.durable import DiskFile

CHUNK_BYTES = 1 << 19


class _Column:
    """A data set with checksums, to which pieces are appended; it computes the digest of its content.

    Parameters
    ----------
    content, kind : str
        Types of the content and of the data set.
    """

    def __init__(
        self, file: h5py.File, name: str, shape: tuple[int, ...], content: str, kind: str, compress: bool
    ) -> None:
        itemsize = np.dtype(kind).itemsize
        width = min(shape[1], CHUNK_BYTES // itemsize) if len(shape) == 2 else 1
        most = max(1, CHUNK_BYTES // (itemsize * width))
        chunks = -(-shape[0] // most)  # of equal size: HDF5 writes the last one whole
        rows = -(-shape[0] // max(1, chunks)) or 1
        self.dataset = file.create_dataset(
            name,
            shape=shape,
            # An empty data set may have chunks, and so checksums, only if it can grow.
            maxshape=None if all(shape) else (None, *shape[1:]),
            dtype=np.dtype(kind).newbyteorder("<"),
            chunks=(rows, width)[: len(shape)],
            fletcher32=True,
            compression="lzf" if compress else None,
            shuffle=compress,
        )
        self.content = np.dtype(content).newbyteorder("<")
        self.filled, self.hash = 0, hashlib.blake2b(digest_size=32)

    def append(self, piece: NDArray[Any], content: NDArray[Any] | None = None) -> None:
        """Store a piece; its content, if that is not the piece itself, is only hashed."""
        piece = np.ascontiguousarray(piece, dtype=self.content)
        self.hash.update((piece if content is None else content).data)
        if len(piece):
            self.dataset[self.filled : self.filled + len(piece)] = piece.astype(self.dataset.dtype, copy=False)
        self.filled += len(piece)

    def finish(self) -> str:
        digest = self.hash.hexdigest()
        self.dataset.attrs["digest"] = np.bytes_(digest)
        return digest


def write_shard(
    path: Path,
    header: Header,
    pieces: Iterable[Block],
    nnz: int | None,
    weighted: bool,
    compress: bool = False,
    kinds: Mapping[str, str] | None = None,
) -> tuple[float, str]:
    """Write a shard from consecutive pieces of its rows and flush it to disk.

    Parameters
    ----------
    nnz : int or None
        Number of stored entries of a sparse shard; None for a dense one.
    kinds : mapping, optional
        Types that hold all of `values`, `y`, `weight` and `counts` (entries of a row) exactly, such as those of
        `narrowest`; "bool": all are 1.

    Returns
    -------
    mass, digest
        Sum of the row weights; digest of the content, which does not depend on the types in which it is stored.
    """
    n, p, kinds = header.rows, header.features, kinds or {}
    ones = nnz is not None and kinds.get("values") == "bool"
    shapes: dict[str, tuple[int, ...]] = {"y": (n,)}
    if nnz is None:
        shapes["X"] = (n, p)
    else:
        shapes |= {"indices": (nnz,), "counts": (n,)}
        if not ones:
            shapes["data"] = (nnz,)
    if weighted:
        shapes["weight"] = (n,)
    held = {**kinds, "X": kinds.get("values"), "data": kinds.get("values"), "indices": index_type(p)}
    with DiskFile(path) as disk:
        try:
            with h5py.File(disk, "w", libver=("v110", "v110")) as file:
                _write_attributes(file, header)
                columns: dict[str, _Column] = {}
                for name, shape in shapes.items():
                    content = header.content(name)
                    kind = storage_type(held.get(name) or content, content)
                    columns[name] = _Column(file, name, shape, content, kind, compress)
                mass = _fill(columns, pieces, disk)
                digests = {name: column.finish() for name, column in columns.items()}
                if ones:
                    digests["data"] = _digest_of_ones(nnz or 0, header.dtype)
                    file.attrs["ones"] = np.bytes_(digests["data"])
                digest = content_digest(header, digests)
        finally:
            disk.check()  # the cause of whatever HDF5 says
        os.fsync(disk.fileno())
    return mass, digest


def index_type(features: int) -> str:
    return "uint8" if features <= 1 << 8 else "uint16" if features <= 1 << 16 else "int32"


def _digest_of_ones(count: int, dtype: str) -> str:
    hash_, piece = hashlib.blake2b(digest_size=32), np.ones(min(count, CHUNK_BYTES), np.dtype(dtype))
    for first in range(0, count, CHUNK_BYTES):
        hash_.update(piece[: count - first].data)
    return hash_.hexdigest()


def _fill(columns: dict[str, _Column], pieces: Iterable[Block], disk: DiskFile) -> float:
    mass, entries = 0.0, 0
    if "counts" in columns:
        columns["counts"].append(np.zeros(0, np.int32), np.zeros(1, np.int64))
    for piece in pieces:
        if isinstance(piece.X, np.ndarray):
            columns["X"].append(piece.X)
        else:
            starts = piece.X.indptr.astype(np.int64)
            columns["counts"].append(np.diff(starts), starts[1:] + entries)
            columns["indices"].append(piece.X.indices)
            if "data" in columns:
                columns["data"].append(piece.X.data)
            entries += int(starts[-1])
        columns["y"].append(piece.y)
        if piece.weight is not None:
            columns["weight"].append(piece.weight)
        disk.check()
        mass += len(piece.y) if piece.weight is None else float(piece.weight.sum())
    return mass


def _write_attributes(file: h5py.File, header: Header) -> None:
    for name, value in (("format", FORMAT), ("min_reader", MIN_READER), ("dtype", header.dtype)):
        file.attrs[name] = np.bytes_(value)
    file.attrs["source"] = np.bytes_(header.source.encode())
    file.attrs["rows"], file.attrs["features"] = header.rows, header.features
    file.attrs["classes"] = np.array(header.classes or (), dtype=np.float64)
    if header.dtype == "uint8":
        file.attrs["scale"] = np.bytes_(header.scale)
