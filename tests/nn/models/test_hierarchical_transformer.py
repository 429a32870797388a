import copy
import io
import json
import pickle
import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, Sequential

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_parent
from hsa_geometric.functional import coarse_tree, pool, sibling_rank
from hsa_geometric.nn import (
    FamilyEncoding,
    HierarchicalTransformer,
    HierarchicalTransformerLayer,
    Ids,
)
from hsa_geometric.testing import ZOO, assert_isolated, random_parent, tree_of_leaf, zoo


def seeded(*args, seed=0, **options):
    torch.manual_seed(seed)
    return HierarchicalTransformer(*args, **options).double()


def sample(name, seed=0):
    """A tree of words and patches, in ordered, unordered and spatial families."""
    g = torch.Generator().manual_seed(seed)
    parent = zoo(name)
    tree = TreeIndex.from_parent(parent)
    n = tree.num_leaves
    leaf_type = torch.randint(2, (n,), generator=g)
    words = int((leaf_type == 0).sum())
    number = tree_of_leaf(tree)
    edge_index = torch.randint(n, (2, 3 * n), generator=g)
    h = from_parent(
        parent,
        leaf_type=leaf_type,
        x=torch.randn(n, 5, generator=g).double(),
        pos=torch.randn(n, 2, generator=g).double(),
        mass=torch.rand(n, generator=g).double() + 0.1,
        edge_index=edge_index[:, number[edge_index[0]] == number[edge_index[1]]],
        tree_kind=torch.randint(3, (tree.num_nodes,), generator=g)[parent],
    )
    h["x_word"] = torch.randint(9, (words,), generator=g)
    h["x_patch"] = torch.randn(n - words, 3, generator=g).double()
    return h


MIXED = {
    "in_channels": {"word": Ids(9), "patch": 3},
    "domains": ["set", "ranks", "grid"],
    "states": "attention",
    "conv": "GraphConv",
    "num_levels": 2,
}


def mixed(**options):
    options = {"readout": "attention"} | MIXED | options
    return seeded(options.pop("in_channels"), 8, 3, 2, 2, **options)


# --- what it computes ----------------------------------------------------------------------------


def test_it_is_its_parts_one_after_another():
    model = mixed()
    h = sample("two_levels")
    x = model.lin_in({"word": h.x_word, "patch": h.x_patch}, h.leaf_type)
    place = model.encoding(h.tree, tree_kind=h.tree_kind, pos=h.pos, mass=h.mass).to(x.dtype)
    states = None
    for layer in model.layers:
        x, states = layer(
            x, h.tree, states, mass=h.mass, tree_pos=place, leaf_type=h.leaf_type,
            edge_index=h.edge_index,
        )  # fmt: skip
    x = model.norm(x)
    expected = model.lin_out(model.readout(x, h.tree, states, mass=h.mass))
    out, inner = model(h, return_states=True)
    assert_close((out, inner), (expected, states))
    assert out.shape == (1, 3) and inner.shape == (4, 8)


@pytest.mark.parametrize("name", ZOO)
def test_a_hierarchy_and_its_tensors_give_the_same(name):
    model, h = mixed(), sample(name)
    out = model(
        {"word": h.x_word, "patch": h.x_patch}, h.parent, leaf_type=h.leaf_type,
        tree_kind=h.tree_kind, pos=h.pos, mass=h.mass, edge_index=h.edge_index,
    )  # fmt: skip
    assert_close(out, model(h))
    assert out.shape == (h.num_trees, 3) and out.isfinite().all()
    other = copy.copy(h)
    other.mass = None
    given = torch.ones_like(h.mass)  # what is given comes before what the hierarchy has
    assert_close(model(h, mass=given), model(other))


