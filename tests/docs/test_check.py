"""The check of the built site finds what is wrong with it, and pages have every public name."""

import importlib
import inspect
import sys

import pytest
from helpers import EXAMPLES, load_module

import hsa_geometric

DOCS = EXAMPLES.parent / "docs"
PUBLIC = {"hsa_geometric", "builders", "data", "functional", "nn", "report", "surgery"}
PUBLIC |= {"transforms", "testing", "graphgym", "interactions", "distributed"}
check = load_module(DOCS / "check.py")


def site(tmp_path, body):
    (tmp_path / "a.html").write_text(f'<h1 id="top">a</h1>{body}')
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    (tmp_path / "picture.png").write_bytes(b"")
    return check.problems(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        '<a href="b.html#here">b</a>',
        '<a href="#top">up</a>',
        '<a href="https://arxiv.org">elsewhere</a>',
        '<img src="picture.png" alt="a picture">',
    ],
)
def test_a_page_in_order_passes(tmp_path, body):
    assert site(tmp_path, body) == []


@pytest.mark.parametrize(
    "body, said",
    [
        ('<a href="c.html">c</a>', "c.html is not there"),
        ('<a href="b.html#there">b</a>', "b.html#there leads to no place"),
        ('<img src="none.png" alt="none">', "none.png is not there"),
        ('<img src="picture.png">', "picture picture.png has no text"),
        ('<script src="https://cdn.org/x.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="https://cdn.org/x.css">', "from elsewhere"),
    ],
)
def test_what_is_wrong_is_found(tmp_path, body, said):
    (problem,) = site(tmp_path, body)
    assert problem.startswith("a.html: ") and said in problem


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("pages")
    sys.path.remove(str(DOCS / "_ext"))


def test_every_public_object_has_a_page_of_the_reference(pages):
    listed = pages.reference()
    text = "".join(listed.values())
    of = pages.public_names()
    documented = [
        getattr(importlib.import_module(module), name) for module, own in of.items() for name in own
    ]
    for module in (hsa_geometric, *vars(hsa_geometric).values()):
        if inspect.ismodule(module) and module.__name__.split(".")[-1] in PUBLIC:
            for name in module.__all__:
                value = getattr(module, name)
                assert inspect.ismodule(value) or any(value is x for x in documented), name
                assert inspect.ismodule(value) or f"   {name}\n" in text


def test_pictures_of_an_example_are_no_other_examples(pages):
    assert pages.pictures_of("mesh") == ["examples/figures/mesh.png"]
    assert len(pages.pictures_of("mesh_multiresolution")) == 2
    assert len(pages.pictures_of("hierarchies")) > 10


def test_every_example_has_a_page_of_the_gallery(pages):
    listed = pages.gallery()
    for path in EXAMPLES.glob("[!_]*.py"):
        assert f"literalinclude:: ../../examples/{path.name}" in listed[f"gallery/{path.stem}.rst"]
