"""What a process has to say of itself."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import numpy as np

from mpinewton import __version__


def introduction() -> dict[str, Any]:
    """Host, versions, cores and threads of this process."""
    import h5py
    import mpi4py

    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mpinewton": __version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "mpi4py": mpi4py.__version__,
        "mpi": _library(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _library() -> str:
    if "mpi4py.MPI" not in sys.modules:  # one process, which has no need of MPI
        return ""
    from mpinewton.fleet.transport.world import library

    return library()
