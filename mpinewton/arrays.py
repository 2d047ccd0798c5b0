"""Types of arrays that all rooms share, and sizes of padded arrays."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

AnyArray = NDArray[Any]
Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Indices = NDArray[np.intp]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Vectors: TypeAlias = tuple[Array, ...]
Matrix: TypeAlias = NDArray[np.floating[Any]] | sparse.csr_array

NAN = float("nan")


def round_up(size: int, unit: int = 8) -> int:
    """The smallest multiple of `unit` that is at least `size`."""
    return -(-size // unit) * unit
