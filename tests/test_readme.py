"""Every Python snippet of the README runs."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_has_snippets():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_readme_snippet_runs(index, capsys):
    names: dict = {}
    exec(compile(SNIPPETS[index], f"README.md snippet {index}", "exec"), names)
    if "sample" in names:
        assert "torch.Size([10, 32])" in capsys.readouterr().out
    if "Block" in names:
        from hsa_geometric import Hierarchy

        data = Hierarchy(
            x=torch.randn(3, 8),
            edge_index=torch.tensor([[0, 1], [1, 2]]),
            parent=torch.tensor([3, 3, 4, 4, 4]),
        )
        assert names["Block"](8)(data).shape == (3, 8)
