"""Settings in the metadata of figures: what was run, on which data and with which versions."""

from __future__ import annotations

import html
import json
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from mpinewton.errors import ConfigError, DataError
from mpinewton.report.reading import RunRecord

# File suffix -> the field of the metadata that contains the settings.
FIELDS = {".png": "mpinewton", ".pdf": "Keywords", ".svg": "Description"}
# Metadata that is left out, so that the same figure has the same bytes.
UNDATED: dict[str, dict[str, str | None]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def settings_of(runs: Sequence[RunRecord], figure: dict[str, Any]) -> dict[str, Any]:
    """Everything that is needed to draw the figure again: its options, versions, and config and result of every run."""
    versions = {name: metadata.version(name) for name in ("mpinewton", "matplotlib", "numpy")}
    return {
        "figure": figure,
        "versions": {**versions, "python": platform.python_version()},
        "runs": [
            {
                "label": run.label,
                "folder": run.folder.resolve().name,
                "config": _portable(run.config),
                "result": _portable(run.result),
            }
            for run in runs
        ],
    }


def provenance(runs: Sequence[RunRecord], digest: str = "", command: str = "") -> dict[str, str]:
    """What the runs were made with and from: versions with the commit, data, experiment, bits, processor and BLAS."""
    results = [run.result for run in runs]
    found = {
        "versions": {f"{name} {version}" for result in results for name, version in result.get("versions", {}).items()},
        "data": {str(result["data_sha256"])[:12] for result in results if "data_sha256" in result},
        "experiment": {digest},
        "bits": {f"{result['bits']} bits ({result['arithmetic']})" for result in results if "bits" in result},
        "command": {command},
    }
    return {name: text for name, words in found.items() if (text := ", ".join(sorted(words)))}


def _portable(facts: dict[str, Any]) -> dict[str, Any]:
    # Figures are passed on: the last part of a path is enough, and the digest identifies the data.
    return facts | {key: Path(facts[key]).name for key in ("data", "test") if isinstance(facts.get(key), str)}


def file_metadata(path: Path, settings: dict[str, Any]) -> dict[str, str | None]:
    """The settings as metadata for `savefig`.

    Raises
    ------
    ConfigError
        If the suffix is not that of a figure.
    """
    suffix = path.suffix.lower()
    if suffix not in FIELDS:
        raise ConfigError(f"{path}: unknown suffix {path.suffix!r}; choose from: {', '.join(FIELDS)}")
    # Dates of a TOML file become text; ASCII, as PNG requires.
    return {FIELDS[suffix]: json.dumps(settings, default=str), **UNDATED[suffix]}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a figure file.

    Raises
    ------
    DataError
        If the file cannot be read or contains no settings.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    text = {".png": _in_png, ".pdf": _in_pdf, ".svg": _in_svg}.get(path.suffix.lower(), lambda _: "")(content)
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise DataError(f"{path} contains no settings; expected a .png, .pdf or .svg file written by `mpinewton plot`")
    return settings


def _in_png(content: bytes) -> str:
    at = 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        keyword, _, text = content[at + 8 : at + 8 + length].partition(b"\0")
        if kind == b"tEXt" and keyword == FIELDS[".png"].encode():
            return text.decode("latin-1")
        at += length + 12
    return ""


def _in_pdf(content: bytes) -> str:
    found = re.search(rb"/Keywords \(((?:[^\\)]|\\.)*)\)", content, re.DOTALL)
    return re.sub(rb"\\(.)", rb"\1", found[1]).decode("latin-1") if found else ""


def _in_svg(content: bytes) -> str:
    found = re.search(rb"<dc:description>(.*?)</dc:description>", content, re.DOTALL)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else ""
