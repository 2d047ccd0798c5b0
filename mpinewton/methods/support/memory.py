"""Memory that a process may still allocate."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

# Files of Linux that hold the limit of a control group in bytes, or "max": version 2, then version 1.
CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def available_memory() -> float:
    """Bytes that this process may still allocate, by what the machine, its control group and `ulimit -v` say."""
    limits = [_unused(), *(float(text) for path in CONTROL_GROUPS if (text := _read(path)).isdigit())]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pages = _read("/proc/self/statm").split()
        limits.append(limit - (int(pages[0]) * resource.getpagesize() if pages else 0))
    return min(limits)


def _unused() -> float:
    """Bytes of the machine that can be allocated without swapping; inf where the system does not say."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return math.inf


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
