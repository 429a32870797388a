"""Bars of what may take long: what they write, and that nothing else depends on them."""

import io
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from hsa_geometric.builders import from_json, from_mesh, from_newick, from_points, from_voxels
from hsa_geometric.builders._bisection import METHODS as CUTS
from hsa_geometric.builders._bisection import bisect
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.graph.from_graph import METHODS
from hsa_geometric.transforms import (
    GraphHierarchy,
    MeshHierarchy,
    PointHierarchy,
    VoxelHierarchy,
)

POS = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
FACE = torch.stack([torch.arange(48), torch.arange(1, 49), torch.arange(2, 50)])
# Two samples, isolated nodes, a component of two and larger ones.
EDGES = torch.randint(20, (2, 30), generator=torch.Generator().manual_seed(1))
EDGES = torch.cat([EDGES, FACE[:2, 25:]], dim=1)
BATCH = torch.arange(50).ge(25).long()
DATA = Data(x=POS, pos=POS, face=FACE, edge_index=FACE[:2])

BUILDERS = {
    **{
        f"from_graph: {method}": lambda method=method, **options: from_graph(
            EDGES, x=POS, batch=BATCH, method=method, **options
        )
        for method in METHODS
    },
    **{
        f"from_points: {method}": lambda method=method, **options: from_points(
            POS, method=method, branching=3, leaf_size=2, **options
        )
        for method in CUTS
    },
    "from_voxels": lambda **options: from_voxels(POS, levels=4, **options),
    "from_mesh": lambda **options: from_mesh((POS, FACE.t()), **options),
    "from_newick": lambda **options: from_newick("((a:1,b),(c,d)e);f;", **options),
    "from_json": lambda **options: from_json(
        {"x": 1.0, "children": [{"x": 2.0}, {"x": 3.0}]}, **options
    ),
    **{
        f"GraphHierarchy: {method}": lambda method=method, **options: GraphHierarchy(
            method, **options
        )(DATA)
        for method in METHODS
    },
    "PointHierarchy": lambda **options: PointHierarchy(**options)(DATA),
    "VoxelHierarchy": lambda **options: VoxelHierarchy(levels=3, **options)(DATA),
    "MeshHierarchy": lambda **options: MeshHierarchy(**options)(DATA),
}
every = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@every
def test_a_bar_counts_from_nothing_to_the_total_and_changes_no_tree(build, capsys):
    plain = build()
    assert capsys.readouterr() == ("", "")
    shown = build(progress=True)
    out, err = capsys.readouterr()
    counts = [(int(done), int(total)) for done, total in re.findall(r"(\d+)/(\d+) \[", err)]
    assert out == "" and counts[0] == (0, counts[0][1]) and counts[0][1] > 0
    assert counts[-1] == (counts[0][1], counts[0][1])
    assert shown.keys() == plain.keys()
    for key, value in plain.to_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(shown[key], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert vars(shown[key]) == vars(value)


@every
def test_progress_is_off_or_on(build):
    with pytest.raises(TypeError, match=r"'progress' to be True or False \(got int\)"):
        build(progress=1)


@every
def test_without_tqdm_only_a_bar_is_refused(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    build()
    with pytest.raises(ImportError, match=r"needs tqdm.*pip install tqdm"):
        build(progress=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(2, 9), st.integers(2, 9))
def test_bisection_counts_each_point_once(sizes, branching, leaf_size):
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pos, file = torch.rand(group.numel(), 2), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        bisect(pos, group, method="kd", branching=branching, leaf_size=leaf_size, progress=True)
    counts = re.findall(r"(\d+)/(\d+) \[", file.getvalue())
    assert counts[-1] == (str(sum(sizes)), str(sum(sizes)))


# The bar itself ###############################################################################


class Terminal(io.StringIO):
    def isatty(self):
        return True


def written(file, steps=1200, **options):
    with progress_bar(total=steps, desc="model", file=file, **options) as bar:
        for step in range(steps):
            bar.set_postfix_str(f"step {step}", refresh=False)
            bar.update()
    return file.getvalue()


def test_a_bar_of_1200_quick_steps_writes_its_first_and_last_line_to_a_file():
    lines = written(io.StringIO()).split("\n")
    assert [line for line in lines if line] == [lines[0], lines[1]]
    assert "0/1200" in lines[0] and "1200/1200" in lines[1] and "step 1199" in lines[1]
    assert all("\r" not in line for line in lines)


def test_where_steps_take_long_a_line_is_written_every_ten_seconds(monkeypatch):
    now = 0.0
    bar = progress_bar(total=60, file=io.StringIO())
    bar.start_t = bar.last_print_t = now
    monkeypatch.setattr(bar, "_time", lambda: now)
    for _ in range(60):
        now += 1.0
        bar.update()
    bar.close()
    counts = re.findall(r"(\d+)/60", bar.fp.getvalue())
    assert counts[0] == "0" and [int(c) for c in counts[1:]] == [10, 20, 30, 40, 50, 60, 60]


def test_a_disabled_bar_writes_nothing():
    assert written(io.StringIO(), disable=True) == ""


def test_on_a_terminal_the_bar_stays_on_its_line():
    text = written(Terminal())
    assert text.count("\n") == 1 and text.startswith("\r")
