"""What a process has to say of itself."""

from __future__ import annotations

import os
import socket
import sys
from importlib.metadata import version
from typing import Any

import numpy as np

from mpinewton import __version__, bits


def introduction() -> dict[str, Any]:
    """Host, versions, cores and threads of this process, and what computes in it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mpinewton": __version__,
        "numpy": np.__version__,
        "h5py": version("h5py"),
        "mpi4py": version("mpi4py"),
        "mpi": _library(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "obstacle": bits.obstacle(),
        **bits.arithmetic(),
    }


def _library() -> str:
    if "mpi4py.MPI" not in sys.modules:  # one process, which has no need of MPI
        return ""
    from mpinewton.fleet.transport.world import library

    return library()
