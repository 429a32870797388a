"""The example on a small model with random weights, and the pages it reads."""

import gzip
from types import SimpleNamespace

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
    assert page.text.startswith("SYNOPSIS this DESCRIPTION this is a -x tool. 1word0 1word1")


def test_python_documents_itself_where_there_are_no_pages():
    found = zero_shot.standard_library()
    assert len(found) > 150
    assert len({p.query for p in found}) == len(found)
    assert all(p.name.lower() not in p.text.lower() for p in found)


def test_measures_of_a_case_done_by_hand():
    targets = torch.nn.functional.normalize(torch.eye(20) + 0.01, dim=1)
    queries = targets.clone()
    queries[0] = targets[1] * 0.9 + targets[0] * 0.1  # finds another first
    found = zero_shot.measure(queries, targets, targets, ["a", "b"] * 10)
    assert found["recall@1"] == pytest.approx(0.95)
    assert found["recall@10"] == 1
    assert found["MRR"] == pytest.approx(19.5 / 20)
    assert found["cosine"] == pytest.approx(1)
    low, high = found["MRR interval"]
    assert low < found["MRR"] < high <= 1


def test_every_row_of_the_table(pages, monkeypatch, capsys):
    def tokenizer(texts, max_length=64, **_):
        ids = [[2 + hash_of(word) for word in text.split()][:64] for text in texts]
        width = max(map(len, ids))
        mask = [[1] * len(x) + [0] * (width - len(x)) for x in ids]
        ids = [x + [0] * (width - len(x)) for x in ids]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def hash_of(word):
        return sum(map(ord, word)) % 90

    def load():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=99, hidden_size=32, num_hidden_layers=6, num_attention_heads=4,
            intermediate_size=32, max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        return BertModel(config).eval(), tokenizer

    monkeypatch.setattr(zero_shot, "load", load)
    table = zero_shot.main(pages=24, train=8, seconds=0.3, budget=0.9, source=pages)
    assert list(table)[: len(zero_shot.VARIANTS)] == list(zero_shot.VARIANTS)
    names = {*zero_shot.VARIANTS, *zero_shot.LEARNED}
    assert names < set(table)
    assert len(table) == len(names) + 1 + len(zero_shot.LEARNED)
    rows = [
        SimpleNamespace(**{k.replace("@", ""): v for k, v in r.items()}) for r in table.values()
    ]
    assert rows[0].cosine == pytest.approx(1)
    assert rows[0].share == 1
    for row in rows:
        assert 0 <= row.recall1 <= row.recall10 <= 1
        assert row.recall1 <= row.MRR <= row.recall10
        assert 0 < row.share <= 1
    assert capsys.readouterr().out.count("\n| ") == len(table) + 1
