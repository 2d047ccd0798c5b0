"""Sparsifier coordinates and their places: random-r, top-r, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress.compressor import Compressor, index_bits, pack_indices, unpack_indices
from mpinewton.errors import ConfigError
from mpinewton.settings import setting


@dataclass(frozen=True)
class Identity(Compressor):
    """x itself; with word=32, x rounded. omega = 0."""

    name = "identity"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        return (x.astype(self.floats),)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return arrays[0].astype(np.float64)

    def bits(self, size: int) -> float:
        return self.word * size

    def omega(self, size: int) -> float:
        return 0.0


@dataclass(frozen=True)
class Sparsifier(Compressor):
    """r coordinates and their places, min(r ceil(log2 D), D) bits: what random-r and top-r share."""

    r: int = setting(1, ge=1, help="coordinates that are sent")

    def validate(self, size: int) -> None:
        if self.r > size:
            raise ConfigError(f"compressor {self.name}: r = {self.r}, but a message has {size} numbers; set r to fewer")

    def bits(self, size: int) -> float:
        return self.word * self.r + index_bits(self.r, size)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        values, places = arrays
        x = np.zeros(size)
        x[unpack_indices(places, len(values), size)] = values
        return x


@dataclass(frozen=True)
class Random(Sparsifier):
    """random-r: r coordinates, uniform without replacement, times D / r. Unbiased, omega = D / r - 1."""

    name = "random"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        places = np.sort(rng.choice(len(x), self.r, replace=False, shuffle=False))
        return x[places].astype(self.floats), pack_indices(places, len(x))

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        # Scaled here: with the rate r / D of learning, what is learnt of a coordinate is then the very number sent.
        return super().unpack(arrays, size) * (size / self.r)

    def omega(self, size: int) -> float:
        return size / self.r - 1.0


@dataclass(frozen=True)
class Top(Sparsifier):
    """top-r: the r coordinates of largest modulus, the first ones among equals. Contractive, delta = r / D."""

    name = "top"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        places = largest(np.abs(x), self.r)
        return x[places].astype(self.floats), pack_indices(places, len(x))

    def delta(self, size: int) -> float:
        return self.r / size


def largest(a: Array, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Places of the `count` largest numbers, ascending; the first ones among equals, whatever the machine."""
    least = np.partition(a, len(a) - count)[len(a) - count]
    chosen = a > least
    equal = np.flatnonzero(a == least)[: count - np.count_nonzero(chosen)]
    chosen[equal] = True
    return np.flatnonzero(chosen)
