"""Sums over the workers in one fixed order, whatever the number of ranks.

Node i of level j of the tree covers the workers from ceil(i m / 2^j) up to ceil((i + 1) m / 2^j). Nodes are numbered
like a heap: the root is 1, the children of n are 2n and 2n + 1. A sum over all workers adds the two children of every
node, left to right; as long as that is kept, floating-point addition gives the same bits however the tree is cut.
"""

from __future__ import annotations

import numpy as np

from mpinewton.arrays import Array


def _up(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def hosted_workers(rank: int, ranks: int, workers: int) -> range:
    """The workers that rank number `rank` of `ranks` hosts.

    Cut like a level of the tree, so that with 2, 4, 8, ... ranks each holds one whole subtree.
    """
    return range(_up(rank * workers, ranks), _up((rank + 1) * workers, ranks))


def branches(ranks: range, fan: int) -> list[range]:
    """Cut the ranks behind the first one, which adds up what they send, into at most `fan` runs of neighbours.

    The first of every run adds up for its run in the same way.
    """
    rest = ranks[1:]
    runs = min(fan, len(rest))
    return [rest[len(rest) * i // runs : len(rest) * (i + 1) // runs] for i in range(runs)]


class Tree:
    """The tree over `workers` logical workers."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.depth = (workers - 1).bit_length()
        self._highest: dict[int, int] = {}
        self._leaves = [self.highest((1 << self.depth) + (k << self.depth) // workers) for k in range(workers)]

    def span(self, node: int) -> tuple[int, int]:
        """The workers a node covers, as (first, one past the last)."""
        level = node.bit_length() - 1
        index = node - (1 << level)
        return _up(index * self.workers, 1 << level), _up((index + 1) * self.workers, 1 << level)

    def leaf(self, worker: int) -> int:
        """The highest node that covers just this worker."""
        return self._leaves[worker]

    def highest(self, node: int) -> int:
        """The highest node that covers just what `node` covers: past siblings that cover nobody."""
        highest = self._highest.get(node)
        if highest is None:
            first, end = self.span(node ^ 1) if node > 1 else (0, 1)
            highest = self._highest[node] = node if first < end else self.highest(node >> 1)
        return highest


class PartialSum:
    """Sums over complete subtrees, left to right; None stands for a sum of zeros."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.nodes: list[int] = []
        self.sums: list[Array | None] = []

    def add(self, node: int, term: Array | None) -> list[Array]:
        """Append the sum of the subtree that follows, and add up what has become complete.

        `term` is overwritten, unless it is read-only.

        Returns the arrays that are not needed any more.
        """
        self.nodes.append(node)
        self.sums.append(term)
        spare = []
        while len(self.nodes) > 1 and self.nodes[-1] == self.nodes[-2] ^ 1:
            right, left = self.sums.pop(), self.sums.pop()
            self.sums.append(_plus(left, right))
            if left is not None and right is not None:
                spare.append(right)
            self.nodes.pop()
            self.nodes.append(self.tree.highest(self.nodes.pop() >> 1))
        return spare

    def copy(self) -> PartialSum:
        """The same sums, to be added to without a change of these."""
        copy = PartialSum(self.tree)
        copy.nodes, copy.sums = list(self.nodes), [None if term is None else term.copy() for term in self.sums]
        return copy

    def vector(self, numbers: int) -> Array:
        """The sum over everybody, once every worker's term is in."""
        (total,) = self.sums
        if total is None:
            return np.zeros(numbers)
        return total if total.flags.writeable else total.copy()


def _plus(left: Array | None, right: Array | None) -> Array | None:
    if left is None:
        left, right = right, left
    if left is None:
        return None
    # Adding the zeros of a None matters: it turns -0.0 into 0.0, as adding an array of zeros does on another rank.
    return np.add(left, 0.0 if right is None else right, out=left if left.flags.writeable else None)
