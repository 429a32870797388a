"""What types, domains and states of inner nodes cost beside the bare attention layer.

``python -m benchmarks.states``: a balanced tree with families of 8, 4 heads × 32 channels, float32,
one thread, forward and backward. Given are medians of CPU time, as other processes lengthen the
clock's; the variants take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import Tensor

from hsa_geometric import TreeIndex
from hsa_geometric.nn import FamilyEncoding, HierarchicalAttentionConv, InnerStates

from .measure import machine, machine_line
from .shapes import balanced

CHANNELS, HEADS = 128, 4


def variants(tree: TreeIndex) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each a function of the leaves' features."""
    torch.manual_seed(0)
    encoding, width = FamilyEncoding(["sequence", "set"]), CHANNELS // HEADS
    kind = torch.randint(2, (tree.num_nodes,))[tree.parent]
    leaf_type = torch.randint(2, (tree.num_leaves,))
    positions = {"pos_dim": encoding.out_channels, "pos_channels": 8}
    bare, typed, placed, whole = (
        HierarchicalAttentionConv(CHANNELS, width, HEADS, **options)
        for options in ({}, {"num_types": 2}, positions, {"num_types": 2, **positions})
    )
    states = InnerStates(CHANNELS)

    def place() -> Tensor:
        return encoding(tree, tree_kind=kind)

    return {
        "bare layer": lambda x: bare(x, tree),
        "+ 2 types": lambda x: typed(x, tree, leaf_type=leaf_type),
        "+ 2 domains": lambda x: placed(x, tree, tree_pos=place()),
        "+ inner states": lambda x: bare(x, tree) + states(x, tree)[0],
        "+ all": lambda x: (
            whole(x, tree, leaf_type=leaf_type, tree_pos=place()) + states(x, tree)[0]
        ),
    }


def seconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """CPU time of forward and backward."""
    start = process_time()
    call(x).sum().backward()
    return process_time() - start


def main(leaves: int = 16384, turns: int = 9) -> dict[str, float]:
    """Ratios to the bare layer."""
    torch.set_num_threads(1)
    tree = TreeIndex.from_parent(balanced(leaves, 8))
    x = torch.randn(tree.num_leaves, CHANNELS, requires_grad=True)
    calls = variants(tree)
    for call in calls.values():
        seconds(call, x)
    taken = [{name: seconds(call, x) for name, call in calls.items()} for _ in range(turns)]
    times = {name: median(turn[name] for turn in taken) for name in calls}
    bare = times["bare layer"]
    print(f"{machine_line(machine(1))}\n{tree.num_leaves:,} leaves")
    for name, time in times.items():
        print(f"{name:16}{1000 * time:8.1f} ms{time / bare:8.2f} ×")
    return {name: time / bare for name, time in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=16384)
    parser.add_argument("--turns", type=int, default=9)
    main(**vars(parser.parse_args()))
