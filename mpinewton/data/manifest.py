"""manifest.json: the contents of a folder of shards, with digests."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mpinewton.data.columns import Columns, Schema
from mpinewton.durable import open_regular
from mpinewton.errors import DataError

FILE = "manifest.json"
FORMAT = "mpinewton-manifest/1"
MIN_READER = "0.1.0"  # the first version that reads this format
Numbers = tuple[float, ...] | None
DTYPES = ("float64", "float32", "uint8")


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard: plain file name, number of rows, sum of row weights, digest of its content."""

    file: str
    rows: int
    mass: float
    digest: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Contents of a folder that `pack` wrote.

    Attributes
    ----------
    source, partition, seed, scale
        Source and options; `scale` is the factor of the features (features of dtype uint8 are stored without it).
    rows, features, workers
    sparse : bool
        CSR rather than dense rows.
    dtype : str
        Stored type of the features, "float64", "float32" or "uint8".
    classes : tuple of float or None
        The distinct labels, increasing, if they are at most 1000 whole numbers.
    class_names : tuple of str or None
        Names of the classes 0, 1, ... in the source.
    weighted : bool
    shards : tuple of ShardEntry
        By worker.
    data_sha256 : str
        Digest of the digests of the shards, in order, and of shift and factor; not of file names and compression.
    sample : int or None
        Number of rows drawn from the source; None: all.
    entries : int or None
        Number of stored entries of sparse rows; None for dense rows.
    columns : Columns or None
        The columns of a table; None for other sources.
    label_name : str or None
        Name of the label column of a table; its number, counted from 1, if the table has no header.
    shift, factor : tuple of float, shape (features,), or None
        Standardisation: stored features are read as (x - shift) * factor; shift None: sparse rows, x * factor.
    request_sha256 : str or None
        Digest of the arguments of `pack` but for compression, and of size and time of change of the source's files.
    manifest_sha256 : str
        Digest of all other fields.
    """

    source: str
    partition: str
    seed: int
    scale: str
    rows: int
    features: int
    workers: int
    sparse: bool
    dtype: str
    classes: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    weighted: bool
    shards: tuple[ShardEntry, ...]
    data_sha256: str
    request_sha256: str | None = None
    sample: int | None = None
    entries: int | None = None
    columns: Columns | None = None
    label_name: str | None = None
    shift: tuple[float, ...] | None = None
    factor: tuple[float, ...] | None = None
    manifest_sha256: str = ""
    format: str = FORMAT
    min_reader: str = MIN_READER

    @property
    def digest(self) -> str:
        """Digest of all fields that are not None, but `manifest_sha256`."""
        fields = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        del fields["manifest_sha256"]
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()

    @property
    def schema(self) -> Schema:
        """What is needed to read other rows alike."""
        names = self.class_names or ()
        return Schema(self.features, names, self.scale, self.columns, self.label_name, self.shift, self.factor)


class _Head(msgspec.Struct):
    format: str
    min_reader: str = "?"


def scale_when_read(dtype: str, scale: str) -> str:
    """Factor of stored features of this type when they are read: uint8 features are stored unscaled."""
    return scale if dtype == "uint8" else "1"


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 of texts, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def data_digest(entries: Iterable[ShardEntry], shift: Numbers, factor: Numbers) -> str:
    """`data_sha256` of a manifest."""
    standard = [] if factor is None else ["shift", *map(repr, shift or ()), "factor", *map(repr, factor)]
    return digest_of([*(entry.digest for entry in entries), *standard])


def refuse_format(path: Path, found: str, expected: str, min_reader: str) -> None:
    """Raise DataError if `found` is not the format `expected`; for a newer one, name the version to install."""
    if found == expected:
        return
    kind, _, number = found.partition("/")
    if kind == expected.partition("/")[0] and number.isdecimal():
        raise DataError(
            f"{path}: is {found}, written by a newer mpinewton; this one reads {expected}:"
            f" pip install 'mpinewton>={min_reader}'"
        )
    raise DataError(f"{path}: is {found!r}, expected {expected}; create it with: mpinewton pack")


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a packed folder.

    Raises
    ------
    DataError
        If there is none, its format is newer, or its entries contradict each other.
    """
    path = Path(folder) / FILE
    try:
        with open_regular(path) as file:
            text = file.read()
    except NotADirectoryError:
        remedy = f"make one with: mpinewton pack {folder} -o FOLDER --workers W"
        raise DataError(f"{folder}: is a file; expected a folder of shards: {remedy}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make the folder with: mpinewton pack") from None
    try:
        head = msgspec.json.decode(text, type=_Head)
        refuse_format(path, head.format, FORMAT, head.min_reader)
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; pack the data again") from None
    if fault := _contradiction(manifest):
        raise DataError(f"{path}: {fault}; pack the data again")
    return manifest


def _contradiction(m: Manifest) -> str | None:
    """The first rule that a manifest breaks, as a statement about what it says."""
    files = [entry.file for entry in m.shards]
    if bad := [file for file in files if not is_plain_name(file)]:
        return f"the file name {bad[0]!r} is not a plain name inside the folder"
    if len(set(files)) != len(files):
        return "two shards have the same file name"
    if m.workers != len(files) or m.workers < 1:
        return f"workers is {m.workers}, but there are {len(files)} shards"
    if m.rows != sum(entry.rows for entry in m.shards):
        return f"rows is {m.rows}, which is not the sum over the shards"
    if any(entry.rows < 0 or not 0 <= entry.mass < math.inf for entry in m.shards):
        return "a shard has a negative number of rows, or a mass that is negative or not finite"
    if not 1 <= m.features < 1 << 31:
        return f"features is {m.features}"
    if m.dtype not in DTYPES:
        return f"dtype is {m.dtype!r}, none of {', '.join(DTYPES)}"
    if m.classes is not None and sorted(set(m.classes)) != list(m.classes):
        return "classes are not distinct and increasing"
    if m.class_names is not None and len(set(m.class_names)) != len(m.class_names):
        return "two classes have the same name"
    if m.class_names is not None and m.classes != tuple(map(float, range(len(m.class_names)))):
        return "class_names do not fit the classes"
    if m.columns is not None and len(m.columns.feature_names) != m.features:
        return f"columns have {len(m.columns.feature_names)} features, but features is {m.features}"
    for name, numbers in (("shift", m.shift), ("factor", m.factor)):
        if numbers is not None and (len(numbers) != m.features or not all(map(math.isfinite, numbers))):
            return f"{name} is not a finite number for each feature"
    if m.data_sha256 != data_digest(m.shards, m.shift, m.factor):
        return "data_sha256 is not the digest of the shards' digests"
    if m.manifest_sha256 != m.digest:
        return "a field has changed since it was written (manifest_sha256 differs)"
    return None


def is_plain_name(name: str) -> bool:
    """Whether a file name can only be that of a file in the same folder."""
    return 0 < len(name) <= 200 and name not in (".", "..") and name.isprintable() and not set("/\\") & set(name)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write and flush manifest.json, with its digest."""
    manifest = msgspec.structs.replace(manifest, manifest_sha256=manifest.digest)
    with (folder / FILE).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
