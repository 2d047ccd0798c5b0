"""Shards as open files: every part validated before it is used."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Matrix
from mpinewton.data.blocks import CLASSES
from mpinewton.data.manifest import DTYPES, refuse_format
from mpinewton.data.narrow import storage_types
from mpinewton.data.scale import factor
from mpinewton.data.shard_format import FIRST_FORMAT, FORMAT, Header, content_digest
from mpinewton.durable import open_regular
from mpinewton.errors import ConfigError, DataError

LARGEST_CHUNK = 64 << 20
PIECE_NUMBERS = 1 << 19
ATTRIBUTE_BYTES = 1 << 16
# lzf compresses 264 bytes to 3 at best; a file that claims a larger ratio than this was not written here.
EXPANSION = 128
FILTERS = {h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_LZF}
REPAIR = "copy the file again, or pack the data again"


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
    if (form := str(attribute(file, path, "format"))) != FIRST_FORMAT:
        refuse_format(path, form, FORMAT, newer)
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


def _dataset(
    file: h5py.File, path: Path, name: str, shape: tuple[int | None, ...], dtypes: Sequence[str]
) -> h5py.Dataset:
    """A data set of this file, with checksums, a type of `dtypes`, and shape (None: any size); else DataError."""
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if fault := "is a link, which is not followed" if dataset is None else _fault(dataset, path, shape, dtypes):
        raise DataError(f"{path}: data set {name!r} {fault}; {REPAIR}")
    return dataset


def _fault(dataset: Any, path: Path, shape: tuple[int | None, ...], dtypes: Sequence[str]) -> str | None:
    """What makes an object of an HDF5 file other than the data set expected."""
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        return "is a group, virtual, or in another file, which is not followed"
    if dataset.dtype not in [np.dtype(dtype).newbyteorder("<") for dtype in dtypes]:
        return f"has dtype {dataset.dtype}; expected {dtypes[-1]}{' or a narrower type' if len(dtypes) > 1 else ''}"
    if len(dataset.shape) != len(shape) or any(size not in (None, n) for size, n in zip(shape, dataset.shape)):
        return f"has shape {dataset.shape}; expected {tuple('any' if size is None else size for size in shape)}"
    plist = dataset.id.get_create_plist()
    used = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if not {h5py.h5z.FILTER_FLETCHER32} <= used <= FILTERS or dataset.chunks is None:
        return "has no fletcher32 checksum, or another filter than lzf and shuffle"
    claimed, held = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize
    if claimed > EXPANSION * held or held > path.stat().st_size or chunk > LARGEST_CHUNK:
        return f"claims {claimed} bytes (chunks of {chunk}) but stores {held}"
    return None


def _datasets(file: h5py.File, path: Path, header: Header) -> dict[str, h5py.Dataset]:
    """The data sets of a shard by name, validated without a look at their numbers. Raises DataError."""
    first = str(attribute(file, path, "format")) == FIRST_FORMAT
    starts, ones = ("indptr" if first else "counts"), not first and "ones" in file.attrs
    names = set(file)
    matrix = {starts, "indices"} | (set() if ones else {"data"}) if starts in names else {"X"}
    expected = matrix | {"y"} | ({"weight"} & names)
    if names != expected:
        found = ", ".join(sorted(names))
        raise DataError(f"{path}: expected data sets {', '.join(sorted(expected))}; found {found}; {REPAIR}")
    n = header.rows
    shapes: dict[str, tuple[int | None, ...]] = {"X": (n, header.features), "y": (n,), "weight": (n,)}
    shapes |= {"data": (None,), "indices": (None,), "indptr": (n + 1,), "counts": (n,)}
    contents = {name: header.content(name) for name in sorted(expected)}
    return {
        name: _dataset(file, path, name, shapes[name], (content,) if first else storage_types(content))
        for name, content in contents.items()
    }


class Reader:
    """The rows of an open shard: contents in their types, checked piece by piece.

    Attributes
    ----------
    starts : array, shape (n + 1,), or None
        Where the entries of each row start; None for dense rows.
    y, weight : array, shape (n,), or None
    digests : dict
        Of the contents read so far.
    """

    def __init__(self, file: h5py.File, path: Path, verify: bool) -> None:
        self.path, self.verify = path, verify
        self.header = read_header(file, path)
        self.datasets = _datasets(file, path, self.header)
        self.digests: dict[str, str] = {}
        self.starts, self.ones = self._starts(), ""
        self.y = self._whole("y")
        self.weight = self._whole("weight") if "weight" in self.datasets else None
        if self.starts is not None and "data" not in self.datasets:
            self.ones = str(attribute(file, path, "ones"))

    def _whole(self, name: str) -> NDArray[Any]:
        """A data set of one number a row."""
        array, content = self.piece(name, 0, len(self.datasets[name])), hashlib.blake2b(digest_size=32)
        if self.verify:
            content.update(self._checked(name, array).data)
        self._seal(name, content.hexdigest())
        return array

    def _starts(self) -> NDArray[np.int64] | None:
        name = "indptr" if "indptr" in self.datasets else "counts"
        if name not in self.datasets:
            return None
        found = self.piece(name, 0, len(self.datasets[name])).astype(np.int64)
        starts = found if name == "indptr" else np.concatenate([[0], np.cumsum(found)])
        entries = len(self.datasets["indices"])
        # scipy does not check these: an index out of range would read other memory.
        if starts[0] != 0 or starts[-1] != entries or np.any(np.diff(starts) < 0):
            raise DataError(f"{self.path}: data set {name!r} does not count the entries of the rows; {REPAIR}")
        if "data" in self.datasets and len(self.datasets["data"]) != entries:
            raise DataError(f"{self.path}: data sets 'data' and 'indices' have different lengths; {REPAIR}")
        self._seal(name, hashlib.blake2b(starts.data, digest_size=32).hexdigest())
        return starts

    def piece(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Elements, or rows, from `first` up to `last` of a data set, in the type of its content."""
        dataset = self.datasets[name]
        try:
            return np.asarray(dataset[first:last]).astype(self.header.content(name), copy=False)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.path}: data set {name!r} is damaged ({error}); {REPAIR}") from None

    def _checked(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if not np.isfinite(array).all() or (name == "weight" and np.any(array < 0)):
            raise DataError(f"{self.path}: data set {name!r} has a NaN, an infinity or a negative weight; {REPAIR}")
        return np.ascontiguousarray(array)

    def _seal(self, name: str, found: str, expected: str = "") -> None:
        """Compare the digest of a content with that in the file."""
        expected = expected or str(attribute(self.datasets[name], self.path, "digest"))
        if self.verify and found != expected:
            raise DataError(
                f"{self.path}: data set {name!r} has changed since it was packed (its digest differs); {REPAIR}"
            )
        self.digests[name] = expected

    def rows(self, first: int, last: int) -> Matrix:
        """Some consecutive rows, as they are stored: contents in their types."""
        if self.starts is None:
            return self.piece("X", first, last)
        begin, end = int(self.starts[first]), int(self.starts[last])
        indices, p = self.piece("indices", begin, end), self.header.features
        if np.any((indices < 0) | (indices >= p)):
            raise DataError(f"{self.path}: data set 'indices' has an index outside the features; {REPAIR}")
        data = np.ones(end - begin, self.header.dtype) if self.ones else self.piece("data", begin, end)
        return csr(data, indices, self.starts[first : last + 1] - begin, (last - first, p))

    def on(self, file: h5py.File) -> Reader:
        """The same reader of the file, opened again."""
        reader = copy.copy(self)
        reader.datasets = _datasets(file, self.path, self.header)
        return reader

    def nothing(self) -> Matrix:
        """No rows, as they are stored."""
        X = np.zeros((0, self.header.features), self.header.dtype)
        return X if self.starts is None else sparse.csr_array(X)

    def scan(self) -> Iterator[tuple[slice, Matrix]]:
        """All rows in pieces, each checked; digests are complete, and compared, at the end."""
        names = ("X",) if self.starts is None else ("data", "indices")
        hashes = {name: hashlib.blake2b(digest_size=32) for name in names}
        for first, last in self._pieces():
            X = self.rows(first, last)
            if self.verify:
                values = X if isinstance(X, np.ndarray) else X.data
                hashes[names[0]].update(self._checked(names[0], values).data)
                if isinstance(X, sparse.csr_array):
                    hashes["indices"].update(X.indices.data)
                    if not X.has_canonical_format:
                        raise DataError(f"{self.path}: data set 'indices' is not increasing within a row; {REPAIR}")
            yield slice(first, last), X
        for name, found in hashes.items():
            self._seal(name, found.hexdigest(), self.ones if name == "data" else "")

    def _pieces(self) -> Iterator[tuple[int, int]]:
        n, p = self.header.rows, self.header.features
        starts = self.starts if self.starts is not None else np.arange(n + 1) * p
        first = 0
        while first < n:
            last = max(first + 1, int(np.searchsorted(starts, starts[first] + PIECE_NUMBERS, "right")) - 1)
            yield first, min(last, n)
            first = last

    def scale(self) -> Fraction:
        """Factor of the stored features."""
        try:
            return factor(self.header.scale)
        except ConfigError:
            text = self.header.scale
            raise DataError(f"{self.path}: scale is {text!r}, not a number or a fraction; {REPAIR}") from None

    def digest(self) -> str:
        """Digest of the shard."""
        return content_digest(self.header, self.digests)


def csr(data: NDArray[Any], indices: NDArray[Any], starts: NDArray[np.int64], shape: tuple[int, int]) -> Any:
    """A matrix of these arrays, which are not copied."""
    # scipy would widen the indices to the type of the starts.
    narrow = starts if starts[-1] > np.iinfo(np.int32).max else starts.astype(np.int32)
    return sparse.csr_array((data, indices, narrow), shape)
