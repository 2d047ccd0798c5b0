"""The tree: blocks in order, one sum whatever the cut, lists that fit their slots."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpinewton.arrays import Array
from mpinewton.fleet.tree import PartialSum, Tree, branches, hosted_workers

WORKERS, RANKS = st.integers(1, 70), st.integers(1, 20)
# Far apart, so that another order of the additions shows in the last bits; with zeros of both signs.
NUMBERS = st.sampled_from([-0.0, 0.0, 1.0, -1.0, 1e16, -1e16, 0.1, 3e-9, np.pi])


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def by_definition(terms: list[Array], level: int = 0, index: int = 0) -> Array | None:
    """The sum as the module's first lines say it, from the root down; None for a node that covers nobody."""
    m = len(terms)
    first, end = ceil(index * m, 1 << level), ceil((index + 1) * m, 1 << level)
    if end - first < 2:
        return terms[first] if end > first else None
    left, right = (by_definition(terms, level + 1, 2 * index + side) for side in (0, 1))
    if left is None or right is None:
        return right if left is None else left
    return left + right


@given(WORKERS, st.integers(1, 150))
def test_every_worker_is_hosted_once_and_in_order(workers: int, ranks: int) -> None:
    blocks = [hosted_workers(rank, ranks, workers) for rank in range(ranks)]
    assert [worker for block in blocks for worker in block] == list(range(workers))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


@given(WORKERS, st.integers(0, 7))
def test_with_a_power_of_two_of_ranks_a_block_is_one_node(workers: int, power: int) -> None:
    tree, ranks = Tree(workers), 1 << power
    for rank in range(ranks):
        block = hosted_workers(rank, ranks, workers)
        nodes = summed(tree, block.start, [None] * len(block)).nodes
        assert len(nodes) == (len(block) > 0)
        assert all(tree.span(node) == (block.start, block.stop) for node in nodes)


@given(WORKERS, st.data())
def test_the_nodes_of_a_partial_sum_cover_its_workers(workers: int, data: st.DataObject) -> None:
    first, end = sorted(data.draw(st.tuples(*[st.integers(0, workers)] * 2)))
    tree = Tree(workers)
    part = summed(tree, first, [None] * (end - first))
    assert [worker for node in part.nodes for worker in range(*tree.span(node))] == list(range(first, end))


def summed(tree: Tree, first: int, terms: list[Array | None]) -> PartialSum:
    part = PartialSum(tree)
    for worker, term in enumerate(terms, start=first):
        part.add(tree.leaf(worker), None if term is None else term.copy())
    return part


def merged(tree: Tree, left: PartialSum, right: PartialSum, on_the_wire: bool) -> PartialSum:
    """What the reduce operator does; on the wire a None is a row of zeros."""
    both = PartialSum(tree)
    for part in (left, right):
        for node, term in zip(part.nodes, part.sums):
            both.add(node, np.zeros(2) if term is None and on_the_wire else None if term is None else term.copy())
    return both


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.none() | st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=25), st.data())
def test_the_bits_do_not_depend_on_the_cut_nor_on_the_association(
    content: list[tuple[float, float] | None], data: st.DataObject
) -> None:
    tree, terms = Tree(len(content)), [None if pair is None else np.array(pair) for pair in content]
    cuts = data.draw(st.lists(st.integers(0, len(terms)), max_size=6).map(sorted))
    edges = [0, *cuts, len(terms)]
    blocks = [summed(tree, first, terms[first:end]) for first, end in itertools.pairwise(edges)]
    while len(blocks) > 1:
        at = data.draw(st.integers(0, len(blocks) - 2))
        blocks[at : at + 2] = [merged(tree, *blocks[at : at + 2], data.draw(st.booleans()))]
    truth = by_definition([np.zeros(2) if term is None else term for term in terms])
    assert truth is not None
    assert blocks[0].vector(2).tobytes() == summed(tree, 0, terms).vector(2).tobytes() == truth.tobytes()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_terms_that_cannot_be_written_to_are_left_as_they_are(workers: int) -> None:
    rows = np.arange(2.0 * workers).reshape(workers, 2)
    rows.flags.writeable = False
    tree = Tree(workers)
    part = PartialSum(tree)
    for worker, row in enumerate(rows):
        part.add(tree.leaf(worker), row)
    total = part.vector(2)
    np.testing.assert_array_equal(total, rows.sum(axis=0))
    total[:] = -1.0
    np.testing.assert_array_equal(rows.ravel(), np.arange(2.0 * workers))


def summed_up(tree: Tree, ranks: range, blocks: list[list[Array | None]], fan: int) -> PartialSum:
    """The sum of the first of these ranks, and of what it is sent."""
    total = summed(tree, sum(map(len, blocks[: ranks[0]])), blocks[ranks[0]]).copy()
    for run in branches(ranks, fan):
        part = summed_up(tree, run, blocks, fan)
        for node, term in zip(part.nodes, part.sums):
            total.add(node, term)
    return total


@given(st.lists(NUMBERS.map(lambda x: np.array([x])), min_size=1, max_size=40), RANKS, st.integers(1, 5))
def test_the_bits_do_not_depend_on_the_fan(terms: list[Array], ranks: int, fan: int) -> None:
    tree = Tree(len(terms))
    blocks = [[terms[k] for k in hosted_workers(rank, ranks, len(terms))] for rank in range(ranks)]
    truth = by_definition(terms)
    assert truth is not None
    assert summed_up(tree, range(ranks), blocks, fan).vector(1).tobytes() == truth.tobytes()


@given(RANKS, st.integers(1, 20))
def test_branches_hold_every_rank_but_the_first_once_and_in_order(ranks: int, fan: int) -> None:
    runs = branches(range(ranks), fan)
    assert [rank for run in runs for rank in run] == list(range(1, ranks))
    assert len(runs) == min(fan, ranks - 1)
