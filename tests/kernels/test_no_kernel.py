"""Where the kernel is not: what is used in its place, and who says why."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsa_geometric import native
from hsa_geometric.native import build

ROOT = Path(__file__).parents[2]

WITHOUT = """
import warnings
warnings.simplefilter("ignore")
import torch, hsa_geometric
from hsa_geometric.functional import hierarchical_attention

tree = hsa_geometric.TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
q, k, v = torch.randn(3, 4, 2, 3).unbind(0)
results = [hierarchical_attention(q, k, v, tree, backend=name) for name in ("auto", "scatter")]
print(torch.equal(*results))
try:
    hierarchical_attention(q, k, v, tree, backend="cpu")
except ImportError as error:
    print(error)
hsa_geometric.show_config()
"""


def run_without(**environment):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is stale must have been made: CI has a compiler, so `make test` runs it there.
STALE = pytest.param(
    "stale", marks=pytest.mark.skipif(native.library() is None, reason="no kernel was compiled")
)


@pytest.mark.parametrize("way", ["switched off", "not there", "broken", STALE])
def test_all_works_without_it_and_whoever_names_it_is_told_why(way, tmp_path):
    path = tmp_path / build.LIBRARY
    if way == "switched off":
        said = run_without(HSA_GEOMETRIC_KERNEL="0")
        reason = "HSA_GEOMETRIC_KERNEL=0 in the environment"
    elif way == "not there":
        (tmp_path / build.REASON).write_text("false -c kernel.cpp\nthis compiler says no\n")
        said = run_without(HSA_GEOMETRIC_LIBRARY=str(path), HSA_GEOMETRIC_KERNEL="")
        reason = f"{path} does not exist: false -c kernel.cpp\nthis compiler says no"
        assert "python -m hsa_geometric.native.build" in said
    elif way == "stale":
        text = Path(native.kernel()._name).read_bytes()
        path.write_bytes(text.replace(build.fingerprint().encode(), b"0" * 64))
        said = run_without(HSA_GEOMETRIC_LIBRARY=str(path), HSA_GEOMETRIC_KERNEL="")
        reason = f"{path} was compiled from other sources than those in {build.SOURCES}"
    else:
        path.write_text("no library")
        said = run_without(HSA_GEOMETRIC_LIBRARY=str(path), HSA_GEOMETRIC_KERNEL="")
        reason = f"{path} cannot be loaded"
    assert said.startswith("True\n")  # 'auto' is 'scatter'
    assert f"backend='cpu' has no kernel: {reason}" in said
    assert f"backend 'cpu': no kernel, 'auto' is 'scatter' there. {reason}" in said


def test_what_is_made_of_these_sources_is_not_made_again(tmp_path):
    assert not build.is_made(tmp_path)
    (tmp_path / build.LIBRARY).write_bytes(b"\0" + build.fingerprint().encode() + b"\0")
    assert build.is_made(tmp_path)
    (tmp_path / build.LIBRARY).write_bytes(b"\0" + b"0" * 64)
    assert not build.is_made(tmp_path)


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", f"{sys.executable} -c \"raise SystemExit('it says no')\"")
    with pytest.raises(RuntimeError, match=r"kernel\.cpp[^\n]*\nit says no"):
        build.build(tmp_path)
    assert not (tmp_path / build.LIBRARY).exists()


def test_a_compiler_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        build.build(tmp_path)


def test_where_there_is_no_compiler_one_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler: install g\+\+ or clang\+\+"):
        build.build(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="no setuptools")
@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="an installed package")
def test_an_installation_without_compiler_leaves_the_reason_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "-q", "build_ext", "--build-lib", tmp_path,
         "--build-temp", tmp_path / "temporary"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"CXX": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "hsa_geometric" / "native"
    assert [path.name for path in folder.iterdir()] == [build.REASON]
    assert (folder / build.REASON).read_text().startswith("false -O3")
    assert done.stderr.count("hsa_geometric is installed without its kernel: ") == 1


def test_the_reason_is_read_where_the_library_would_be(monkeypatch, tmp_path):
    monkeypatch.delenv("HSA_GEOMETRIC_KERNEL", raising=False)
    monkeypatch.delenv("HSA_GEOMETRIC_LIBRARY", raising=False)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / build.REASON).write_text("the compiler said no\n")
    lib, reason = native._load.__wrapped__()
    assert lib is None and "does not exist: the compiler said no\n" in reason
    (tmp_path / build.REASON).unlink()
    assert "does not exist: it was not built\n" in native._load.__wrapped__()[1]


def test_a_kernel_that_is_missing_is_told_in_one_line(monkeypatch, caplog):
    monkeypatch.setenv("HSA_GEOMETRIC_LIBRARY", "nowhere/kernel.so")
    monkeypatch.delenv("HSA_GEOMETRIC_KERNEL", raising=False)
    native._load.cache_clear()
    try:
        assert native.library() is None and native.library() is None
    finally:
        native._load.cache_clear()
    (line,) = caplog.messages
    assert "'scatter'" in line and "python -m hsa_geometric.native.build" in line
