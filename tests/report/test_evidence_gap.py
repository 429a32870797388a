import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch

from hsa_geometric.builders import from_clusters, from_parent
from hsa_geometric.functional import attention_matrix
from hsa_geometric.report import best_hierarchy, evidence_gap
from hsa_geometric.report.evidence_gap import _chunks
from hsa_geometric.surgery import cut
from hsa_geometric.testing import ZOO, attention_inputs, balanced, forests, star, zoo

MODULE = sys.modules[evidence_gap.__module__]  # the package has the function under its name


def dense_gap(h, q, k, scale):
    """Mean KL of the dense matrix against dense softmax within each tree."""
    theta = attention_matrix(q, k, h.tree, scale=scale, mass=h.mass)
    mass = torch.ones(h.num_nodes, dtype=torch.float64) if h.mass is None else h.mass
    root = h.parent
    for _ in range(h.num_tree_nodes):
        root = root[root]
    root = root[h.tree.leaf_ids]
    logit = torch.einsum("ihd,jhd->hij", q, k) * scale + mass.log()
    logit = logit.masked_fill(root.unsqueeze(1) != root, -torch.inf)
    log_softmax = logit.log_softmax(-1)
    kl = torch.where(theta > 0, theta * (theta.log() - log_softmax), 0).sum(-1)  # [H, N]
    out = []
    for r in root.unique():
        own = (root == r) & (mass > 0)
        out.append((mass[own] * kl[:, own]).sum(-1) / mass[own].sum())
    return torch.stack(out)


@pytest.mark.parametrize("mass", [None, "random", "zeros"])
@pytest.mark.parametrize("name", ZOO)
def test_the_gap_is_the_mean_divergence_from_softmax(name, mass):
    h = from_parent(zoo(name))
    inputs = attention_inputs(h.tree, mass=mass)
    h.mass = inputs.get("mass")
    q, k = inputs["q"], inputs["k"]
    found = evidence_gap(h, q, k, scale=0.7)
    torch.testing.assert_close(
        found.gap, dense_gap(h, q, k, 0.7), rtol=0, atol=1e-10, equal_nan=True
    )
    assert (found.gap[found.mass > 0] >= -1e-12).all()
    assert torch.equal(found.gap[:, 0].isnan(), found.mass == 0)
    assert (found.error.nan_to_num() == 0).all()


