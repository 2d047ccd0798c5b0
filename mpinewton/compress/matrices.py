"""Compressors of symmetric matrices: best rank-r approximation, and compressors of vectors on the triangle."""

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
from mpinewton.linalg.lowrank import outer_sum
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle
from mpinewton.settings import setting

# For r = 1 and at least SMALL rows the eigenvector comes from a Krylov space of dimension KRYLOV. Chosen by trial: for
# d = 300 this takes 1 ms, all eigenvectors 15 ms.
SMALL = 150
KRYLOV = 24


@dataclass(frozen=True)
class Eigenpairs(Compressor):
    """Rank-r: the best rank-r approximation of a symmetric matrix, from the r eigenvalues of largest modulus.

    A message has r (d + 1) floats. Contractive with delta = r / d (Safaryan, Islamov, Qian and Richtarik 2021). For
    r = 1 and d >= 150 the eigenvector is computed in a Krylov space with a random start: the error |D - S| is smallest
    to a few digits, and delta holds on average after one step.
    """

    name = "rank"
    matrices = True

    r: int = setting(1, ge=1, help="number of eigenpairs")

    def validate(self, size: int) -> None:
        if self.r > size:
            raise ConfigError(f"compressor rank: r = {self.r}, but the matrix has {size} rows; set r to at most {size}")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        # Not for r > 1: a Krylov space has only one eigenvector of a multiple eigenvalue.
        if self.r == 1 and len(x) >= SMALL:
            space = lanczos(x.__matmul__, rng.standard_normal(len(x)), KRYLOV)
            e, Y = np.linalg.eigh(space.T[:-1])
            largest = np.argmax(np.abs(e))
            return self.message(e[[largest]], (space.Q @ Y[:, [largest]]).T)
        e, Q = np.linalg.eigh(x)
        order = np.argsort(-np.abs(e), kind="stable")
        return self.message(e[order], Q.T[order])

    def pack_product(
        self, product: BlockProduct, start: Array, limit: int, accuracy: float
    ) -> tuple[tuple[AnyArray, ...], Array]:
        """Compress a matrix D, or each of a stack of them, given by its products with vectors.

        Parameters
        ----------
        product : function of (vectors, some)
            D times the vectors, shape (..., d, k), as for `dominant`.
        start : array, shape (..., d, k)
            First vectors of the subspace iteration, as for `dominant`.
        limit : int
            Maximum number of products.
        accuracy : float
            Relative residual at which an eigenvector is accepted. An inaccurate one only gives a worse S: its
            eigenvalue is <v, D v>, so |D - S|^2 = |D|^2 - |S|^2 still holds.

        Returns
        -------
        arrays : tuple of arrays
            The message; empty where D is not finite.
        after : array, shape (..., d, k)
            First vectors for what the message leaves of D.

        Raises
        ------
        FloatingPointError
            If a matrix of a stack is not finite.
        """
        e, V, after = dominant(product, start, self.r, limit, accuracy)
        if np.isfinite(e).all():
            return self.message(e, np.matrix_transpose(V)), after
        if e.ndim > 1:
            raise FloatingPointError("a matrix is not finite")
        return (), after

    def message(self, e: Array, V: Array) -> tuple[AnyArray, ...]:
        """The first r of these eigenvalues (..., k) and eigenvectors (..., k, d), padded with zeros if k < r."""
        k, (*stack, _, d) = e.shape[-1], V.shape
        values, vectors = np.zeros((*stack, self.r), self.float_type), np.zeros((*stack, self.r, d), self.float_type)
        values[..., :k], vectors[..., :k, :] = e[..., : self.r], V[..., : self.r, :]
        return values, vectors

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return outer_sum(*(a.astype(np.float64) for a in arrays))

    def mean(self, messages: Sequence[Sequence[AnyArray]], shares: Array, size: int) -> Array:
        # One product with all vectors: a sum of the matrices would cost d^2 operations per message.
        seen = [(arrays, share) for arrays, share in zip(messages, shares) if share]
        if not all(len(arrays) for arrays, _ in seen):
            return np.full((size, size), np.nan)
        values = np.concatenate([share * arrays[0].astype(np.float64) for arrays, share in seen])
        return outer_sum(values, np.concatenate([arrays[1] for arrays, _ in seen]).astype(np.float64))

    def bits(self, size: int) -> float:
        return self.word * self.r * (size + 1)

    def delta(self, size: int) -> float:
        return self.r / size


@dataclass(frozen=True)
class Triangle(Compressor):
    """A compressor of vectors applied to the upper triangle of a symmetric matrix (d, d).

    Entries off the diagonal are multiplied by sqrt(2), so that the norm of the triangle is the Frobenius norm of the
    matrix, and omega and delta are those of a vector of D = d (d + 1) / 2 entries. Without the factor top-1 of a matrix
    of ones has an error above the bound.
    """

    name = "triangle"
    matrices = True

    of: Compressor = setting(factory=Top, help="compressor of the triangle")

    def pack(self, x: Array, rng: np.random.Generator) -> tuple[AnyArray, ...]:
        return self.of.pack(pack_triangle(x) * lengths(len(x)), rng)

    def unpack(self, arrays: Sequence[AnyArray], size: int) -> Array:
        return unpack_triangle(self.of.unpack(arrays, triangle(size)) / lengths(size))

    def fits(self, x: Array) -> bool:
        return self.of.fits(pack_triangle(x) * lengths(len(x)))

    def bits(self, size: int) -> float:
        return self.of.bits(triangle(size))

    def omega(self, size: int) -> float | None:
        return self.of.omega(triangle(size))

    def delta(self, size: int) -> float | None:
        return self.of.delta(triangle(size))

    def validate(self, size: int) -> None:
        self.of.validate(triangle(size))


def triangle(size: int) -> int:
    """Number of entries in the upper triangle of a matrix of `size` rows."""
    return size * (size + 1) // 2


@lru_cache(maxsize=8)
def lengths(size: int) -> Array:
    """Factors of the entries of a triangle in the Frobenius norm, 1 on the diagonal and sqrt(2) off it; read-only."""
    counts = np.full((size, size), sqrt(2.0))
    np.fill_diagonal(counts, 1.0)
    packed = pack_triangle(counts)
    packed.setflags(write=False)
    return packed
