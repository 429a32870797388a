"""Compiles the kernel: ``python -m hsa_geometric.native.build`` does it in place.

Plain C++ without headers of torch or Python, so one library serves every version of both. The same
source is compiled for each instruction set; the library chooses at run time.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARY = "kernel.dll" if os.name == "nt" else "kernel.so"
# Why there is no library, beside where it would be.
REASON = "kernel.txt"

FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno",
         "-fno-trapping-math", "-ffp-contract=fast"]  # fmt: skip
X86 = {
    "base": ["-DVECTOR_BYTES=16"],
    "avx2": ["-DVECTOR_BYTES=32", "-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-DVECTOR_BYTES=64", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma",
               "-mf16c", "-mprefer-vector-width=512"],
}  # fmt: skip
OTHERS = {"base": ["-DVECTOR_BYTES=16"]}


def compiler() -> list[str] | None:
    """The command of a C++ compiler: that of the environment's CXX, or this machine's."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    return None


def fingerprint() -> str:
    """Of the sources; a library of others is called with other numbers, and would crash."""
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*")))
    how = repr((FLAGS, X86, OTHERS, sys.platform, platform.machine().lower()))
    return hashlib.sha256(text + how.encode()).hexdigest()


def is_made(folder: Path) -> bool:
    """Whether the library in a folder is of these sources, by what it holds."""
    path = folder / LIBRARY
    return path.exists() and fingerprint().encode() in path.read_bytes()


def build(folder: Path = Path(__file__).parent, extra: tuple[str, ...] = ()) -> Path:
    """Compile into ``folder``, with ``extra`` flags, and return the library.

    Raises:
        RuntimeError: if there is no compiler, or with what it said.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("no C++ compiler: install g++ or clang++")
    flags, known = [*FLAGS, *extra], [f'-DSOURCES="{fingerprint()}"']
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    with tempfile.TemporaryDirectory() as temporary:
        jobs = {
            f"{name}.o": [*flags, f"-DSIMD={name}", *more, "-c", str(SOURCES / "kernel.cpp")]
            for name, more in (X86 if is_x86 else OTHERS).items()
        }
        for name in ("tree", "blocks", "dispatch"):
            jobs[f"{name}.o"] = [*flags, *known, "-c", str(SOURCES / f"{name}.cpp")]
        objects = [str(Path(temporary, name)) for name in jobs]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for job in [
                pool.submit(_run, [*command, *arguments, "-o", output])
                for arguments, output in zip(jobs.values(), objects, strict=True)
            ]:
                job.result()
        # Put in its place at once: another process may be loading the one that was there.
        made = Path(temporary, LIBRARY)
        static = ["-static-libstdc++", "-static-libgcc"]
        static = [] if sys.platform == "darwin" or extra else static
        _run([*command, *flags, "-shared", "-pthread", *static, *objects, "-o", str(made)])
        folder.mkdir(parents=True, exist_ok=True)
        waiting = folder / f"{LIBRARY}.{os.getpid()}"
        shutil.copy2(made, waiting)
        waiting.replace(folder / LIBRARY)
    (folder / REASON).unlink(missing_ok=True)
    return folder / LIBRARY


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{shlex.join(command)}\n{error}") from error
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}".strip())


if __name__ == "__main__":
    print(build())
