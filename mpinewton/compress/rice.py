"""Small signed integers in few bits: Rice's code, which spends about as many bits as they carry information.

Rice and Plaunt 1971. A number u >= 0 is written as u >> k ones' worth of zeros and a one, and its last k bits; k is the
one that makes this message shortest. Signed numbers are folded first: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
Where nearly all are 0, the runs of zeros are written, and the others beside them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpinewton.fleet.packing import Bytes

Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]


def packed_integers(levels: Integers) -> Bytes:
    """The shortest of the two forms, shape (bytes,); one leading bit says which. `unpacked_integers` is its inverse."""
    plain = np.concatenate([[False], _coded(_folded(levels))])
    busy = np.flatnonzero(levels)
    runs = np.diff(busy, prepend=-1) - 1
    sparse = np.concatenate(
        [[True], _digits(np.array([len(busy)]), 32), _coded(runs), _coded(_folded(levels[busy]) - 1)]
    )
    return np.packbits(min(plain, sparse, key=len))


def unpacked_integers(data: Bytes, count: int) -> Integers:
    """The `count` integers that were packed, shape (count,)."""
    bits = np.unpackbits(data).astype(bool)
    if not bits[0]:
        return _unfolded(_decoded(bits, 1, count)[0])
    busy = int(_numbers(bits[1:33].reshape(1, -1))[0])
    runs, at = _decoded(bits, 33, busy)
    levels = np.zeros(count, dtype=np.int64)
    levels[np.cumsum(runs + 1) - 1] = _unfolded(_decoded(bits, at, busy)[0] + 1)
    return levels


def _folded(levels: Integers) -> Integers:
    return np.where(levels < 0, -2 * levels - 1, 2 * levels)


def _unfolded(u: Integers) -> Integers:
    return np.where(u % 2 == 1, -(u + 1) // 2, u // 2)


def _coded(u: Integers) -> Bits:
    """k in 6 bits, the quotients in unary, the remainders."""
    near = int(u.mean()).bit_length() if len(u) else 0  # the best k is this or a little less
    k = min(range(max(0, near - 2), near + 1), key=lambda k: int((u >> k).sum()) + k * len(u))
    ends = np.cumsum((u >> k) + 1)
    unary = np.zeros(int(ends[-1]) if len(u) else 0, dtype=bool)
    unary[ends - 1] = True
    return np.concatenate([_digits(np.array([k]), 6), unary, _digits(u & ((1 << k) - 1), k)])


def _decoded(bits: Bits, at: int, count: int) -> tuple[Integers, int]:
    """`count` numbers that begin at bit `at`, and the bit behind them."""
    k = int(_numbers(bits[at : at + 6].reshape(1, -1))[0])
    at += 6
    if not count:
        return np.zeros(0, dtype=np.int64), at
    ends = np.flatnonzero(bits[at:])[:count]
    quotients = np.diff(ends, prepend=-1) - 1
    at += int(ends[-1]) + 1
    remainders = _numbers(bits[at : at + count * k].reshape(count, k))
    return (quotients << k) | remainders, at + count * k


def _digits(u: Integers, width: int) -> Bits:
    """Binary digits of every number, the highest first, one number behind the other."""
    return ((u[:, None] >> np.arange(width)[::-1]) & 1).astype(bool).ravel()


def _numbers(digits: Bits) -> Integers:
    """The numbers whose binary digits are the rows."""
    return np.asarray(digits @ (1 << np.arange(digits.shape[1], dtype=np.int64)[::-1]), dtype=np.int64)
