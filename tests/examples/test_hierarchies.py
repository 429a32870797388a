"""The example on sources of hierarchies, and the table of the README that shows it."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import load_example

from hsa_geometric import Hierarchy, TreeIndex, builders

ROOT = Path(__file__).parents[2]
SECTION = "## From your data to a hierarchy"


def readme_rows():
    """What you have, what you write and what it looks like, as the README's table has them."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    assert rows[0] == ("You have", "You write", "What it looks like")
    return rows[1:]


example = load_example("hierarchies")
ROWS = readme_rows()
IDS = [re.search(r"/(\w+)\.png", row[2])[1] for row in ROWS]


def in_backticks(cell):
    return re.findall(r"`(.+?)`", cell)


def free_names(line):
    return {node.id for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)}


def test_the_readme_has_the_table_of_the_example():
    assert example.readme_table() in (ROOT / "README.md").read_text(encoding="utf-8")
    assert list(example.SOURCES) == IDS
    assert 14 <= len(ROWS) <= 20


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_line_of_the_readme_makes_a_valid_hierarchy(row):
    _, code, picture = row
    path = re.search(r'src="([^"]+)"', picture)[1]
    assert (ROOT / path).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / path).stat().st_size < 60_000
    source = example.SOURCES[Path(path).stem]
    lines = in_backticks(code)
    assert lines and tuple(lines) == source.code

    names = {name: getattr(builders, name) for name in builders.__all__}
    for line in lines:
        h = eval(line, names | source.inputs())
        assert isinstance(h, Hierarchy)
        assert h.validate()
        assert h.num_nodes > 1
        assert h.num_tree_nodes > h.num_nodes + 1  # more than a star


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_the_readme_says_where_the_variables_of_a_line_come_from(row):
    has, code, _ = row
    named = set(in_backticks(has)) | set(builders.__all__) | {"len", "pyvista"}
    for line in in_backticks(code):
        assert free_names(line) <= named


def test_every_builder_is_in_the_table():
    used = set().union(*(free_names(line) for row in ROWS for line in in_backticks(row[1])))
    assert {name for name in builders.__all__ if name.startswith("from_")} <= used


def test_pictures_are_small_together():
    folder = ROOT / "examples" / "figures" / "hierarchies"
    assert {path.stem for path in folder.iterdir()} == set(example.SOURCES)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 700_000


def test_main_draws_every_picture_and_returns_the_numbers(tmp_path, capsys):
    folder = tmp_path / "new" / "figures"
    numbers = example.main(folder=folder, progress=False)
    assert {path.stem for path in folder.iterdir()} == set(example.SOURCES)
    for path in folder.iterdir():
        assert path.read_bytes()[16:24] == (600).to_bytes(4, "big") + (400).to_bytes(4, "big")
    assert set(numbers) == {line for source in example.SOURCES.values() for line in source.code}
    assert numbers["from_parent(parent, x=x)"] == {
        "leaves": 5,
        "nodes": 8,
        "depth": 2,
        "families": 3,
    }
    printed = capsys.readouterr().out
    assert "| line of code | leaves | nodes | depth | families |" in printed
    assert "| `from_parent(parent, x=x)` | 5 | 8 | 2 | 3 |" in printed
    assert str(folder) in printed


def test_main_refuses_an_unknown_source():
    with pytest.raises(ValueError, match=r"names out of \['points'.*got \['poinst'\]"):
        example.main(("poinst",))


@pytest.mark.parametrize("name", example.SOURCES)
def test_inputs_are_the_same_each_time_and_leave_the_random_state_alone(name):
    source = example.SOURCES[name]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = source.build(source.inputs())
    assert torch.equal(torch.rand(3), expected)
    for h, again in zip(first, source.build(source.inputs()), strict=True):
        assert torch.equal(h.parent, again.parent)


def test_colors_have_a_hue_for_each_cluster_and_a_shade_for_each_part():
    rgb = example.colors(torch.tensor([0, 0, 1, 0]), torch.tensor([5, 3, 4, 5]))
    plain = example.colors(torch.tensor([0, 1]))
    assert torch.equal(rgb[1], plain[0])  # the first part is the hue itself
    assert torch.equal(rgb[2], plain[1])
    assert torch.equal(rgb[0], rgb[3])
    assert (rgb[0] > rgb[1]).all()


def test_tidy_puts_leaves_side_by_side_and_parents_above_the_middle_of_their_children():
    h = Hierarchy(parent=torch.tensor([5, 4, 5, 4, 6, 6, 6]))
    x, level = example.tidy(h)
    assert x.tolist() == [2.0, 0.0, 3.0, 1.0, 0.5, 2.5, 1.5]
    assert level.tolist() == [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.0]


def test_branches_number_the_children_of_the_root():
    h = Hierarchy(parent=torch.tensor([4, 4, 5, 6, 5, 6, 6]))  # ((0, 1), 2), 3
    assert TreeIndex.from_parent(h.parent).depth == 3
    assert example.branches(h).tolist() == [1, 1, 1, 0, 1, 1, 2]


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    with pytest.raises(ImportError, match=r'pip install "hsa_geometric\[examples\]"'):
        example._require("no_such_package")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs 'sklearn': .*hsa_geometric\[examples\]"):
        example.main(("parent",), tmp_path)
