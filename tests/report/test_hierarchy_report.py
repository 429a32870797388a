import math

import pytest
import torch
from hypothesis import given, settings
from torch_geometric.data import Batch, Data

from hsa_geometric.builders import from_parent
from hsa_geometric.report import dilution, hierarchy_report
from hsa_geometric.testing import ZOO, balanced, caterpillar, chain, forests, star, zoo

PER_TREE = (
    "leaves",
    "nodes",
    "depth",
    "mean_depth",
    "families",
    "min_branching",
    "mean_branching",
    "max_branching",
    "one_child",
    "balance",
    "logits",
)


def test_a_ragged_tree_by_hand():
    # 6 (root) - {5 - {4 - {0, 1}}, 2, 3}: 5 has one child.
    r = hierarchy_report(from_parent([4, 4, 6, 6, 5, 6, 6]))
    found = {key: getattr(r, key).tolist() for key in PER_TREE}
    entropy = (2 / 6) * math.log(6) + (2 / 3) * math.log(3)
    assert found == {
        "leaves": [4],
        "nodes": [7],
        "depth": [3],
        "mean_depth": [2.0],
        "families": [3],
        "min_branching": [1],
        "mean_branching": [2.0],
        "max_branching": [3],
        "one_child": [1],
        "balance": [pytest.approx(entropy / math.log(4))],
        "logits": [4 + 1 + 9],
    }
    assert r.family_sizes.tolist() == [[1, 2, 3], [1, 1, 1]]
    assert r.num_trees == 1 and r.gap is None


@pytest.mark.parametrize(
    ("parent", "low", "high"),
    [
        (star(7), 1, 1),
        (balanced(3, 3), 1, 1),
        (torch.tensor([0]), 1, 1),
        (chain(3), 1, 1),
        (caterpillar(200), 0, 0.27),
    ],
)
def test_balance_is_one_for_regular_trees_and_small_for_caterpillars(parent, low, high):
    balance = float(hierarchy_report(from_parent(parent)).balance)
    assert low - 1e-12 <= balance <= high + 1e-12


@given(forests(max_nodes=24))
@settings(max_examples=50, deadline=None)
def test_every_figure_is_what_counting_gives(parent):
    r = hierarchy_report(from_parent(parent))
    above = parent.tolist()
    family = {a: [c for c, p in enumerate(above) if p == a != c] for a in range(len(above))}
    roots = [a for a, p in enumerate(above) if p == a]
    for i, root in enumerate(roots):
        level, todo = {root: 0}, [root]
        for a in todo:
            todo += family[a]
            level |= dict.fromkeys(family[a], level[a] + 1)
        leaves = [a for a in todo if not family[a]]
        sizes = [len(family[a]) for a in todo if family[a]]
        assert int(r.leaves[i]) == len(leaves) and int(r.nodes[i]) == len(todo)
        assert int(r.depth[i]) == max(level.values())
        assert float(r.mean_depth[i]) == pytest.approx(sum(level[a] for a in leaves) / len(leaves))
        assert int(r.families[i]) == len(sizes)
        assert int(r.min_branching[i]) == min(sizes, default=0)
        assert int(r.max_branching[i]) == max(sizes, default=0)
        mean = sum(sizes) / len(sizes) if sizes else math.nan
        assert float(r.mean_branching[i]) == pytest.approx(mean, nan_ok=True)
        assert int(r.one_child[i]) == sizes.count(1)
        assert int(r.logits[i]) == sum(b * b for b in sizes)
        assert 0 < float(r.balance[i]) <= 1 + 1e-12


def test_a_batch_is_reported_tree_by_tree():
    data_list = [from_parent(zoo(name)) for name in ZOO if "forest" not in name]
    data_list = [h for h in data_list if h.num_trees == 1]
    batch = hierarchy_report(Batch.from_data_list(data_list))
    alone = [hierarchy_report(h) for h in data_list]
    for key in PER_TREE:
        expected = torch.cat([getattr(r, key) for r in alone])
        torch.testing.assert_close(getattr(batch, key), expected, equal_nan=True)
    assert f"{len(data_list)} trees" in str(batch)


@pytest.mark.parametrize("origin", [0.0, 441_871.0, 6_329_700.0, 2.0**40])
def test_distances_far_from_the_origin_are_as_near_it(origin):
    pos = torch.tensor([[0.0], [1.0], [4.0], [5.0]], dtype=torch.float64) + origin
    found = dilution(from_parent(balanced(2, 2), pos=pos)).distance
    expected = torch.tensor([1.0, (16 + (9 + 25) / 2) / 2], dtype=torch.float64)
    torch.testing.assert_close(found, expected * torch.tensor([1.0, expected[1] ** -0.5]))


def test_near_distances_are_not_lost_beside_far_ones():
    # Pairs a centimetre apart, millions of metres from each other: squares differ by 10^17.
    pair = torch.tensor([[0.0, 0.0], [0.01, 0.0]], dtype=torch.float64)
    pos = torch.cat([pair, pair + torch.tensor([441_871.0, 6_329_700.0])])
    found = dilution(from_parent(balanced(2, 2), pos=pos)).distance
    torch.testing.assert_close(found[0].item(), 0.01, rtol=1e-6, atol=0)


