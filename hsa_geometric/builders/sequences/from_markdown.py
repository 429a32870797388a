"""A Markdown text: sections by rank of heading, blocks, sentences, tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders.sequences._blocks import Block, blocks
from hsa_geometric.builders.sequences._tokens import (
    anchors,
    as_offsets,
    tree_of_tokens,
    units_from,
)
from hsa_geometric.builders.sequences._unicode import begins, pattern
from hsa_geometric.data.hierarchy import Hierarchy

MARKDOWN_KINDS: tuple[str, ...] = (
    "document",
    "section",
    "heading",
    "paragraph",
    "list",
    "list_item",
    "quote",
    "code",
    "table",
    "html",
    "rule",
    "sentence",
    "line",
    "token",
)
"""What the numbers in ``tree_kind`` of :func:`from_markdown` stand for."""

_OF_LINES = [MARKDOWN_KINDS.index(name) for name in ("code", "table", "html")]


def from_markdown(
    text: str, *, tokens: Any = None, collapse: bool = True, **leaf_data: Any
) -> Hierarchy:
    r"""Build a hierarchy over the tokens of a Markdown text.

    Sections nest by the rank of their headings (``#`` to ``######``, or underlined), which may skip
    ranks. In a section are its heading, its blocks and its subsections; lists and quotations hold
    blocks in turn. Below a paragraph are sentences; below code, a table or HTML are lines, so a
    ``#`` in code is no heading. Text before the first heading hangs below the root.

    Tokens are tree nodes ``0 .. N-1``. The hierarchy carries ``offset`` ``[N, 2]`` and
    ``tree_span`` ``[T, 2]``, characters as for
    :func:`~hsa_geometric.builders.from_text`, and ``tree_kind`` ``[T]``, numbers of
    :data:`MARKDOWN_KINDS`.

    Blocks are told apart by their lines, so the signs that mark them (``#``, ``-``, ``>``) are
    tokens of the first block on their line. What is in no block, such as the definition of a link,
    hangs directly below its section. CommonMark and tables are known, front matter is not: cut it
    off. A byte-order mark is skipped. Words and sentences are those of
    :func:`~hsa_geometric.builders.from_text`.

    Args:
        text: the text.
        tokens: ``[N, 2]`` character offsets, by the rules of
            :func:`~hsa_geometric.builders.from_text`. (default: words and signs)
        collapse: leave out nodes with a single child, which add nothing to the attention; the
            innermost node stays. A node that holds the whole text is the root. With :obj:`False`
            all are kept.
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        ImportError: if markdown-it-py or regex is not installed
            (``pip install 'hsa_geometric[text]'``).
        TypeError: if :obj:`text` is no string or :obj:`tokens` hold no integers.
        ValueError: naming the argument: a blank text, no tokens, offsets outside of the text.

    Cost: one parse of the text, and one sort of the tokens for each depth of nesting.

    Example:
        >>> text = "# Trees\n\nOld. Tall.\n\n## Leaves\n\n- thin ones\n- green ones\n"
        >>> h = from_markdown(text)
        >>> h.num_nodes, h.depth
        (15, 4)
        >>> for kind, (start, end) in zip(h.tree_kind[15:], h.tree_span[15:].tolist()):
        ...     print(MARKDOWN_KINDS[kind], repr(text[start:end]))
        sentence 'Old.'
        sentence 'Tall.'
        sentence '- thin ones'
        sentence '- green ones'
        heading '## Leaves'
        list '- thin ones\n- green ones'
        heading '# Trees'
        paragraph 'Old. Tall.'
        section '## Leaves\n\n- thin ones\n- green ones'
        document '# Trees\n\nOld. Tall.\n\n## Leaves\n\n- thin ones\n- green ones'
    """
    offset = as_offsets(text, tokens)
    anchor = anchors(text, offset)
    none = MARKDOWN_KINDS.index("document")
    innermost = torch.full_like(anchor, none)
    levels, kinds = [], []
    found = blocks(text)
    for depth in range(max((block.depth for block in found), default=-1) + 1):
        unit, kind = _units([block for block in found if block.depth == depth], anchor)
        levels.append(unit)
        kinds.append(kind)
        innermost = torch.where(unit < 0, innermost, kind)

    # The finest level: sentences in paragraphs, lines in what is read by lines.
    line = torch.isin(innermost, torch.tensor(_OF_LINES, device=anchor.device))
    paragraph = innermost == MARKDOWN_KINDS.index("paragraph")
    sentences, lines = (
        units_from(begins(pattern(level), text), anchor) for level in ("sentence", "line")
    )
    levels.append(torch.where(line, lines, torch.where(paragraph, sentences, -1)))
    kinds.append(torch.where(line, MARKDOWN_KINDS.index("line"), MARKDOWN_KINDS.index("sentence")))
    token = torch.tensor(MARKDOWN_KINDS.index("token"))
    return tree_of_tokens(
        offset,
        levels[::-1],
        [token, *kinds[::-1], torch.tensor(none)],
        collapse=collapse,
        leaf_data=leaf_data,
    )


def _units(found: list[Block], anchor: Tensor) -> tuple[Tensor, Tensor]:
    """``[N]`` the block each token is in, ``-1`` for none, and the kind of that block."""
    table = torch.tensor(
        [(block.begin, block.end, MARKDOWN_KINDS.index(block.kind)) for block in found],
        device=anchor.device,
    )
    begin, end, kind = table.unbind(1)
    unit = torch.searchsorted(begin.contiguous(), anchor, right=True) - 1
    outside = (unit < 0) | (anchor >= end[unit])
    return torch.where(outside, -1, unit), kind[unit]
