"""Hessians in few bits: scaled to a unit diagonal, rounded to levels, and sent in Rice's code."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array, Bytes
from mpinewton.compress.rice import pack_integers, unpack_integers
from mpinewton.linalg.triangle import pack_triangle, unpack_triangle

Integers8 = NDArray[np.int8]


def encode_hessian(H: Array, levels: float, rng: np.random.Generator | None = None) -> tuple[Integers8, Bytes]:
    """H = D C D in few bits, D a diagonal of powers of two: exponents of D, (d,), and the packed levels of C.

    Parameters
    ----------
    H : array, shape (d, d)
        Positive semidefinite, so that entries of C are between -1 and 1.
    levels : float
        Number of levels between 0 and 1.
    rng : Generator, optional
        Rounds at random, without bias; by default to the nearest level.
    """
    exponents = np.clip(np.frexp(np.sqrt(np.diagonal(H)))[1], -120, 120).astype(np.int8)
    x = pack_triangle(multiply_both_sides(H, -exponents)) * levels
    rounded = np.rint(x) if rng is None else np.sign(x) * np.floor(np.abs(x) + rng.random(len(x)))
    return exponents, pack_integers(rounded.astype(np.int64))


def decode_hessian(exponents: Integers8, data: Bytes, levels: float) -> Array:
    """H of a message of `encode_hessian`, shape (d, d)."""
    d = len(exponents)
    return multiply_both_sides(unpack_triangle(unpack_integers(data, d * (d + 1) // 2) / levels), exponents)


def mean_hessian(shares: Array, messages: Iterable[tuple[Integers8, Bytes]], levels: float) -> Array:
    """The mean of the Hessians of messages, weighted by shares, its eigenvalues raised to the noise, shape (d, d)."""
    return remove_noise(sum(share * decode_hessian(*message, levels) for share, message in zip(shares, messages)))


def multiply_both_sides(H: Array, exponents: Integers8) -> Array:
    """D H D, shape (d, d), for D the powers of two with these exponents (d,); exact."""
    e = exponents.astype(np.int32)
    return np.asarray(np.ldexp(H, e[:, None] + e))


def remove_noise(H: Array) -> Array:
    """H (d, d), a noisy positive semidefinite matrix, with eigenvalues raised to its noise, in units of its diagonal.

    The true eigenvalues are not negative, so the most negative one shows the size of the noise.
    """
    size = np.sqrt(np.maximum(np.diagonal(H), 0.0))
    size[size == 0] = 1.0
    e, Q = np.linalg.eigh(H / size[:, None] / size)
    noise = max(-e[0], 1e-12 * max(e[-1], 1.0))
    return np.asarray((Q * np.maximum(e, noise)) @ Q.T * size[:, None] * size)