@pytest.mark.parametrize("readout", ["mean", "attention", "root", "leaf", None])
def test_a_loader_s_batch_gives_what_its_samples_do_one_by_one(readout):
    model = mixed(readout=readout)
    samples = [sample(name, seed) for seed, name in enumerate(ZOO)]
    (batch,) = DataLoader(samples, batch_size=len(samples))
    out, states = model(batch, return_states=True)
    alone = [model(h, return_states=True) for h in samples]
    assert_close(out, torch.cat([o for o, _ in alone]), rtol=1e-9, atol=1e-9)
    assert_close(states, torch.cat([s for _, s in alone]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", ["softmax", "flat"])
def test_no_tree_notices_the_others(attention):
    tree = TreeIndex.from_parent(zoo("forest"))
    model = seeded(
        5, 8, 3, 2, 2, readout=None, domains="sequence", states="mean", attention=attention,
        drop_path=0.5,
    )  # fmt: skip

    def run(x):
        torch.manual_seed(1)
        return model(x, tree)

    x = torch.randn(tree.num_leaves, 5, generator=torch.Generator().manual_seed(0)).double()
    assert_isolated(run, tree, x)


@pytest.mark.parametrize("options", [{}, {"attention": "flat"}, {"pool": {1: -2}}])
def test_padding_is_seen_by_nobody_whatever_it_holds(options):
    tree = TreeIndex.from_parent(zoo("two_levels"))
    model = seeded(5, 8, 3, 2, 2, domains="grid", readout="attention", states="mean", **options)
    g = torch.Generator().manual_seed(0)
    x, pos = (torch.randn(9, c, generator=g).double() for c in (5, 2))
    mass = torch.tensor([1.0, 0, 2, 0, 0, 0, 1, 1, 0]).double()
    results = []
    for filler in (0.0, torch.nan, 1e9):
        model.zero_grad()
        real = (mass > 0)[:, None]
        out = model(
            torch.where(real, x, filler), tree, pos=torch.where(real, pos, filler), mass=mass
        )
        out.square().sum().backward()
        results.append([out, *(p.grad.clone() for p in model.parameters())])
    assert all(x.isfinite().all() for x in results[0])
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-12, atol=1e-12)


def test_the_order_of_a_family_counts_on_a_sequence_and_not_on_a_set():
    tree = TreeIndex.from_parent(zoo("two_levels"))
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double()
    order = torch.tensor([1, 0, 2, 3, 4, 5, 6, 7, 8])
    for domains, counts in (("set", False), (None, False), ("sequence", True)):
        model = seeded(5, 8, 3, 2, 2, domains=domains, states="mean")
        assert torch.allclose(model(x, tree), model(x[order], tree)) is not counts


def test_flat_attention_knows_ranks_among_all_leaves():
    tree = TreeIndex.from_parent(zoo("forest"))
    model = seeded(5, 8, 3, 1, 2, domains="sequence", attention="flat", readout=None)
    x = torch.randn(tree.num_leaves, 5, generator=torch.Generator().manual_seed(0)).double()
    number = tree_of_leaf(tree)
    flat = torch.cat([tree.num_leaves + number, tree.num_leaves + torch.arange(tree.num_trees)])
    place = FamilyEncoding("sequence")(flat).double()
    rank = [int((number[:i] == number[i]).sum()) for i in range(tree.num_leaves)]
    assert sibling_rank(flat)[: tree.num_leaves].tolist() == rank
    rows = model.layers[0](model.lin_in(x), tree, tree_pos=place)
    assert_close(model(x, tree), model.lin_out(model.norm(rows)))


@pytest.mark.parametrize("name", ["two_levels", "unequal_depths", "ragged", "forest"])
@pytest.mark.parametrize("states", [None, "mean"])
def test_pooling_between_layers_is_pooling_by_hand(name, states):
    tree = TreeIndex.from_parent(zoo(name))
    model = seeded(
        5, 8, None, 3, 2, domains="sequence", states=states, pool={1: -2, 2: -3}, readout=None
    )
    g = torch.Generator().manual_seed(0)
    x, mass = torch.randn(tree.num_leaves, 5, generator=g).double(), torch.rand(tree.num_leaves)
    out = model(x, tree, mass=mass.double())
    place = model.encoding(tree).double()

    rows, weight, inner, last = model.lin_in(x), mass.double(), None, None
    for number, layer in enumerate(model.layers):
        level = -1 - number
        coarse = coarse_tree(tree, level)
        if number:
            rows = pool(rows, tree, level, from_level=level + 1, mass=weight)
            weight = pool(weight, tree, level, from_level=level + 1, reduce="sum")
        if inner is not None:  # states of the nodes that stay inner ones, by their first ids
            ids = coarse.node[inner_ids(coarse.tree.parent)].tolist()
            inner = inner[[last.index(a) for a in ids]]
        rows = layer(rows, coarse.tree, *([inner] if states else []), mass=weight,
                     tree_pos=place[coarse.node])  # fmt: skip
        if states:
            rows, inner = rows
        last = coarse.node[inner_ids(coarse.tree.parent)].tolist()
    assert_close(out, model.norm(rows))


def inner_ids(parent):
    return sorted({p for a, p in enumerate(parent.tolist()) if p != a})


def test_edges_and_types_are_pooled_too():
    model, h = mixed(pool={1: -2}), sample("two_levels")
    assert model(h).shape == (1, 3)
    assert model.layers[0].attn.num_types == 2 and model.layers[1].attn.num_types is None


def test_a_chosen_leaf_is_read_out():
    tree = TreeIndex.from_parent(zoo("forest"))
    model = seeded(5, 8, 3, 1, 2, readout="leaf")
    x = torch.randn(tree.num_leaves, 5).double()
    every = copy.deepcopy(model)
    every.readout = None
    leaf = torch.tensor([int((tree_of_leaf(tree) == t).nonzero()[-1]) for t in range(6)])
    assert_close(model(x, tree, leaf=leaf), every(x, tree)[leaf])


def test_no_layer_drops_more_than_the_last():
    model = seeded(5, 8, 3, 3, 2, drop_path=0.4)
    assert [layer.drop_path for layer in model.layers] == pytest.approx([0.0, 0.2, 0.4])


# --- as a module ---------------------------------------------------------------------------------


def test_gradients_are_right():
    tree = TreeIndex.from_parent(zoo("unequal_depths"))
    model = seeded(3, 4, 2, 2, 2, states="mean", domains="sequence", mlp_channels=4)
    x = torch.randn(tree.num_leaves, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x, tree), (x,))


