"""Pages that are written before Sphinx reads any: what they show stands elsewhere.

=============  ====================================================================================
``reference``  a page for each public module, and through autosummary one for each public name
``gallery``    a page for each example: what it is about, its pictures and its source
``project``    the README's table of sources, DESIGN, CHANGELOG, CONTRIBUTING and the benchmarks
=============  ====================================================================================
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.pycode import ModuleAnalyzer

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PACKAGE = "hsa_geometric"
MODULES = (f"{PACKAGE}.graphgym",)  # beside its subpackages
INTERNAL = ("kernels", "native")

# Of each file its page, and what leads elsewhere from there.
FILES = {
    "DESIGN.md": "design.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINKS = {
    "](DESIGN.md)": "](design.md)",
    "](CHANGELOG.md)": "](changelog.md)",
    "](results/": "](../../benchmarks/results/",
    'src="examples/': 'src="../../examples/',
}
SOURCES = "## From your data to a hierarchy"


def public_modules() -> list[ModuleType]:
    """Each module that says what is public there, in the order in which a name finds its page: what
    lies right below the package, the package itself, and what lies deeper.
    """
    package = importlib.import_module(PACKAGE)
    walk = pkgutil.walk_packages(package.__path__, f"{PACKAGE}.")
    found = sorted(info.name for info in walk if info.ispkg and "._" not in info.name)
    found = [name for name in found if name.split(".")[1] not in INTERNAL] + list(MODULES)
    near = [name for name in found if name.count(".") == 1]
    names = [*near, PACKAGE, *(name for name in found if name not in near)]
    return [importlib.import_module(name) for name in names]


def public_names() -> dict[str, list[str]]:
    """Of each public module the names that have their page there; each object has one page."""
    names: dict[str, list[str]] = {}
    seen: list[Any] = []
    for module in public_modules():
        own = [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
        own = [name for name in own if not any(getattr(module, name) is x for x in seen)]
        seen += [getattr(module, name) for name in own]
        if own:
            names[module.__name__] = own
    return names


def reference() -> dict[str, str]:
    """Text of each page of the reference."""
    pages, names = {}, public_names()
    for name, own in names.items():
        lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
        lines += [f".. currentmodule:: {name}", "", ".. autosummary::", "   :toctree: names", ""]
        lines += [f"   {item}" for item in own]
        if name == PACKAGE:
            module = importlib.import_module(name)
            others = [x for x in module.__all__ if x not in own]
            others = [x for x in others if not inspect.ismodule(getattr(module, x))]
            lines += ["", "From its modules, here as well:", "", ".. autosummary::", ""]
            lines += [f"   {item}" for item in others]
        pages[f"reference/{name}.rst"] = "\n".join(lines) + "\n"
    listed = [f"   {name}" for name in sorted(names)]
    pages["reference/index.rst"] = "\n".join(
        ["Reference", "=========", "", "Every public name.", "", ".. toctree::", "", *listed, ""]
    )
    return pages


def gallery() -> dict[str, str]:
    """Text of each page of the gallery, and of the one that shows them all."""
    pages, shown = {}, []
    for path in sorted((ROOT / "examples").glob("[!_]*.py")):
        name = path.stem
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        title = name.replace("_", " ").capitalize()
        pictures = sorted((ROOT / "examples" / "figures").glob(f"{name}*.png"))
        figures = [
            f".. image:: ../../examples/figures/{picture.name}\n   :alt: {title}\n"
            for picture in pictures
        ]
        pages[f"gallery/{name}.rst"] = "\n".join(
            [
                *(title, "=" * len(title), "", about, "", *figures),
                *("Source", "------", "", f".. literalinclude:: ../../examples/{path.name}", ""),
            ]
        )
        shown += [f":doc:`{name}`: {about.split(chr(10) * 2)[0].replace(chr(10), ' ')}", ""]
        if pictures:
            shown += [
                f".. image:: ../../examples/figures/{pictures[-1].name}",
                f"   :alt: {title}\n   :target: {name}.html\n   :width: 480px\n",
            ]
    listed = [f"   {Path(page).stem}" for page in pages]
    pages["gallery/index.rst"] = "\n".join(
        [
            *("Gallery", "=======", ""),
            "What each example is about, its pictures, and its source; no page is run when this",
            "site is built.",
            *("", ".. toctree::", "   :hidden:", "", *listed, "", *shown),
        ]
    )
    return pages


def project() -> dict[str, str]:
    """Text of each page taken from a file of the repository."""
    pages = {}
    for name, page in FILES.items():
        pages[f"project/{page}"] = (ROOT / name).read_text(encoding="utf-8")
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(SOURCES)[1]
    table = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("|")]
    pages["project/sources.md"] = "\n".join(
        [
            f"# {SOURCES.strip('# ')}",
            "",
            "All functions of this table are in `hsa_geometric`. Leaf `i` is always row `i` of",
            "what you had; more data of the leaves goes in by keyword (`x=`, `pos=`, `mass=`, …).",
            *("", *table, ""),
        ]
    )
    listed = ["sources", *(Path(page).stem for page in FILES.values())]
    pages["project/index.md"] = "\n".join(["# The project", "", "```{toctree}", *listed, "```", ""])
    for page in pages:
        for link, other in LINKS.items():
            pages[page] = pages[page].replace(link, other)
    return pages


def write(app: Any = None, config: Any = None) -> None:
    """Writes all pages; one that has not changed is left alone, and not read again by Sphinx."""
    for page, text in {**reference(), **gallery(), **project()}.items():
        path = DOCS / page
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def same_object(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A name that has no page of its own leads to the page of what it names, in another module."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(f"{PACKAGE}."):
        return None
    found = _object(target)
    if found is None:
        return None
    for module, names in public_names().items():
        for name in names:
            if getattr(importlib.import_module(module), name) is found:
                domain, other = env.get_domain("py"), f"{module}.{name}"
                doc = node.get("refdoc", env.docname)
                return domain.resolve_xref(
                    env, doc, app.builder, node["reftype"], other, node, contnode
                )
    return None


def _object(target: str) -> Any:
    """What a dotted name stands for, or None."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def doc_of_data(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A value that is no class or function has the text below it, where it is defined."""
    if what != "data":
        return
    lines[:] = [""]
    package, _, own = name.rpartition(".")
    for module in [x for x in sys.modules if x.startswith(package)]:
        if getattr(sys.modules[module], own, None) is value:
            texts = ModuleAnalyzer.for_module(module).find_attr_docs()
            if ("", own) in texts:
                lines[:] = texts["", own]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", write)
    app.connect("missing-reference", same_object)
    app.connect("autodoc-process-docstring", doc_of_data)
    return {"parallel_read_safe": True}
