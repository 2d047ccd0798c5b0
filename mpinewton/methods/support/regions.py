"""Regions of the weights, and which of them a worker keeps in a round."""

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
USUAL = 8  # regions, where so many can be made


@lru_cache(maxsize=16)
def region_numbers(split: Split, count: int | None, groups: tuple[int, ...], shapes: tuple[Shape, ...]) -> Integers:
    """The region of every weight, numbers from 0 on, shape (d,); not to be written to.

    Parameters
    ----------
    split : blocks (of neighbouring weights), features (whole features, with all their outputs) or layers (one a shape;
        of one matrix (p, C), one an output).
    count : how many, of nearly equal size; none: 8, or as many as can be made. Layers are as many as there are.
    groups : how many features every region has, in order, in place of a count.
    shapes : what the weights are; of a linear model, one vector (p,) or matrix (p, C).

    Raises
    ------
    ConfigError
        Where the weights cannot be cut so.
    """
    features, *rest = shapes[0].sizes
    outputs = prod(rest)
    if split == "layers":
        if len(shapes) == outputs == 1:
            raise ConfigError(
                "ranl: split=layers wants weights of several layers or outputs, and these are one vector; "
                "split=blocks cuts any"
            )
        sizes = [shape.size for shape in shapes]
        numbers = np.tile(np.arange(outputs), features) if len(sizes) == 1 else np.repeat(np.arange(len(sizes)), sizes)
    elif split == "features" and len(shapes) > 1:
        raise ConfigError("ranl: split=features wants one vector or matrix of weights; split=layers and blocks cut any")
    elif groups:
        if sum(groups) != features:
            raise ConfigError(
                f"ranl: groups hold {sum(groups)} features together, but the data have {features}, the intercept's "
                "included: name a size for every group"
            )
        numbers = np.repeat(np.repeat(np.arange(len(groups)), groups), outputs)
    else:
        each = outputs if split == "features" else 1
        parts = sum(shape.size for shape in shapes) // each
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


def largest(w: Array, numbers: Integers, kept: int) -> Mask:
    """The regions whose weights have the largest norms; the first of those that are equal."""
    norms = np.bincount(numbers, weights=w * w)
    mask = np.zeros(len(norms), dtype=bool)
    mask[np.argsort(-norms, kind="stable")[:kept]] = True
    return mask


def affordable(sizes: Sequence[int] | Integers, first: int, budget: float) -> int:
    """How many regions in turn, from this number on, have so many weights together at most: one at least."""
    spent = np.cumsum(np.roll(sizes, -first))
    return max(1, int(np.searchsorted(spent, budget * (1 + 1e-12), side="right")))
