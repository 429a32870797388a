"""Layers, trees and lists are chosen from data."""

import pytest
import torch
from families import batch_of, hidden, model_of

from hsa_geometric.adapters import Calibration, calibrate, fidelity_report, replace_attention

CANDIDATES = {"windows": [(4, 8), (8,)], "angles": [None, 0.7, 0.3]}


@pytest.fixture(scope="module")
def model():
    return model_of("bert")


@pytest.fixture(scope="module")
def batch():
    return batch_of("bert")[0]


def test_a_budget_is_kept_and_more_of_it_never_harms(model, batch):
    errors = []
    for budget in (0.45, 0.6, 0.8, 1.0):
        found = calibrate(model, [batch], budget=budget, **CANDIDATES)
        assert found.logits <= budget
        assert [t.layer for t in found.chosen] == [0, 1, 2]
        errors.append(sum(t.error for t in found.chosen))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0
    assert errors[-1] == 0  # all keep softmax
    assert {t.windows for t in found.chosen} == {None}


def test_a_tolerance_gives_the_fewest_logits_that_keep_it(model, batch):
    found = calibrate(model, [batch], tolerance=0.02, **CANDIDATES)
    for t in found.chosen:
        assert t.error <= 0.02
        cheaper = [x for x in found.trials if x.layer == t.layer and x.logits < t.logits]
        assert all(x.error > 0.02 for x in cheaper)
    assert len(found.trials) == 3 * (6 + 1)


def test_so_many_layers_are_replaced_that_lose_least(model, batch):
    low = calibrate(model, [batch], budget=0.6, **CANDIDATES)
    two = calibrate(model, [batch], budget=0.6, num_layers=2, **CANDIDATES)
    at = {
        layer: min(t.error for t in low.trials if t.layer == layer and t.logits <= 0.6)
        for layer in range(3)
    }
    assert [t.layer for t in two.chosen] == sorted(sorted(at, key=at.get)[:2])
    assert two.logits <= 0.6
    loose = calibrate(model, [batch], tolerance=0.02, num_layers=1, **CANDIDATES)
    every = calibrate(model, [batch], tolerance=0.02, **CANDIDATES)
    assert loose.chosen == [min(every.chosen, key=lambda t: t.logits)]


def test_what_is_applied_is_what_was_measured(model, batch):
    before = hidden(model, batch)
    found = calibrate(model, [batch], budget=0.6, layers=[0, 2], exact=True, **CANDIDATES)
    assert torch.equal(hidden(model, batch), before)  # calibrate leaves the model
    other = found.apply(model_of("bert"))
    report = fidelity_report(other, [batch])
    replaced = {t.layer: t for t in found.chosen if t.windows is not None}
    assert {row.index for row in report.rows} == set(replaced) != set()
    for row in report.rows:
        t = replaced[row.index]
        assert t.error == pytest.approx(row.error, rel=1e-6)
        assert t.kl == pytest.approx(float(row.kl.mean()), rel=1e-6)
        assert t.logits == pytest.approx(row.logits / row.full)


def test_saved_and_loaded_it_chooses_the_same_and_it_is_deterministic(model, batch, tmp_path):
    found = calibrate(model, [batch], budget=0.5, sinks=(0,), **CANDIDATES)
    found.save(tmp_path / "choice.json")
    assert Calibration.load(tmp_path / "choice.json") == found
    assert calibrate(model, [batch], budget=0.5, sinks=(0,), **CANDIDATES) == found
    lines = str(found).splitlines()
    assert lines[0].startswith("layer  windows")
    assert lines[-1] == f"logits together: {100 * found.logits:.3g} %"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of 'budget' and 'tolerance'"),
        ({"budget": 0.1, "tolerance": 0.1}, "one of 'budget' and 'tolerance'"),
        ({"budget": 1.5}, "at most 1"),
        ({"tolerance": -1.0}, "'tolerance' to be positive"),
        ({"budget": 0.5, "windows": []}, "to hold candidates"),
        ({"budget": 0.001}, "least of the candidates"),
        ({"budget": 0.5, "layers": [7]}, "'layers' to be in"),
        ({"budget": 0.5, "num_layers": 4}, "'num_layers' to be at most the 3 layers"),
        ({"budget": 0.5, "num_layers": 0}, "'num_layers' to be at least 1"),
    ],
)
def test_wrong_options_are_refused_and_leave_the_model(model, batch, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(model, [batch], **{**CANDIDATES, **options})
    assert model.config._attn_implementation == "sdpa"


def test_a_replaced_model_is_refused(batch):
    with pytest.raises(ValueError, match="without replacements"):
        calibrate(replace_attention(model_of("bert")), [batch], budget=0.5)