@given(forests(max_nodes=24), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_on_any_forest(parent, seed):
    h = from_parent(parent)
    inputs = attention_inputs(h.tree, mass="random", seed=seed)
    h.mass = inputs["mass"]
    found = evidence_gap(h, inputs["q"], inputs["k"]).gap
    expected = dense_gap(h, inputs["q"], inputs["k"], 3**-0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_mean_weighs_trees_by_their_mass():
    h = from_parent(zoo("forest"))
    inputs = attention_inputs(h.tree, mass="zeros")
    h.mass = inputs["mass"]
    found = evidence_gap(h, inputs["q"], inputs["k"])
    some = found.mass > 0
    assert not some.all()
    mass = found.mass[some]
    expected = (mass.unsqueeze(1) * found.gap[some]).sum(0) / mass.sum()
    torch.testing.assert_close(found.mean, expected)


def test_a_batch_is_measured_one_by_one():
    data_list = [from_parent(zoo(name)) for name in ("ragged", "one_node", "star", "deep")]
    batch = Batch.from_data_list(data_list)
    q, k = attention_inputs(batch.tree)["q"], attention_inputs(batch.tree)["k"]
    sizes = batch.ptr.diff().tolist()
    rows = zip(data_list, q.split(sizes), k.split(sizes), strict=True)
    alone = torch.cat([evidence_gap(h, a, b).gap for h, a, b in rows])
    torch.testing.assert_close(evidence_gap(batch, q, k).gap, alone)


@pytest.mark.parametrize("budget", [1, 7, 64, 10**6])
def test_rows_go_in_chunks_within_the_budget(budget):
    begin = [0] * 10 + [10] * 300 + [310] * 5
    end = [10] * 10 + [310] * 300 + [315] * 5
    chunks = _chunks(begin, end, budget)
    assert [row for lo, hi in chunks for row in range(lo, hi)] == list(range(315))
    for lo, hi in chunks:
        assert hi - lo <= 256
        assert hi - lo == 1 or (hi - lo) * (end[hi - 1] - begin[lo]) <= budget


def test_chunks_of_rows_change_nothing(monkeypatch):
    h = from_parent(zoo("shuffled_forest"))
    inputs = attention_inputs(h.tree)
    whole = evidence_gap(h, inputs["q"], inputs["k"]).gap
    for budget in (2, 40):
        monkeypatch.setattr(MODULE, "LOGITS_AT_ONCE", budget)
        torch.testing.assert_close(evidence_gap(h, inputs["q"], inputs["k"]).gap, whole)


@pytest.mark.parametrize("with_mass", [False, True])
def test_sampled_rows_estimate_the_gap_within_their_error(with_mass):
    parents = [balanced(5, 4), balanced(2, 3), balanced(7, 3)]  # 625, 8 and 343 leaves
    h = Batch.from_data_list([from_parent(p) for p in parents])
    inputs = attention_inputs(h.tree, mass="random" if with_mass else None)
    if with_mass:
        inputs["mass"][:100] = 0
        h.mass = inputs["mass"]
    q, k = 2 * inputs["q"], inputs["k"]
    exact = evidence_gap(h, q, k)
    draws = [evidence_gap(h, q, k, sample=50, seed=seed) for seed in range(40)]
    gaps = torch.stack([d.gap for d in draws])
    torch.testing.assert_close(gaps[:, 1], exact.gap[1].expand(40, 2))  # few leaves: all of them
    assert all((d.error[1] == 0).all() and (d.error[[0, 2]] > 0).all() for d in draws)
    z = ((gaps - exact.gap) / torch.stack([d.error for d in draws]))[:, [0, 2]]
    assert z.square().mean().sqrt() < 1.3 and z.square().mean().sqrt() > 0.7
    assert z.mean().abs() < 0.3
    again = evidence_gap(h, q, k, sample=50, seed=3)
    assert torch.equal(again.gap, draws[3].gap) and not torch.equal(again.gap, draws[4].gap)
    assert "standard error" in str(again) and "standard error" not in str(exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_is_measured_in_float64(dtype):
    h = from_parent(zoo("ragged"))
    inputs = attention_inputs(h.tree, dtype=dtype)
    found = evidence_gap(h, inputs["q"].requires_grad_(), inputs["k"])
    expected = dense_gap(h, inputs["q"].detach().double(), inputs["k"].double(), 3**-0.5)
    torch.testing.assert_close(found.gap, expected, rtol=0, atol=1e-10)
    assert not found.gap.requires_grad


def test_long_work_shows_its_progress(monkeypatch, capsys):
    monkeypatch.setattr(MODULE, "LONG", 1)
    h = from_parent(star(5))
    q = torch.rand(5, 1, 2)
    evidence_gap(h, q, q)
    assert "softmax log-partition" in capsys.readouterr().err
    evidence_gap(h, q, q, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"q": torch.rand(4, 1, 2)}, ValueError, r"'q' .* the 5 leaves \(got 4 rows\)"),
        ({"q": [1.0]}, TypeError, r"'q' to be a tensor \(got list\)"),
        ({"k": torch.rand(5, 1, 3)}, ValueError, r"'k' to have the shape of 'q'"),
        ({"sample": 1}, ValueError, r"'sample' to be at least 2 \(got 1\)"),
        ({"sample": 0.5}, TypeError, r"'sample' to be an integer \(got float\)"),
    ],
)
def test_bad_arguments_are_named(change, error, match):
    arguments = {"q": torch.rand(5, 1, 2), "k": torch.rand(5, 1, 2)} | change
    with pytest.raises(error, match=match):
        evidence_gap(from_parent(star(5)), **arguments)


# Ranking ######################################################################################


def pairs():
    """Four leaves of which 0, 1 and 2, 3 have like queries and keys, and trees over them."""
    q = torch.tensor([1.0, 1.1, -1.0, -0.9]).view(4, 1, 1)
    trees = {
        "crossed": from_parent([4, 5, 4, 5, 6, 6, 6]),
        "star": from_parent([4] * 5),
        "paired": from_parent([4, 4, 5, 5, 6, 6, 6]),
    }
    return trees, q


def test_the_best_tree_joins_what_is_alike_and_its_cost_stands_beside():
    trees, q = pairs()
    r = best_hierarchy(trees, q, q)
    assert r.names == ["star", "paired", "crossed"]
    assert r.logits.tolist() == [16, 12, 12]
    assert r.efficient.tolist() == [True, True, False]
    assert r.best is trees["star"] and r.best_name == "star" and r.hierarchies[1] is trees["paired"]
    assert r.gap is None
    lines = str(r).splitlines()
    assert lines[0].split() == ["nats", "mean", "evidence", "head", "0", "logits", "efficient"]
    assert lines[3].split()[0] == "crossed" and "yes" not in lines[3]


