import re

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.nn.encoding import (
    FamilyEncoding,
    KeyEncoding,
    PointEncoding,
    RankEncoding,
    SequenceEncoding,
    SetEncoding,
    Where,
)
from hsa_geometric.testing import ZOO, forest, renumber, zoo

MIXED = ["set", "sequence", "grid", "graph", "sequence"]


def seeded(domains, seed=0):
    torch.manual_seed(seed)
    return FamilyEncoding(domains)


def given(name, kinds=5, seed=0):
    """A tree with a kind for each family, coordinates, edges within trees and masses."""
    tree = TreeIndex.from_parent(zoo(name))
    g = torch.Generator().manual_seed(seed)
    n = tree.num_leaves
    kind = torch.randint(kinds, (tree.num_nodes,), generator=g)[tree.parent]
    edge_index = torch.randint(n, (2, 2 * n), generator=g)
    pos, mass = torch.randn(n, 2, generator=g), torch.rand(n, generator=g)
    return tree, {"tree_kind": kind, "pos": pos, "edge_index": edge_index, "mass": mass}


@pytest.mark.parametrize("name", ZOO)
def test_one_domain_is_its_encoding(name):
    tree, options = given(name)
    for domain, encoding in (("sequence", SequenceEncoding()), (SetEncoding(), SetEncoding())):
        family = FamilyEncoding(domain)
        expected = encoding(Where(tree))
        assert torch.equal(family(tree, pos=options["pos"]), expected)
        assert family.out_channels == encoding.out_channels == expected.shape[1]
    family = seeded("grid")
    where = Where(tree, pos=options["pos"], mass=options["mass"])
    out = family(tree, pos=options["pos"], mass=options["mass"])
    assert torch.equal(out, family.encodings[0](where))


@pytest.mark.parametrize("name", ZOO)
def test_each_node_has_the_features_of_its_own_domain_and_zeros_beside_them(name):
    tree, options = given(name)
    family = seeded(MIXED)
    assert family.out_channels == 16 + 16 + 8  # sequence, grid, graph; a set has none
    out = family(tree, **options)
    assert out.shape == (tree.num_nodes, 40)
    options = dict(options)
    kinds = options.pop("tree_kind").tolist()
    whole = [e(Where(tree, **options)) for e in family.encodings]
    slices = {"sequence": slice(0, 16), "grid": slice(16, 32), "graph": slice(32, 40)}
    for node, kind in enumerate(kinds):
        expected, domain = torch.zeros(40), MIXED[kind]
        if domain != "set" and tree.parent[node] != node:
            expected[slices[domain]] = whole[list(dict.fromkeys(MIXED)).index(domain)][node]
        assert_close(out[node], expected)


def test_a_name_or_module_that_occurs_again_is_one_encoding():
    ranks = RankEncoding(4, 3)
    family = FamilyEncoding(["sequence", ranks, "sequence", ranks])
    assert len(family.encodings) == 2 and family.out_channels == 19
    assert len(FamilyEncoding([RankEncoding(4, 3), ranks]).encodings) == 2
    assert repr(family) == "FamilyEncoding(SequenceEncoding, RankEncoding)"


def test_one_domain_in_a_list_needs_kinds_too():
    tree, options = given("two_levels", kinds=1)
    expected = FamilyEncoding("sequence")(tree)
    expected[12] = 0  # the root has no siblings
    out = FamilyEncoding(["sequence"])(tree, tree_kind=options["tree_kind"])
    assert torch.equal(out, expected)


def test_inputs_of_a_domain_that_no_node_has_may_be_missing():
    tree, options = given("two_levels", kinds=2)
    out = seeded(["sequence", "set", "points", "key"])(tree, tree_kind=options["tree_kind"])
    assert out.shape == (13, 48) and not out[:, 16:].any()
    with pytest.raises(ValueError, match="for the domain 'points'"):
        seeded(["sequence", "points"])(tree, tree_kind=options["tree_kind"].clamp(min=1))


def test_sets_alone_have_no_features():
    tree, options = given("two_levels", kinds=2)
    assert FamilyEncoding(["set", "set"])(tree, tree_kind=options["tree_kind"]).shape == (13, 0)


def swapped(tree, domains, kind=None, pos=None):
    """Attention over a tree with positions, and after two leaves of the first family changed
    places, rows changed back.
    """
    encoding = seeded(domains)
    x = torch.randn(tree.num_leaves, 1, 4, generator=torch.Generator().manual_seed(1)).double()
    place = torch.arange(tree.num_leaves)
    place[[0, 1]] = place[[1, 0]]
    outs = []
    for row in (torch.arange(tree.num_leaves), place):
        eps = encoding.double()(tree, tree_kind=kind, pos=None if pos is None else pos[row])
        eps = eps.unsqueeze(1)
        positions = {"pos_q": eps, "pos_k": eps} if eps.shape[-1] else {}
        outs.append(hierarchical_attention(x[row], x[row], x[row], tree, **positions)[row])
    return outs


