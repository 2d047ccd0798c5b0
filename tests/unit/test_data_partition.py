"""Every rule gives every row to one worker, the same ones for the same seed, as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpinewton.data.partition import partition
from mpinewton.errors import ConfigError

RULES = ["iid", "blocks", "round-robin", "label-skew:1", "label-skew:3", "dirichlet:0.5", "quantity:2"]


@pytest.mark.parametrize("rule", RULES)
@settings(derandomize=True, max_examples=40, deadline=None)
@given(n=st.integers(12, 80), workers=st.integers(1, 100), seed=st.integers(0, 9))
def test_every_row_goes_to_exactly_one_worker(rule: str, n: int, workers: int, seed: int) -> None:
    labels = np.arange(n) % 4.0
    owned = partition(labels, workers, rule, seed)
    assert len(owned) == workers
    assert np.array_equal(np.sort(np.concatenate(owned)), np.arange(n))
    again = partition(labels, workers, rule, seed)
    assert all(np.array_equal(a, b) for a, b in zip(owned, again))


def test_iid_deals_the_permutation_in_turn() -> None:
    order = np.random.default_rng(0).permutation(1797)
    assert order[:2].tolist() == [360, 1773]  # the reference figures hang on this permutation
    owned = partition(np.zeros(1797), 100, "iid", 0)
    for row in (0, 1, 99, 100, 1796):
        assert owned[row % 100][row // 100] == order[row]


def test_file_order_rules() -> None:
    labels = np.zeros(7)
    assert [part.tolist() for part in partition(labels, 3, "blocks", 5)] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [part.tolist() for part in partition(labels, 3, "blocks:0,5,2", 5)] == [[], [0, 1, 2, 3, 4], [5, 6]]
    assert [part.tolist() for part in partition(labels, 3, "round-robin", 5)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_sizes_cut_the_permutation() -> None:
    order = np.random.default_rng(4).permutation(6)
    owned = partition(np.zeros(6), 3, "sizes:1,0,5", 4)
    assert [part.tolist() for part in owned] == [order[:1].tolist(), [], order[1:].tolist()]


@pytest.mark.parametrize(("workers", "s"), [(10, 1), (10, 3), (4, 1), (4, 2), (23, 2)])
def test_label_skew_by_its_rule(workers: int, s: int) -> None:
    K = 10
    labels = np.random.default_rng(1).integers(K, size=1000) * 2.0 - 5
    held = [set(((labels[rows] + 5) / 2).astype(int)) for rows in partition(labels, workers, f"label-skew:{s}", 0)]
    # A label nobody drew goes to worker (label mod W); all others to holders, of s labels each, one of them i mod K.
    counts = {label: [i for i in range(workers) if label in held[i]] for label in range(K)}
    assert all(counts.values())
    for worker, those in enumerate(held):
        assert worker % K in those
        undrawn = {k for k in those if counts[k] == [k % workers] and k % workers == worker}
        assert len(those - undrawn) <= s <= len(those)
    shares = partition(labels, workers, f"label-skew:{s}", 0)
    for label, holders in counts.items():
        sizes = [int(np.sum(labels[shares[i]] == label * 2 - 5)) for i in holders]
        assert max(sizes) - min(sizes) <= 1


def test_dirichlet_concentrates_and_spreads() -> None:
    labels = np.repeat([0.0, 1.0], 2000)
    few = partition(labels, 5, "dirichlet:0.01", 0)
    even = partition(labels, 5, "dirichlet:100000", 0)
    assert max(np.sum(labels[rows] == 0) for rows in few) > 1500
    assert all(abs(np.sum(labels[rows] == k) - 400) < 20 for rows in even for k in (0, 1))
    quantity = partition(labels, 5, "quantity:0.01", 0)
    assert max(map(len, quantity)) > 3000


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("sizes:1,2", "2 sizes with sum 3, but there are 3 workers and 6 rows"),
        ("sizes:1,2,4", "with sum 6"),
        ("sizes:7,-1,0", "0 or more"),
        ("sizes:a,b,c", "whole numbers"),
        ("sizes", "whole numbers"),
        ("iid:3", "takes no argument"),
        ("label-skew:0", "1 to 2$"),
        ("label-skew:3", "1 to 2$"),
        ("dirichlet:0", "concentration"),
        ("quantity:x", "concentration"),
        ("random", "no such rule"),
        ("idd", "did you mean 'iid'"),
    ],
)
def test_odd_rules_are_refused(rule: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        partition(np.array([0.0, 1, 0, 1, 0, 1]), 3, rule, 0)


def test_label_rules_want_classes() -> None:
    with pytest.raises(ConfigError, match="not classes"):
        partition(np.linspace(0, 1, 7), 2, "label-skew:1", 0)
    with pytest.raises(ConfigError, match="at least 1 worker"):
        partition(np.zeros(3), 0, "iid", 0)
