"""One HDF5 file per logical worker: written in pieces, and validated when read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.data.blocks import CLASSES, Block
from mpinewton.data.manifest import DTYPES, MIN_READER, Manifest, digest_of, refuse_format, scale_when_read
from mpinewton.data.scale import factor, multiply
from mpinewton.data.shard import Shard
from mpinewton.data.standard import standardize
from mpinewton.durable import DiskFile, open_regular
from mpinewton.errors import ConfigError, DataError

FORMAT = "mpinewton-shard/1"
CHUNK_BYTES = 1 << 19
LARGEST_CHUNK = 64 << 20
ATTRIBUTE_BYTES = 1 << 16
# lzf compresses 264 bytes to 3 at best; a file that claims a larger ratio than this was not written here.
EXPANSION = 128
FILTERS = {h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_LZF}
REPAIR = "copy the file again, or pack the data again"


@dataclass(frozen=True)
class Header:
    """Attributes of a shard: `classes` as in the manifest, `dtype` of the stored features, and their `scale`.

    The features must be multiplied by `scale` when they are read; it is "1" for floats, which are stored multiplied.
    """

    rows: int
    features: int
    classes: tuple[float, ...] | None
    dtype: str
    source: str
    scale: str = "1"


class _Column:
    """A data set with checksums, to which pieces are appended; it computes its digest."""

    def __init__(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, compress: bool) -> None:
        width = min(shape[1], CHUNK_BYTES // 8) if len(shape) == 2 else 1
        rows = max(1, min(shape[0], CHUNK_BYTES // (8 * width)))
        self.dataset = file.create_dataset(
            name,
            shape=shape,
            maxshape=(None, *shape[1:]),  # an empty data set may have chunks, and so checksums, only if it can grow
            dtype=np.dtype(dtype).newbyteorder("<"),
            chunks=(rows, width)[: len(shape)],
            fletcher32=True,
            compression="lzf" if compress else None,
            shuffle=compress,
        )
        self.filled, self.hash = 0, hashlib.blake2b(digest_size=32)

    def append(self, piece: NDArray[Any]) -> None:
        piece = np.ascontiguousarray(piece, dtype=self.dataset.dtype)
        if len(piece):
            self.dataset[self.filled : self.filled + len(piece)] = piece
        self.hash.update(piece.data)
        self.filled += len(piece)

    def finish(self) -> str:
        digest = self.hash.hexdigest()
        self.dataset.attrs["digest"] = np.bytes_(digest)
        return digest


def write_shard(
    path: Path, header: Header, pieces: Iterable[Block], nnz: int | None, weighted: bool, compress: bool = False
) -> tuple[float, str]:
    """Write a shard from consecutive pieces of its rows and flush it to disk.

    Parameters
    ----------
    nnz : int or None
        Number of stored entries of a sparse shard; None for a dense one.

    Returns
    -------
    mass, digest
        Sum of the row weights; digest of the content.
    """
    n, p = header.rows, header.features
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"X": ((n, p), header.dtype)}
    if nnz is not None:
        shapes = {"data": ((nnz,), header.dtype), "indices": ((nnz,), "int32"), "indptr": ((n + 1,), "int64")}
    shapes["y"] = ((n,), "float64")
    if weighted:
        shapes["weight"] = ((n,), "float64")
    with DiskFile(path) as disk:
        try:
            with h5py.File(disk, "w", libver=("v110", "v110")) as file:
                _write_attributes(file, header)
                columns = {name: _Column(file, name, shape, kind, compress) for name, (shape, kind) in shapes.items()}
                mass = _fill(columns, pieces, disk)
                digest = _content(header, {name: column.finish() for name, column in columns.items()})
        finally:
            disk.check()  # the cause of whatever HDF5 says
        os.fsync(disk.fileno())
    return mass, digest


def _fill(columns: dict[str, _Column], pieces: Iterable[Block], disk: DiskFile) -> float:
    mass = 0.0
    if "indptr" in columns:
        columns["indptr"].append(np.zeros(1, np.int64))
    for piece in pieces:
        if isinstance(piece.X, np.ndarray):
            columns["X"].append(piece.X)
        else:
            columns["indptr"].append(piece.X.indptr[1:].astype(np.int64) + columns["data"].filled)
            columns["data"].append(piece.X.data)
            columns["indices"].append(piece.X.indices)
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


def _content(header: Header, digests: dict[str, str]) -> str:
    parts = [str(header.rows), str(header.features), header.dtype]
    parts += [f"scale {header.scale}"] if header.dtype == "uint8" else []
    return digest_of(parts + [f"{name} {digests[name]}" for name in sorted(digests)])


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file, read-only and without lock. Errors of HDF5 become a DataError that names the file."""
    try:
        open_regular(path).close()
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; {REPAIR}") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: is damaged or not an HDF5 file ({error}); {REPAIR}") from None


