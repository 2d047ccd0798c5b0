"""Rice's code: exact, and about as short as the numbers allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import laplace

from mpinewton.compress.rice import pack_integers, unpack_integers


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(-3, 3) | st.just(0), min_size=1, max_size=300))
def test_comes_back_exactly(numbers):
    # One number far larger than the others may take one bit for every multiple of 2^k: no code for such lists.
    levels = np.array(numbers)
    levels = np.where(np.abs(levels) > 1000 * (1 + np.median(np.abs(levels))), 0, levels)
    assert np.array_equal(unpack_integers(pack_integers(levels), len(levels)), levels)


@pytest.mark.parametrize("numbers", [[0], [7], [-1], [0] * 1000, [0] * 999 + [-5], [2**50], list(range(-50, 50))])
def test_comes_back_exactly_from_the_corners(numbers):
    levels = np.array(numbers)
    assert np.array_equal(unpack_integers(pack_integers(levels), len(levels)), levels)


@pytest.mark.parametrize("size", [0.02, 0.3, 1.0, 10.0, 1e4])
def test_is_as_short_as_the_entropy_and_little_more(size):
    levels = np.rint(np.random.default_rng(1).laplace(scale=size, size=20_000)).astype(np.int64)
    # Of the source, the discrete Laplace distribution: a sample of it has less where most numbers are seen once.
    k = np.arange(-40 * max(1, int(size)), 40 * max(1, int(size)) + 1)
    share = np.diff(laplace.cdf(np.append(k, k[-1] + 1) - 0.5, scale=size))
    entropy = -(share @ np.log2(np.where(share > 0, share, 1)))
    bits = 8 * len(pack_integers(levels)) / len(levels)
    assert 0.97 * entropy <= bits <= 1.1 * entropy + 0.5


def test_nearly_all_zeros_cost_next_to_nothing():
    levels = np.zeros(10_000, dtype=np.int64)
    levels[::500] = 1
    assert 8 * len(pack_integers(levels)) < 300
