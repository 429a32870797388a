import re

import pytest
import torch
import work
from helpers import load_example

from hsa_geometric import Hierarchy, TreeIndex
from hsa_geometric.distributed import HierarchyShard, make_shard, shard_hierarchy
from hsa_geometric.distributed.shard_hierarchy import choose_cut
from hsa_geometric.testing.zoo import balanced, caterpillar, forest, random_parent, star

pytestmark = pytest.mark.xdist_group("processes")  # which are started once

ERRORS = {
    "processes": "process 0 was cut for 3 processes and is held by one of 2",
    "another's": "process 1 has pieces of another process",
    "whole": "got one without",
    "cuts": "process 1 has number of leaves = 27, process 0 has 9",
    "dtypes": "process 1 has dtype of q = torch.float64, process 0 has torch.float32",
    "aggregate": "got the shard of one of several processes",
    "matrix": "got the shard of one of several processes",
    "entmax": "got the shard of one of several processes",
    "level": "at or below the cut of a shard .got 0",
    "batch": "whole hierarchies in a batch",
    "subgraph": "do it before the cut",
    "shard": "TypeError: Expected 'h' to be a whole Hierarchy .got HierarchyShard",
    "pickle": "Cannot pickle a TreeShard",
    "halo": "TypeError: Expected 'x' to hold floating-point numbers",
    "edges": "Expected 'edge_index' to be a distributed.Halo",
}


@pytest.mark.parametrize("size", [2, 4])
def test_layers_pooling_and_message_passing(processes, size):
    for parent, level in (
        (balanced(3, 4), -3),
        (forest(balanced(3, 3), star(9), torch.tensor([0]), random_parent(30, seed=1)), -3),
        (forest(torch.tensor([0]), star(2)), -3),  # a process with nothing
    ):
        processes.run(work.layers, size, work.hierarchy(parent), level)


def test_errors_name_the_process_and_the_reason(processes):
    for found in processes.run(work.refused, 2):
        for name, text in ERRORS.items():
            assert re.search(text, found[name]), (name, found[name])


def test_second_derivatives_of_the_kernel_are_refused(processes):
    from hsa_geometric.functional.backends import has_cpu_kernel

    expected = "no second derivatives on a shard" if has_cpu_kernel() else "nothing"
    for found in processes.run(work.refused, 2):
        assert expected in found["twice"]


def test_copies_and_pickles_attend_alike(processes):
    assert all("HierarchyShard(leaves=" in text for text in processes.run(work.copies, 2))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_example_and_a_checkpoint_for_another_number(processes, tmp_path):
    found = processes.run(work.example, 4, str(tmp_path / "checkpoint"))[0]
    assert max(found[name] for name in ("data parallel", "tree parallel", "checkpoint")) < 1e-6
    example = load_example("distributed")
    samples = example.clouds()
    total = sum(h.num_nodes for h in samples)
    alone = example.restored(samples, total, str(tmp_path / "checkpoint"))
    assert alone == pytest.approx(found["loss"], rel=1e-6)


# Without any process #############################################################################


def test_a_cut_is_about_even_and_every_leaf_is_in_it_once():
    for parent in (balanced(4, 5), random_parent(3000, seed=3), forest(*[star(20)] * 40)):
        tree = TreeIndex.from_parent(parent)
        pieces, ranks = choose_cut(tree, 3)
        h = Hierarchy(parent=parent, x=torch.arange(tree.num_leaves).view(-1, 1))
        parts = [make_shard(h, pieces, ranks, rank, 3) for rank in range(3)]
        rows = torch.cat([part.leaf_row for part in parts])
        assert torch.equal(rows.sort().values, torch.arange(tree.num_leaves))
        sizes = [part.num_nodes for part in parts]
        assert max(sizes) < 1.2 * tree.num_leaves / 3
        for part in parts:
            assert torch.equal(part.x.view(-1), part.leaf_row)
            assert torch.equal(part.parent, h.subgraph(part.leaf_row).parent)


def test_a_level_is_left_whole():
    tree = TreeIndex.from_parent(balanced(3, 4))
    assert tree.level[choose_cut(tree, 2)[0]].max() > 1
    assert tree.level[choose_cut(tree, 2, level=1)[0]].max() == 1


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        (star(1000), "got node 1000 with 1000 children and 100% of the cost"),
        (caterpillar(1000), "subtrees of 1001 leaves, as of a chain"),
    ],
)
def test_what_cannot_be_cut_is_refused(parent, message):
    with pytest.raises(ValueError, match=message):
        choose_cut(TreeIndex.from_parent(parent), 4)


def test_pieces_hold_every_leaf_once():
    h = Hierarchy(parent=balanced(2, 2))
    one = torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="every leaf to lie below exactly one"):
        make_shard(h, torch.tensor([4]), one, 0, 1)
    with pytest.raises(ValueError, match="every leaf to lie below exactly one"):
        make_shard(h, torch.tensor([4, 6]), one.repeat(2), 0, 1)
    with pytest.raises(ValueError, match="Expected 'ranks' to hold a number below 1"):
        make_shard(h, torch.tensor([6]), one + 1, 0, 1)


def test_a_group_is_needed():
    h = Hierarchy(parent=balanced(2, 2))
    for call in (shard_hierarchy, HierarchyShard.attach):
        with pytest.raises(RuntimeError, match="Expected a process group"):
            call(h)
