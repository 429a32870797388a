"""The example on sources of hierarchies, and the table of the README that shows it."""

import ast
import re
from pathlib import Path

import pytest
import torch
from helpers import load_example

from hsa_geometric import Hierarchy, builders

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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All pictures, in a folder that was not there, and the hierarchies."""
    folder = tmp_path_factory.mktemp("figures") / "new" / "figures"
    return folder, example.main(folder=folder, progress=False)


def test_every_row_of_the_readme_is_drawn_from_its_own_lines():
    assert list(example.SOURCES) == IDS and 14 <= len(ROWS) <= 20
    code = {name: in_backticks(row[1]) for name, row in zip(IDS, ROWS, strict=True)}
    assert example.lines_of_code() == code and all(code.values())


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_line_of_the_readme_makes_a_valid_hierarchy(row, drawn):
    _, code, picture = row
    path = ROOT / re.search(r'src="([^"]+)"', picture)[1]
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 60_000
    for line in in_backticks(code):
        h = drawn[1][line]
        assert isinstance(h, Hierarchy) and h.validate()
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


def test_main_draws_every_picture_and_returns_the_hierarchies(drawn):
    folder, found = drawn
    assert {path.stem for path in folder.iterdir()} == set(example.SOURCES)
    for path in folder.iterdir():
        assert path.read_bytes()[16:24] == (600).to_bytes(4, "big") + (400).to_bytes(4, "big")
    assert list(found) == [line for row in ROWS for line in in_backticks(row[1])]
    assert found["from_parent(parent, x=x)"].parent.tolist() == [5, 5, 6, 6, 6, 7, 7, 7]


def test_main_refuses_an_unknown_source():
    with pytest.raises(ValueError, match=r"names out of \['points'.*got \['poinst'\]"):
        example.main(("poinst",))


@pytest.mark.parametrize("name", example.SOURCES)
def test_inputs_are_the_same_each_time_and_leave_the_random_state_alone(name, drawn):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    again = example.build(name, example.SOURCES[name].inputs())
    assert torch.equal(torch.rand(3), expected)
    for line, h in again.items():
        assert torch.equal(h.parent, drawn[1][line].parent)


def test_colors_have_a_hue_for_each_cluster_and_a_shade_for_each_part():
    rgb = example.colors(torch.tensor([0, 0, 1, 0]), torch.tensor([5, 3, 4, 5]))
    plain = example.colors(torch.tensor([0, 1]))
    assert torch.equal(rgb[1], plain[0])  # the first part is the hue itself
    assert torch.equal(rgb[2], plain[1])
    assert torch.equal(rgb[0], rgb[3])
    assert (rgb[0] > rgb[1]).all()


def test_nodes_stand_over_the_middle_of_their_leaves_in_the_colour_of_the_roots_children():
    x, rgb = example.nodes(Hierarchy(parent=torch.tensor([5, 4, 5, 4, 6, 6, 6])))
    assert x.tolist() == [0.0, 2.0, 1.0, 3.0, 2.5, 0.5, 1.5]  # leaves 0 and 2 stand first
    for one, other in ((0, 2), (0, 5), (1, 3), (1, 4)):
        assert torch.equal(rgb[one], rgb[other])
    assert not torch.equal(rgb[0], rgb[1])


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("_compare.find_spec", lambda name: None if name == "sklearn" else name)
    with pytest.raises(ImportError, match=r"needs \['sklearn'\]: .*hsa_geometric\[examples\]"):
        example.main(("parent",), tmp_path)
