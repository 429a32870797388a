"""Builds the kernel where the package is built; all else stands in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location(
    "native_build", HERE / "hsa_geometric/native/build.py"
)
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)


class BuildKernel(build_ext):
    """Compile, or leave word why not: without the kernel all works, on the backend 'scatter'."""

    def get_ext_filename(self, fullname):
        """Without the name of this Python in it."""
        return str(Path(*fullname.split(".")[:-1], native.LIBRARY))

    def build_extension(self, ext):
        """The library, or a file that says why there is none."""
        folder = Path(self.get_ext_fullpath(ext.name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not native.is_made(folder):
                native.build(folder)
        except RuntimeError as error:
            (folder / native.LIBRARY).unlink(missing_ok=True)
            (folder / native.REASON).write_text(f"{error}\n")
            line = str(error).splitlines()[-1]
            print(f"hsa_geometric is installed without its kernel: {line}", file=sys.stderr)

    def copy_extensions_to_source(self):
        """Editable installs have the library in the source folder."""
        self.inplace = True
        for ext in self.extensions:
            self.build_extension(ext)


class PlatformWheel(bdist_wheel):
    """The library knows no Python, so one wheel serves all versions of it."""

    def get_tag(self):
        """Any Python, this platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("hsa_geometric.native.kernel", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernel, "bdist_wheel": PlatformWheel},
)
