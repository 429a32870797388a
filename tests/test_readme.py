"""Every Python snippet of the README runs, and prints what the README says."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(
    r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README.read_text(encoding="utf-8"), re.DOTALL
)


def test_the_readme_has_snippets():
    assert len(SNIPPETS) >= 5
    assert any(output for _, output in SNIPPETS)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_readme_snippet_runs(index, capsys):
    code, expected = SNIPPETS[index]
    names: dict = {}
    exec(compile(code, f"README.md snippet {index}", "exec"), names)
    printed = capsys.readouterr().out
    if expected:
        assert_same_words(printed, expected)
    for promised in re.findall(r"print\(.*?\)  # (torch\.Size\(.*?\))$", code, re.MULTILINE):
        assert promised in printed
    if "sample" in names:
        assert "torch.Size([10, 32])" in printed
    if "rebalance" in names:
        h, graph = names["h"], names["graph"]
        assert h.depth <= 6 and h.tree.family_ptr.diff().max() <= 8
        assert graph.num_nodes == names["mean"].size(0) < h.num_nodes == names["x"].size(0)
        torch.testing.assert_close(graph.x, names["mean"])
    if "Block" in names:
        from hsa_geometric import Hierarchy

        data = Hierarchy(
            x=torch.randn(3, 8),
            edge_index=torch.tensor([[0, 1], [1, 2]]),
            parent=torch.tensor([3, 3, 4, 4, 4]),
        )
        assert names["Block"](8)(data).shape == (3, 8)


def assert_same_words(printed, expected):
    """The same words; numbers within two percent, as they depend on the machine's rounding."""
    printed, expected = printed.split(), expected.split()
    assert len(printed) == len(expected)
    for word, other in zip(printed, expected, strict=True):
        try:
            assert float(word.replace(",", "")) == pytest.approx(
                float(other.replace(",", "")), rel=0.02
            )
        except ValueError:
            assert word == other
