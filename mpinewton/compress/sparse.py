"""Compressors that send some coordinates and their indices: random-r, top-r, and the identity."""

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
    """x itself, rounded to float32 with word=32. omega = 0."""

    name = "identity"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        return (x.astype(self.float_type),)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return arrays[0].astype(np.float64)

    def bits(self, size: int) -> float:
        return self.word * size

    def omega(self, size: int) -> float:
        return 0.0


@dataclass(frozen=True)
class Sparsifier(Compressor):
    """Base of random-r and top-r: r coordinates and their indices, of min(r ceil(log2 D), D) bits."""

    r: int = setting(1, ge=1, help="number of coordinates that are sent")

    def validate(self, size: int) -> None:
        if self.r > size:
            raise ConfigError(
                f"compressor {self.name}: r = {self.r}, but x has {size} coordinates; set r to at most {size}"
            )

    def bits(self, size: int) -> float:
        return self.word * self.r + index_bits(self.r, size)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        values, packed = arrays
        x = np.zeros(size)
        x[unpack_indices(packed, len(values), size)] = values
        return x


@dataclass(frozen=True)
class Random(Sparsifier):
    """Random-r: r random coordinates, drawn without replacement, times D / r. Unbiased, omega = D / r - 1.

    The variance of a coordinate that is kept with probability r / D and multiplied by D / r is (D / r - 1) x_i^2.
    """

    name = "random"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        indices = np.sort(rng.choice(len(x), self.r, replace=False, shuffle=False))
        return x[indices].astype(self.float_type), pack_indices(indices, len(x))

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        # Scaled here, not in `pack`: times the learning rate r / D a coordinate is then exactly the number sent.
        return super().unpack(arrays, size) * (size / self.r)

    def omega(self, size: int) -> float:
        return size / self.r - 1.0


@dataclass(frozen=True)
class Top(Sparsifier):
    """Top-r: the r coordinates of largest modulus, the first ones among equals. Contractive, delta = r / D.

    Source of delta: Stich, Cordonnier and Jaggi 2018, Lemma A.1.
    """

    name = "top"

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        indices = largest(np.abs(x), self.r)
        return x[indices].astype(self.float_type), pack_indices(indices, len(x))

    def delta(self, size: int) -> float:
        return self.r / size


def largest(a: Array, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices of the `count` largest numbers, ascending; the first ones among equals, on every machine."""
    least = np.partition(a, len(a) - count)[len(a) - count]
    chosen = a > least
    equal = np.flatnonzero(a == least)[: count - np.count_nonzero(chosen)]
    chosen[equal] = True
    return np.flatnonzero(chosen)
