"""Regions of the weights, and masks of the regions that a worker sends in a round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Literal

import numpy as np

from mpinewton.arrays import Array, Integers, Mask
from mpinewton.errors import ConfigError
from mpinewton.losses.loss import Shape

Split = Literal["blocks", "features", "layers"]
DEFAULT = 8  # number of regions where the weights are at least as many


@lru_cache(maxsize=16)
def region_numbers(split: Split, count: int | None, groups: tuple[int, ...], shapes: tuple[Shape, ...]) -> Integers:
    """The region of every weight.

    Parameters
    ----------
    split : str
        `blocks` of neighbouring weights; `features`, blocks of features with all their outputs; `layers`, one region
        per shape, or per output where the weights are one matrix (p, C).
    count : int or None
        Number of regions of nearly equal size; None for 8, or as many as there are parts. None with `layers`.
    groups : tuple of int
        With `features`, the number of features in each region, in place of `count`; else ().
    shapes : tuple of Shape
        Shapes of the weights: one vector (p,) or matrix (p, C) for a linear model.

    Returns
    -------
    int array, shape (d,)
        Numbers from 0; read-only.

    Raises
    ------
    ConfigError
        If the weights cannot be split this way.
    """
    features, *rest = shapes[0].sizes
    outputs = prod(rest)
    if split == "layers":
        if len(shapes) == outputs == 1:
            raise ConfigError("ranl: split=layers needs several layers or outputs, and the weights are one vector; "
                              "use split=blocks")  # fmt: skip
        sizes = [shape.size for shape in shapes]
        numbers = np.tile(np.arange(outputs), features) if len(sizes) == 1 else np.repeat(np.arange(len(sizes)), sizes)
    elif split == "features" and len(shapes) > 1:
        raise ConfigError("ranl: split=features needs one vector or matrix of weights; use split=layers or blocks")
    elif groups:
        if sum(groups) != features:
            raise ConfigError(
                f"ranl: groups have {sum(groups)} features in total: expected {features}, the number of features in "
                "the data, with the intercept"
            )
        numbers = np.repeat(np.repeat(np.arange(len(groups)), groups), outputs)
    else:
        each = outputs if split == "features" else 1
        parts = sum(shape.size for shape in shapes) // each
        if (count or 1) > parts:
            what = "features" if split == "features" else "weights"
            raise ConfigError(f"ranl: regions = {count}: expected at most {parts}, the number of {what}")
        pieces = np.array_split(np.arange(parts), count or min(DEFAULT, parts))
        numbers = np.repeat(np.concatenate([np.full(len(piece), q) for q, piece in enumerate(pieces)]), each)
    numbers = numbers.astype(np.int64)
    numbers.setflags(write=False)
    return numbers


def consecutive(count: int, first: int, kept: int) -> Mask:
    """The mask (count,) of `kept` consecutive regions from number `first` on, cyclically."""
    return np.asarray((np.arange(count) - first) % count < kept)


def largest(w: Array, numbers: Integers, kept: int) -> Mask:
    """The mask (Q,) of the `kept` regions whose weights have the largest norms; lower numbers first where equal."""
    norms = np.bincount(numbers, weights=w * w)
    mask = np.zeros(len(norms), dtype=bool)
    mask[np.argsort(-norms, kind="stable")[:kept]] = True
    return mask


def count_affordable(sizes: Sequence[int] | Integers, first: int, budget: float) -> int:
    """How many consecutive regions from number `first` on have at most `budget` weights in total; at least 1."""
    spent = np.cumsum(np.roll(sizes, -first))
    return max(1, int(np.searchsorted(spent, budget * (1 + 1e-12), side="right")))
