"""The rows of each worker: a function of labels, number of workers, rule and seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpinewton.arrays import Array
from mpinewton.data.blocks import CLASSES
from mpinewton.errors import ConfigError, did_you_mean

RowNumbers = NDArray[np.int64]

RULES = ("iid", "blocks", "round-robin", "sizes", "label-skew", "dirichlet", "quantity")


def partition(labels: Array, workers: int, rule: str, seed: int) -> list[RowNumbers]:
    """Row numbers of each worker, in the order of its shard. Every row belongs to exactly one worker.

    `iid` is `default_rng(seed).permutation(n)`, row i of it to worker i mod W. With `label-skew:s` the rows of a label
    (in the order of that permutation) are split as equally as possible among the workers that hold it; a label that no
    worker holds, possible with fewer workers than labels, belongs to worker (number of the label) mod W.

    Parameters
    ----------
    labels : array, shape (n,)
        Only `label-skew` and `dirichlet` use them.
    workers : int
        W, at least 1.
    rule : str
        A name of `RULES`, with its argument after a colon; `mpinewton pack --help` explains them.
    seed : int

    Raises
    ------
    ConfigError
        If the rule is unknown, its argument is not valid, the sizes do not sum to n, or the labels are not classes.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: expected at least 1 worker")
    name, _, argument = rule.partition(":")
    if name not in RULES:
        raise ConfigError(f"--partition {rule}: no such rule{did_you_mean(name, RULES)}")
    rng = np.random.default_rng(seed)
    order = np.arange(len(labels)) if name in ("blocks", "round-robin") else rng.permutation(len(labels))
    if name == "label-skew":
        return _label_skew(labels, order, workers, rule, argument, rng)
    if name == "dirichlet":
        a = np.full(workers, _concentration(rule, argument))
        parts = [_cut(rows, rng.dirichlet(a)) for rows in _by_label(labels, order, rule)]
        return [np.concatenate([order[:0], *(part[worker] for part in parts)]) for worker in range(workers)]
    if name == "quantity":
        return _cut(order, rng.dirichlet(np.full(workers, _concentration(rule, argument))))
    if name == "sizes" or (name == "blocks" and argument):
        return np.split(order, np.cumsum(_sizes(rule, argument, workers, len(labels)))[:-1])
    if argument:
        raise ConfigError(f"--partition {rule}: {name} takes no argument")
    return np.array_split(order, workers) if name == "blocks" else [order[worker::workers] for worker in range(workers)]


def _sizes(rule: str, argument: str, workers: int, n: int) -> list[int]:
    try:
        sizes = [int(size) for size in argument.split(",")]
    except ValueError:
        raise ConfigError(f"--partition {rule}: expected whole numbers with commas between them") from None
    if len(sizes) != workers or min(sizes) < 0 or sum(sizes) != n:
        raise ConfigError(
            f"--partition {rule[:60]}: {len(sizes)} sizes with sum {sum(sizes)}, but there are {workers} workers and"
            f" {n} rows; expected one size (0 or more) for each worker, with sum {n}"
        )
    return sizes


def _concentration(rule: str, argument: str) -> float:
    try:
        a = float(argument)
    except ValueError:
        a = np.nan
    if not 1e-3 <= a <= 1e6:
        raise ConfigError(f"--partition {rule}: expected a concentration from 0.001 (one worker has all rows) to 1e6")
    return a


def _by_label(labels: Array, order: RowNumbers, rule: str) -> list[RowNumbers]:
    """Rows of each label, in the given order; labels increasing."""
    distinct, number = np.unique(labels[order], return_inverse=True)
    if len(distinct) > CLASSES or np.any(distinct != np.round(distinct)):
        raise ConfigError(f"--partition {rule}: the labels are not classes (at most {CLASSES} whole numbers or names)")
    return np.split(order[np.argsort(number, kind="stable")], np.cumsum(np.bincount(number))[:-1])


def _cut(rows: RowNumbers, proportions: Array) -> list[RowNumbers]:
    """Consecutive parts of the rows, in these proportions."""
    cuts = np.round(np.cumsum(proportions)[:-1] * len(rows)).astype(np.int64)
    return np.split(rows, cuts)


def _label_skew(
    labels: Array, order: RowNumbers, workers: int, rule: str, argument: str, rng: np.random.Generator
) -> list[RowNumbers]:
    rows = _by_label(labels, order, rule)
    K = len(rows)
    if not argument.isdecimal() or not 1 <= int(argument) <= K:
        raise ConfigError(f"--partition {rule}: expected the number of labels of a worker, 1 to {K}")
    held: list[list[RowNumbers]] = [[] for _ in range(workers)]
    holders: list[list[int]] = [[] for _ in range(K)]
    for worker in range(workers):
        own = worker % K
        others = rng.choice(np.delete(np.arange(K), own), int(argument) - 1, replace=False)
        for label in (own, *others):
            holders[label].append(worker)
    for label, those in enumerate(holders):
        those = those or [label % workers]
        for worker, part in zip(those, np.array_split(rows[label], len(those))):
            held[worker].append(part)
    return [np.concatenate([order[:0], *parts]) for parts in held]
