import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_parent
from hsa_geometric.nn import HierarchyReadout
from hsa_geometric.nn.pool.readout import flat_tree
from hsa_geometric.testing import ZOO, star, tree_of_leaf, zoo

READOUTS = ("mean", "attention", "root", "leaf")


def seeded(readout, seed=0):
    torch.manual_seed(seed)
    heads = {"channels": 4, "heads": 2} if readout == "attention" else {}
    return HierarchyReadout(readout, **heads).double()


def given(name, seed=0):
    tree = TreeIndex.from_parent(zoo(name))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tree.num_leaves, 4, generator=g, dtype=torch.float64)
    states = torch.randn(tree.family_parent.numel(), 4, generator=g, dtype=torch.float64)
    return tree, x, states, torch.rand(tree.num_leaves, generator=g, dtype=torch.float64)


def by_walk(module, x, parent, states, mass):
    """One row for each tree, by plain loops."""
    above = parent.tolist()
    roots = [a for a, p in enumerate(above) if a == p]
    inner = sorted({p for a, p in enumerate(above) if a != p})
    leaves = [a for a in range(len(above)) if a not in inner]
    out = []
    for root in roots:
        rows = []
        for row, node in enumerate(leaves):
            while above[node] != node:
                node = above[node]
            rows += [row] if node == root else []
        if module.readout == "leaf":
            out.append(x[rows[0]])
        elif module.readout == "root":
            out.append(states[inner.index(root)] if root in inner else x[rows[0]])
        elif module.readout == "mean":
            total = mass[rows].sum()
            out.append(mass[rows] @ x[rows] / (total if total > 0 else 1))
        else:
            score = x[rows] @ module.lin_score.weight.T + module.lin_score.bias
            weight = mass[rows, None] * score.exp()
            total = weight.sum(0)
            weight = weight / torch.where(total > 0, total, 1)
            heads = x[rows].view(len(rows), module.heads, -1)
            out.append((weight[:, :, None] * heads).sum(0).flatten())
    return torch.stack(out)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", ZOO)
def test_each_tree_has_the_row_of_a_walk_over_it(name, readout):
    module = seeded(readout)
    tree, x, states, mass = given(name)
    ones = torch.ones_like(mass)
    out = module(x, tree, states)
    assert_close(out, by_walk(module, x, zoo(name), states, ones))
    mass[::3] = 0
    out = module(x, tree, states, mass=mass)
    assert_close(out, by_walk(module, x, zoo(name), states, mass))


def test_a_table_by_hand():
    parent = torch.tensor([3, 3, 4, 4, 4, 5])  # and a tree of one leaf
    x, states = torch.tensor([[1.0], [2.0], [6.0], [9.0]]), torch.tensor([[-1.0], [-2.0]])
    readout = {name: HierarchyReadout(name) for name in ("mean", "root", "leaf")}
    assert readout["mean"](x, parent).tolist() == [[3.0], [9.0]]
    mass = torch.tensor([1.0, 3.0, 0.0, 1.0])
    assert readout["mean"](x, parent, mass=mass).tolist() == [[1.75], [9.0]]
    assert readout["root"](x, parent, states).tolist() == [[-2.0], [9.0]]
    assert readout["leaf"](x, parent).tolist() == [[1.0], [9.0]]
    chosen = torch.tensor([2, 3])
    assert readout["leaf"](x, parent, leaf=chosen).tolist() == [[6.0], [9.0]]


@pytest.mark.parametrize("readout", ["mean", "attention"])
def test_padding_is_seen_by_nobody_whatever_it_holds(readout):
    tree, x, _, mass = given("forest")
    mass[::3] = 0
    module, results = seeded(readout), []
    for filler in (0.0, torch.nan):
        module.zero_grad()
        padded = torch.where(mass[:, None] > 0, x, filler).requires_grad_()
        out = module(padded, tree, mass=mass)
        out.square().sum().backward()
        results.append([out, padded.grad, *(p.grad.clone() for p in module.parameters())])
    assert_close(*results, rtol=0, atol=0)
    assert all(x.isfinite().all() for x in results[0])


@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_are_right(readout):
    tree, x, states, mass = given("unequal_depths")
    module = seeded(readout)
    inputs = (x.requires_grad_(), states.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, s: module(x, tree, s, mass=mass), inputs)


