"""Types of data sets in files: the smallest that holds every number of an array exactly."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By size. "bool" stands for an array of ones, which need not be stored.
TYPES = ("uint8", "int8", "uint16", "int16", "float32", "int32", "float64")
SAMPLE = 256


def narrowest(array: NDArray[Any]) -> str:
    """The smallest type from which every number of an array comes back with the same bits; "bool" if all are 1.

    Parameters
    ----------
    array : array of numbers of a type of 8 bytes at most
    """
    flat = array.reshape(-1)
    if (flat[:SAMPLE] == 1).all() and (flat == 1).all():
        return "bool"
    for kind in TYPES:
        if np.dtype(kind).itemsize < flat.itemsize and _holds(kind, flat[:SAMPLE]) and _holds(kind, flat):
            return kind
    return str(flat.dtype)


def _holds(kind: str, array: NDArray[Any]) -> bool:
    bits = f"u{array.itemsize}"  # -0.0 and 0.0 are equal numbers
    with np.errstate(invalid="ignore", over="ignore"):
        back = array.astype(kind).astype(array.dtype)
    return bool(np.array_equal(back.view(bits), np.ascontiguousarray(array).view(bits)))


def common(*kinds: str) -> str:
    """The smallest type that holds all numbers of some types."""
    return str(reduce(np.promote_types, kinds, np.dtype("bool")))


def storage_type(kind: str, content: str) -> str:
    """The type in which to store numbers of type `content`, of which it is known that `kind` holds them."""
    kind = "uint8" if kind == "bool" else kind
    return kind if kind in storage_types(content) else content


def storage_types(content: str) -> tuple[str, ...]:
    """Types in which numbers of type `content` may be stored, `content` itself last."""
    return tuple(kind for kind in TYPES if np.can_cast(kind, content))
