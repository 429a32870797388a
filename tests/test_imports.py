"""Who imports whom: the order of DESIGN.md, read from the sources."""

import ast
from pathlib import Path

import pytest

import hsa_geometric

ROOT = Path(hsa_geometric.__file__).parent
# A part may import those before it. Folders are parts; so are files beside them.
ORDER = ["native", "once", "tree", "lists", "shard", "kernels", "functional", "interactions"]
BRANCHES = {
    "nn": {"functional"},
    "data": {"functional"},
    "builders": {"functional", "data"},
    "transforms": {"builders", "data", "functional"},
    "surgery": {"builders", "data", "functional"},
    "report": {"builders", "data", "functional", "surgery"},
    "distributed": {"functional", "data", "builders"},
    "adapters": {"builders", "data", "functional", "report"},
    "testing": {"functional", "data", "builders", "nn"},
    "graphgym": {"functional", "data", "nn"},
}
BACKENDS = {"reference", "scatter", "cpu", "triton"}


def imported(path):
    """Modules of the package that a file imports, as tuples of parts, wherever in it."""
    package = ("hsa_geometric", *path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # what only type checkers import is no import
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [tuple(name.name.split(".")) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base += tuple((node.module or "").split(".")) if node.module else ()
            found = [(*base, name.name) for name in node.names]
        else:
            continue
        yield from (x for x in found if x[0] == "hsa_geometric")


def module_of(parts):
    """The file that a tuple of parts leads to: the module, or the package that defines the name."""
    path = ROOT.joinpath(*parts[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return module_of(parts[:-1])


FILES = sorted(ROOT.rglob("*.py"))
GRAPH = {path: {module_of(x) for x in imported(path)} - {path} for path in FILES}


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_there_is_no_circle():
    # A package's __init__ gathers what its modules define: from inside, it is not an import.
    done, on_the_way = set(), []

    def visit(path):
        assert path not in on_the_way, [str(p.relative_to(ROOT)) for p in (*on_the_way, path)]
        if path in done:
            return
        on_the_way.append(path)
        for other in GRAPH[path]:
            if not (other.name == "__init__.py" and other.parent in path.parents):
                visit(other)
        on_the_way.pop()
        done.add(path)

    for path in FILES:
        visit(path)


@pytest.mark.parametrize("name", ORDER)
def test_the_lower_parts_import_those_before_them(name):
    allowed = {*ORDER[: ORDER.index(name) + 1]}
    for path in FILES:
        if part(path) == name:
            assert {part(x) for x in GRAPH[path]} <= allowed, path


@pytest.mark.parametrize("name", BRANCHES)
def test_the_upper_parts_import_those_they_build_on(name):
    allowed = {*ORDER, *BRANCHES[name], name}
    for path in FILES:
        if part(path) == name:
            assert {part(x) for x in GRAPH[path]} - {"__init__"} <= allowed, path


def backend(path):
    parts = path.relative_to(ROOT).parts
    name = parts[1].removesuffix(".py") if parts[0] == "kernels" and len(parts) > 1 else None
    return name if name in BACKENDS else None


def test_no_backend_imports_another_or_the_operator():
    for path in FILES:
        mine = backend(path)
        if mine is not None:
            for other in GRAPH[path]:
                assert backend(other) in (None, mine), (path, other)
                assert other.name != "operator.py" or other.parent == path.parent, (path, other)


def test_nothing_imports_testing():
    for path in FILES:
        assert part(path) == "testing" or "testing" not in {part(x) for x in GRAPH[path]}, path
