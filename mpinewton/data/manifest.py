"""manifest.json: what a folder of shards holds, and the digests that prove it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from mpinewton.errors import DataError

FILE = "manifest.json"
FORMAT = "mpinewton-manifest/1"
MIN_READER = "0.1.0"  # the first version that reads this format
DTYPES = ("float64", "float32", "uint8")


class ShardEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shard: plain file name, number of rows, sum of row weights, digest of its content."""

    file: str
    rows: int
    mass: float
    digest: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `pack` wrote into one folder.

    Attributes
    ----------
    source, partition, seed, scale
        What was packed and how; `scale` is the factor of the features, which uint8 are stored without.
    rows, features, workers
    sparse : bool
        CSR rather than dense rows.
    dtype : str
        Stored type of the features, "float64", "float32" or "uint8".
    classes : tuple of float or None
        The distinct labels, rising, where they are at most 1000 whole numbers.
    class_names : tuple of str or None
        Words of the source for labels 0, 1, ...
    weighted : bool
    shards : tuple of ShardEntry
        By worker.
    data_sha256 : str
        Digest of the shards' digests in order: depends on neither file names nor compression.
    sample : int or None
        So many rows were drawn of the source; None for all.
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
    sample: int | None = None
    format: str = FORMAT
    min_reader: str = MIN_READER


class _Head(msgspec.Struct):
    format: str
    min_reader: str = "?"


def factor_of_stored(dtype: str, scale: str) -> str:
    """What features of this type are still to be multiplied by when they are read: bytes are stored as they were."""
    return scale if dtype == "uint8" else "1"


def digest_of(parts: Iterable[str]) -> str:
    """sha256 of texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def refuse_format(path: Path, found: str, wanted: str, min_reader: str) -> None:
    """DataError where `found` is not the format `wanted`; where it is a newer one, naming the version to install."""
    if found == wanted:
        return
    kind, _, number = found.partition("/")
    if kind == wanted.partition("/")[0] and number.isdecimal():
        raise DataError(
            f"{path}: is {found}, written by a newer mpinewton; this one reads {wanted}:"
            f" pip install 'mpinewton>={min_reader}'"
        )
    raise DataError(f"{path}: is {found!r}, not {wanted}; make it with: mpinewton pack")


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a packed folder.

    Raises
    ------
    DataError
        If there is none, it is of a newer format, or its parts contradict each other.
    """
    path = Path(folder) / FILE
    try:
        text = path.read_bytes()
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
    files = [entry.file for entry in m.shards]
    bad = next((file for file in files if not is_plain_name(file)), None)
    classes = m.classes
    named = m.class_names
    faults = {
        f"the file name {bad!r} is not a plain name inside the folder": bad is not None,
        "two shards have the same file name": len(set(files)) != len(files),
        f"workers is {m.workers}, but there are {len(files)} shards": m.workers != len(files) or m.workers < 1,
        f"rows is {m.rows}, which is not the sum over the shards": m.rows != sum(e.rows for e in m.shards),
        "a shard has a negative number of rows or an odd mass": any(
            e.rows < 0 or not 0 <= e.mass < math.inf for e in m.shards
        ),
        f"features is {m.features}": not 1 <= m.features < 1 << 31,
        f"dtype is {m.dtype!r}, none of {', '.join(DTYPES)}": m.dtype not in DTYPES,
        "classes are not distinct and rising": classes is not None and sorted(set(classes)) != list(classes),
        "class_names do not fit the classes": named is not None and classes != tuple(map(float, range(len(named)))),
        "data_sha256 is not the digest of the shards' digests": m.data_sha256 != digest_of(e.digest for e in m.shards),
    }
    return next((fault for fault, present in faults.items() if present), None)


def is_plain_name(name: str) -> bool:
    """Whether a file name can only mean a file of the folder it stands in."""
    return 0 < len(name) <= 200 and name not in (".", "..") and name.isprintable() and not set("/\\") & set(name)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write and flush manifest.json."""
    with (folder / FILE).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