def attribute(file: h5py.File, path: Path, name: str) -> Any:
    """A small attribute: numbers, or text of fixed length."""
    if name not in file.attrs:
        raise DataError(f"{path}: lacks the attribute {name!r}; {REPAIR}")
    found = file.attrs.get_id(name)
    if (
        found.dtype.kind not in "Sif"
        or found.dtype.itemsize * int(np.prod(found.shape, dtype=object)) > ATTRIBUTE_BYTES
    ):
        raise DataError(f"{path}: the attribute {name!r} is neither short text nor a few numbers; {REPAIR}")
    value = file.attrs[name]
    return value.decode() if isinstance(value, bytes) else value


def read_header(file: h5py.File, path: Path) -> Header:
    """The attributes of a shard, after a check of its format."""
    if "format" not in file.attrs:
        raise DataError(f"{path}: is an HDF5 file without the attribute 'format', not a shard; use: mpinewton pack")
    newer = str(attribute(file, path, "min_reader")) if "min_reader" in file.attrs else "?"
    refuse_format(path, str(attribute(file, path, "format")), FORMAT, newer)
    dtype, classes = str(attribute(file, path, "dtype")), np.ravel(attribute(file, path, "classes"))
    if dtype not in DTYPES:
        raise DataError(f"{path}: dtype is {dtype!r}, none of {', '.join(DTYPES)}; {REPAIR}")
    rows, features = int(attribute(file, path, "rows")), int(attribute(file, path, "features"))
    if rows < 0 or not 1 <= features < 1 << 31:
        raise DataError(f"{path}: {rows} rows of {features} features are not valid; {REPAIR}")
    found = tuple(float(label) for label in classes) or None
    if len(classes) > CLASSES or sorted(set(classes.tolist())) != classes.tolist():
        raise DataError(f"{path}: classes are not at most {CLASSES} distinct and increasing numbers; {REPAIR}")
    scale = str(attribute(file, path, "scale")) if dtype == "uint8" else "1"
    return Header(rows, features, found, dtype, str(attribute(file, path, "source")), scale)


def _dataset(file: h5py.File, path: Path, name: str, shape: tuple[int | None, ...], dtype: str) -> h5py.Dataset:
    """A data set that is stored in this file, with checksums, type and shape (None: any size); else DataError."""
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if fault := "is a link, which is not followed" if dataset is None else _fault(dataset, path, shape, dtype):
        raise DataError(f"{path}: data set {name!r} {fault}; {REPAIR}")
    return dataset


def _fault(dataset: Any, path: Path, shape: tuple[int | None, ...], dtype: str) -> str | None:
    """What makes an object of an HDF5 file other than the data set expected."""
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        return "is a group, virtual, or in another file, which is not followed"
    if dataset.dtype != np.dtype(dtype).newbyteorder("<"):
        return f"has dtype {dataset.dtype}; expected {dtype}"
    if len(dataset.shape) != len(shape) or any(size not in (None, n) for size, n in zip(shape, dataset.shape)):
        return f"has shape {dataset.shape}; expected {tuple('any' if size is None else size for size in shape)}"
    plist = dataset.id.get_create_plist()
    used = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if not {h5py.h5z.FILTER_FLETCHER32} <= used <= FILTERS or dataset.chunks is None:
        return "has no fletcher32 checksum, or another filter than lzf and shuffle"
    claimed, stored = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
    if claimed > EXPANSION * stored or stored > path.stat().st_size or chunk > LARGEST_CHUNK:
        return f"claims {claimed} bytes (chunks of {chunk}) but stores {stored}"
    return None


def _read(file: h5py.File, path: Path, name: str, dataset: h5py.Dataset, verify: bool) -> tuple[NDArray[Any], str]:
    try:
        array: NDArray[Any] = dataset[...]
        digest = str(attribute(dataset, path, "digest"))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: data set {name!r} is damaged ({error}); {REPAIR}") from None
    if verify and hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=32).hexdigest() != digest:
        raise DataError(f"{path}: data set {name!r} has changed since it was packed (its digest differs); {REPAIR}")
    return array, digest


