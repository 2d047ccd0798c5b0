"""What a compressor is: an array to the few bytes that travel, and from these alone the array both sides go on with."""

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
    """What travels, and what it says.

    Attributes
    ----------
    arrays : tuple of arrays
        The reply of a task: floats as floats, indices, signs and levels as packed bytes.
    value : array
        What `unpack` makes of them, bit by bit: a worker that must know what the driver believes goes on with this.
    """

    arrays: tuple[AnyArray, ...]
    value: Array

    @property
    def bits(self) -> int:
        """Bits that travel."""
        return 8 * sum(a.nbytes for a in self.arrays)


@dataclass(frozen=True)
class Compressor(Configured, ABC):
    """Base of all compressors C, of vectors (D,) or of symmetric matrices (d, d). Fields are the settings.

    `size` is D or d: how many rows the array has that is compressed.

    A compressor is either unbiased, E C(x) = x and E|C(x) - x|^2 <= omega(D) |x|^2, or contractive,
    |C(x) - x|^2 <= (1 - delta(D)) |x|^2. What is not finite, or too large for the words of a message, is not sent: such
    an x arrives as NaN, in no bits, and the trouble shows at once on both sides.
    """

    matrices: ClassVar[bool] = False  # whether it is for symmetric matrices, not for vectors

    word: Literal[64, 32] = field(
        default=64, kw_only=True, metadata={"help": "bits of a float; 32: rounded on both sides"}
    )

    def compress(self, x: Array, rng: np.random.Generator) -> Message:
        """C(x); `rng` is for those that draw."""
        arrays = self.pack(x, rng) if self.holds(x) else ()
        return Message(arrays, self.expand(arrays, len(x)))

    def expand(self, arrays: Sequence[AnyArray], size: int) -> Array:
        """What a message says, C(x), on the side that did not make it."""
        return self.unpack(arrays, size) if len(arrays) else np.full((size, size) if self.matrices else size, np.nan)

    def mean(self, messages: Sequence[Sequence[AnyArray]], shares: Array, size: int) -> Array:
        """Sum of what the messages say, each times its share, in their order; a share of 0 has no say."""
        total = np.zeros((size, size) if self.matrices else size)
        for arrays, share in zip(messages, shares):
            if share:
                total += share * self.expand(arrays, size)
        return total

    def holds(self, x: Array) -> bool:
        """Whether x can be said in these words."""
        return float(np.abs(x).max(initial=0.0)) <= float(np.finfo(self.floats).max)

    @property
    def floats(self) -> np.dtype[Any]:
        """The type of the floats that travel."""
        return np.dtype(f"f{self.word // 8}")

    @abstractmethod
    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        """The arrays that travel, for a finite x."""

    @abstractmethod
    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        """What they say, float64."""

    @abstractmethod
    def bits(self, size: int) -> float:
        """Bits of a message, in the mean where they vary; every array of it is rounded up to bytes."""

    def omega(self, size: int) -> float | None:
        """Of an unbiased compressor: E|C(x) - x|^2 <= omega |x|^2. None for a contractive one."""
        return None

    def delta(self, size: int) -> float | None:
        """Of a contractive compressor: |C(x) - x|^2 <= (1 - delta) |x|^2. None for an unbiased one."""
        return None

    def rate(self, size: int) -> float:
        """The step at which an estimate learns from compressed differences: 1 / (omega + 1), or 1 if contractive."""
        omega = self.omega(size)
        return 1.0 if omega is None else 1.0 / (omega + 1.0)

    def validate(self, size: int) -> None:  # noqa: B027  (most take any size)
        """Refuse arrays of this size. Raises ConfigError."""


def whole_bytes(bits: int) -> int:
    """Bits, rounded up to bytes."""
    return -(-bits // 8) * 8


def index_bits(count: int, size: int) -> int:
    """Bits of `count` of `size` places: none if all are meant, a number each, or a mask where that is shorter."""
    return 0 if count == size else min(count * width_of(size), size)


def pack_indices(indices: NDArray[np.integer], size: int) -> Bytes:
    """Places from 0 to size - 1, ascending and distinct, in `index_bits` bits."""
    if len(indices) == size:
        return np.zeros(0, dtype=np.uint8)
    if len(indices) * width_of(size) < size:
        return pack_bits((indices, width_of(size)))
    mask = np.zeros(size, dtype=np.uint8)
    mask[indices] = 1
    return np.packbits(mask)


def unpack_indices(packed: Bytes, count: int, size: int) -> NDArray[np.int64]:
    """The `count` places that `pack_indices` was given."""
    if count == size:
        return np.arange(size)
    if count * width_of(size) < size:
        return Bits(packed).take(count, width_of(size))
    return np.flatnonzero(np.unpackbits(packed, count=size))
