"""From a source to a folder of shards: spool the rows, partition them, write a file for each worker."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mpinewton.arrays import Array
from mpinewton.data.blocks import CLASSES, Block, Reading, Source
from mpinewton.data.columns import ANY
from mpinewton.data.libsvm import LibsvmText
from mpinewton.data.manifest import (
    DTYPES,
    FILE,
    Manifest,
    ShardEntry,
    data_digest,
    digest_of,
    read_manifest,
    scale_when_read,
    write_manifest,
)
from mpinewton.data.narrow import narrowest
from mpinewton.data.partition import partition as partition_rows
from mpinewton.data.shard_format import Header
from mpinewton.data.shard_write import write_shard
from mpinewton.data.sources import open_source
from mpinewton.data.spool import Spool, join, scale_blocks, spool
from mpinewton.data.standard import measure
from mpinewton.data.weights import weigh
from mpinewton.durable import alone_in, explain, sync_folder
from mpinewton.errors import ConfigError, DataError, MpinewtonError

Item = dict[str, Any]
Each = Callable[[Callable[[Item], Item], Sequence[Item]], list[Item]]

RANGE_BYTES = 32 << 20
# Sparse rows with at least this share of stored entries are stored dense: an entry of a dense product costs a quarter.
DENSE_SHARE = 0.25
FOLDER, ORDER = "pack", "order.npy"  # in the workspace: the new target; row numbers, by worker
STORAGES = ("auto", "dense", "sparse")


def one_by_one(task: Callable[[Item], Item], items: Sequence[Item]) -> list[Item]:
    """Run a task on every item, in this process."""
    return [task(item) for item in items]


@dataclass(frozen=True)
class Packed:
    """Result of `pack`: the manifest, the number of stored entries (non-zeros of dense rows), rows of each class.

    `notes` say what a user should know of how the source was read. `stored` is None if nothing had to be packed.
    """

    manifest: Manifest
    stored: int | None
    class_rows: tuple[int, ...] | None
    notes: tuple[str, ...] = ()


def classes_of(y: Array) -> tuple[float, ...] | None:
    """The distinct labels, increasing, if they are at most 1000 whole numbers; else None."""
    distinct = np.unique(y)
    if not 0 < len(distinct) <= CLASSES or np.any(distinct != np.round(distinct)):
        return None
    return tuple(float(label) for label in distinct)


def pack(
    source: str,
    target: Path | str,
    workers: int,
    *,
    partition: str = "iid",
    sample: int | None = None,
    seed: int = 0,
    scale: str = "1",
    storage: str = "auto",
    dtype: str = "auto",
    standardize: bool = False,
    class_weight: str | None = None,
    compress: bool = False,
    overwrite: bool = False,
    reading: Reading | None = None,
    each: Each = one_by_one,
) -> Packed:
    """Write one shard per worker and a manifest into the folder `target`, which is created complete or not at all.

    If it holds the same data, packed with the same arguments, nothing is written.

    Parameters
    ----------
    source : a file, `sklearn:NAME`, `synthetic:NAME?key=value&...`, `text:FILE?key=value&...` or `python:topics`
    partition : a rule of `mpinewton.data.partition`, or "as-given": the shards that the source prescribes
    sample : number of rows to keep: the first of `default_rng(seed).permutation(n)`, in that order, also for `iid`
    scale : factor of the features, a positive number or a fraction such as "1/255"
    storage : "dense", "sparse", or "auto": as the source, but dense if a quarter or more of the entries is stored
    dtype : "float64", "float32", "uint8" (whole numbers up to 255; `scale` is applied when they are read), or "auto":
        uint8 for images and text, else float64
    standardize : features are read with mean 0 and standard deviation 1 (sparse rows: the latter only)
    class_weight : factor of the weights of each class: "label=factor,...", 1 for labels that are not named; or
        "balanced", the same total weight for each class
    overwrite : replace an earlier pack, the same one too; other files are never replaced
    each : (task, items) -> results in the order of the items
        Runs a module-level function on items that are JSON values: in this process, or on others that share the files.

    Raises
    ------
    ConfigError, DataError
    MpinewtonError
        If the folder cannot be written.
    """
    target = Path(target).absolute()
    _check_settings(workers, seed, storage, dtype, standardize)
    reading = reading or Reading()
    options = (workers, partition, sample, seed, scale, storage, dtype, standardize, class_weight)
    origin = open_source(source, reading)
    request = _request(source, reading, options, origin.files)
    if found := _look_at(target, overwrite, request):
        return found
    with _workspace(target) as work:
        if found := _look_at(target, overwrite, request):  # again: after waiting for another process
            return found
        dtype = "float64" if dtype == "auto" and standardize else origin.dtype if dtype == "auto" else dtype
        rows = _sample(_spool(origin, scale, dtype, work, each), sample, seed, work, origin.name)
        y, classes, names = _label(rows, origin)
        rows = weigh(rows, y, classes, names, class_weight)
        partition = _resolve_rule(partition, origin)
        permuted = sample is not None and partition == "iid"
        owned = partition_rows(y, workers, "round-robin" if permuted else partition, seed)
        features, factor = origin.reading.features or rows.features, scale_when_read(dtype, scale)
        columns = origin.columns
        if columns is not None and features != len(columns.feature_names):
            raise ConfigError(f"--features {features}: the table has {len(columns.feature_names)} features")
        written = os.fsencode(source).decode("utf-8", "replace")  # the name, in a locale that is not UTF-8, too
        header = Header(rows.rows, features, classes, dtype, written, factor)
        to_sparse = storage == "sparse" or (storage == "auto" and _is_sparse(rows, header.features))
        entries = _write_shards(rows, owned, header, to_sparse, compress, work, each)
        shift, divisor = (
            measure(rows, features, None if columns is None else columns.numbers, not to_sparse)
            if standardize
            else (None, None)
        )
        manifest = Manifest(
            **asdict(header) | {"scale": scale}, partition=partition, seed=seed, workers=workers, sparse=to_sparse,
            class_names=names, weighted=rows.weighted, shards=entries, sample=sample,
            data_sha256=data_digest(entries, shift, divisor), columns=columns, label_name=origin.label_name,
            shift=shift, factor=divisor, entries=rows.stored if to_sparse else None, request_sha256=request,
        )  # fmt: skip
        _put_in_place(manifest, work, target)
    return Packed(manifest, rows.stored, None if classes is None else _rows_of_classes(y, classes), origin.notes)


def _is_sparse(rows: Spool, features: int) -> bool:
    return not rows.dense and rows.stored < DENSE_SHARE * rows.rows * features


def _rows_of_classes(y: Array, classes: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(np.searchsorted(classes, y), minlength=len(classes)))


def _resolve_rule(rule: str, source: Source) -> str:
    """The partition rule, with the sizes that the source prescribes in place of `as-given`."""
    if rule != "as-given":
        return rule
    if source.sizes is None:
        raise ConfigError(f"--partition as-given: {source.name} prescribes no shards; choose another rule")
    return "blocks:" + ",".join(map(str, source.sizes))


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target. Other processes that pack the same target wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(target.with_name(f".{target.name}.packing"), f"is packing {target}") as work:
            (work / FOLDER).mkdir()
            yield work
    except OSError as error:
        raise MpinewtonError(f"{target}: cannot be written ({explain(error, target.parent)})") from error


def _check_settings(workers: int, seed: int, storage: str, dtype: str, standardize: bool) -> None:
    dtypes = ("auto", *DTYPES)
    if storage not in STORAGES or dtype not in dtypes:
        raise ConfigError(f"storage {storage!r}, dtype {dtype!r}: expected one of {STORAGES} and one of {dtypes}")
    if standardize and dtype == "uint8":
        raise ConfigError("--standardize: features of --dtype uint8 are not standardised; choose float64 or float32")
    if workers < 1 or seed < 0:
        raise ConfigError(f"--workers {workers}, --seed {seed}: expected at least 1 worker and a seed of at least 0")


def _request(source: str, reading: Reading, options: Sequence[object], files: Sequence[Path]) -> str:
    """`request_sha256` of a manifest."""
    states = [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in files)]
    return digest_of(map(repr, (source, reading, *options, *states)))


def _look_at(target: Path, overwrite: bool, request: str) -> Packed | None:
    """What the target holds, if it was packed by the same request. Raises ConfigError if it may not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not target.is_dir() or not (target / FILE).exists():
        raise ConfigError(f"{target}: exists and is not a folder made by pack; choose another name for -o")
    manifest = read_manifest(target)
    known, there = {FILE, *(entry.file for entry in manifest.shards)}, {path.name for path in target.iterdir()}
    if not overwrite and manifest.request_sha256 == request and known <= there:
        return Packed(manifest, None, None, ("packed before, from the same source with the same options",))
    if not overwrite:
        raise ConfigError(
            f"{target}: holds an earlier pack, of other data or options;"
            " pass --overwrite to replace it, or choose another name for -o"
        )
    if strange := sorted(there - known):
        raise ConfigError(
            f"{target}: also holds {', '.join(strange[:5])}, not made by pack; move these files away first"
        )
    return None