@pytest.mark.parametrize("name", ["two_levels", "star"])
def test_members_of_a_set_may_change_places_and_those_of_a_sequence_may_not(name):
    tree = TreeIndex.from_parent(zoo(name))
    assert_close(*swapped(tree, "set"))
    assert not torch.allclose(*swapped(tree, "sequence"))
    assert not torch.allclose(*swapped(tree, "ranks"))
    pos = torch.randn(tree.num_leaves, 2, generator=torch.Generator().manual_seed(2)).double()
    assert_close(*swapped(tree, "grid", pos=pos))  # the places go along


def test_in_one_tree_some_families_may_be_ordered_and_others_not():
    tree = TreeIndex.from_parent(zoo("two_levels"))
    for first, ordered in ((0, False), (1, True)):
        kind = torch.full((13,), 1 - first)
        kind[:3] = first  # of the family whose members change places
        one, other = swapped(tree, ["set", "sequence"], kind)
        assert torch.allclose(one, other) is not ordered


@pytest.mark.parametrize("name", ["unequal_depths", "ragged"])
def test_other_ids_of_nodes_give_the_same_rows(name):
    tree, options = given(name, kinds=3)
    new_id = torch.arange(tree.num_nodes)
    inner = [a for a in range(tree.num_nodes) if a not in tree.leaf_ids.tolist()]
    new_id[inner] = new_id[inner].flip(0)
    other, _ = renumber(tree.parent, new_id)
    family, expected = seeded(MIXED[:3]), seeded(MIXED[:3])(tree, **options)
    kind = torch.empty_like(options["tree_kind"])
    kind[new_id] = options["tree_kind"]
    assert_close(family(other, **options | {"tree_kind": kind})[new_id], expected)


def test_a_batch_of_mixed_trees_is_encoded_as_its_trees_one_by_one():
    family, alone, parts = seeded(MIXED), [], []
    for seed, name in enumerate(ZOO):
        tree, options = given(name, seed=seed)
        alone.append(family(tree, **options))
        parts.append((tree, options))
    shift = torch.tensor([0, *(tree.num_leaves for tree, _ in parts)]).cumsum(0).tolist()
    options = {key: torch.cat([o[key] for _, o in parts]) for key in ("tree_kind", "pos", "mass")}
    edges = [o["edge_index"] + s for (_, o), s in zip(parts, shift, strict=False)]
    together = family(
        forest(*(tree.parent for tree, _ in parts)), edge_index=torch.cat(edges, 1), **options
    )
    assert_close(together, torch.cat(alone))


def test_learned_encodings_are_trained_and_drawn_anew():
    family = seeded([RankEncoding(4, 3), KeyEncoding(2, 3), "grid"])
    tree, options = given("two_levels", kinds=2)
    key = torch.zeros(13, 1)
    out = family(tree, tree_kind=options["tree_kind"], tree_pos=key)
    out.square().sum().backward()
    assert all(p.grad.any() for p in family.parameters())
    before = [x.clone() for x in family.state_dict().values()]
    family.reset_parameters()
    after = list(family.state_dict().values())
    assert not any(torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "domains, options, error, message",
    [
        ("sequence", {"tree_pos": torch.ones(4, 1)}, ValueError, "'tree_pos' to have one row for"),
        ("sequence", {"tree_pos": torch.ones(13)}, ValueError, "'tree_pos' to have 2 dimensions"),
        ("grid", {"pos": torch.ones(4, 2)}, ValueError, "'pos' to have one row for each of the 9"),
        ("grid", {"pos": torch.ones(9, 2).int()}, TypeError, "'pos' to hold floating-point"),
        ("set", {"tree_kind": torch.zeros(13).long()}, ValueError, "no 'tree_kind' beside one"),
        (["set"], {}, ValueError, "'tree_kind' beside several domains, to say which is whose"),
        (
            ["set"],
            {"tree_kind": torch.zeros(9).long()},
            ValueError,
            "'tree_kind' to have one entry for each of the 13 tree nodes (got [9])",
        ),
        (["set"], {"tree_kind": 3}, ValueError, "13 tree nodes (got 3)"),
        (
            ["set"],
            {"tree_kind": torch.zeros(13)},
            TypeError,
            "'tree_kind' to hold integers (got torch.float32)",
        ),
        (
            ["set", "sequence"],
            {"tree_kind": torch.arange(13)},
            ValueError,
            "kinds in [0, 1], for which there is a domain (got tree_kind[2] = 2)",
        ),
    ],
)
def test_bad_input_is_named(domains, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        FamilyEncoding(domains)(zoo("two_levels"), **options)


@pytest.mark.parametrize(
    "domains, error, message",
    [
        ([], ValueError, "'domains' to name at least one (got none)"),
        ("circle", ValueError, "(got 'circle')"),
        (["set", 3], TypeError, "a name or a DomainEncoding (got int)"),
    ],
)
def test_bad_domains_are_named(domains, error, message):
    with pytest.raises(error, match=re.escape(message)):
        FamilyEncoding(domains)


def test_encodings_made_elsewhere_stay_what_they_are():
    points = PointEncoding(2, 4)
    assert FamilyEncoding(["set", points]).encodings[1] is points
