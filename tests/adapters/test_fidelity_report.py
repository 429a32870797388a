"""How near replaced layers are to softmax attention."""

import os

import matplotlib
import pytest
import torch
from families import batch_of, hidden, model_of
from torch.testing import assert_close

from hsa_geometric.adapters import fidelity_report, replace_attention, restore_attention
from hsa_geometric.adapters.replace_attention import sites_of
from hsa_geometric.functional import attention_matrix

matplotlib.use("Agg")


def test_figures_are_those_of_the_dense_matrices():
    model = replace_attention(model_of("bert"), layers=[1], hierarchy=(4, 8))
    inputs, mask = batch_of("bert", (20, 13))
    (row,) = fidelity_report(model, [inputs]).rows
    seen = []
    site = next(site for site in sites_of(model).values() if site.setting)
    site.record = lambda site, rows: seen.append(rows)
    restored = hidden(model, inputs, mask)
    site.record = None
    (s,) = seen
    tree, lists = site.setting.structure(s, "here")
    q, k, v = (x.detach().double() for x in (s.q, s.k, s.v))
    theta = attention_matrix(q, k, tree, lists=lists, scale=s.scale)
    logit = s.scale * torch.einsum("ihd,jhd->hij", q, k)
    number = torch.repeat_interleave(s.lengths)
    logit = logit.masked_fill(number[:, None] != number, -torch.inf)
    soft = logit.softmax(-1)
    kl = torch.where(theta > 0, theta * (theta / soft).log(), 0).sum(-1).mean(-1)
    assert_close(row.kl, kl)
    assert_close(row.variation, (theta - soft).abs().sum(-1).mean(-1) / 2)
    ours, exact = (torch.einsum("hij,jhd->ihd", x, v) for x in (theta, soft))
    cosine = torch.nn.functional.cosine_similarity(ours, exact, dim=-1).mean(0)
    assert_close(row.cosine, cosine, atol=1e-6, rtol=0)
    error = float((ours - exact).square().sum() / exact.square().sum())
    assert row.error == pytest.approx(error, rel=1e-4)
    assert (row.index, row.logits, row.full) == (1, lists.num_logits, 20**2 + 13**2)
    assert row.full_flops == 4 * 2 * 16 * row.full
    assert row.flops == 4 * (2 * 16 * row.logits + 4 * 24 * tree.num_nodes)
    assert_close(restored, hidden(restore_attention(model), inputs, mask))  # attended as before


def test_a_star_differs_in_nothing_and_the_model_is_as_it_was():
    model = replace_attention(model_of("bert"), hierarchy="star").train()
    model.encoder.layer[1].eval()
    inputs, mask = batch_of("bert")
    report = fidelity_report(model, [inputs, inputs])
    assert [row.index for row in report.rows] == [0, 1, 2]
    for row in report.rows:
        assert row.kl.abs().max() < 1e-9
        assert row.error < 1e-9
        assert row.logits == row.full == 2 * (40**2 + 23**2 + 31**2)
    assert model.training
    assert not model.encoder.layer[1].training
    assert all(site.record is None for site in sites_of(model).values())
    assert hidden(model, inputs, mask).isfinite().all()


def test_it_prints_a_row_and_draws_a_row_for_each_layer():
    model = replace_attention(model_of("bert"), layers=[0, 2], hierarchy=(4, 8))
    inputs, _ = batch_of("bert")
    report = fidelity_report(model, [inputs], exact=False)
    text = str(report).splitlines()
    assert [line.split()[0] for line in text] == ["layer", "0", "2"]
    assert report.rows[0].kl.isnan().all()
    assert report.rows[0].memory != report.rows[0].memory
    ax = fidelity_report(model, [inputs]).plot()
    assert ax.images[0].get_array().shape == (2, 4)
    with pytest.raises(ValueError, match="a report of some layers"):
        fidelity_report(restore_attention(model), [inputs]).plot()
    with pytest.raises(ValueError, match="'batches' to hold at least one"):
        fidelity_report(model, [])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no Linux")
def test_memory_is_read_off_the_system():
    model = replace_attention(torch.nn.MultiheadAttention(1024, 1, batch_first=True), hierarchy=16)
    x = torch.randn(1, 512, 1024)

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = model

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)

    (row,) = fidelity_report(Own(), [x]).rows
    output = 4 * x.numel()
    for memory in (row.memory, row.full_memory):
        assert 0.9 * output < memory < 20 * output
