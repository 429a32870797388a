"""Every Python snippet of the README and of the guides runs, and prints what stands there."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "guides").glob("*.md"))


def snippets(page):
    pattern = r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL)


SNIPPETS = [
    pytest.param(*pair, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, pair in enumerate(snippets(page))
]


def test_the_readme_and_each_guide_have_snippets():
    assert len(snippets(PAGES[0])) >= 2
    guides = [page for page in PAGES if page.parent.name == "guides" and page.stem != "index"]
    assert len(guides) >= 7
    without = {page.stem for page in guides if not snippets(page)}
    assert without <= {"performance"}
    assert any(output for page in guides for _, output in snippets(page))


@pytest.mark.parametrize("code, expected", SNIPPETS)
def test_snippet_runs(code, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    if "init_process_group" in code:  # a group of one
        alone = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 0}
        for name, value in alone.items():
            monkeypatch.setenv(name, str(value))
    try:
        exec(compile(code, "snippet", "exec"), names)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    printed = capsys.readouterr().out
    if expected:
        assert_same_words(printed, expected)
    # What a comment promises that a line prints; it may say more after that.
    for promised in re.findall(r"print\(.*?\)  # (torch\.Size\(.*?\)|[\d ]+)", code):
        assert promised.strip() in printed
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


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_and_pages_that_a_page_names_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not link.startswith("http"):
            written = re.search(r"(project|gallery|reference)/\w+\.(md|rst)$", link)
            assert written or (page.parent / link).is_file(), link


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