@pytest.mark.parametrize("readout", READOUTS)
def test_a_batch_reads_as_its_samples_one_by_one(readout):
    module = seeded(readout)
    samples = [from_parent(zoo(name), x=given(name)[1], inner_state=given(name)[2]) for name in ZOO]
    batch = next(iter(DataLoader(samples, batch_size=len(samples))))
    together = module(batch.x, batch.tree, batch.inner_state)
    alone = [module(h.x, h.tree, h.inner_state) for h in samples]
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("readout", READOUTS)
def test_no_tree_notices_the_others(readout):
    tree, x, states, _ = given("forest")
    module, number = seeded(readout), tree_of_leaf(tree)
    before = module(x, tree, states)
    for changed in range(tree.num_trees):
        other = torch.where((number == changed)[:, None], 2 * x + 1, x)
        after = module(other, tree, states)
        assert torch.equal(after[:changed], before[:changed])
        assert torch.equal(after[changed + 1 :], before[changed + 1 :])


@pytest.mark.parametrize("name", ZOO)
def test_a_flat_tree_has_the_leaves_of_each_tree_below_its_root(name):
    tree = TreeIndex.from_parent(zoo(name))
    flat, number = flat_tree(tree), tree_of_leaf(tree)
    assert flat.num_leaves == tree.num_leaves and flat.num_trees == tree.num_trees
    assert torch.equal(flat.parent[: tree.num_leaves], tree.num_leaves + number)
    assert torch.equal(tree_of_leaf(flat), number)
    assert flat_tree(tree) is flat


def test_resetting_draws_its_scores_anew():
    module = seeded("attention")
    before = module.lin_score.weight.clone()
    module.reset_parameters()
    assert not torch.equal(before, module.lin_score.weight)
    seeded("mean").reset_parameters()
    assert repr(module) == "HierarchyReadout('attention')"


@pytest.mark.parametrize(
    "args, message",
    [
        (("max",), "one of ['mean', 'attention', 'root', 'leaf'] (got 'max')"),
        (
            ("attention",),
            "'channels', a multiple of 'heads', 1, for readout='attention' (got None)",
        ),
        (
            ("attention", 4, 3),
            "'channels', a multiple of 'heads', 3, for readout='attention' (got 4)",
        ),
        (("attention", 4, 0), "Expected 'heads' to be positive (got 0)"),
    ],
)
def test_bad_options_are_named(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        HierarchyReadout(*args)


@pytest.mark.parametrize(
    "readout, change, message",
    [
        ("mean", {"x": torch.ones(3, 4)}, "'x' to have one row for each of the 4 leaves"),
        ("mean", {"mass": -torch.ones(4)}, "'mass' to be finite and not negative"),
        ("mean", {"leaf": torch.tensor([0])}, "no 'leaf' for readout='mean' (got a tensor)"),
        ("attention", {"x": torch.ones(4, 6)}, "'x' to have 4 channels (got 6)"),
        (
            "root",
            {},
            "of shape [1, 4], one row for each inner node, for readout='root' (got None)",
        ),
        ("root", {"states": torch.ones(2, 4)}, "for readout='root' (got [2, 4])"),
        ("root", {"states": torch.ones(1, 3)}, "for readout='root' (got [1, 3])"),
        (
            "leaf",
            {"leaf": torch.tensor([0, 1])},
            "row of a leaf for each of the 1 trees (got torch.int64 of shape [2])",
        ),
        ("leaf", {"leaf": torch.tensor([0.0])}, "(got torch.float32 of shape [1])"),
        ("leaf", {"leaf": torch.tensor([4])}, "leaf[0] to be a leaf of tree 0 (got 4)"),
        ("leaf", {"leaf": torch.tensor([-1])}, "leaf[0] to be a leaf of tree 0 (got -1)"),
    ],
)
def test_bad_input_is_named(readout, change, message):
    module = seeded(readout).float()
    with pytest.raises(ValueError, match=re.escape(message)):
        module(**({"x": torch.ones(4, 4), "tree": star(4)} | change))


def test_a_leaf_of_another_tree_is_refused():
    with pytest.raises(ValueError, match=re.escape("leaf[1] to be a leaf of tree 1 (got 0)")):
        HierarchyReadout("leaf")(
            torch.ones(3, 1), torch.tensor([1, 1, 4, 4, 4]), leaf=torch.tensor([0, 0])
        )
