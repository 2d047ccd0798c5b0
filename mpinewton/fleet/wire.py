"""Arrays to bytes and back: what is said about an array (dtype, shape), and the one form in which replies travel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np

from mpinewton.arrays import AnyArray, Array, Bytes, round_up


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """What a list of arrays looks like: its dtypes and shapes, and whether it was one array, not a tuple."""

    single: bool
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> int:
        """How many numbers the arrays hold together."""
        return sum(prod(shape) for shape in self.shapes)

    def like(self, other: Layout) -> bool:
        """Whether replies of the two layouts can be added up."""
        return (self.single, self.shapes) == (other.single, other.shapes)


def arrays_of(reply: Any) -> tuple[bool, list[AnyArray]]:
    """A reply (None, a number, an array or a tuple of numbers and arrays) as a list of arrays; True if it was one.

    Raises
    ------
    TypeError
        For anything that has no place in an array, named.
    """
    single = not isinstance(reply, tuple)
    parts = () if reply is None else (reply,) if single else reply
    if any(isinstance(part, list) for part in parts):
        raise TypeError("a list does not travel between driver and workers: return a tuple, or make one array of it")
    arrays = [np.asarray(part, order="C") for part in parts]
    for part, array in zip(parts, arrays):
        if array.dtype.kind not in "fiub":
            raise TypeError(
                f"only numbers and arrays of numbers travel between driver and workers, not {type(part).__name__}"
            )
    return single, arrays


def layout_of(single: bool, arrays: Sequence[AnyArray]) -> Layout:
    return Layout(single, tuple(a.dtype.str for a in arrays), tuple(a.shape for a in arrays))


def to_reply(layout: Layout, arrays: Sequence[AnyArray]) -> Any:
    """The reply again: numbers as Python numbers, arrays as arrays, one thing alone or a tuple."""
    parts = [array if array.ndim else array.item() for array in arrays]
    if layout.single:
        return parts[0] if parts else None
    return tuple(parts)


def to_vector(arrays: Sequence[AnyArray], out: Array | None = None, scale: float = 1.0) -> Array:
    """All numbers of the arrays, times `scale`, as one float64 vector: `out`, or a new one."""
    out, first = np.empty(sum(a.size for a in arrays)) if out is None else out, 0
    for a in arrays:
        np.multiply(a.ravel(), scale, out=out[first : first + a.size], dtype=np.float64)
        first += a.size
    return out


def from_vector(layout: Layout, vector: Array) -> Any:
    """The reply of this layout from one float64 vector; every number comes back as a float."""
    arrays, first = [], 0
    for shape in layout.shapes:
        size = prod(shape)
        arrays.append(vector[first : first + size].reshape(shape))
        first += size
    return to_reply(layout, arrays)


def to_bytes(arrays: Sequence[AnyArray]) -> Bytes:
    """The bytes of the arrays behind one another, each beginning at a multiple of 8."""
    if len(arrays) == 1:
        return arrays[0].reshape(-1).view(np.uint8)
    out = np.zeros(sum(round_up(a.nbytes) for a in arrays), dtype=np.uint8)
    first = 0
    for a in arrays:
        out[first : first + a.nbytes] = a.reshape(-1).view(np.uint8)
        first += round_up(a.nbytes)
    return out


def from_bytes(layout: Layout, data: Bytes, first: int = 0) -> tuple[list[AnyArray], int]:
    """The arrays of this layout, as views of `data` from byte `first` on, and the byte after them."""
    arrays: list[AnyArray] = []
    for dtype, shape in zip(layout.dtypes, layout.shapes):
        size = np.dtype(dtype).itemsize * prod(shape)
        arrays.append(data[first : first + size].view(dtype).reshape(shape))
        first += round_up(size) if len(layout.shapes) > 1 else size
    return arrays, first
