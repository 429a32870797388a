"""Families as dense blocks: every node once, nothing leaks, and the cheapest partition."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.eager import blocks as module
from hsa_geometric.kernels.eager.blocks import bundles, groups
from hsa_geometric.kernels.eager.plan import Plan
from hsa_geometric.testing import ZOO, attention_inputs, random_parent, zoo


def found_in(tree, heads=2, width=3):
    """Families as they stand in the blocks, absent members left out."""
    found = []
    made = bundles(Plan.of(tree.tensors), heads, width)
    for block in [block for bundle in made for block in bundle.blocks]:
        for members, target in zip(block.members, block.target, strict=True):
            out = target == tree.num_nodes
            assert torch.equal(members[~out], target[~out])
            assert out.sum() == 0 or (members[out] == members[~out][-1]).all()
            found.append(members[~out].tolist())
    return sorted(found)


def families_of(tree):
    ptr = tree.family_ptr.tolist()
    families = [list(range(a, b)) for a, b in itertools.pairwise(ptr)]
    return sorted(families + [[r] for r in tree.root.tolist()])


@pytest.mark.parametrize("cost", [0, 10**3, 10**9])
@pytest.mark.parametrize("name", ZOO)
def test_every_family_is_in_one_block_however_dear_a_block_is(name, cost, monkeypatch):
    monkeypatch.setattr(module, "PER_BLOCK", cost)
    groups.cache_clear()
    tree = TreeIndex.from_parent(zoo(name))
    assert found_in(tree) == families_of(tree)
    groups.cache_clear()


@pytest.mark.parametrize("cost", [0, 10**9])
def test_padding_changes_no_output_and_no_gradient(cost, monkeypatch):
    results = []
    for price in (module.PER_BLOCK, cost):
        monkeypatch.setattr(module, "PER_BLOCK", price)
        groups.cache_clear()
        # A tree of its own, whose blocks have not been made yet.
        tree = TreeIndex.from_parent(random_parent(300, num_trees=4, seed=3))
        inputs = {n: x.requires_grad_() for n, x in attention_inputs(tree, pos_channels=2).items()}
        out = hierarchical_attention(**inputs, tree=tree)
        results.append([out, *torch.autograd.grad(out.sin().sum(), list(inputs.values()))])
    for a, b in zip(*results, strict=True):
        assert_close(a, b)
    groups.cache_clear()


def test_nan_stays_in_its_family_where_blocks_are_padded(monkeypatch):
    monkeypatch.setattr(module, "PER_BLOCK", 10**9)
    groups.cache_clear()
    # Families {0, 1}, {2, 3, 4} and {5, 6} of three trees; all in one block.
    tree = TreeIndex.from_parent(torch.tensor([7, 7, 8, 8, 8, 9, 9, 7, 8, 9]))
    q, k, v = attention_inputs(tree).values()
    for x in (q, k, v):
        x[1] = float("nan")
        x.requires_grad_()
    out = hierarchical_attention(q, k, v, tree)
    assert out[:2].isnan().any() and out[2:].isfinite().all()
    for grad in torch.autograd.grad(out.sum(), (q, k, v)):
        assert grad[2:].isfinite().all()
    groups.cache_clear()


def price(table, partition, heads, width):
    """What :func:`groups` minimises, written down anew."""
    total = 0.0
    for rows in partition:
        largest = rows[-1][0]
        fewest = 1
        while fewest * fewest * width < module.FEWEST_PRODUCTS:
            fewest += 1
        costs = []
        for size in {largest, max(largest, fewest)}:
            cost = heads * size * (3 * width * module.PER_NUMBER + size * module.PER_LOGIT)
            if size > 2 and size * size * width < module.FEWEST_PRODUCTS:
                cost += heads * size * size * width * module.PER_PRODUCT
            costs.append((cost, size))
        each, size = min(costs)
        total += module.PER_BLOCK + sum(stop - start for _, start, stop, _ in rows) * each
        if size > rows[0][0]:
            ordered = sum(b * (stop - start) for b, start, stop, first in rows if first >= 0)
            total += module.PER_SCATTERED * heads * ordered
    return total


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 400), st.booleans()), min_size=1, max_size=6
    ),
    st.sampled_from([(1, 1), (4, 8), (4, 32)]),
)
def test_the_partition_is_the_cheapest(steps, shape):
    table, size, end = [], 0, 0
    for step, count, consecutive in steps:
        size += step
        table.append((size, end, end + count, 7 if consecutive else -1))
        end += count
    table = tuple(table)
    made = groups(table, *shape, 1 << 40)
    assert [g.start for g in made[1:]] == [g.stop for g in made[:-1]]
    assert (made[0].start, made[-1].stop) == (0, end)

    def cut(at):
        bounds = [0, *at, len(table)]
        return [table[a:b] for a, b in itertools.pairwise(bounds)]

    inner = range(1, len(table))
    partitions = [cut(at) for n in range(len(table)) for at in itertools.combinations(inner, n)]
    mine = [[row for row in table if g.start <= row[1] < g.stop] for g in made]
    assert price(table, mine, *shape) <= min(price(table, p, *shape) for p in partitions) * 1.0001


def test_a_family_of_more_logits_than_the_limit_is_alone():
    table = ((2, 0, 5, -1), (3, 5, 6, 0), (100, 6, 7, 9))
    made = groups(table, 4, 8, 1000)
    assert made[-1] == (100, 6, 7, False, 9)
    assert len(made) == 2
