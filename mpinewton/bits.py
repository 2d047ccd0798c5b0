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
    """What computes in this process: OpenBLAS's kernels (another BLAS by its name), numpy's loops, and those over rows.

    JSON-able.
    """
    import numpy as np
    import scipy.linalg  # it brings a BLAS of its own
    import threadpoolctl

    from mpinewton import kernels

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {
        "processor": processor(),
        "scipy": scipy.__version__,
        "blas": sorted({f"{pool['internal_api']} {pool['version']}" for pool in pools}),
        "kernels": sorted({str(pool.get("architecture") or pool["internal_api"]) for pool in pools}),
        "loops": np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", []),
        "rows": kernels.NAME,
        "rows_level": kernels.LEVEL,
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(ranks: Sequence[Mapping[str, Any]], bits: str) -> str:
    """What computes on all ranks, in a few words; the processor, too, where the bits depend on it."""
    kernels, loops = ({name for rank in ranks for name in rank[key]} for key in ("kernels", "loops"))
    rows = ", ".join(sorted({rank["rows"] for rank in ranks}))
    blas, numpy = ", ".join(sorted(kernels)) or "unknown", ", ".join(sorted(loops)) or "baseline"
    processors = "" if bits == "portable" else "".join(f"{name}; " for name in sorted({r["processor"] for r in ranks}))
    return f"{processors}BLAS {blas}; numpy {numpy}; rows {rows}"


# What the bits of a run depend on, besides the command: names of an introduction, and the words for them.
DEPENDENCIES = {
    "processor": "processor", "kernels": "BLAS kernels", "blas": "BLAS", "loops": "numpy loops",
    "rows": "loops over rows", "threads": "threads", "numpy": "numpy", "scipy": "scipy",
}  # fmt: skip


def signature(ranks: Sequence[Mapping[str, Any]], bits: str) -> dict[str, list[str]]:
    """The distinct values, on all ranks, of what the bits depend on; portable bits do not depend on the processor."""
    named: dict[str, list[str]] = {}
    for name, words in DEPENDENCIES.items():
        found = [rank.get(name, "") for rank in ranks]
        texts = {", ".join(value) if isinstance(value, list) else str(value) for value in found}
        if not (bits == "portable" and name == "processor"):
            named[words] = sorted(texts)
    return named


def differences(then: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str:
    """What has changed between two signatures, in words; "" where nothing has."""
    changed = [name for name in then if name in now and list(then[name]) != list(now[name])]
    return "; ".join(f"{name} {' and '.join(then[name])}, now {' and '.join(now[name])}" for name in changed)


def mixture(ranks: Sequence[Mapping[str, Any]], bits: str) -> str:
    """What differs between the ranks, in words; "" where nothing does."""
    several = {name: values for name, values in signature(ranks, bits).items() if len(values) > 1}
    return "; ".join(f"{name} {' and '.join(values)}" for name, values in several.items())


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
        if not why and rank["rows"] != ranks[0]["rows"]:
            why = f"its loops over rows are {rank['rows']}, and those of {ranks[0]['host']} {ranks[0]['rows']}"
        if why:
            raise ConfigError(
                f"--bits portable: {rank['host']} cannot compute them: {why}. They need an x86-64 processor with AVX2, "
                "and numpy and scipy with OpenBLAS, as from PyPI; leave --bits out for the bits of this processor"
            )
