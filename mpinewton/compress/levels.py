"""All coordinates in few bits each, rounded at random and unbiased: dithering, natural, and a coin around another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar, Literal

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress.bits import Bits, pack_bits, width_of
from mpinewton.compress.compressor import Compressor, whole_bytes
from mpinewton.compress.sparse import Random
from mpinewton.settings import setting


@dataclass(frozen=True)
class Dithering(Compressor):
    """Random dithering (Alistarh et al. 2017): sign(x_i) (|x| / s) floor(s |x_i| / |x| + u_i), u_i uniform on [0, 1).

    A message is |x| and D levels from -s to s, of ceil(log2(2 s + 1)) bits each: a fixed width, where the papers'
    2.8 D + 32 bits (at s = sqrt(D)) are an estimate for a code of variable length. norm=max divides by max |x_i|
    instead, which uses all levels: the better choice for many bits. omega = min(D / s^2, sqrt(D) / s), and for
    norm=max min(D / (4 s^2), sqrt(D) / s).
    """

    name = "dithering"

    levels: int = setting(0, help="s; 0 for ceil(sqrt(D)), which has omega = 1 at the most")
    norm: Literal["euclidean", "max"] = setting("euclidean", help="")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.levels < 2**31, "levels", "from 1 to 2^31 - 1, or 0 for the root of the size")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        s = self.steps(len(x))
        size = np.abs(x)
        scale = self.rounded_up(float(size.max(initial=0.0) if self.norm == "max" else np.linalg.norm(x)))
        # |x_i| / scale is at most 1, since the scale was rounded up; s + u can still round to s + 1.
        level = np.minimum(np.floor(s * (size / (scale or 1.0)) + rng.random(len(x))), s)
        signed = np.where(x < 0, s - level, s + level).astype(np.int64)
        return np.array([scale], dtype=self.floats), pack_bits((signed, width_of(2 * s + 1)))

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        scale, packed = arrays
        s = self.steps(size)
        return np.asarray((float(scale[0]) / s) * (Bits(packed).take(size, width_of(2 * s + 1)) - s))

    def rounded_up(self, scale: float) -> float:
        """The least number of the message's words that is not below the scale: rounding down would bias."""
        rounded = self.floats.type(scale)
        return float(rounded if rounded >= scale else np.nextafter(rounded, self.floats.type(np.inf)))

    def holds(self, x: Array) -> bool:
        # The norm, and its square, must not overflow either.
        return float(np.abs(x).max(initial=0.0)) <= sqrt(float(np.finfo(self.floats).max) / max(1, len(x))) / 2

    def bits(self, size: int) -> float:
        return self.word + size * width_of(2 * self.steps(size) + 1)

    def omega(self, size: int) -> float:
        s = self.steps(size)
        return min(size / (4 * s**2 if self.norm == "max" else s**2), sqrt(size) / s)

    def steps(self, size: int) -> int:
        """s."""
        return self.levels or max(1, ceil(sqrt(size)))


@dataclass(frozen=True)
class Natural(Compressor):
    """Natural compression (Horvath et al. 2019): |x_i| to the power of 2 below, or above, by chance. omega = 1 / 8.

    9 bits a coordinate: the sign, and 8 bits for 0 and the powers from 2^-127 to 2^127. Numbers of least modulus,
    below 2^-127, become 0 or 2^-127: unbiased too.
    """

    name = "natural"
    LEAST: ClassVar[int] = -127
    MOST: ClassVar[int] = 127

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        size = np.abs(x)
        exponent = np.frexp(size)[1] - 1  # 2^exponent <= size < 2^(exponent + 1)
        small = size < 2.0**self.LEAST
        below = np.where(small, 0.0, np.ldexp(1.0, exponent))
        up = np.where(small, 2.0**self.LEAST, below) * rng.random(len(x)) < size - below
        # 0 stands for 0, k for 2^(k - 128).
        code = np.where(small, 0, exponent - self.LEAST + 1) + up
        return (pack_bits(((x < 0) * 256 + code, 9)),)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        numbers = Bits(arrays[0]).take(size, 9)
        code = numbers % 256
        value = np.where(code == 0, 0.0, np.ldexp(1.0, code + self.LEAST - 1))
        return np.where(numbers >= 256, -value, value)

    def holds(self, x: Array) -> bool:
        return float(np.abs(x).max(initial=0.0)) <= 2.0**self.MOST

    def bits(self, size: int) -> float:
        return 9 * size

    def omega(self, size: int) -> float:
        return 1 / 8


@dataclass(frozen=True)
class Bernoulli(Compressor):
    """C_p (Islamov et al. 2021): with probability p the other compressor's message, divided by p, else nothing.

    One coin for the whole message, which costs a byte: a flag of one bit. Unbiased if the other is, then
    omega = (omega_other + 1) / p - 1. (The released code leaves out 1 / p, and is biased.)
    """

    name = "bernoulli"

    p: float = setting(0.05, gt=0, le=1, help="probability that anything is sent")
    of: Compressor = setting(factory=Random, help="")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.of.omega(1) is not None, "of", "an unbiased compressor: divided by p, another is no estimate")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        sends = bool(rng.random() < self.p)
        flag = np.array([sends], dtype=np.uint8)
        return (flag, *self.of.pack(x, rng)) if sends else (flag,)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        flag, *others = arrays
        return self.of.unpack(others, size) / self.p if flag[0] else np.zeros(size)

    def holds(self, x: Array) -> bool:
        return self.of.holds(x)

    def bits(self, size: int) -> float:
        return whole_bytes(1) + self.p * self.of.bits(size)

    def omega(self, size: int) -> float:
        omega = self.of.omega(size)
        assert omega is not None, "refused when it was made"
        return (omega + 1.0) / self.p - 1.0

    def validate(self, size: int) -> None:
        self.of.validate(size)
