"""Regions of the weights, and which of them a worker keeps in a round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpinewton.data.shard import Array
from mpinewton.errors import ConfigError

Split = Literal["blocks", "features", "layers"]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
USUAL = 8  # regions, where so many can be made


@lru_cache(maxsize=16)
def region_numbers(split: Split, count: int | None, groups: tuple[int, ...], sizes: tuple[int, ...]) -> Numbers:
    """The region of every weight, numbers from 0 on, shape (d,); not to be written to.

    Parameters
    ----------
    split : blocks (of neighbouring weights), features (whole features, with all their outputs) or layers (the columns
        of the matrix, one an output).
    count : how many, of nearly equal size; none: 8, or as many as can be made. Layers are as many as there are.
    groups : how many features every region has, in order, in place of a count.
    sizes : (p,) for a vector of weights, (p, C) for a matrix, which w (d,) holds row by row.

    Raises
    ------
    ConfigError
        Where the weights cannot be cut so.
    """
    features, outputs = (*sizes, 1)[:2]
    if split == "layers":
        if outputs == 1:
            raise ConfigError(
                "ranl: split=layers wants weights of several layers or outputs, and these are one vector; "
                "split=blocks cuts any"
            )
        numbers = np.tile(np.arange(outputs), features)
    elif groups:
        if sum(groups) != features:
            raise ConfigError(
                f"ranl: groups hold {sum(groups)} features together, but the data have {features}, the intercept's "
                "included: name a size for every group"
            )
        numbers = np.repeat(np.repeat(np.arange(len(groups)), groups), outputs)
    else:
        each = outputs if split == "features" else 1
        parts = features * outputs // each
        if (count or 1) > parts:
            what = "features" if split == "features" else "weights"
            raise ConfigError(f"ranl: regions = {count}, but there are {parts} {what}: it can be 1 to {parts}")
        pieces = np.array_split(np.arange(parts), count or min(USUAL, parts))
        numbers = np.repeat(np.concatenate([np.full(len(piece), q) for q, piece in enumerate(pieces)]), each)
    numbers = numbers.astype(np.int64)
    numbers.setflags(write=False)
    return numbers


def in_turn(count: int, first: int, kept: int) -> Mask:
    """`kept` neighbouring regions of `count` from the one of this number on, the first following the last."""
    return np.asarray((np.arange(count) - first) % count < kept)


def largest(w: Array, numbers: Numbers, kept: int) -> Mask:
    """The regions whose weights have the largest norms; the first of those that are equal."""
    norms = np.bincount(numbers, weights=w * w)
    mask = np.zeros(len(norms), dtype=bool)
    mask[np.argsort(-norms, kind="stable")[:kept]] = True
    return mask


def affordable(sizes: Sequence[int] | Numbers, first: int, budget: float) -> int:
    """How many regions in turn, from this number on, have so many weights together at most: one at least."""
    spent = np.cumsum(np.roll(sizes, -first))
    return max(1, int(np.searchsorted(spent, budget * (1 + 1e-12), side="right")))
