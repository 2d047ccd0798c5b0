"""What a run was computed with: command, platform, versions, commit."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpinewton import __version__


def environment(ranks: list[dict[str, Any]], mpi_library: str, bits: str) -> dict[str, Any]:
    """The content of env.json: command, time, platform and versions."""
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(),
        "mpi": mpi_library,
        "versions": versions(),
        "bits": bits,
        "ranks": ranks,
    }


def versions() -> dict[str, str]:
    """Versions of mpinewton, Python and the libraries that results depend on."""
    import h5py
    import scipy

    commit = _commit(Path(__file__).parents[2] / ".git")
    return {
        "mpinewton": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "msgspec": msgspec.__version__,
        **({"commit": commit[:12]} if commit else {}),
    }


def _commit(git: Path) -> str:
    """The commit that a git folder has checked out; "" if there is none."""
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        name = head.removeprefix("ref: ")
        if name == head or (git / name).exists():
            return head if name == head else (git / name).read_text(encoding="ascii").strip()
        packed = (line.split() for line in (git / "packed-refs").read_text(encoding="ascii").splitlines())
        return next((words[0] for words in packed if words[-1] == name), "")
    except (OSError, ValueError):
        return ""
