"""Unbiased compressors that round every coordinate at random, dithering and natural, and a random choice to send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar, Literal

import numpy as np

from mpinewton.arrays import AnyArray, Array, round_up
from mpinewton.compress.bits import Bits, pack_bits, width_of
from mpinewton.compress.compressor import Compressor
from mpinewton.compress.sparse import Random
from mpinewton.settings import setting


@dataclass(frozen=True)
class Dithering(Compressor):
    """Random dithering (Alistarh et al. 2017): sign(x_i) (|x| / s) floor(s |x_i| / |x| + u_i), u_i uniform on [0, 1).

    A message is |x| and D levels from -s to s of ceil(log2(2 s + 1)) bits each. The 2.8 D + 32 bits of the papers (at
    s = sqrt(D)) are an estimate for a code of variable length. norm=max divides by max |x_i| instead, which uses all
    levels and is more accurate at many bits. omega = min(D / s^2, sqrt(D) / s) (their Lemma 3.1); for norm=max
    min(D / (4 s^2), sqrt(D) / s), since rounding to multiples of max |x_i| / s has at most a quarter of its square as
    variance.
    """

    name = "dithering"

    levels: int = setting(0, ge=0, lt=2**31, help="number of levels s; 0: ceil(sqrt(D)), for which omega <= 1")
    norm: Literal["euclidean", "max"] = setting("euclidean", help="norm by which x is divided")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        s = self.steps(len(x))
        size = np.abs(x)
        scale = self.round_scale(float(size.max(initial=0.0) if self.norm == "max" else np.linalg.norm(x)))
        # |x_i| / scale is at most 1, since the scale was rounded up; s + u can still round to s + 1.
        level = np.minimum(np.floor(s * (size / (scale or 1.0)) + rng.random(len(x))), s)
        signed = np.where(x < 0, s - level, s + level).astype(np.int64)
        return np.array([scale], dtype=self.float_type), pack_bits((signed, width_of(2 * s + 1)))

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        scale, packed = arrays
        s = self.steps(size)
        return np.asarray((float(scale[0]) / s) * (Bits(packed).take(size, width_of(2 * s + 1)) - s))

    def round_scale(self, scale: float) -> float:
        """The smallest float of the message that is at least the scale; rounding down would give a bias."""
        rounded = self.float_type.type(scale)
        return float(rounded if rounded >= scale else np.nextafter(rounded, self.float_type.type(np.inf)))

    def fits(self, x: Array) -> bool:
        # The norm and its square must not overflow.
        return float(np.abs(x).max(initial=0.0)) <= sqrt(float(np.finfo(self.float_type).max) / max(1, len(x))) / 2

    def bits(self, size: int) -> float:
        return self.word + size * width_of(2 * self.steps(size) + 1)

    def omega(self, size: int) -> float:
        s = self.steps(size)
        return min(size / (4 * s**2 if self.norm == "max" else s**2), sqrt(size) / s)

    def steps(self, size: int) -> int:
        """The number of levels s."""
        return self.levels or max(1, ceil(sqrt(size)))


@dataclass(frozen=True)
class Natural(Compressor):
    """Natural compression (Horvath et al. 2019): |x_i| is rounded at random to a neighbouring power of 2.

    A coordinate takes 9 bits: the sign, and 8 bits for 0 and the powers from 2^-127 to 2^127. Numbers below 2^-127 are
    rounded to 0 or 2^-127, also without bias. omega = 1 / 8 (their Theorem 1).
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

    def fits(self, x: Array) -> bool:
        return float(np.abs(x).max(initial=0.0)) <= 2.0**self.MOST

    def bits(self, size: int) -> float:
        return 9 * size

    def omega(self, size: int) -> float:
        return 1 / 8


@dataclass(frozen=True)
class Bernoulli(Compressor):
    """C_p (Islamov, Qian and Richtarik 2021): with probability p the message of another compressor, divided by p.

    Otherwise nothing is sent but the flag, which takes one byte. It is unbiased if the other compressor is, with
    omega = (omega_other + 1) / p - 1. The released code omits the division by p and is biased.
    """

    name = "bernoulli"

    p: float = setting(0.05, gt=0, le=1, help="probability that a message is sent")
    of: Compressor = setting(factory=Random, help="the other compressor, as random:r=3")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.of.omega(1) is not None, "of", "an unbiased compressor, as random, dithering or natural")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        sends = bool(rng.random() < self.p)
        flag = np.array([sends], dtype=np.uint8)
        return (flag, *self.of.pack(x, rng)) if sends else (flag,)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        flag, *others = arrays
        return self.of.unpack(others, size) / self.p if flag[0] else np.zeros(size)

    def fits(self, x: Array) -> bool:
        return self.of.fits(x)

    def bits(self, size: int) -> float:
        return round_up(1) + self.p * self.of.bits(size)

    def omega(self, size: int) -> float:
        omega = self.of.omega(size)
        assert omega is not None, "a biased compressor is refused when this one is made"
        return (omega + 1.0) / self.p - 1.0

    def validate(self, size: int) -> None:
        self.of.validate(size)
