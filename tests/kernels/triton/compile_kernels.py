"""Compile all kernels for NVIDIA GPUs, without one, and print what each takes.

Run as a script, in a process where Triton's interpreter is off, with compute capabilities as
arguments. The operators run on the CPU, and each launch compiles its kernel for the types of its
arguments instead of running it. A line is printed for each: the capability, the kernel, the types
of what it reads first, registers a thread, bytes spilled, warps, and bytes of shared memory.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
FLOATS = ("scale_high", "scale_low", "dropout_p", "kept_scale")
# Numbers that the kernels are specialised for: 1 is a constant, multiples of 16 are known as such.
SPECIAL = ("stride0", "stride1", "stride2", "q_stride", "k_stride", "v_stride")


def usage(cubin, capability):
    """Registers a thread and bytes spilled."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return (0, 0) if found is None else tuple(map(int, found.groups()))


def check_order(ptx):
    """All threads have stored before one says so, and wait for its answer before they load."""
    store, atomic = ptx.rindex("st.global"), ptx.index("atom.global.gpu.acq_rel")
    assert store < atomic
    assert "bar.sync" in ptx[store:atomic] and "bar.sync" in ptx[atomic:]


def compile_all(capabilities):
    """Compile what forward and backward launch, for trees, types and options that differ."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hsa_geometric import TreeIndex
    from hsa_geometric.functional import hierarchical_attention
    from hsa_geometric.kernels import triton as package
    from hsa_geometric.kernels.triton import call, dropout, scalars, siblings, sweeps
    from hsa_geometric.testing import attention_inputs, balanced, caterpillar, chain, forest, star

    compiled = set()
    package.check = lambda device: None

    def launch(kernel, grid, device, *args, **meta):
        options = {k: meta.pop(k) for k in ("num_warps", "num_stages") if k in meta}
        given = dict(zip(kernel.arg_names, args, strict=False))
        meta |= {name: 1 for name in SPECIAL if given.get(name) == 1}
        types = {
            name: POINTERS[x.dtype] if isinstance(x, torch.Tensor)
            else "fp32" if name in FLOATS else "i32"
            for name, x in given.items()
        } | dict.fromkeys(meta, "constexpr")  # fmt: skip
        if 0 in grid:
            return
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, (name, x) in enumerate(given.items())
            if isinstance(x, torch.Tensor) or (name in SPECIAL and x % 16 == 0)
        }
        for capability in capabilities:
            key = (capability, kernel.__name__, str(types), str(meta), str(options))
            if key in compiled:
                continue
            compiled.add(key)
            target = GPUTarget("cuda", capability, 32)
            source = ASTSource(kernel, types, dict(meta), aligned)
            done = triton.compile(source, target=target, options=options)
            registers, stack = usage(done.asm["cubin"], capability)
            if meta.get("CLIMB"):
                check_order(done.asm["ptx"])
            shared, warps = done.metadata.shared, done.metadata.num_warps
            assert shared <= 99 * 1024, (kernel.__name__, shared)
            kind = next(t for t in types.values() if t.startswith("*"))
            print(f"sm_{capability} {kernel.__name__} {kind[1:]} registers {registers} "
                  f"stack {stack} warps {warps} shared {shared}")  # fmt: skip

    for module in (sweeps, scalars, siblings, dropout):
        module.launch = launch

    def run(parent, dtype, heads=8, channels=32, values=32, **options):
        more = {n: options.pop(n) for n in ("pos_channels", "node_scalars") if n in options}
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(
            tree, dtype=dtype, heads=heads, channels=channels, value_channels=values, **more
        )
        inputs = {n: x.requires_grad_() for n, x in inputs.items()}
        out = hierarchical_attention(**inputs, tree=tree, backend="triton", **options)
        grads = torch.autograd.grad(out.sum(), list(inputs.values()), create_graph=True)
        if "dropout_p" in options:  # the torch backend's pieces with these masks
            sum(g.sum() for g in grads).backward()

    run(balanced(4, 2), torch.bfloat16)
    run(forest(star(40), star(3)), torch.float32)
    run(caterpillar(100), torch.float16, 1, 1, 1)
    call.ONE_LAUNCH = False
    run(chain(3), torch.float64, 3, 24, 33, pos_channels=3, node_scalars=True,
        dropout_p=0.5, training=True)  # fmt: skip
    run(star(30), torch.float32, 2, 200, 256, self_loop=False)


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(Path(__file__).parents[3]))
    compile_all([int(x) for x in sys.argv[1:]] or [90])
