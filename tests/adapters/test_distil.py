"""A replaced model learns to imitate its softmax form."""

import pytest
import torch
from families import model_of
from torch.nn.functional import cosine_similarity

from hsa_geometric.adapters import distil, replace_attention, restore_attention


def pooled(output, batch):
    return output.last_hidden_state


def texts_of(count, length=40):
    torch.manual_seed(5)
    return [{"input_ids": torch.randint(3, 50, (1, length))} for _ in range(count)]


def replaced(**options):
    return replace_attention(model_of("bert"), **{"hierarchy": (8,), "sinks": (), **options})


def test_it_comes_nearer_to_softmax_on_texts_it_has_not_seen():
    model, apart = replaced(), texts_of(30)[24:]
    softmax = model_of("bert")
    with torch.no_grad():
        wanted = [pooled(softmax(**text), text) for text in apart]

    def cosine():
        with torch.no_grad():
            found = [pooled(model(**text), text) for text in apart]
        return float(cosine_similarity(torch.cat(found), torch.cat(wanted)).mean())

    before = cosine()
    found = distil(model, texts_of(30)[:24], embed=pooled, steps=40, every=20, rate=1e-4)
    assert found.steps == 40
    assert 1 - cosine() < 0.9 * (1 - before)
    assert found.best == min(loss for _, _, loss in found.history) < found.history[0][2]
    assert not model.training


def test_runs_repeat_and_go_on_from_a_checkpoint(tmp_path):
    texts, path = texts_of(10), tmp_path / "state.pt"
    options = {"embed": pooled, "every": 5, "rate": 1e-3, "patience": 100}
    one, two, other = replaced(), replaced(), replaced()
    found = distil(one, texts, steps=20, **options)
    assert distil(two, texts, steps=20, **options).history[-1][2] == found.history[-1][2]

    class Stop(Exception):
        pass

    calls = 0

    def stopping(output, batch):
        nonlocal calls
        calls += 1
        if calls > 10 + 1 + 12 + 2:  # softmax, before, 12 steps and two checks between
            raise Stop
        return pooled(output, batch)

    with pytest.raises(Stop):
        distil(other, texts, steps=20, checkpoint=path, **{**options, "embed": stopping})
    again = replaced()
    resumed = distil(again, texts, steps=20, checkpoint=path, **options)
    assert [x[0] for x in resumed.history] == [0, 5, 10, 15, 20]
    assert [x[2] for x in resumed.history] == [x[2] for x in found.history]
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, one.state_dict()[name]), name


def test_it_stops_where_nothing_is_gained_and_keeps_the_best():
    model = replaced()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = distil(model, texts_of(6), embed=pooled, steps=500, every=1, rate=1e3, patience=3)
    assert found.steps == 3
    assert found.best == found.history[0][2]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_time_ends_it_and_strings_are_tokenized(capsys):
    model = replaced()

    def tokenizer(texts):
        return {"input_ids": torch.tensor([[3 + ord(c) % 40 for c in text] for text in texts])}

    texts = [f"a text of number {i}" for i in range(8)]
    found = distil(model, texts, tokenizer=tokenizer, embed=pooled, seconds=0.5, progress=True)
    assert found.seconds >= 0.5
    assert "distillation" in capsys.readouterr().err


def test_what_cannot_be_learned_from_is_refused():
    texts = texts_of(3)
    with pytest.raises(ValueError, match="to have replaced attention"):
        distil(restore_attention(replaced()), texts, embed=pooled)
    with pytest.raises(ValueError, match="at least two"):
        distil(replaced(), texts[:1], embed=pooled)
    with pytest.raises(TypeError, match="Expected a 'tokenizer'"):
        distil(replaced(), ["a", "b"], embed=pooled)
    with pytest.raises(ValueError, match="'held_out' to be in"):
        distil(replaced(), texts, embed=pooled, held_out=1.0)
    with pytest.raises(ValueError, match="'every' to be at least 1"):
        distil(replaced(), texts, embed=pooled, every=0)
