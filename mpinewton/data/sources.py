"""Sources by name: a file, `sklearn:NAME`, `synthetic:NAME`, `text:FILE` or `python:topics`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mpinewton.data.array_files import Idx, npy, npz, sklearn_source
from mpinewton.data.blocks import Reading, Source
from mpinewton.data.libsvm import LibsvmText
from mpinewton.data.lines import OPENERS, plain_name
from mpinewton.data.synthetic import synthetic
from mpinewton.data.tables import CsvText, Parquet
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
ENDINGS = {".csv": "csv", ".tsv": "csv", ".npz": "npz", ".npy": "npy", ".parquet": "parquet", ".pq": "parquet"}


RECIPES = ("sklearn:", "synthetic:", "python:")


def absolute(source: str, base: Path) -> str:
    """The name of a source that holds in any folder: files, also of `text:FILE`, get their absolute path."""
    if source.startswith(RECIPES):
        return source
    kind = "text:" if source.startswith("text:") else ""
    return kind + str((base / Path(source.removeprefix(kind)).expanduser()).resolve())


def open_source(name: str, reading: Reading) -> Source:
    """The source that a file name, `sklearn:NAME`, `synthetic:NAME?key=value` or `text:FILE?key=value` names.

    Raises
    ------
    ConfigError
        If the name or a setting is unknown.
    DataError
        If there is no such file, or its first bytes do not fit the format.
    """
    if reading.format != "auto" and reading.format not in FORMATS:
        raise ConfigError(f"--format {reading.format}: no such format{did_you_mean(reading.format, FORMATS)}")
    if name.startswith("sklearn:"):
        return sklearn_source(name, reading)
    if name.startswith("synthetic:"):
        return synthetic(name, reading)
    if name.startswith(TEXTS):
        return text_source(name, reading)
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{name}: is a folder, but not a packed one (it has no manifest.json); expected a file of rows")
    if not path.is_file():
        raise DataError(
            f"{name}: no such file, and the name does not begin with sklearn:, synthetic:, text: or python:"
        )
    form = guess_format(path) if reading.format == "auto" else reading.format
    if form in ("npz", "npy", "parquet") and path.suffix in OPENERS:
        raise ConfigError(f"{name}: {form} files must not be compressed; decompress it first")
    return FORMATS[form](path, reading)


def guess_format(path: Path) -> str:
    """Format by the suffix of the name; LIBSVM text by default."""
    plain = plain_name(path)
    if plain.endswith("-ubyte") and "idx" in plain:
        return "idx"
    return ENDINGS.get(Path(plain).suffix, "libsvm")
