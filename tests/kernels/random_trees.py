"""Random trees with random arguments against the oracle: ``make test-random`` takes 10,000.

``python tests/kernels/random_trees.py 200 --seed 7`` takes 200 from seed 7 on. Where a backend
differs, the seed of the tree is printed: ``1 --seed 1234`` is that tree alone.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import attend  # noqa: E402

from hsa_geometric import TreeIndex  # noqa: E402
from hsa_geometric.functional.backends import has_cpu_kernel  # noqa: E402
from hsa_geometric.kernels.cpu import walk  # noqa: E402
from hsa_geometric.testing import (  # noqa: E402
    attention_inputs,
    forest,
    random_parent,
    shuffled,
    star,
)

BACKENDS = ("scatter", *(["cpu"] if has_cpu_kernel() else []))


def check(seed: int) -> int:
    """Compare all backends on the tree of a seed; its number of leaves."""
    draw = random.Random(seed)
    nodes = int(2 ** draw.uniform(0, 5.5))
    parts = [
        random_parent(nodes, num_trees=draw.randint(1, max(1, nodes // 3)),
                      reach=draw.choice([1, 2, 5, 20, 100]), seed=seed)
    ]  # fmt: skip
    if draw.random() < 0.1:
        parts.append(star(draw.choice([1, 8, 9, 17, 64, 65, 70])))
    tree = TreeIndex.from_parent(shuffled(forest(*parts), seed=seed))
    inputs = attention_inputs(
        tree, heads=draw.randint(1, 6), channels=draw.randint(1, 9),
        value_channels=draw.randint(1, 9), pos_channels=draw.choice([None, 1, 3]),
        node_scalars=draw.random() < 0.5, mass=draw.choice([None, "random", "zeros"]), seed=seed,
    )  # fmt: skip
    options = {"self_loop": draw.random() < 0.5, "scale": draw.choice([None, 0.0, 3.0, -1.0])}
    options |= {"dropout_p": draw.choice([0.0, 0.0, 0.3]), "training": True}
    walk.WORTH_A_THREAD = draw.choice([1, 60_000])
    found = {}
    for backend in ("reference", *BACKENDS):
        torch.manual_seed(seed)
        torch.set_num_threads(2 if backend == "cpu" else 1)
        found[backend] = attend(inputs, tree, backend=backend, **options)
    for backend in BACKENDS:
        for name, x in found[backend].items():
            torch.testing.assert_close(
                x, found["reference"][name], rtol=1e-9, atol=1e-9,
                msg=lambda text, name=name, backend=backend: (
                    f"seed {seed}, {tree}: {name} of '{backend}' is not the oracle's: {text}"
                ),
            )  # fmt: skip
    return tree.num_leaves


def main() -> None:
    """So many trees as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.number)
    leaves = sum(map(check, tqdm(seeds, desc="random trees", mininterval=1)))
    print(f"{given.number} trees of {leaves} leaves: {', '.join(BACKENDS)} as the oracle")


if __name__ == "__main__":
    main()
