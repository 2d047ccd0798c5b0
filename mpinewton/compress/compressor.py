"""Base of the compressors: an array to the bytes that are sent, and these bytes back to an array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import AnyArray, Array, Bytes
from mpinewton.compress.bits import Bits, pack_bits, width_of
from mpinewton.settings import Configured


class Message(NamedTuple):
    """A compressed array.

    Attributes
    ----------
    arrays : tuple of arrays
        The reply of a task: floats as they are; indices, signs and levels as packed bytes.
    value : array, shape (D,) or (d, d)
        C(x) as the driver will unpack it, to the last bit, for workers that must follow the driver.
    """

    arrays: tuple[AnyArray, ...]
    value: Array

    @property
    def bits(self) -> int:
        """Number of bits that are sent."""
        return 8 * sum(a.nbytes for a in self.arrays)


@dataclass(frozen=True)
class Compressor(Configured, ABC):
    """Base of the compressors C of vectors (D,) or of symmetric matrices (d, d). Fields are the settings.

    In all methods `size` is D or d, the number of rows of the array.

    A compressor is either unbiased, E C(x) = x and E|C(x) - x|^2 <= omega(D) |x|^2, or contractive,
    |C(x) - x|^2 <= (1 - delta(D)) |x|^2. An x that is not finite, or too large for the floats of a message, is not
    sent: the message is empty and C(x) is NaN on both sides.
    """

    matrices: ClassVar[bool] = False  # whether it compresses symmetric matrices, not vectors

    word: Literal[64, 32] = field(default=64, kw_only=True, metadata={"help": "bits of each float that is sent"})

    def compress(self, x: Array, rng: np.random.Generator) -> Message:
        """C(x) as a message; `rng` is used by random compressors."""
        arrays = self.pack(x, rng) if self.fits(x) else ()
        return Message(arrays, self.expand(arrays, len(x)))

    def expand(self, arrays: Sequence[AnyArray], size: int) -> Array:
        """C(x) from the arrays of a message."""
        return self.unpack(arrays, size) if len(arrays) else np.full((size, size) if self.matrices else size, np.nan)

    def mean(self, messages: Sequence[Sequence[AnyArray]], shares: Array, size: int) -> Array:
        """The sum of share times C(x) over the messages, in their order; a worker of share 0 has zero weight."""
        total = np.zeros((size, size) if self.matrices else size)
        for arrays, share in zip(messages, shares):
            if share:
                total += share * self.expand(arrays, size)
        return total

    def fits(self, x: Array) -> bool:
        """Whether x is finite and within the range of the floats of a message."""
        return float(np.abs(x).max(initial=0.0)) <= float(np.finfo(self.float_type).max)

    @property
    def float_type(self) -> np.dtype[Any]:
        """The dtype of the floats that are sent."""
        return np.dtype(f"f{self.word // 8}")

    @abstractmethod
    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        """The arrays of the message, for an x that `fits`."""

    @abstractmethod
    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        """The inverse of `pack`: C(x), float64."""

    @abstractmethod
    def bits(self, size: int) -> float:
        """Number of bits of a message, on average where it varies; each array of it is rounded up to whole bytes."""

    def omega(self, size: int) -> float | None:
        """omega in E|C(x) - x|^2 <= omega |x|^2, for an unbiased compressor; None for a contractive one."""
        return None

    def delta(self, size: int) -> float | None:
        """delta in |C(x) - x|^2 <= (1 - delta) |x|^2, for a contractive compressor; None for an unbiased one."""
        return None

    def rate(self, size: int) -> float:
        """The learning rate of an estimate updated by compressed differences: 1 / (omega + 1), or 1 if contractive."""
        omega = self.omega(size)
        return 1.0 if omega is None else 1.0 / (omega + 1.0)

    def validate(self, size: int) -> None:
        """Refuse arrays of a size that the compressor cannot take. Raises ConfigError."""


def index_bits(count: int, size: int) -> int:
    """Bits for `count` of `size` indices: 0 for all of them, else a number each, or a mask where that is shorter."""
    return 0 if count == size else min(count * width_of(size), size)


def pack_indices(indices: NDArray[np.integer], size: int) -> Bytes:
    """Pack distinct ascending indices (k,) from 0 to size - 1 into `index_bits` bits."""
    if len(indices) == size:
        return np.zeros(0, dtype=np.uint8)
    if len(indices) * width_of(size) < size:
        return pack_bits((indices, width_of(size)))
    mask = np.zeros(size, dtype=np.uint8)
    mask[indices] = 1
    return np.packbits(mask)


def unpack_indices(packed: Bytes, count: int, size: int) -> NDArray[np.int64]:
    """The inverse of `pack_indices`: indices, shape (count,)."""
    if count == size:
        return np.arange(size)
    if count * width_of(size) < size:
        return Bits(packed).take(count, width_of(size))
    return np.flatnonzero(np.unpackbits(packed, count=size))