def test_evidence_and_gap_rank_alike():
    trees, q = pairs()
    r = best_hierarchy(list(trees.values()), q, q, gap=True)
    assert r.names == [1, 2, 0]
    total = r.evidence + r.gap
    torch.testing.assert_close(total, total[:1].expand_as(total))
    assert "mean gap" in str(r)


@given(forests(max_nodes=20, max_trees=3))
@settings(max_examples=30, deadline=None)
def test_a_finer_tree_never_ranks_lower(parent):
    h = from_parent(parent)
    inputs = attention_inputs(h.tree, mass="random")
    h.mass = inputs["mass"]
    trees = {"as it is": h, "cut": cut(h, max_leaves=3), "star": cut(h, level=0)}
    r = best_hierarchy(trees, inputs["q"], inputs["k"])
    evidence = dict(zip(r.names, r.evidence.mean(1).tolist(), strict=True))
    assert evidence["star"] >= evidence["cut"] - 1e-9 >= evidence["as it is"] - 2e-9
    assert int(r.logits.min()) <= int(r.logits[r.names.index("star")])


def test_of_equal_trees_the_cheaper_one_comes_first_and_then_the_earlier():
    h = from_parent([4, 4, 5, 5, 6, 6, 6])
    longer = from_parent([4, 4, 5, 5, 6, 7, 7, 7])  # a one-child node: one logit more
    q = torch.rand(4, 2, 3)
    r = best_hierarchy({"longer": longer, "b": h, "a": h}, q, q)
    assert r.names == ["b", "a", "longer"]
    assert r.efficient.tolist() == [True, True, False]


def test_samples_of_a_batch_are_ranked_together():
    parts = [from_parent(zoo("binary")), from_parent(zoo("ragged"))]
    batch = Batch.from_data_list(parts)
    inputs = attention_inputs(batch.tree)
    r = best_hierarchy({"tree": batch, "star": cut(batch, level=0)}, inputs["q"], inputs["k"])
    gap = evidence_gap(batch, inputs["q"], inputs["k"])
    difference = r.evidence[0] - r.evidence[1]
    assert r.names[0] == "star"
    torch.testing.assert_close(difference, gap.mean)


@pytest.mark.parametrize(
    ("candidates", "error", "match"),
    [
        ({}, ValueError, "'candidates' to hold at least one hierarchy"),
        (3, TypeError, r"'candidates' to be a dict or a list \(got int\)"),
        (from_parent(star(4)), TypeError, r"'candidates' to be a dict or a list \(got Hierarchy"),
        ({"a": star(4)}, TypeError, r"\"candidates\['a'\]\"|'candidates\['a'\]' to be a Hierarchy"),
        (
            {"a": from_parent(star(4)), "b": from_parent(star(5))},
            ValueError,
            r"'candidates\['b'\]' to have the 4 leaves of the first candidate \(got 5\)",
        ),
        (
            [from_parent(star(4)), from_parent(star(4), mass=[1.0, 1.0, 2.0, 1.0])],
            ValueError,
            r"'candidates\[1\]' to have the masses of the first candidate",
        ),
        (
            [from_parent(star(4)), from_clusters([[0, 0, 1, 1]], batch=[0, 0, 1, 1])],
            ValueError,
            r"'candidates\[1\]' to divide the leaves into trees as the first",
        ),
        (
            [from_parent(star(4), mass=[0.0] * 4)],
            ValueError,
            r"some leaf of positive mass \(got mass 0 in all\)",
        ),
    ],
)
def test_bad_candidates_are_named(candidates, error, match):
    q = torch.rand(4, 1, 2)
    with pytest.raises(error, match=match):
        best_hierarchy(candidates, q, q)


def test_queries_that_are_not_finite_rank_nothing():
    q = torch.rand(4, 1, 2)
    bad = q.clone()
    bad[2] = torch.nan
    with pytest.raises(ValueError, match="'q' to be finite"):
        best_hierarchy([from_parent(star(4))], bad, q)
    with pytest.raises(ValueError, match="'k' to be finite"):
        best_hierarchy([from_parent(star(4))], q, bad / 0)
