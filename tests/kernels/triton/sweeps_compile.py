"""Compile the kernels of the sweeps and of the recursion for an NVIDIA GPU, without one.

Run as a script, in a process where Triton's interpreter is off. The operators run on the CPU, and
each launch compiles its kernel for the types of its arguments instead of running it. The names of
the kernels that were compiled are printed.
"""

import os
import sys
from pathlib import Path

import torch

POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
# Numbers that the kernels are specialised for: 1 is a constant, multiples of 16 are known as such.
SPECIAL = ("channels", "width0", "width1", "width", "heads", "head_width")


def compile_all():
    """Compile what one call of each operator launches, for trees and types that differ."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hsa_geometric import TreeIndex
    from hsa_geometric.kernels.triton import evidence, sweeps
    from hsa_geometric.testing import balanced, caterpillar, chain

    target, compiled = GPUTarget("cuda", 90, 32), set()

    def launch(kernel, grid, device, *args, **meta):
        options = {k: meta.pop(k) for k in ("num_warps",) if k in meta}
        given = dict(zip(kernel.arg_names, args, strict=False))
        meta |= {name: 1 for name in SPECIAL if given.get(name) == 1}
        types = {
            name: POINTERS[x.dtype] if isinstance(x, torch.Tensor) else "i32"
            for name, x in given.items()
        } | dict.fromkeys(meta, "constexpr")
        key = (kernel.__name__, str(types), str(meta), str(options))
        if 0 in grid or key in compiled:
            return
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, (name, x) in enumerate(given.items())
            if isinstance(x, torch.Tensor) or (name in SPECIAL and x % 16 == 0)
        }
        triton.compile(ASTSource(kernel, types, meta, aligned), target=target, options=options)
        compiled.add(key)

    sweeps.launch = launch

    def run(tree, dtype, one_launch, walk):
        # All but the chain of three: as wide as a layer; that one has one head of one channel.
        sweeps.ONE_LAUNCH, sweeps.WALK_ELEMENTS = one_launch, walk
        accumulated = torch.float64 if dtype == torch.float64 else torch.float32
        leaves, nodes, tensors = tree.num_leaves, tree.num_nodes, tree.tensors
        heads, width = (1, 1) if tree.depth == 3 else (8, 32)
        x = torch.ones(leaves, heads * width, dtype=dtype)
        z = torch.ones(nodes, heads * width, dtype=accumulated)
        weight, scalars = z[:, 0].contiguous(), z[:, :heads].contiguous()
        sweeps.up([x, x, x], weight, tensors)
        sweeps.up([z[:leaves]], None, tensors)
        sweeps.down(z, weight, tensors)
        sweeps.down(z, None, tensors)
        sweeps.scan_up(scalars, scalars, tensors)
        sweeps.scan_down(scalars, scalars, tensors)
        means, values = z.view(nodes, heads, width), x.view(leaves, heads, width)
        sweeps.mix(means, scalars, values, scalars[:leaves], tensors)
        sweeps.row_dot(means[:leaves], values)
        evidence.evidence(scalars[:leaves], scalars, weight, weight, tensors)

    run(TreeIndex.from_parent(balanced(4, 2)), torch.bfloat16, True, 1 << 22)
    run(TreeIndex.from_parent(balanced(4, 2)), torch.float64, False, 0)
    run(TreeIndex.from_parent(caterpillar(100)), torch.float32, True, 0)
    run(TreeIndex.from_parent(chain(3)), torch.float32, True, 0)
    return sorted({name for name, *_ in compiled})


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(Path(__file__).parents[3]))
    print(*compile_all())
