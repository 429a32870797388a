import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsa_geometric.builders.sequences import MARKDOWN_KINDS, from_markdown
from hsa_geometric.functional import aggregate

TEXT = """Before. All.

# One

Intro. More
of it.

### Deep

- a
- b

  c

Two
---

```python
# no heading. None.
x = 1
```

> # Quoted
> said

| a | b |
|---|---|
| 1 | 2 |

***

<div>

[link]: http://example.org
"""


def outline(text, h):
    """Nested lists ``[kind, text, *inner nodes]``, in the order of the text."""
    below = {}
    for child, parent in enumerate(h.parent.tolist()):
        if child != parent and child >= h.num_nodes:
            below.setdefault(parent, []).append(child)

    def of(node):
        start, end = h.tree_span[node].tolist()
        inner = sorted(below.get(node, []), key=lambda n: h.tree_span[n, 0])
        return [MARKDOWN_KINDS[h.tree_kind[node]], text[start:end], *map(of, inner)]

    return of(h.num_tree_nodes - 1)


def kinds(tree):
    return [tree[0], *map(kinds, tree[2:])]


def test_the_outline_by_hand():
    tree = outline(TEXT, from_markdown(TEXT, collapse=False))
    s = ["sentence"]
    p = ["paragraph", s]
    assert kinds(tree) == [
        "document",
        ["paragraph", s, s],
        [
            "section",  # One
            ["heading"],
            ["paragraph", s, s],
            [
                "section",  # Deep, two ranks below
                ["heading"],
                ["list", ["list_item", p], ["list_item", p, p]],
            ],
            [
                "section",  # Two, below One
                ["heading"],
                ["code", ["line"], ["line"], ["line"], ["line"]],
                ["quote", ["heading"], p],
                ["table", ["line"], ["line"], ["line"]],
                ["rule"],
                ["html", ["line"]],
            ],
        ],
    ]
    assert tree[2] == [
        "paragraph",
        "Before. All.",
        ["sentence", "Before."],
        ["sentence", "All."],
    ]
    section = tree[3][5]
    assert section[2] == ["heading", "Two\n---"]
    assert section[3][3] == ["line", "# no heading. None."]
    assert section[1].endswith("example.org")


def test_sections_end_at_headings_of_the_same_or_a_higher_rank():
    text = "## b\nx\n### c\ny\n## d\nz\n# e\nw\n"
    tree = outline(text, from_markdown(text))
    assert [child[:2] for child in tree[2:]] == [
        ["section", "## b\nx\n### c\ny"],
        ["section", "## d\nz"],
        ["section", "# e\nw"],
    ]


def test_nodes_with_one_child_are_left_out():
    text = "# Title\n\nOnly one.\n"
    h = from_markdown(text)
    assert kinds(outline(text, h)) == ["document", ["heading"], ["sentence"]]
    assert from_markdown("word").parent.tolist() == [1, 1]


def test_a_byte_order_mark_hides_no_heading():
    text = "\ufeff# Title\n\nOne. दो। तीन।\n"
    tree = outline(text, from_markdown(text, collapse=False))
    assert kinds(tree) == [
        "document",
        ["section", ["heading"], ["paragraph", ["sentence"], ["sentence"], ["sentence"]]],
    ]
    assert tree[2][2] == ["heading", "# Title"]


lines = st.sampled_from(
    [
        *("# h", "## h two", "###### six", "under", "---", "===", "A b. C d.", "", "", "- item"),
        *("  - nested", "1. first", "> quote", "> > deep", "```", "    code", "| a | b |"),
        *("|---|---|", "<p>", "</p>", "[a]: b", "\tx", "> - q", "***", "\f", "é. À"),
    ]
)


@given(st.lists(lines, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", "\r"]))
@settings(max_examples=100, deadline=None)
def test_any_markdown_gives_a_tree_whose_spans_are_those_of_its_tokens(parts, newline):
    text = newline.join([*parts, "x"])
    h = from_markdown(text)
    assert h.validate() and h.num_trees == 1
    assert "".join(text[a:b] for a, b in h.offset.tolist()) == "".join(text.split())
    below = aggregate(torch.eye(h.num_nodes), h.tree) > 0
    for node, row in enumerate(below):
        tokens = h.offset[row]
        assert h.tree_span[node].tolist() == [int(tokens[0, 0]), int(tokens[-1, 1])]
        kind = MARKDOWN_KINDS[h.tree_kind[node]]
        assert (kind == "token") == (node < h.num_nodes)
        assert (kind == "document") == (node == h.num_tree_nodes - 1)
        if kind in ("heading", "sentence", "line"):  # below them are tokens only
            assert int((h.parent[h.num_nodes :] == node).sum()) == 0
    full = from_markdown(text, collapse=False)
    assert full.validate()
    assert {tuple(span) for span in h.tree_span.tolist()} <= {
        tuple(span) for span in full.tree_span.tolist()
    }


def test_tokens_of_a_tokenizer():
    text = "# Go on\n\nStop. Go.\n"
    tokens = [(0, 0), (2, 4), (4, 7), (9, 13), (13, 14), (14, 17), (17, 18), (0, 0)]
    h = from_markdown(text, tokens=tokens, x=torch.rand(8, 2))
    root = h.num_tree_nodes - 1
    assert h.parent[0] == h.parent[7] == root
    assert kinds(outline(text, h)) == [
        "document",
        ["section", ["heading"], ["paragraph", ["sentence"], ["sentence"]]],
    ]


@pytest.mark.parametrize(
    ("text", "options", "error", "match"),
    [
        (3, {}, TypeError, r"'text' to be a string \(got int\)"),
        ("\n", {}, ValueError, "'text' to hold words"),
        ("# Go", {"tokens": [(0, 9)]}, ValueError, r"tokens\[0\] = \[0, 9\]"),
    ],
)
def test_bad_arguments_are_named(text, options, error, match):
    with pytest.raises(error, match=match):
        from_markdown(text, **options)


def test_a_missing_parser_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[text\]'"):
        from_markdown("# Go")
