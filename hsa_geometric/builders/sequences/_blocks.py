"""Blocks of a Markdown text, as ranges of characters; CommonMark is read by markdown-it-py."""

from __future__ import annotations

import re
from typing import NamedTuple

from hsa_geometric.builders._extra import extra

_KIND_OF = {
    "heading": "heading",
    "paragraph": "paragraph",
    "bullet_list": "list",
    "ordered_list": "list",
    "list_item": "list_item",
    "blockquote": "quote",
    "fence": "code",
    "code_block": "code",
    "table": "table",
    "html_block": "html",
    "hr": "rule",
}


class Block(NamedTuple):
    """Characters ``begin:end`` of the text, ``depth`` blocks below the document."""

    begin: int
    end: int
    depth: int
    kind: str


def blocks(text: str) -> list[Block]:
    """All blocks and sections, parents before their children.

    A heading that is in no list or quotation opens a section, which ends at the next such heading
    of the same or a higher rank.
    """
    with extra("text", "from_markdown needs markdown-it-py"):
        from markdown_it import MarkdownIt

    lines = [0, *(match.end() for match in re.finditer(r"\r\n?|\n", text)), len(text)]
    out: list[Block] = []
    sections: list[tuple[str, int]] = []  # rank of each open section, and its place in `out`

    def close(begin: int) -> None:
        _, at = sections.pop()
        out[at] = out[at]._replace(end=begin)

    depth = 0  # in lists, quotations and so on
    for token in MarkdownIt("commonmark").enable("table").parse(text.removeprefix("\ufeff")):
        kind = _KIND_OF.get(token.type.removesuffix("_open").removesuffix("_close"))
        if kind is None:
            continue
        if token.nesting < 0:
            depth -= 1
            continue
        if token.map is None:
            raise AssertionError(f"a {token.type} without lines")
        begin, end = (lines[min(line, len(lines) - 1)] for line in token.map)
        if kind == "heading" and token.level == 0:
            while sections and sections[-1][0] >= token.tag:  # 'h1' < 'h2' < ...
                close(begin)
            out.append(Block(begin, len(text), len(sections), "section"))
            sections.append((token.tag, len(out) - 1))
        out.append(Block(begin, end, len(sections) + depth, kind))
        depth += token.nesting
    return out
