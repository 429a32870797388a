import math
import random

import pytest
import torch
from helpers import load_example
from torch_geometric.data import Batch

image_text = load_example("image_text")


def test_main_compares_equal_models_and_saves_a_picture(tmp_path, capsys):
    out = tmp_path / "new" / "image_text.png"
    results = image_text.main(1, 1, samples=60, limit=90, out=out, progress=False)
    assert out.stat().st_size > 10_000 and results["picture"] == str(out)
    counts = [results[name]["parameters"] for name in image_text.VARIANTS]
    assert max(counts) <= 1.01 * min(counts)
    for name in image_text.VARIANTS:
        assert len(results[name]["accuracy"]) == 1 and math.isfinite(results[name]["mean"])
    assert "| digits with captions | accuracy | parameters |" in capsys.readouterr().out


def test_captions_tell_digits_apart_but_for_wrong_words():
    assert len(set(image_text.ABOUT)) == 10
    draw = random.Random(0)
    for digit, about in enumerate(image_text.ABOUT):
        words = image_text.caption(digit, 0.0, draw).replace(",", "").split()
        assert sorted(words) == sorted([*about.split(), "and"])
    texts = [image_text.caption(3, 1.0, draw) for _ in range(50)]
    assert any("even" in text for text in texts) and any("large" in text for text in texts)


def test_a_sample_is_16_patches_on_a_quadtree_and_7_words():
    data, captions = image_text.load(3)
    h = data[0]
    assert h.leaf_type.tolist() == [0] * 16 + [1] * 7
    assert h.x_patch.shape == (16, 20) and h.x_word.shape == (7,)
    # the root, image and caption, and four quarters
    assert h.num_tree_nodes == 23 + 7
    assert image_text.SIGNAL.to_nested(h)["caption"] == captions[0]


@pytest.mark.parametrize("variant", image_text.VARIANTS)
def test_a_batch_is_as_one_by_one(variant):
    data, _ = image_text.load(3)
    model = image_text.make_model(variant).eval()
    together = model(Batch.from_data_list(data[:3]))
    alone = torch.cat([model(Batch.from_data_list([h])) for h in data[:3]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_main_refuses_zero_epochs():
    with pytest.raises(ValueError, match="at least 1 seed and 1 epoch"):
        image_text.main(epochs=0, limit=30, progress=False)