def _put_in_place(manifest: Manifest, work: Path, target: Path) -> None:
    write_manifest(manifest, work / FOLDER)
    sync_folder(work / FOLDER)
    old = work / "old"
    if target.exists():
        target.rename(old)
    try:
        (work / FOLDER).rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)


def _spool(source: Source, scale: str, dtype: str, work: Path, each: Each) -> Spool:
    """Pass 1: write the rows of the source to flat files; plain LIBSVM text by byte ranges."""
    if isinstance(source, LibsvmText) and source.divisible:
        cuts = [*range(0, source.path.stat().st_size, RANGE_BYTES), source.path.stat().st_size]
        common = {
            "path": source.name,
            "reading": asdict(source.reading) | {"schema": None},
            "scale": scale,
            "dtype": dtype,
        }
        items = [
            {**common, "first": first, "last": last, "prefix": str(work / f"part-{number}")}
            for number, (first, last) in enumerate(itertools.pairwise(cuts))
        ]
        parts = [Spool(**part) for part in each(spool_range, items)]
        rows = join(parts) if parts else spool([], work / "rows", dense=False)
    else:
        rows = spool(scale_blocks(source.valid_blocks(), scale, source.name, dtype), work / "rows", source.dense)
    if not rows.rows:
        raise DataError(f"{source.name}: has no rows")
    return rows


