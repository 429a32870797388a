"""Causal attention token by token equals the full pass."""

import pytest
import torch

from hsa_geometric import TreeIndex, from_sequence
from hsa_geometric.functional import CausalCache, hierarchical_attention
from hsa_geometric.interactions import between, causal, siblings
from hsa_geometric.testing import forest, random_parent, star

TREES = {
    "sequence": from_sequence(50, branching=4).tree,
    "random": TreeIndex.from_parent(random_parent(40, seed=3)),
    "one leaf": TreeIndex.from_parent(torch.tensor([0])),
}
OPTIONS = [{}, {"window": 8}, {"window": 2, "angle": 0.6}, {"self_loop": False}]


def draw(tree, dtype, count=2):
    """Queries, keys and values ``[B, N, H, *]`` of some sequences."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, tree.num_leaves, 3)
    return [torch.randn(*shape, n, generator=generator).to(dtype) for n in (4, 4, 5)]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", TREES)
def test_each_step_is_a_row_of_the_full_pass(name, options, dtype, tolerance):
    tree = TREES[name]
    lists = causal(tree, **options)
    q, k, v = draw(tree, dtype)
    full = [hierarchical_attention(*x, tree, lists=lists) for x in zip(q, k, v, strict=True)]
    cache = CausalCache(lists)
    for t in range(tree.num_leaves):
        out = cache.append(q[:, t], k[:, t], v[:, t])
        theirs = torch.stack([x[t] for x in full])
        torch.testing.assert_close(out, theirs, rtol=tolerance, atol=tolerance)
    assert cache.length == tree.num_leaves


def test_gradients_are_those_of_the_full_pass():
    tree = TREES["random"]
    lists = causal(tree, window=2)
    xs = [x.requires_grad_() for x in draw(tree, torch.float64, count=1)]
    cache = CausalCache(lists, scale=0.3)
    steps = [cache.append(*(x[:, t] for x in xs)) for t in range(tree.num_leaves)]
    full = hierarchical_attention(*(x[0] for x in xs), tree, lists=lists, scale=0.3)
    ours, theirs = torch.stack(steps, 1)[0], full
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(x.sin().sum(), xs) for x in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_what_does_not_fit_is_refused():
    tree = TreeIndex.from_parent(star(3))
    with pytest.raises(ValueError, match=r"no later leaf .got a block of query node 0 and"):
        CausalCache(between(tree, tree))
    with pytest.raises(ValueError, match="no later leaf"):
        CausalCache(siblings(tree))
    with pytest.raises(ValueError, match=r"'lists' of one tree, .*got 2 trees"):
        CausalCache(causal(forest(star(1), star(2))))
    with pytest.raises(TypeError, match="'lists' to be InteractionLists"):
        CausalCache(tree)
    cache, x = CausalCache(causal(star(1))), torch.zeros(2, 1, 3)
    with pytest.raises(ValueError, match="of one leaf for each sequence and head"):
        cache.append(x, x[:1], x)
    cache.append(x, x, x)
    with pytest.raises(ValueError, match="at most the 1 leaves of the tree"):
        cache.append(x, x, x)
    cache = CausalCache(causal(star(2)))
    cache.append(x, x, x)
    with pytest.raises(ValueError, match="as many sequences, heads and channels as before"):
        cache.append(x[:1], x[:1], x[:1])
