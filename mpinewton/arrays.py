"""The types of arrays that all rooms share."""

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
Matrix: TypeAlias = NDArray[np.floating[Any]] | sparse.csr_array

NAN = float("nan")
