"""The text example, on texts of the test's own."""

from __future__ import annotations

import json
import random

import pytest
import torch
from helpers import load_example

from hsa_geometric import Hierarchy

example = load_example("text_classification")

WORDS = {"neg": ["dull", "poor", "bad"], "pos": ["fine", "great", "good"]}


@pytest.fixture
def folder(tmp_path):
    """A folder as the Large Movie Review Dataset is, of reviews whose words tell their class."""
    draw = random.Random(0)
    for part, num in (("train", 24), ("test", 6)):
        for label, words in WORDS.items():
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(num):
                sentences = [" ".join(["It", "was", *draw.choices(words, k=4)]) for _ in range(6)]
                text = ". ".join(sentences[:3]) + ".<br /><br />" + ". ".join(sentences[3:]) + "."
                (tmp_path / part / label / f"{i}_1.txt").write_text(text)
    return tmp_path


def test_every_model_learns_what_words_tell_and_is_recorded(folder, tmp_path, capsys):
    options = {
        "data": folder, "seeds": 1, "epochs": 6, "channels": 16, "batch_words": 200,
        "rate": 2e-2, "word_dropout": 0.0, "out": tmp_path / "text.png",
        "record": tmp_path / "text.json", "progress": False,
    }  # fmt: skip
    results = example.main(**options)
    for name in example.VARIANTS:
        assert results[name]["accuracy"] == [1.0], name
        assert len(results[name]["seconds"]) == 1
    numbers = [results[name]["parameters"] for name in example.VARIANTS]
    assert max(numbers) - min(numbers) < 0.05 * max(numbers)
    assert (tmp_path / "text.png").stat().st_size > 10_000
    assert "| HSA + inner states | 1.000 ± 0.000 |" in capsys.readouterr().out

    kept = json.loads((tmp_path / "text.json").read_text())
    again = example.main(**options)  # goes on from the record, so trains nothing
    assert {name: again[name] for name in kept} == kept


def test_trees_of_reviews_are_paragraphs_sentences_and_words(folder):
    corpus = example.load(folder, 5, 2, progress=False)
    sample = corpus["train"][0]
    assert len(corpus["train"]), len(corpus["test"]) == (5, 2)
    assert sample.depth == 3 and sample.x.shape == (sample.num_nodes,)
    assert corpus["classes"] == 2


def test_first_words_keep_the_tree_above_them():
    parent = torch.tensor([4, 4, 5, 5, 6, 6, 6])
    sample = Hierarchy(parent=parent, x=torch.arange(4), y=torch.tensor([1]))
    assert example.first_words(sample, 3).parent.tolist() == [3, 3, 4, 5, 5, 5]
    assert example.first_words(sample, 4) is sample


def test_docstrings_do_not_name_their_library(monkeypatch):
    monkeypatch.setattr(example, "LIBRARIES", ("networkx",))
    texts = example.docstrings()
    assert len(texts) > 300
    assert not any("networkx" in text.lower() for text, _ in texts)


def test_what_is_missing_or_unknown_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected --data to hold train/neg"):
        example.main(data=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"Expected 'variants' among .*'RNN'"):
        example.main(variants=("RNN",))
    with pytest.raises(ValueError, match="at least 1 seed"):
        example.main(seeds=0)