@pytest.mark.parametrize("states", [None, "attention"])
def test_checkpointing_gives_the_same_gradients(states):
    h, results = sample("forest"), []
    for checkpointing in (False, True):
        model = seeded(
            5, 8, 3, 3, 2, states=states, checkpointing=checkpointing, dropout=0.3, drop_path=0.3,
            domains="sequence",
        )  # fmt: skip
        torch.manual_seed(1)
        out = model(h)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in model.parameters())])
    assert_close(*results, rtol=0, atol=0)


CONFIGS = {
    "plain": ((5, 8, 3, 2), {}),
    "everything": (
        ({"word": Ids(9), "patch": 3}, 8, None, 2, 2),
        {
            "domains": ["set", "ranks", "grid"], "states": "attention", "conv": GCNConv,
            "num_levels": 2, "pool": {1: -2}, "readout": "root", "norm_first": False,
            "attn_kwargs": {"self_loop": False}, "act": "relu", "dropout": 0.1,
        },
    ),
    "ids": ((Ids(9), 8, 3, 1), {"readout": None, "domains": "sequence"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_goes_through_json_and_makes_the_model_again(name):
    args, options = CONFIGS[name]
    model = seeded(*args, **options).eval()
    config = json.loads(json.dumps(model.to_config()))
    other = HierarchicalTransformer.from_config(config).double().eval()
    assert other.to_config() == model.to_config() and repr(other) == repr(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    h = sample("two_levels")
    x = h if name == "everything" else h.x if name == "plain" else torch.arange(9)
    tree = None if name == "everything" else h.tree
    assert_close(other(x, tree), model(x, tree), rtol=0, atol=0)


def test_options_of_a_config_may_be_replaced():
    config = seeded(5, 8, 3, 2).to_config()
    assert HierarchicalTransformer.from_config(config, num_layers=1, out_channels=4).lin_out
    assert len(HierarchicalTransformer.from_config(config, num_layers=1).layers) == 1


def test_it_is_pickled_and_copied():
    model, h = mixed(), sample("two_levels")
    expected = model(h)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(other(h), expected, rtol=0, atol=0)
        other.lin_out.weight.data.zero_()
    assert_close(model(h), expected, rtol=0, atol=0)


def test_it_is_part_of_a_pyg_sequential():
    tree = TreeIndex.from_parent(zoo("forest"))
    one, two = seeded(5, 8, None, 1, 2, readout=None), seeded(8, 8, 3, 1, 2, seed=1)
    model = Sequential("x, tree", [(one, "x, tree -> x"), torch.nn.ReLU(), (two, "x, tree -> x")])
    x = torch.randn(tree.num_leaves, 5).double()
    assert_close(model(x, tree), two(one(x, tree).relu(), tree))


def test_every_parameter_is_trained_and_drawn_anew():
    model = mixed(norm_first=False)
    batch = Batch.from_data_list([sample(name) for name in ("two_levels", "ragged", "forest")])
    model(batch).square().sum().backward()
    untrained = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not untrained
    before = {n: p.clone() for n, p in model.named_parameters() if p.dim() > 1}
    model.reset_parameters()
    params = dict(model.named_parameters())
    constant = {n for n in before if "level_" in n}
    assert {n for n in before if torch.equal(before[n], params[n])} == constant


def test_widths_of_minus_one_are_taken_from_the_first_input():
    model = seeded(-1, 8, 3, 1, 2)
    assert model(sample("star")).shape == (1, 3) and model.lin_in.weight.shape == (8, 5)


def test_twelve_layers_train_under_bfloat16_autocast():
    torch.manual_seed(0)
    tree = TreeIndex.from_parent(random_parent(60, num_trees=6, seed=1))
    x = torch.randint(20, (tree.num_leaves,))
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    model = HierarchicalTransformer(
        Ids(20), 16, 2, 12, 2, domains="sequence", states="mean", num_levels=3, mlp_channels=32
    )
    optimizer, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(12):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x, tree).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_it_compiles_to_one_graph():
    torch._dynamo.reset()
    model = seeded(5, 8, 3, 1, 2, domains="sequence", readout="attention")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for name in ("forest", "two_levels"):
        results, tree = [], TreeIndex.from_parent(zoo(name))
        x = torch.randn(tree.num_leaves, 5, generator=torch.Generator().manual_seed(0)).double()
        for function in (compiled, model):
            model.zero_grad()
            out = function(x, tree)
            out.square().sum().backward()
            results.append([out, *(p.grad.clone() for p in model.parameters())])
        assert_close(*results)
    torch._dynamo.reset()


def test_in_float32_it_follows_float64():
    h = sample("forest")
    x = h.x.float()
    model = seeded(5, 8, 3, 2, 2, states="mean", domains="sequence")
    assert_close(copy.deepcopy(model).float()(x, h.tree), model(h.x, h.tree).float())


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"num_layers": 0}, ValueError, "Expected 'num_layers' to be positive (got 0)"),
        ({"readout": "root"}, ValueError, "Expected 'states' for readout='root' (got None)"),
        ({"readout": "max"}, ValueError, "'readout' to be one of ['mean', "),
        ({"pool": {2: -2}}, ValueError, "'pool' to name layers in [0, 1] (got 2)"),
        ({"pool": {1: "a"}}, TypeError, "'pool' to name levels that are integers (got 'a')"),
        (
            {"pool": {1: -2}, "attention": "flat"},
            ValueError,
            "Expected no 'pool' with attention='flat' (got some)",
        ),
        ({"conv": "NoConv"}, ValueError, "a layer of torch_geometric.nn (got 'NoConv')"),
        ({"domains": "circle"}, ValueError, "(got 'circle')"),
        ({"in_channels": {}}, TypeError, "'in_channels' to map types to widths (got {})"),
        ({"heads": 3}, ValueError, "'channels' to be a multiple of 'heads', 3 (got 8)"),
        ({"pos_channels": 0, "domains": "set"}, ValueError, "'pos_channels' to be at least 1"),
    ],
)
def test_bad_options_are_named(options, error, message):
    base = {
        "in_channels": 5, "hidden_channels": 8, "out_channels": 3, "num_layers": 2, "heads": 2
    }  # fmt: skip
    with pytest.raises(error, match=re.escape(message)):
        HierarchicalTransformer(**(base | options))


