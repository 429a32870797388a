import math

import pytest
import torch
from helpers import load_example

images = load_example("quadtree_images")


def test_main_compares_equal_models_and_saves_a_picture(tmp_path, capsys):
    out = tmp_path / "new" / "quadtree.png"
    results = images.main(seeds=1, epochs=1, images=60, out=out, progress=False)
    assert out.stat().st_size > 10_000 and results["picture"] == str(out)
    counts = [results[name]["parameters"] for name in images.VARIANTS]
    assert max(counts) <= 1.01 * min(counts)
    for name in images.VARIANTS:
        assert len(results[name]["accuracy"]) == 1 and math.isfinite(results[name]["mean"])
    assert "| digits | accuracy | parameters | seconds of CPU per run |" in capsys.readouterr().out


def test_seconds_stand_in_for_epochs(tmp_path, capsys):
    out = tmp_path / "quadtree.png"
    results = images.main(seeds=1, seconds=1, images=60, out=out, progress=False)
    for name in images.VARIANTS:
        assert 1 <= results[name]["seconds"] < 5
    assert "1 seeds, 1 s each" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Expected 'seconds' to be at least 1"):
        images.main(seconds=0, progress=False)


def test_pixels_know_their_place():
    x, y = images.load()
    assert x.shape == (1797, 64, 33) and y.shape == (1797,)
    place = x[5, 19]  # row 2, column 3
    assert place[1:17].nonzero().view(-1).tolist() == [2, 8 + 3]
    torch.testing.assert_close(place[17:], place[0] * place[1:17])


@pytest.mark.parametrize("variant", images.VARIANTS)
def test_attention_is_an_image_that_sums_to_one(variant):
    x, _ = images.load()
    model = images.make_model(variant).eval()
    weights = images.attention_from(model, x[0], 9)
    assert weights.shape == (8, 8)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    if variant != "flat attention":  # all pixels of another quarter have one weight
        torch.testing.assert_close(weights[4:, 4:], weights[4, 4].expand(4, 4))


def test_main_refuses_zero_seeds():
    with pytest.raises(ValueError, match="at least 1 seed and 1 epoch"):
        images.main(seeds=0, progress=False)
