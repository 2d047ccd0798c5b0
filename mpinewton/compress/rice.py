"""Small signed integers in few bits: Rice's code, which spends about as many bits as they carry information.

Rice and Plaunt 1971. A number u >= 0 is written as u >> k ones' worth of zeros and a one, and its last k bits; k is the
one that makes this message shortest. Signed numbers are folded first: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
Where nearly all are 0, the runs of zeros are written, and the others beside them.
"""

from __future__ import annotations

import numpy as np

from mpinewton.arrays import Bytes, Integers
from mpinewton.compress.bits import digits, numbers_of


def packed_integers(levels: Integers) -> Bytes:
    """The shortest of the two forms, shape (bytes,); one leading bit says which. `unpacked_integers` is its inverse."""
    plain = np.concatenate([np.zeros(1, np.uint8), _coded(_folded(levels))])
    busy = np.flatnonzero(levels)
    runs = np.diff(busy, prepend=-1) - 1
    sparse = np.concatenate(
        [np.ones(1, np.uint8), digits(np.array([len(busy)]), 32), _coded(runs), _coded(_folded(levels[busy]) - 1)]
    )
    return np.packbits(min(plain, sparse, key=len))


def unpacked_integers(data: Bytes, count: int) -> Integers:
    """The `count` integers that were packed, shape (count,)."""
    bits = np.unpackbits(data)
    if not bits[0]:
        return _unfolded(_decoded(bits, 1, count)[0])
    busy = int(numbers_of(bits[1:33], 32, 1)[0])
    runs, at = _decoded(bits, 33, busy)
    levels = np.zeros(count, dtype=np.int64)
    levels[np.cumsum(runs + 1) - 1] = _unfolded(_decoded(bits, at, busy)[0] + 1)
    return levels


def _folded(levels: Integers) -> Integers:
    return np.where(levels < 0, -2 * levels - 1, 2 * levels)


def _unfolded(u: Integers) -> Integers:
    return np.where(u % 2 == 1, -(u + 1) // 2, u // 2)


def _coded(u: Integers) -> Bytes:
    """k in 6 bits, the quotients in unary, the remainders."""
    near = int(u.mean()).bit_length() if len(u) else 0  # the best k is this or a little less
    k = min(range(max(0, near - 2), near + 1), key=lambda k: int((u >> k).sum()) + k * len(u))
    ends = np.cumsum((u >> k) + 1)
    unary = np.zeros(int(ends[-1]) if len(u) else 0, dtype=np.uint8)
    unary[ends - 1] = 1
    return np.concatenate([digits(np.array([k]), 6), unary, digits(u & ((1 << k) - 1), k)])


def _decoded(bits: Bytes, at: int, count: int) -> tuple[Integers, int]:
    """`count` numbers that begin at bit `at`, and the bit behind them."""
    k = int(numbers_of(bits[at : at + 6], 6, 1)[0])
    at += 6
    if not count:
        return np.zeros(0, dtype=np.int64), at
    ends = np.flatnonzero(bits[at:])[:count]
    quotients = np.diff(ends, prepend=-1) - 1
    at += int(ends[-1]) + 1
    remainders = numbers_of(bits[at : at + count * k], k, count)
    return (quotients << k) | remainders, at + count * k
