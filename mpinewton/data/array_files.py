"""Arrays from files and packages: npz, npy, idx (MNIST), data sets of scikit-learn."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import Block, Reading, Source
from mpinewton.data.lines import open_bytes, read_bytes
from mpinewton.errors import ConfigError, DataError, did_you_mean

BLOCK_NUMBERS = 1 << 19
EXACT = 2**53  # float64 does not hold all whole numbers beyond
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")


class Arrays(Source):
    """Rows of arrays: X (n, p) dense or CSR, y (n,) numbers or class names, weight (n,) or None."""

    def __init__(
        self, name: str, reading: Reading, X: Any, y: NDArray[Any], weight: NDArray[Any] | None = None
    ) -> None:
        super().__init__(name, reading)
        self.X, self.weight = X, weight
        self.dense = not bool(sparse.issparse(X))
        shapes = f"X {X.shape}, y {y.shape}" + ("" if weight is None else f", weight {weight.shape}")
        if X.ndim != 2 or y.shape != X.shape[:1] or (weight is not None and weight.shape != y.shape):
            raise DataError(f"{name}: expected X of shape (n, p), y and weight of shape (n,); found {shapes}")
        words = y.dtype.kind == "U"
        for array in (X, *(() if words or not reading.labels else (y,)), *(() if weight is None else (weight,))):
            if array.dtype.kind not in "fiub":
                raise DataError(f"{name}: expected arrays of numbers; found dtype {array.dtype}. Convert it to float64")
        if (
            not words
            and y.dtype.kind in "iu"
            and np.any(np.abs(y.astype(object)) > EXACT if y.itemsize == 8 else False)
        ):
            raise DataError(f"{name}: a label is above 2^53, which float64 does not hold exactly; use words as labels")
        try:
            self.y = np.zeros(len(y)) if not reading.labels else self.class_names.encode(y) if words else y
        except ValueError as error:
            raise DataError(f"{name}: the label {error}") from None

    def blocks(self) -> Iterator[Block]:
        n, p = self.X.shape
        size = max(1, BLOCK_NUMBERS // max(1, p))
        for first in range(0, n, size):
            rows = slice(first, first + size)
            yield Block(
                self.X[rows].astype(np.float64),
                self.y[rows].astype(np.float64),
                None if self.weight is None else self.weight[rows].astype(np.float64),
            )


PARTS = {"data", "indices", "indptr", "shape"}


def npz(path: Path, reading: Reading) -> Source:
    """Arrays `X`, `y` and optionally `weight`; or `y`, `weight` and a matrix of `scipy.sparse.save_npz`, any format."""
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            labels = reading.labels or "y" in names
            if (labels and "y" not in names) or not ("X" in names or "format" in names or names >= PARTS):
                raise DataError(
                    f"{path}: expected arrays X, y (and weight), or a sparse matrix (scipy.sparse.save_npz) and y; "
                    f"found {', '.join(sorted(names)) or 'none'}"
                )
            X = file["X"] if "X" in names else _sparse(path, file)
            y = file["y"] if labels else np.zeros(X.shape[:1])
            return Arrays(str(path), reading, X, y, file["weight"] if "weight" in names else None)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable npz file of plain arrays ({error})") from None


def _sparse(path: Path, file: Any) -> sparse.csr_array:
    """The matrix of an npz file, whatever its format; without the key `format` it is CSR."""
    try:
        if "format" in file.files:
            X = sparse.load_npz(path)
        else:
            data, indices, indptr, shape = (file[key] for key in ("data", "indices", "indptr", "shape"))
            if not all(array.dtype.kind in "iu" for array in (indices, indptr, shape)) or shape.shape != (2,):
                raise ValueError("indices, indptr and shape must be whole numbers")
            X = sparse.csr_array((data, indices, indptr), shape=tuple(int(size) for size in shape))
        if X.format in ("csr", "csc", "bsr"):  # scipy converts these without a check of the indices
            X.check_format(full_check=True)
        X = sparse.csr_array(X)
    except (ValueError, TypeError, KeyError, NotImplementedError, IndexError) as error:
        raise DataError(
            f"{path}: its arrays are not a sparse matrix as scipy.sparse.save_npz writes it ({error})"
        ) from None
    X.sum_duplicates()
    return X


def npy(path: Path, reading: Reading) -> Source:
    """A table whose last column is the label, or the pair `...X.npy`, `...y.npy`."""
    partner = path.with_name(path.name.removesuffix("X.npy") + "y.npy")
    X = _map_file(path)
    if path.name.endswith("X.npy") and partner.exists():
        return Arrays(str(path), reading, X, _map_file(partner))
    if not reading.labels and X.ndim == 2 and X.shape[1] == reading.schema.features:
        return Arrays(str(path), reading, X, np.zeros(len(X)))
    if X.ndim != 2 or X.shape[1] < 2:
        raise DataError(f"{path}: expected rows with the label last, or files X.npy and y.npy; found shape {X.shape}")
    return Arrays(str(path), reading, X[:, :-1], X[:, -1])


def _map_file(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a readable npy file of a plain array ({error})") from None
    return array


class Idx(Source):
    """Images of an idx file as rows of pixels 0 to 255; labels from the file ...labels-idx1... beside it."""

    dtype = "uint8"

    def __init__(self, path: Path, reading: Reading) -> None:
        super().__init__(str(path), reading)
        self.path = path
        name = path.name.replace("images", "labels").replace("idx3", "idx1")
        self.labels = path.with_name(name)
        self.labelled = reading.labels or (name != path.name and self.labels.exists())
        if self.labelled and (name == path.name or not self.labels.exists()):
            raise DataError(f"{path}: expected a file of images, ...images-idx3..., and its labels beside it, {name}")
        self.files = (self.labels,) if self.labelled else ()

    def blocks(self) -> Iterator[Block]:
        with open_bytes(self.path) as images, open_bytes(self.labels if self.labelled else self.path) as labels:
            rows, *pixels = self._header(images, self.path)
            found = self._header(labels, self.labels) if self.labelled else [rows]
            p = int(np.prod(pixels))
            if found != [rows]:
                raise DataError(
                    f"{self.labels}: expected {rows} labels, as {self.path} has images; found shape {found}"
                )
            if not 1 <= p <= self.reading.max_features:
                raise DataError(f"{self.path}: expected images of 1 to {self.reading.max_features} pixels; found {p}")
            size = max(1, BLOCK_NUMBERS // p)
            for first in range(0, rows, size):
                n = min(size, rows - first)
                X = self._bytes(images, n * p, self.path).reshape(n, p)
                yield Block(X, self._bytes(labels, n, self.labels) if self.labelled else np.zeros(n))

    def _bytes(self, stream: Any, count: int, path: Path) -> Array:
        raw = read_bytes(stream, count, path)
        if len(raw) < count:
            raise DataError(f"{path}: the file is truncated; download it again")
        return np.frombuffer(raw, np.uint8).astype(np.float64)

    def _header(self, stream: Any, path: Path) -> list[int]:
        magic = read_bytes(stream, 4, path)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
            raise DataError(f"{path}: not an idx file of bytes (its first bytes are {magic.hex() or 'missing'})")
        sizes = read_bytes(stream, 4 * magic[3], path)
        if len(sizes) < 4 * magic[3]:
            raise DataError(f"{path}: the file is truncated; download it again")
        return [int(size) for size in np.frombuffer(sizes, ">u4")]


def sklearn_source(name: str, reading: Reading) -> Source:
    """`sklearn:NAME`: a data set that is part of scikit-learn."""
    key = name.removeprefix("sklearn:")
    if key not in SKLEARN:
        raise ConfigError(f"{name}: no such data set in scikit-learn{did_you_mean(key, SKLEARN)}")
    try:
        from sklearn import datasets
    except ImportError:
        raise ConfigError(f"{name}: needs scikit-learn: pip install 'mpinewton[sklearn]'") from None
    X, y = getattr(datasets, f"load_{key}")(return_X_y=True)
    return Arrays(name, reading, X, y)
