"""Compressors of symmetric matrices: the best of rank r, and any compressor of vectors on the triangle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np

from mpinewton.arrays import AnyArray, Array
from mpinewton.compress.compressor import Compressor
from mpinewton.compress.sparse import Top
from mpinewton.errors import ConfigError
from mpinewton.linalg.dominant import BlockProduct, dominant
from mpinewton.linalg.krylov import lanczos
from mpinewton.linalg.lowrank import combined
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.settings import setting

# From this many rows on, the one eigenvector of r = 1 comes from a Krylov space of so many dimensions
# (d = 300: 1 ms, against 15 ms for all eigenvectors).
SMALL = 150
KRYLOV = 24


@dataclass(frozen=True)
class Eigenpairs(Compressor):
    """The best approximation of rank r of a symmetric matrix, by moduli of eigenvalues: r eigenvalues and eigenvectors.

    r (d + 1) floats; contractive, delta = r / d. For r = 1, from 150 rows on, the eigenvector is that of a Krylov space
    from a start that is drawn: |D - S| is the least to a few digits, and delta holds in the mean after one step.
    """

    name = "rank"
    matrices = True

    r: int = setting(1, ge=1, help="")

    def validate(self, size: int) -> None:
        if self.r > size:
            raise ConfigError(f"compressor rank: r = {self.r}, but the matrix has {size} rows; set r to fewer")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        # A Krylov space holds one vector of every eigenvalue: for r > 1 that would not do.
        if self.r == 1 and len(x) >= SMALL:
            space = lanczos(x.__matmul__, rng.standard_normal(len(x)), KRYLOV, 0.0)
            e, Y = np.linalg.eigh(space.T[:-1])
            largest = np.argmax(np.abs(e))
            return self.said(e[[largest]], (space.Q @ Y[:, [largest]]).T)
        e, Q = np.linalg.eigh(x)
        order = np.argsort(-np.abs(e), kind="stable")
        return self.said(e[order], Q.T[order])

    def pack_product(
        self, product: BlockProduct, start: Array, limit: int, accuracy: float
    ) -> tuple[tuple[AnyArray, ...], Array]:
        """The message of a matrix D known by its products, and a start for what this message leaves of D.

        Both as of `dominant`: a rough eigenvector only makes a worse S, since its eigenvalue is <v, D v>, and
        |D - S|^2 = |D|^2 - |S|^2 all the same. No message where D is not finite.
        """
        e, V, after = dominant(product, start, self.r, limit, accuracy)
        return self.said(e, V.T) if np.isfinite(e).all() else (), after

    def said(self, e: Array, V: Array) -> tuple[AnyArray, ...]:
        """The message of the first r of these eigenvalues (k,) and their vectors (k, d); zeros for what is missing."""
        values, vectors = np.zeros(self.r, self.floats), np.zeros((self.r, V.shape[1]), self.floats)
        values[: len(e)], vectors[: len(e)] = e[: self.r], V[: self.r]
        return values, vectors

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return combined(*(a.astype(np.float64) for a in arrays))

    def mean(self, messages: Sequence[Sequence[AnyArray]], shares: Array, size: int) -> Array:
        # One product of all the vectors, where the sum of the matrices would cost d^2 a message.
        seen = [(arrays, share) for arrays, share in zip(messages, shares) if share]
        if not all(len(arrays) for arrays, _ in seen):
            return np.full((size, size), np.nan)
        values = np.concatenate([share * arrays[0].astype(np.float64) for arrays, share in seen])
        return combined(values, np.concatenate([arrays[1] for arrays, _ in seen]).astype(np.float64))

    def bits(self, size: int) -> float:
        return self.word * self.r * (size + 1)

    def delta(self, size: int) -> float:
        return self.r / size


@dataclass(frozen=True)
class Triangle(Compressor):
    """A compressor of vectors on the upper triangle of a symmetric matrix (d, d), mirrored.

    The entries off the diagonal count sqrt(2): the triangle is then as long as the matrix, and omega and delta are
    those of D = d (d + 1) / 2 in the Frobenius norm. Without that, top-1 of a matrix of ones keeps 1 / d^2, too little.
    """

    name = "triangle"
    matrices = True

    of: Compressor = setting(factory=Top, help="")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        return self.of.pack(pack_triangle(x) * lengths(len(x)), rng)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return unpack_triangle(self.of.unpack(arrays, triangle(size)) / lengths(size))

    def holds(self, x: Array) -> bool:
        return self.of.holds(pack_triangle(x) * lengths(len(x)))

    def bits(self, size: int) -> float:
        return self.of.bits(triangle(size))

    def omega(self, size: int) -> float | None:
        return self.of.omega(triangle(size))

    def delta(self, size: int) -> float | None:
        return self.of.delta(triangle(size))

    def validate(self, size: int) -> None:
        self.of.validate(triangle(size))


def triangle(size: int) -> int:
    """Entries of the upper triangle of `size` rows."""
    return size * (size + 1) // 2


@lru_cache(maxsize=8)
def lengths(size: int) -> Array:
    """What the entries of a triangle count in the Frobenius norm: 1 on the diagonal, sqrt(2) off it."""
    counts = np.full((size, size), sqrt(2.0))
    np.fill_diagonal(counts, 1.0)
    packed = pack_triangle(counts)
    packed.setflags(write=False)
    return packed
