"""Portable bits: the same results on every x86-64 processor with AVX2.

OpenBLAS and numpy pick their loops by the processor, and other loops add in another order. `hold` picks the same ones
everywhere. It acts through the environment, which numpy, scipy and PyTorch read when they are imported: call it before.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mpinewton.errors import ConfigError

Bits = Literal["fast", "portable"]
KERNEL = "Haswell"  # OpenBLAS's kernels for AVX2 and FMA
# What else would choose numpy's loops, or cut OpenBLAS's blocks in another way.
OVERRIDES = ("NPY_DISABLE_CPU_FEATURES", "OPENBLAS_BLOCK_FACTOR", "OPENBLAS_L2_SIZE")


def hold() -> None:
    """Let this process compute portable bits, whatever the environment says. On other processors: nothing."""
    if obstacle():
        return  # the driver says so, for all processes at once: see `refuse`
    for name in OVERRIDES:
        os.environ.pop(name, None)
    os.environ["OPENBLAS_CORETYPE"] = KERNEL
    # Every loop of numpy's that is not named here is switched off, also those of processors to come.
    os.environ["NPY_ENABLE_CPU_FEATURES"] = " ".join(numpy_features(metadata.version("numpy")))
    # PyTorch and its two libraries.
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


def numpy_features(version: str) -> tuple[str, ...]:
    """What numpy of this version calls AVX2 and all before it that may be switched off."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) >= (2, 4):
        return ("X86_V3",)
    return ("SSSE3", "SSE41", "POPCNT", "SSE42", "AVX", "F16C", "FMA3", "AVX2")


def obstacle(machine: str = platform.machine(), cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Why this processor cannot compute portable bits; "" where it can, as far as is known before numpy is loaded."""
    if machine not in ("x86_64", "AMD64"):
        return f"its processor is {machine}"
    try:
        flags = next(line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):  # not Linux
        return ""
    return "" if {"avx2", "fma"} <= set(flags) else "its processor has no AVX2"


def arithmetic() -> dict[str, Any]:
    """What computes in this process: OpenBLAS's kernels (another BLAS by its name) and numpy's loops. JSON-able."""
    import numpy as np
    import scipy.linalg  # noqa: F401  it brings a BLAS of its own
    import threadpoolctl

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {
        "processor": processor(),
        "kernels": sorted({str(pool.get("architecture") or pool["internal_api"]) for pool in pools}),
        "loops": np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", []),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(ranks: Sequence[Mapping[str, Any]]) -> str:
    """What computes on all ranks, in a few words."""
    kernels, loops = ({name for rank in ranks for name in rank[key]} for key in ("kernels", "loops"))
    return f"BLAS {', '.join(sorted(kernels)) or 'unknown'}; numpy {', '.join(sorted(loops)) or 'baseline'}"


def refuse(ranks: Sequence[Mapping[str, Any]]) -> None:
    """Refuse portable bits where a rank does not compute them, by what the ranks say of themselves.

    Raises
    ------
    ConfigError
        Naming the first such host, and why.
    """
    for rank in ranks:
        why = rank["obstacle"]
        if not why and rank["kernels"] != [KERNEL]:
            why = f"its BLAS runs {', '.join(rank['kernels']) or 'unknown kernels'}, not OpenBLAS's for {KERNEL}"
        if not why and set(rank["loops"]) != set(numpy_features(rank["numpy"])):
            why = f"its numpy runs loops for {', '.join(rank['loops']) or 'no dispatched feature'}"
        if why:
            raise ConfigError(
                f"--bits portable: {rank['host']} cannot compute them: {why}. They need an x86-64 processor with AVX2, "
                "and numpy and scipy with OpenBLAS, as from PyPI; leave --bits out for the bits of this processor"
            )