def _sample(rows: Spool, sample: int | None, seed: int, work: Path, name: str) -> Spool:
    """A random sample of the rows, in the order of drawing; all rows if `sample` is None."""
    if sample is None:
        return rows
    if not 1 <= sample <= rows.rows:
        raise DataError(f"{name}: --sample {sample}: expected 1 to {rows.rows}, the number of rows")
    chosen = np.random.default_rng(seed).permutation(rows.rows)[:sample]
    return spool(rows.pieces(chosen, rows.features, "float64", not rows.dense), work / "sample", rows.dense)


def spool_range(item: Item) -> Item:
    """Write the lines that begin in one range of bytes of a plain LIBSVM file to flat files."""
    source = LibsvmText(Path(item["path"]), Reading(**item["reading"] | {"schema": ANY}), item["first"], item["last"])
    blocks = scale_blocks(source.valid_blocks(), item["scale"], source.name, item["dtype"])
    return asdict(spool(blocks, Path(item["prefix"]), dense=False))


def _label(rows: Spool, source: Source) -> tuple[Array, tuple[float, ...] | None, tuple[str, ...] | None]:
    """Labels, classes and class names; labels are renumbered, in the spool too, by the order of the names."""
    y, names = np.array(rows.array("y")), source.class_names.names
    if names is None:
        return y, classes_of(y), None
    y = source.class_names.renumber(y)
    y.tofile(f"{rows.prefix}.y")
    return y, tuple(map(float, range(len(names)))), names


def _write_shards(
    rows: Spool,
    owned: list[NDArray[np.int64]],
    header: Header,
    to_sparse: bool,
    compress: bool,
    work: Path,
    each: Each,
) -> tuple[ShardEntry, ...]:
    """Pass 2: a file for each worker."""
    if header.features < 1:
        raise DataError(f"{header.source}: no row has a feature; pass --features D")
    _check_space(rows, header, to_sparse, work)
    np.save(work / ORDER, np.concatenate(owned))
    ends = np.cumsum([len(some) for some in owned])
    kinds = {name: narrowest(rows.array(name)) for name in ["y", *(["weight"] if rows.weighted else [])]}
    counts = np.array([header.features]) if rows.dense else rows.array("counts")
    kinds |= {"values": rows.kind, "counts": narrowest(counts)}
    common = {"work": str(work), "spool": asdict(rows), "header": asdict(header), "sparse": to_sparse, "kinds": kinds}
    items = [
        {**common, "compress": compress, "worker": worker, "first": int(end) - len(some), "last": int(end)}
        for worker, (some, end) in enumerate(zip(owned, ends))
    ]
    return tuple(ShardEntry(**entry) for entry in each(write_one_shard, items))


def _check_space(rows: Spool, header: Header, to_sparse: bool, work: Path) -> None:
    # Before writing: HDF5 may crash the process if the disk fills up while a file is open.
    width = np.dtype(header.dtype).itemsize
    entries = rows.stored * (width + 4) + 8 * rows.rows if to_sparse else rows.rows * header.features * width
    needed, free = entries + 8 * rows.rows * (2 if rows.weighted else 1), shutil.disk_usage(work).free
    if needed > free:
        raise OSError(f"the shards need about {needed / 1e6:.2g} MB, {free / 1e6:.2g} MB are free")


def write_one_shard(item: Item) -> Item:
    """Write the file of one worker; returns its entry of the manifest."""
    work, rows = Path(item["work"]), Spool(**item["spool"])
    owned = np.array(np.load(work / ORDER, mmap_mode="r", allow_pickle=False)[item["first"] : item["last"]])
    header = replace(Header(**item["header"]), rows=len(owned))

    def pieces() -> Iterator[Block]:
        return rows.pieces(owned, header.features, header.dtype, item["sparse"])

    nnz = None
    if item["sparse"]:
        nnz = (
            sum(sparse.csr_array(piece.X).nnz for piece in pieces())
            if rows.dense
            else int(rows.array("counts")[owned].sum())
        )
    file = f"shard-{item['worker']:04d}.h5"
    path = work / FOLDER / file
    mass, digest = write_shard(path, header, pieces(), nnz, rows.weighted, item["compress"], item["kinds"])
    return {"file": file, "rows": len(owned), "mass": mass, "digest": digest}