def test_it_prints_a_page():
    h = from_parent(balanced(2, 2), pos=torch.tensor([[0.0], [1.0], [4.0], [5.0]]))
    q = torch.zeros(4, 2, 3)
    assert str(hierarchy_report(h, q, q)).splitlines() == [
        "leaves                 4",
        "tree nodes             7",
        "depth                  2",
        "mean depth of a leaf   2",
        "families               3",
        "smallest family        2",
        "mean family            2",
        "largest family         2",
        "one-child nodes        0",
        "balance                1",
        "logits per head       12",
        "of softmax's, %       75",
        "",
        "family size  families",
        "2                   3",
        "",
        "dilution: 3 distinct weights for a leaf",
        "levels up  leaves seen, %  weights  leaves per weight  rms distance",
        "1                      25        1                  1             1",
        "2                      50        1                  2          4.06",
        "",
        "evidence gap, nats  head 0  head 1",
        "                         0       0",
    ]


def test_sizes_of_families_are_gathered_where_they_are_many():
    sizes = [1, 8, 9, 16, 17, 40]
    parents = torch.repeat_interleave(torch.arange(6) + sum(sizes), torch.tensor(sizes))
    root = sum(sizes) + 6
    h = from_parent(torch.cat([parents, torch.full((7,), root)]))
    text = str(hierarchy_report(h))
    for line in ("1                   1", "6                   1", "8                   1"):
        assert f"\n{line}\n" in text
    assert "\n9–16                2\n17–32               1\n33–64               1\n" in text


# Dilution #####################################################################################


def dilution_by_counting(h):
    """Per level up: mean weights, share seen, leaves per weight, and mean squared distance."""
    parent, leaf = h.parent.tolist(), h.tree.leaf_ids.tolist()
    row = {a: i for i, a in enumerate(leaf)}
    path = {}
    for a in range(len(parent)):
        path[a] = [a]
        while parent[path[a][-1]] != path[a][-1]:
            path[a].append(parent[path[a][-1]])
    under = {a: [b for b in leaf if a in path[b]] for a in range(len(parent))}
    out = []
    for up in range(h.depth):
        weights, seen, shared, squares = [], [], [], []
        for i in leaf:
            if up + 1 >= len(path[i]):
                continue
            a, above = path[i][up], path[i][up + 1]
            blocks = [b for b, p in enumerate(parent) if p == above and b not in (a, above)]
            others = [j for b in blocks for j in under[b]]
            weights.append(len(blocks))
            seen.append(len(others) / len(under[path[i][-1]]))
            shared.append(len(others))
            squares += [float((h.pos[row[i]] - h.pos[row[j]]).square().sum()) for j in others]
        blocks = sum(weights)
        out.append(
            [
                blocks / len(leaf),
                sum(seen) / len(leaf),
                sum(shared) / blocks if blocks else math.nan,
                math.sqrt(sum(squares) / len(squares)) if squares else math.nan,
            ]
        )
    return torch.tensor(out, dtype=torch.float64).view(-1, 4)


@given(forests(max_nodes=20))
@settings(max_examples=50, deadline=None)
def test_dilution_is_what_counting_gives(parent):
    h = from_parent(parent)
    h.pos = torch.randn(h.num_nodes, 3, dtype=torch.float64) + 1000
    d = dilution(h)
    expected = dilution_by_counting(h)
    found = torch.stack([d.weights, d.seen, d.leaves_per_weight, d.distance], dim=1)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert d.weights_per_leaf == pytest.approx(1 + float(expected[:, 0].sum()))
    size = h.tree.count[h.tree.root].double()
    assert float(d.seen.sum()) == pytest.approx(1 - size.numel() / h.num_nodes)


def test_levels_beyond_the_last_one_listed_are_left_out():
    d = dilution(from_parent(caterpillar(30)), max_up=4)
    assert d.weights.numel() == 4 and d.distance is None
    assert d.weights_per_leaf == pytest.approx(1 + (sum(range(1, 31)) + 30) / 31)
    assert dilution(from_parent([0])).weights.numel() == 0
    assert str(dilution(from_parent([0]))) == "dilution: 1 distinct weights for a leaf"


# Errors #######################################################################################


def test_queries_need_keys():
    h, q = from_parent(star(3)), torch.rand(3, 1, 2)
    with pytest.raises(ValueError, match=r"Expected 'k' beside 'q' \(got None\)"):
        hierarchy_report(h, q)
    with pytest.raises(ValueError, match=r"Expected 'q' beside 'k' \(got None\)"):
        hierarchy_report(h, k=q)
    with pytest.raises(ValueError, match=r"'q' to have one row for each of the 3 leaves"):
        hierarchy_report(h, q[:2], q[:2])


def test_only_hierarchies_are_reported():
    with pytest.raises(TypeError, match=r"'h' to be a Hierarchy \(got Data\)"):
        hierarchy_report(Data())
    with pytest.raises(ValueError, match=r"'max_up' to be at least 1 \(got 0\)"):
        dilution(from_parent(star(3)), max_up=0)
