"""The example on a small model with random weights, and the pages it reads."""

import gzip
import re
from collections import Counter

import pytest
import torch
import zero_shot
from transformers import BertConfig, BertModel

SOURCE = """.TH FOO 1
.SH NAME
foo{n} \\- \\fBdoes\\fR the thing number {n}
.SH "SYNOPSIS"
.B foo{n}
.\\" a comment
.SH DESCRIPTION
.PP
Foo{n} is \\(em a \\-x tool.
"""


@pytest.fixture
def pages(tmp_path):
    for section in zero_shot.SECTIONS:
        folder = tmp_path / f"man{section}"
        folder.mkdir()
        for n in range(8):
            text = SOURCE.format(n=n + 10 * int(section))
            text += " ".join(f"{section}word{i % (n + 2)}" for i in range(500))
            (folder / f"foo{n + 10 * int(section)}.{section}.gz").write_bytes(
                gzip.compress(text.encode())
            )
        (folder / f"gcloud_x.{section}.gz").write_bytes(gzip.compress(SOURCE.encode()))
    return tmp_path


def test_pages_are_read_without_macros_and_without_their_own_name(pages):
    found = zero_shot.manual(pages)
    assert len(found) == 8 * len(zero_shot.SECTIONS)
    assert found != sorted(found)
    page = next(p for p in found if p.name == "foo13")
    assert page.section == "1"
    assert page.query == "foo13 - does the thing number 13"
    assert page.text.startswith("SYNOPSIS this\n\nDESCRIPTION\n\nthis is a -x tool. 1word0 1word1")


def test_frozen_pages_are_free_and_of_three_sections():
    found = zero_shot.manual(zero_shot.FROZEN)
    assert len(found) == 130
    assert Counter(p.section for p in found) == {"2": 60, "3": 50, "7": 20}
    licence = "SPDX-License-Identifier: Linux-man-pages-copyleft"
    assert all(licence in source for _, _, source in zero_shot.sources(zero_shot.FROZEN))
    assert all("this" in p.text and "\n\n" in p.text for p in found)


def test_measures_of_a_case_done_by_hand():
    targets = torch.nn.functional.normalize(torch.eye(20) + 0.01, dim=1)
    queries = targets.clone()
    queries[0] = targets[1] * 0.9 + targets[0] * 0.1  # finds another first
    found = zero_shot.measure(queries, targets, targets, ["a", "b"] * 10)
    assert found["recall@1"] == pytest.approx(0.95)
    assert found["recall@10"] == 1
    assert found["MRR"] == pytest.approx(19.5 / 20)
    assert found["cosine"] == pytest.approx(1)
    assert found["low"] < found["MRR"] < found["high"] <= 1


def test_every_row_of_the_table_is_kept_and_seeds_are_added(pages, tmp_path, monkeypatch, capsys):
    def tokenizer(texts, max_length=64, **_):
        offsets = [[m.span() for m in re.finditer(r"\S+", text)][:64] for text in texts]
        width = max(map(len, offsets))
        found = {"input_ids": torch.zeros(len(texts), width, dtype=torch.long)}
        found["attention_mask"] = torch.zeros_like(found["input_ids"])
        found["offset_mapping"] = torch.zeros(len(texts), width, 2, dtype=torch.long)
        for row, (text, spans) in enumerate(zip(texts, offsets, strict=True)):
            ids = [2 + sum(map(ord, text[a:b])) % 90 for a, b in spans]
            found["input_ids"][row, : len(ids)] = torch.tensor(ids)
            found["attention_mask"][row, : len(ids)] = 1
            found["offset_mapping"][row, : len(ids)] = torch.tensor(spans)
        return found

    def load():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=6, num_attention_heads=4,
            intermediate_size=32, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return BertModel(config).eval(), tokenizer

    monkeypatch.setattr(zero_shot, "load", load)
    for options in (zero_shot.VARIANTS | zero_shot.LEARNED).values():
        if options and "budget" in options:
            monkeypatch.setitem(options, "budget", 0.9)
    monkeypatch.setitem(zero_shot.VARIANTS["paragraphs, sentences, sinks"], "sinks", ())
    options = {"pages": 32, "train": 8, "steps": 2, "source": pages}
    options["save"] = tmp_path / "rows.json"
    table = zero_shot.main(**options)
    names = [*zero_shot.VARIANTS, *zero_shot.LEARNED]
    assert list(table) == names + [f"{name}, 2 steps" for name in zero_shot.LEARNED]
    for name, seeds in table.items():
        assert list(seeds) == ["0"]
        row = seeds["0"]
        assert 0 <= row["recall@1"] <= row["MRR"] <= 1
        assert row["recall@1"] <= row["recall@10"]
        assert 0 < row["share"] <= 1
        assert (row["training seconds"] > 0) == ("steps" in name)
    softmax = table["softmax"]["0"]
    assert (softmax["share"], softmax["layers"]) == (1, 0)
    assert softmax["cosine"] == pytest.approx(1)
    assert capsys.readouterr().out.count("\n| ") == 2 * (len(table) + 1)

    more = zero_shot.main(**options, seeds=2, rows=["all layers"])
    assert [name for name, seeds in more.items() if list(seeds) == ["0", "1"]] == list(table)[-1:]
    assert all(more[name]["0"] == seeds["0"] for name, seeds in table.items())
    assert capsys.readouterr().out.count("\n| ") == 1 + 1 + len(table) + 1
    with pytest.raises(ValueError, match="name another file"):
        zero_shot.main(**{**options, "pages": 31})