def read_file(path: Path, dtype: str | None = None, verify: bool = True) -> tuple[Header, Shard, str]:
    """A shard without its manifest: header, rows, digest of the content.

    Parameters
    ----------
    dtype : str or None
        Type of X in memory, multiplied by its scale; None: as stored.
    verify : bool
        Compare the digest of every data set. Shapes, types, indices and checksums are always checked.

    Raises
    ------
    DataError
        Naming file and data set.
    """
    with open_shard(path) as file:
        header = read_header(file, path)
        names, n = set(file), header.rows
        is_sparse, weighted = "indptr" in names, "weight" in names
        matrix = {"data", "indices", "indptr"} if is_sparse else {"X"}
        expected = matrix | {"y"} | ({"weight"} if weighted else set())
        if names != expected:
            found = ", ".join(sorted(names))
            raise DataError(f"{path}: expected data sets {', '.join(sorted(expected))}; found {found}; {REPAIR}")
        shapes: dict[str, tuple[tuple[int | None, ...], str]] = {"y": ((n,), "float64"), "weight": ((n,), "float64")}
        shapes |= {"X": ((n, header.features), header.dtype), "data": ((None,), header.dtype)}
        shapes |= {"indices": ((None,), "int32"), "indptr": ((n + 1,), "int64")}
        datasets = {name: _dataset(file, path, name, *shapes[name]) for name in sorted(expected)}
        read = {name: _read(file, path, name, dataset, verify) for name, dataset in datasets.items()}
    arrays = {name: array for name, (array, _) in read.items()}
    _check_numbers(path, arrays, header.features, verify)
    try:
        scale = factor(header.scale)
    except ConfigError:
        raise DataError(f"{path}: scale is {header.scale!r}, not a number or a fraction; {REPAIR}") from None
    values = arrays["data" if is_sparse else "X"]
    if dtype is not None:
        values, scale = (values if scale == 1 else multiply(values, scale)).astype(dtype, copy=False), Fraction(1)
    X = sparse.csr_array((values, arrays["indices"], arrays["indptr"]), (n, header.features)) if is_sparse else values
    if verify and isinstance(X, sparse.csr_array) and not X.has_canonical_format:
        raise DataError(f"{path}: data set 'indices' is not increasing within a row; {REPAIR}")
    digest = _content(header, {name: digest for name, (_, digest) in read.items()})
    return header, Shard(X, arrays["y"], arrays.get("weight"), scale), digest


def _check_numbers(path: Path, arrays: dict[str, NDArray[Any]], features: int, verify: bool) -> None:
    if "indptr" in arrays:
        indptr, indices = arrays["indptr"], arrays["indices"]
        # scipy does not check these: an index out of range would read other memory.
        if indptr[0] != 0 or indptr[-1] != len(indices) or np.any(np.diff(indptr) < 0):
            raise DataError(f"{path}: data set 'indptr' does not count the entries of the rows; {REPAIR}")
        if len(arrays["data"]) != len(indices) or np.any((indices < 0) | (indices >= features)):
            raise DataError(f"{path}: data set 'indices' has an index outside the features; {REPAIR}")
    for name in arrays.keys() - {"indptr", "indices"} if verify else ():
        if not np.isfinite(arrays[name]).all() or (name == "weight" and np.any(arrays[name] < 0)):
            raise DataError(f"{path}: data set {name!r} has a NaN, an infinity or a negative weight; {REPAIR}")


def read_shard(
    folder: Path | str, manifest: Manifest, index: int, dtype: str | None = "float64", verify: bool = True
) -> Shard:
    """The shard of worker `index` of a packed folder, with X standardised and in `dtype` (None: as stored).

    Raises
    ------
    DataError
        If the file is damaged, of a newer format, or not the one that the manifest describes.
    """
    entry = manifest.shards[index]
    path = Path(folder) / entry.file
    if path.resolve().parent != Path(folder).resolve():
        raise DataError(f"{path}: is a symbolic link to another folder, which is not followed; {REPAIR}")
    standard = manifest.factor is not None and dtype is not None
    header, shard, digest = read_file(path, "float64" if standard else dtype, verify)
    for what, found, expected in (
        ("rows", header.rows, entry.rows),
        ("features", header.features, manifest.features),
        ("dtype", header.dtype, manifest.dtype),
        ("scale", header.scale, scale_when_read(manifest.dtype, manifest.scale)),
        ("classes", header.classes, manifest.classes),
        ("source", header.source, manifest.source),
        ("sparse", bool(sparse.issparse(shard.X)), manifest.sparse),
        ("weighted", shard.sample_weight is not None, manifest.weighted),
        ("mass", np.round(shard.total_weight, 6), np.round(entry.mass, 6)),
        ("digest", digest, entry.digest),
    ):
        if found != expected:
            raise DataError(f"{path}: {what} is {found}, but the manifest says {expected}; {REPAIR}")
    return replace(shard, X=standardize(shard.X, manifest.shift, manifest.factor).astype(dtype)) if standard else shard
