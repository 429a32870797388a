"""Runs the kernel that ``make sanitize`` compiles: no test, as sanitizers end the process.

``python tests/kernels/sanitize.py address`` compiles it with AddressSanitizer and
UndefinedBehaviorSanitizer, or ``thread`` with ThreadSanitizer, and calls it over the zoo of trees
with all options, on several threads, on both ways, and along interaction lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KINDS = {
    # What is loaded before Python, compiler flags, and what the environment tells it.
    "address": ("libasan.so", "address,undefined", {"ASAN_OPTIONS": "detect_leaks=0"}),
    "thread": ("libtsan.so", "thread", {"TSAN_OPTIONS": "exitcode=66"}),
}


def compile_and_start(kind: str) -> int:
    """Compile the library and run this file with it."""
    from hsa_geometric.native.build import build, compiler

    preload, sanitizer, options = KINDS[kind]
    flags = (
        "-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
    )  # fmt: skip
    preload = " ".join(
        subprocess.run(
            [*(compiler() or ["g++"]), f"-print-file-name={name}"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for name in (preload, "libstdc++.so")  # whose exceptions the sanitizer looks for at once
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder), flags)
        more = {"HSA_GEOMETRIC_LIBRARY": str(library), "LD_PRELOAD": preload, **options}
        more["PYTHONPATH"] = str(ROOT)
        done = subprocess.run([sys.executable, "-W", "ignore", __file__], env=os.environ | more)
    print(f"{kind}: {'clean' if done.returncode == 0 else 'FAILED'}")
    return done.returncode


def calls() -> int:
    """Call the kernel in every way; how many calls."""
    import torch

    from hsa_geometric import TreeIndex
    from hsa_geometric.functional import hierarchical_attention
    from hsa_geometric.kernels.cpu import lists, walk
    from hsa_geometric.native import INSTRUCTIONS, library, why_not
    from hsa_geometric.testing import (
        ZOO,
        attention_inputs,
        balanced,
        caterpillar,
        forest,
        random_lists,
        random_parent,
        star,
        zoo,
    )

    lib = library()
    assert lib is not None, why_not()
    torch.set_num_threads(1)  # of PyTorch's own threads ThreadSanitizer knows nothing
    threads = 1
    walk.Walk.threads = lists.Blocks.threads = lambda *_: threads
    trees = [zoo(name) for name in ZOO]
    # Around the widths of vectors and tiles; families for all threads; subtrees of many tasks.
    trees += [star(n) for n in (3, 4, 5, 8, 9, 16, 17, 63, 64, 65, 130, 700)]
    trees += [
        forest(*(star(n) for n in (1, 2, 4, 8, 16, 33, 65))), balanced(7, 3), balanced(66, 2),
        caterpillar(300), random_parent(3000, reach=40, seed=1),
        forest(star(520), random_parent(2000, reach=7, seed=2), star(65)),
    ]  # fmt: skip
    trees = [TreeIndex.from_parent(parent) for parent in trees]
    options = [
        {},
        {"mass": "zeros"},
        {"node_scalars": True},
        {"pos_channels": 3, "node_scalars": True, "mass": "zeros"},
    ]
    widths = [(1, 1, 1), (3, 7, 5), (2, 32, 32), (5, 16, 9)]  # heads, channels, value channels
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    number = 0
    for instructions, tree in product(range(len(INSTRUCTIONS)), trees):
        if lib.hsa_instructions(instructions) != instructions:
            continue  # not on this processor
        for i, option in enumerate(options):
            # Of widths, dtypes, threads and so on some combinations, others for each tree.
            number += 1
            turn = number * 7 + number // 5
            heads, channels, values = widths[(turn + i) % 4]
            inputs = attention_inputs(
                tree, heads=heads, channels=channels, value_channels=values,
                dtype=dtypes[turn // 4 % 4], **option,
            )  # fmt: skip
            threads = (1, 2, 5)[turn % 3]
            learned = [x.requires_grad_() for name, x in inputs.items() if name != "mass"]
            arguments = {
                "tree": tree, "self_loop": turn % 2 == 0, "dropout_p": (0.0, 0.3)[turn // 2 % 2],
                "training": True, "return_evidence": True, "backend": "cpu",
            }  # fmt: skip
            if number % 3 == 0:  # nodes of the tree and of another meet at random
                other = partner(tree, trees, turn)
                arguments["lists"] = random_lists(
                    tree, other, opened=turn % 4 / 3, hidden=turn % 2 * 0.2, itself=other is tree,
                    seed=turn,
                )  # fmt: skip
                if other is not tree:
                    theirs = attention_inputs(
                        other, heads=heads, channels=channels, value_channels=values,
                        dtype=learned[0].dtype, **option,
                    )  # fmt: skip
                    for name in set(theirs) & {"k", "v", "pos_k"}:
                        inputs[name] = theirs[name]
                    if "mass" in theirs:
                        arguments["key_mass"] = theirs["mass"]
                    arguments |= {"key_tree": other, "self_loop": True}
                    learned = [x.requires_grad_() for n, x in inputs.items() if n != "mass"]
            with torch.no_grad():
                hierarchical_attention(**inputs, **arguments)
            out, evidence = hierarchical_attention(**inputs, **arguments)
            loss = out.float().sum() + evidence[evidence.isfinite()].sum().float()
            torch.autograd.grad(loss, learned, allow_unused=True)
    return number


def partner(tree: Any, trees: list[Any], turn: int) -> Any:
    """A tree of the list, or the same, for its nodes to meet."""
    alike = [x for x in trees if x.num_trees == tree.num_trees and x.num_nodes < 1000]
    return tree if turn % 2 else alike[turn % len(alike)] if alike else tree


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.insert(0, str(ROOT))
        sys.exit(max(compile_and_start(kind) for kind in sys.argv[1:]))
    print(calls(), "calls forward and backward")
