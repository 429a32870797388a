from itertools import pairwise

from helpers import load_example

example = load_example("interaction_lists")


def test_more_logits_are_nearer_to_softmax_and_lists_beat_siblings(tmp_path):
    found = example.main(count=150, shown=32, out=tmp_path / "lists.png", progress=False)
    assert found["picture"].stat().st_size > 10_000
    for name in ("near", "heaviest"):
        gaps = [gap for _, gap in found[name]]
        assert all(a >= b for a, b in pairwise(gaps))
    (cost, far), (_, ours) = found["siblings"][3], found["heaviest"][1]
    assert found["heaviest"][1][0] < cost and ours < far