@pytest.mark.parametrize(
    "options, change, error, message",
    [
        ({}, {"tree": None}, TypeError, "'x' to be a Hierarchy, or 'tree' beside it (got Tensor)"),
        (
            {},
            {"x": from_parent([1, 1]), "tree": None},
            ValueError,
            "Expected the hierarchy to have 'x' (got None)",
        ),
        ({}, {"x": {"a": torch.ones(9, 5)}}, TypeError, "'x' to be a tensor (got dict)"),
        (
            {},
            {"x": torch.ones(9, 4)},
            ValueError,
            "'x' to hold floating-point numbers of shape [N, 5] (got torch.float32 of shape [9, "
            "4])",
        ),
        ({}, {"x": torch.ones(8, 5)}, ValueError, "'x' to have one row for each of the 9 leaves"),
        ({}, {"leaf_type": torch.zeros(9)}, ValueError, "no 'leaf_type' in a model of one type"),
        (
            {"in_channels": {"a": 5}},
            {},
            ValueError,
            "Expected 'leaf_type', for the types ['a'] (got None)",
        ),
        (
            {"in_channels": {"a": 5}},
            {"leaf_type": torch.zeros(9).long()},
            TypeError,
            "'x' to map types to tensors (got Tensor)",
        ),
        ({"in_channels": Ids(3)}, {}, TypeError, "Expected 'x' to hold integers, which are ids"),
        (
            {"in_channels": Ids(3)},
            {"x": torch.arange(9)},
            ValueError,
            "Expected 'x' to hold ids in [0, 2] (got 0 to 8)",
        ),
        ({"domains": ["set", "grid"]}, {}, ValueError, "'tree_kind' beside several domains"),
        ({"domains": "grid"}, {}, ValueError, "'tree_pos' or 'pos' for the domain 'grid'"),
        ({}, {"return_states": True}, ValueError, "'states' in a model that is to return them"),
        ({"readout": None}, {"leaf": torch.zeros(1).long()}, ValueError, "no 'leaf' in a model"),
        ({"conv": "GCNConv"}, {}, ValueError, "an 'edge_index' in a layer with a 'conv'"),
        ({}, {"mass": -torch.ones(9)}, ValueError, "'mass' to be finite and not negative"),
        ({}, {"edge_attr": torch.ones(1)}, ValueError, "no 'edge_attr' in a model without 'conv'"),
        ({}, {"tree_pos": torch.ones(13, 1)}, ValueError, "no 'tree_pos' in a model without"),
    ],
)
def test_bad_input_is_named(options, change, error, message):
    base = {
        "in_channels": 5, "hidden_channels": 8, "out_channels": 3, "num_layers": 1, "heads": 2
    }  # fmt: skip
    model = HierarchicalTransformer(**(base | options))
    with pytest.raises(error, match=re.escape(message)):
        model(**({"x": torch.ones(9, 5), "tree": zoo("two_levels")} | change))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conv": lambda i, o: GCNConv(i, o)}, "Expected 'conv' to be a name, to be written"),
        ({"act": torch.nn.Softplus(2)}, "Expected 'act' to be a name, to be written"),
        ({"domains": FamilyEncoding("set").encodings[0]}, "'domains' to be names, to be written"),
        ({"domains": [FamilyEncoding("set").encodings[0]]}, "'domains' to be names, to be written"),
    ],
)
def test_what_has_no_name_has_no_config(options, message):
    with pytest.raises(ValueError, match=message):
        seeded(5, 8, 3, 1, **options).to_config()


def test_pooling_to_a_finer_level_than_before_is_refused():
    model = seeded(5, 8, 3, 2, 2, pool={0: 1, 1: 2})
    x = torch.randn(8, 5).double()
    with pytest.raises(ValueError, match="clusters of the pooling before to lie within"):
        model(x, zoo("binary"))
    with pytest.raises(ValueError, match="at least as coarse as the pooling before"):
        model(torch.randn(1, 5).double(), zoo("chain"))


def test_layers_are_those_of_the_options():
    model = seeded(5, 8, 3, 2, 2, attn_kwargs={"self_loop": False})
    assert all(isinstance(layer, HierarchicalTransformerLayer) for layer in model.layers)
    assert not any(layer.attn.self_loop for layer in model.layers)
    assert repr(model) == "HierarchicalTransformer(5, 8, 3, num_layers=2)"
