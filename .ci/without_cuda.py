"""Lets PyTorch's CUDA build, the one on PyPI for Linux, be imported without gigabytes of CUDA.

``python .ci/without_cuda.py .venv/lib/python3.10/site-packages/torch/lib`` writes into that folder
the CUDA libraries for which those in it ask, empty but for one function under all names that they
use. It answers "no device", as on any machine without a GPU. Needs ``cc``, ``nm`` and ``readelf``.
For tests on CPU only.
"""

import re
import subprocess
import sys
from pathlib import Path

NO_DEVICE = 100  # cudaErrorNoDevice
CUDA = r"(?:cu|nv|nccl)"


def _output(*command: "str | Path") -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _library(path: Path, source: str, *others: Path) -> None:
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{path.name}", "-Wl,-rpath,$ORIGIN"]
    command = ["cc", *options, "-Wl,--no-as-needed", "-xc", "-", "-xnone", *others, "-o", path]
    subprocess.run(command, input=source, text=True, check=True)


def main(folder: Path) -> None:
    """Writes the missing libraries into torch's ``lib`` folder."""
    files = [*folder.glob("*.so*"), *folder.parent.glob("_C*.so")]
    if not files:
        raise ValueError(f"Expected the 'lib' folder of an installed torch (got '{folder}')")
    needed: set[str] = set()
    defined: set[str] = set()
    undefined: set[str] = set()
    for file in files:
        needed.update(re.findall(rf"NEEDED.*\[(lib{CUDA}.*)\]", _output("readelf", "-dW", file)))
        for line in _output("nm", "-D", file).splitlines():
            *_, kind, name = line.split()
            (undefined if kind == "U" else defined).add(name.split("@")[0])
    missing = sorted(name for name in needed if not (folder / name).exists())
    if not missing:  # a CPU build, or all is there
        return
    names = sorted(name for name in undefined - defined if re.match(f"_*{CUDA}", name))
    source = f"int no_device(void) {{ return {NO_DEVICE}; }}\n"
    source += "".join(f'int {n}(void) __attribute__((alias("no_device")));\n' for n in names)
    # All functions in a library of its own: those asked for by name and version must have none.
    functions = folder / "libno_device.so"
    _library(functions, source)
    for name in missing:
        _library(folder / name, "", functions)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
