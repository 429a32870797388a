"""Sentences and paragraphs of a text as the trees of a model of text."""

import re

import pytest
import torch
from families import hidden, model_of
from torch.testing import assert_close

from hsa_geometric.adapters import replace_attention, text_tree
from hsa_geometric.adapters.replace_attention import sites_of

TEXTS = ["One two. Three four five.\n\nSix seven. Eight.", "Nine ten. Eleven twelve."]


def tokenizer(texts, longest=60):
    """Words between two special tokens, padded as one of Hugging Face does."""
    spans = [[m.span() for m in re.finditer(r"\w+|\.", text)][: longest - 2] for text in texts]
    width = max(map(len, spans)) + 2
    offsets = torch.zeros(len(texts), width, 2, dtype=torch.long)
    ids, mask = torch.ones(2, len(texts), width, dtype=torch.long).unbind()
    for row, (text, span) in enumerate(zip(texts, spans, strict=True)):
        offsets[row, 1 : len(span) + 1] = torch.tensor(span)
        words = [5 + sum(map(ord, text[a:b])) % 40 for a, b in span]
        ids[row, : len(span) + 2] = torch.tensor([0, *words, 2])
        mask[row, len(span) + 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "offset_mapping": offsets}


def test_trees_of_a_padded_batch_by_hand():
    batch = tokenizer(TEXTS)
    tree = text_tree(TEXTS, batch["offset_mapping"], batch["attention_mask"])
    # 14 tokens, four sentences, two paragraphs, the root
    sentences = [14] * 3 + [15] * 4 + [16] * 3 + [17] * 2
    one = [20, *sentences, 20, 18, 18, 19, 19, 20, 20, 20]
    two = [11, *[8] * 3, *[9] * 3, 11, 10, 10, 11, 11]
    assert tree.parent.tolist() == one + [len(one) + p for p in two]


def test_the_model_attends_along_them_and_meets_special_tokens_one_by_one():
    model, batch = model_of("bert"), tokenizer(TEXTS)
    offsets = batch.pop("offset_mapping")
    mask = batch["attention_mask"].bool()
    tree = text_tree(TEXTS, offsets, mask)
    replace_attention(model, hierarchy=tree, sinks=(0, -1))
    found = hidden(model, batch, mask)
    replace_attention(model, hierarchy=tree, sinks=(), special_ids=(0, 2))
    assert torch.equal(hidden(model, batch, mask), found)
    seen = []
    site = next(iter(sites_of(model).values()))
    site.record = lambda site, rows: seen.append(rows)
    model(**batch)
    site.record = None
    _, lists = site.setting.structure(seen[0], "here")
    pairs = set(map(tuple, lists.block_ids.t().tolist()))
    nodes, first = tree.order[tree.leaf], 0
    for length in mask.sum(1).tolist():
        own = nodes[first : first + length].tolist()
        assert all((s, t) in pairs and (t, s) in pairs for s in (own[0], own[-1]) for t in own)
        first += length
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = text_tree(TEXTS[row : row + 1], offsets[row : row + 1, :length].tolist())
        replace_attention(model, hierarchy=alone, sinks=(0, -1), special_ids=())
        inputs = {"input_ids": batch["input_ids"][row : row + 1, :length]}
        part = slice(0, length) if row == 0 else slice(-length, None)
        assert_close(hidden(model, inputs)[0], found[part], atol=1e-5, rtol=1e-5)


def test_a_text_cut_short_has_the_units_of_what_is_left():
    batch = tokenizer(TEXTS[:1], longest=8)
    tree = text_tree(TEXTS[:1], batch["offset_mapping"], levels=["sentence"])
    assert tree.parent.tolist() == [10, *[8] * 3, *[9] * 3, 10, 10, 10, 10]


def test_what_does_not_fit_is_refused():
    batch = tokenizer(TEXTS)
    with pytest.raises(ValueError, match=r"as 'texts', at least one \(got 2, 1 and 1\)"):
        text_tree(TEXTS[:1], batch["offset_mapping"])
    with pytest.raises(ValueError, match="within the 24 characters"):
        text_tree(TEXTS[::-1], batch["offset_mapping"], batch["attention_mask"])
    model = model_of("bert")
    tree = text_tree(TEXTS, batch.pop("offset_mapping"), batch["attention_mask"])
    replace_attention(model, hierarchy=tree, sinks=(1,))
    with pytest.raises(ValueError, match=r"directly below the root .* in 'encoder.layer.0"):
        model(**batch)
