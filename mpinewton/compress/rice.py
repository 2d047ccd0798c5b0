"""Rice's code: small signed integers in about as many bits as their entropy.

Rice and Plaunt 1971. A number u >= 0 is written as u >> k zeros, a one, and the last k bits of u, with the k for which
the message is shortest. Signed numbers are first mapped to unsigned ones: 0, -1, 1, -2, ... to 0, 1, 2, 3, ... Where
nearly all numbers are 0, the lengths of the runs of zeros are written instead, followed by the other numbers.
"""

from __future__ import annotations

import numpy as np

from mpinewton.arrays import Bytes, Integers
from mpinewton.compress.bits import digits, from_digits


def pack_integers(levels: Integers) -> Bytes:
    """Pack integers (n,) in the shorter of the two forms; the first bit says which one. Shape (bytes,)."""
    plain = np.concatenate([np.zeros(1, np.uint8), _encode(_fold(levels))])
    busy = np.flatnonzero(levels)
    runs = np.diff(busy, prepend=-1) - 1
    sparse = np.concatenate(
        [np.ones(1, np.uint8), digits(np.array([len(busy)]), 32), _encode(runs), _encode(_fold(levels[busy]) - 1)]
    )
    return np.packbits(min(plain, sparse, key=len))


def unpack_integers(data: Bytes, count: int) -> Integers:
    """The inverse of `pack_integers`: integers, shape (count,)."""
    bits = np.unpackbits(data)
    if not bits[0]:
        return _unfold(_decode(bits, 1, count)[0])
    busy = int(from_digits(bits[1:33], 32, 1)[0])
    runs, at = _decode(bits, 33, busy)
    levels = np.zeros(count, dtype=np.int64)
    levels[np.cumsum(runs + 1) - 1] = _unfold(_decode(bits, at, busy)[0] + 1)
    return levels


def _fold(levels: Integers) -> Integers:
    return np.where(levels < 0, -2 * levels - 1, 2 * levels)


def _unfold(u: Integers) -> Integers:
    return np.where(u % 2 == 1, -(u + 1) // 2, u // 2)


def _encode(u: Integers) -> Bytes:
    """Encode numbers u >= 0: k in 6 bits, the quotients u >> k in unary, and the remainders."""
    near = int(u.mean()).bit_length() if len(u) else 0  # the best k is this or at most 2 less
    k = min(range(max(0, near - 2), near + 1), key=lambda k: int((u >> k).sum()) + k * len(u))
    ends = np.cumsum((u >> k) + 1)
    unary = np.zeros(int(ends[-1]) if len(u) else 0, dtype=np.uint8)
    unary[ends - 1] = 1
    return np.concatenate([digits(np.array([k]), 6), unary, digits(u & ((1 << k) - 1), k)])


def _decode(bits: Bytes, at: int, count: int) -> tuple[Integers, int]:
    """Decode `count` numbers from bit `at` on; the numbers and the position after them."""
    k = int(from_digits(bits[at : at + 6], 6, 1)[0])
    at += 6
    if not count:
        return np.zeros(0, dtype=np.int64), at
    ends = np.flatnonzero(bits[at:])[:count]
    quotients = np.diff(ends, prepend=-1) - 1
    at += int(ends[-1]) + 1
    remainders = from_digits(bits[at : at + count * k], k, count)
    return (quotients << k) | remainders, at + count * k
