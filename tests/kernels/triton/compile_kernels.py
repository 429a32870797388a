"""Compile all kernels for NVIDIA GPUs, without one, and print what each takes.

Run as a script, in a process where Triton's interpreter is off, with compute capabilities as
arguments. The operators run on the CPU; a launch goes through Triton as it would on a GPU, with the
types and numbers of its arguments, but ends when the kernel is compiled. A line is printed for
each: the capability, the kernel, its first tensor's type, registers a thread, bytes of stack,
warps, and bytes of shared memory.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SHARED_LIMIT = 99 * 1024  # bytes of shared memory that a program may have on sm_86 and sm_89 too


class Driver:
    """What Triton asks of a GPU's driver before a launch; the device's number is its capability."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device=None):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def usage(cubin):
    """Registers a thread and bytes of its stack."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.search(r"REG:(\d+) STACK:(\d+)", text).groups()


def check_order(ptx):
    """All threads have stored before one says so, and wait for its answer before they load."""
    store, atomic = ptx.rindex("st.global"), ptx.index("atom.global.gpu.acq_rel")
    assert store < atomic
    assert "bar.sync" in ptx[store:atomic] and "bar.sync" in ptx[atomic:]


def compile_all(capability):
    """Compile what forward and backward launch, for trees, types and options that differ."""
    from triton.runtime.driver import driver

    from hsa_geometric import TreeIndex
    from hsa_geometric.functional import hierarchical_attention
    from hsa_geometric.kernels import triton as package
    from hsa_geometric.kernels.triton import call, scalars, siblings, sweeps
    from hsa_geometric.testing import attention_inputs, balanced, caterpillar, chain, forest, star

    driver.set_active(Driver(capability))
    package.check = lambda device: None
    known = set()

    def launch(kernel, grid, device, *args, **meta):
        if 0 in grid:
            return
        compiled = kernel.warmup(*args, grid=grid, **meta)
        if compiled in known:
            return
        known.add(compiled)
        if meta.get("CLIMB"):
            check_order(compiled.asm["ptx"])
        registers, stack = usage(compiled.asm["cubin"])
        shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
        assert shared <= SHARED_LIMIT, (kernel.__name__, shared)
        kind = str(args[0].dtype).removeprefix("torch.")
        print(f"sm_{capability} {kernel.__name__} {kind} registers {registers} stack {stack} "
              f"warps {warps} shared {shared}")  # fmt: skip

    for module in (sweeps, scalars, siblings):
        module.launch = launch

    def run(parent, dtype, heads=8, channels=32, values=32, **options):
        more = {n: options.pop(n) for n in ("pos_channels", "node_scalars") if n in options}
        tree = TreeIndex.from_parent(parent)
        inputs = attention_inputs(
            tree, dtype=dtype, heads=heads, channels=channels, value_channels=values, **more
        )
        inputs = {n: x.requires_grad_() for n, x in inputs.items()}
        out = hierarchical_attention(**inputs, tree=tree, backend="triton", **options)
        torch.autograd.grad(out.sum(), list(inputs.values()))

    run(balanced(4, 2), torch.bfloat16)
    run(forest(star(40), star(3)), torch.float32)
    run(forest(star(40), star(3)), torch.bfloat16, channels=64, values=64)
    run(caterpillar(100), torch.float16, 1, 1, 1)
    call.ONE_LAUNCH = False
    run(chain(3), torch.float64, 3, 24, 33, pos_channels=3, node_scalars=True,
        dropout_p=0.5, training=True)  # fmt: skip
    run(star(30), torch.float32, 2, 200, 256, self_loop=False)


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.path.insert(0, str(Path(__file__).parents[3]))
    for argument in sys.argv[1:] or ["90"]:
        compile_all(int(argument))
