"""Sources by name: a file, a public data set, `sklearn:NAME`, `synthetic:NAME`, `text:FILE` or `python:topics`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from mpinewton.data.array_files import Idx, npy, npz, sklearn_source
from mpinewton.data.blocks import Reading, Source
from mpinewton.data.csv_text import DELIMITERS, CsvText
from mpinewton.data.libsvm import LibsvmText
from mpinewton.data.lines import UTF8_MARK, first_bytes, is_compressed, plain_name
from mpinewton.data.public import PUBLIC, fetch_whole, public_folder
from mpinewton.data.synthetic import synthetic
from mpinewton.data.tables import Parquet
from mpinewton.data.text import TEXTS, text_source
from mpinewton.errors import ConfigError, DataError, did_you_mean

FORMATS: dict[str, Callable[[Path, Reading], Source]] = {
    "libsvm": LibsvmText,
    "csv": CsvText,
    "npz": npz,
    "npy": npy,
    "idx": Idx,
    "parquet": Parquet,
}
ENDINGS = {".csv": "csv", ".tsv": "csv", ".npz": "npz", ".npy": "npy", ".parquet": "parquet", ".pq": "parquet"} | {
    ".svm": "libsvm", ".libsvm": "libsvm",
}  # fmt: skip
MAGIC = {b"PK\x03\x04": "npz", b"\x93NUMPY": "npy", b"PAR1": "parquet"} | {
    b"\0\0\x08" + bytes([axes]): "idx" for axes in range(1, 5)
}
LIBSVM = re.compile(r"\s*[^\s,]+(\s+[0-9]+:[^\s:,]+)+\s*(#.*)?")  # a label, or the first pair, and pairs

TEXT_OPTIONS = ("header", "delimiter")
TABLE_OPTIONS = ("label_column", "weight_column", "categories", "missing", *TEXT_OPTIONS)
RECIPES = ("sklearn:", "synthetic:", "python:")


def absolute(source: str, base: Path) -> str:
    """The name of a source that holds in any folder: files, also of `text:FILE`, get their absolute path."""
    if source.startswith(RECIPES) or (source in PUBLIC and not (base / source).exists()):
        return source
    kind = "text:" if source.startswith("text:") else ""
    return kind + str((base / Path(source.removeprefix(kind)).expanduser()).resolve())


def open_source(name: str, reading: Reading) -> Source:
    """The source that a name stands for: a file, a public data set, or what `RECIPES` and `TEXTS` begin with.

    Raises
    ------
    ConfigError
        If the name or a setting is unknown.
    DataError
        If there is no such file, or its first bytes do not fit the format.
    """
    if reading.format != "auto" and reading.format not in FORMATS:
        raise ConfigError(f"--format {reading.format}: no such format{did_you_mean(reading.format, FORMATS)}")
    if name.startswith((*RECIPES, *TEXTS)):
        _refuse_table_options(name, reading, TABLE_OPTIONS)
    if name.startswith("sklearn:"):
        return sklearn_source(name, reading)
    if name.startswith("synthetic:"):
        return synthetic(name, reading)
    if name.startswith(TEXTS):
        return text_source(name, reading)
    path = Path(name)
    if name in PUBLIC and not path.exists():
        path = fetch_whole(name, public_folder())
    if path.is_dir():
        raise DataError(f"{name}: is a folder, but not a packed one (it has no manifest.json); expected a file of rows")
    if not path.is_file():
        hint = did_you_mean(name, PUBLIC, otherwise="; `mpinewton datasets` lists these")
        raise DataError(f"{name}: no such file, nor a public data set{hint}")
    form = guess_format(path) if reading.format == "auto" else reading.format
    if form in ("npz", "npy", "parquet") and is_compressed(path):
        raise ConfigError(f"{name}: {form} files must not be compressed; decompress it first")
    _refuse_table_options(name, reading, {"csv": (), "parquet": TEXT_OPTIONS}.get(form, TABLE_OPTIONS))
    source = FORMATS[form](path, reading)
    source.files = (path, *source.files)
    return source


def _refuse_table_options(name: str, reading: Reading, options: tuple[str, ...]) -> None:
    """Raise ConfigError if one of the options is given, which have no effect on this source."""
    kind = "a table in text" if options == TEXT_OPTIONS else "a table"
    for option in options:
        if getattr(reading, option) not in (None, "error"):
            raise ConfigError(f"--{option.replace('_', '-')} has no effect: {name} is not {kind}")


def guess_format(path: Path) -> str:
    """Format by the first bytes; of text, by the first line, or by the name where both LIBSVM and CSV are possible."""
    first = first_bytes(path, 1 << 16)
    for magic, form in MAGIC.items():
        if first.startswith(magic) and (form != "npz" or zipped_arrays(path)):
            return form
    lines = first.removeprefix(UTF8_MARK).decode("utf-8", "replace").splitlines()
    line = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if LIBSVM.fullmatch(line):
        return "libsvm"
    ending = ENDINGS.get(Path(plain_name(path)).suffix)
    table = any(mark in line for mark in DELIMITERS) or (len(line.split()) > 1 and ":" not in line)
    return ending or ("csv" if table else "libsvm")


def zipped_arrays(path: Path) -> bool:
    """Whether a zip archive holds numpy arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return path.suffix == ".npz"
