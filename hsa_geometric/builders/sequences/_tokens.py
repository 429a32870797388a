"""Tokens of a text: their character offsets, and the tree above them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._ids import as_integers, first
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.sequences._nest import nest, refine
from hsa_geometric.builders.sequences._unicode import words
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import over_subtrees


def as_offsets(text: str, tokens: Any) -> Tensor:
    """``[N, 2]`` first character of each token, or word, and the one behind its last."""
    if not isinstance(text, str):
        raise TypeError(f"Expected 'text' to be a string (got {type(text).__name__})")
    if not text or text.isspace():
        raise ValueError(f"Expected 'text' to hold words (got {text[:20]!r})")
    if tokens is None:
        found = words(text)
        if not found:
            raise ValueError(
                f"Expected 'text' to hold words (got {text[:20]!r}, of which nothing can be seen)"
            )
        return torch.tensor(found)
    offset = as_integers(tokens, "tokens", "Expected 'tokens' to hold pairs of integers (")
    if offset.numel() == 0:
        raise ValueError("Expected 'tokens' to hold at least one token (got none)")
    if offset.dim() != 2 or offset.size(1) != 2:
        raise ValueError(
            f"Expected 'tokens' to have the shape [N, 2] (got {list(offset.shape)}); "
            f"one text at a time"
        )
    offset = offset.long()
    start, end = offset.unbind(1)
    if (token := first((start < 0) | (end < start) | (end > len(text)))) is not None:
        raise ValueError(
            f"Expected 'tokens' to be character ranges within the {len(text)} characters of 'text' "
            f"(got tokens[{token}] = {offset[token].tolist()})"
        )
    return offset


def anchors(text: str, offset: Tensor) -> Tensor:
    """``[N]`` the character that says which unit a token is in: its first that is no white space.

    So the space that many tokenizers put before a word does not pull it into the unit before. Of
    white space alone it is the first character, of a token without characters ``-1``.
    """
    start, end = offset.t().contiguous()
    run = torch.tensor([match.span() for match in re.finditer(r"\S+", text)], device=offset.device)
    after = torch.searchsorted(run[:, 1].contiguous(), start, right=True)
    begin = torch.maximum(run[after.clamp(max=run.size(0) - 1), 0], start)
    visible = (after < run.size(0)) & (begin < end)
    return torch.where(start == end, -1, torch.where(visible, begin, start))


def units_from(begins: list[int], anchor: Tensor) -> Tensor:
    """``[N]`` number of the unit of each token, units beginning at the characters in ``begins``."""
    at = torch.tensor(sorted(begins), dtype=torch.long, device=anchor.device)
    return torch.where(anchor < 0, -1, torch.searchsorted(at, anchor, right=True))


def tree_of_tokens(
    offset: Tensor,
    levels: list[Tensor],
    kinds: list[Tensor],
    *,
    collapse: bool,
    leaf_data: dict[str, Any],
) -> Hierarchy:
    """The hierarchy, with ``offset``, ``tree_span`` and ``tree_kind``.

    ``levels`` go from fine to coarse. ``kinds`` holds the kind of the tokens, then for each level
    the kind of the unit that each token is in, then that of the root: each ``[N]`` or one number.
    """
    batch = offset.new_zeros(offset.size(0))
    nested = nest(refine(levels, batch), batch, collapse=collapse)
    table = torch.stack([kind.to(offset.device).expand(offset.size(0)) for kind in kinds])
    return from_parent(
        nested.parent,
        offset=offset,
        tree_span=_spans(nested.parent, offset),
        tree_kind=table[nested.level, nested.first],
        **leaf_data,
    )


def _spans(parent: Tensor, offset: Tensor) -> Tensor:
    """``[T, 2]`` characters from the first token below each node to the last."""
    most = torch.iinfo(torch.long).max
    start, end = (torch.full_like(parent, fill) for fill in (most, -1))
    empty = offset[:, 0] == offset[:, 1]  # special tokens cover nothing
    start[: empty.numel()] = torch.where(empty, most, offset[:, 0])
    end[: empty.numel()] = torch.where(empty, -1, offset[:, 1])
    start = over_subtrees(start, parent, "amin")
    end = over_subtrees(end, parent, "amax")
    span = torch.where(end[:, None] < 0, 0, torch.stack([start, end], 1))
    span[: empty.numel()] = offset
    return span
