"""Settings inside figure files: what was run, on which data, by which versions, to be read back years later."""

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

# File suffix -> the field of its metadata that carries the settings.
FIELDS = {".png": "mpinewton", ".pdf": "Keywords", ".svg": "Description"}
# Metadata that would make the bytes differ from one drawing to the next.
UNDATED: dict[str, dict[str, str | None]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def settings_of(runs: Sequence[RunRecord], figure: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to draw the figure again: its own options, versions, and config and result of every run."""
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


def _portable(facts: dict[str, Any]) -> dict[str, Any]:
    # Figures are given away: of a path the last part says enough, and what the data are the digest says.
    return facts | {key: Path(facts[key]).name for key in ("data", "test") if isinstance(facts.get(key), str)}


def file_metadata(path: Path, settings: dict[str, Any]) -> dict[str, str | None]:
    """The settings as metadata for `savefig`.

    Raises
    ------
    ConfigError
        If the suffix is not one a figure can have.
    """
    suffix = path.suffix.lower()
    if suffix not in FIELDS:
        raise ConfigError(f"{path} ends in {path.suffix!r}; a figure is {', '.join(FIELDS)}: give -o FIGURE.png")
    # Dates of a TOML file become text. ASCII, since the text chunks of a PNG file know no more.
    return {FIELDS[suffix]: json.dumps(settings, default=str), **UNDATED[suffix]}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings inside a figure file.

    Raises
    ------
    DataError
        If the file cannot be read or carries no settings.
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
        raise DataError(f"{path} carries no settings; .png, .pdf and .svg files drawn by `mpinewton plot` do")
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
