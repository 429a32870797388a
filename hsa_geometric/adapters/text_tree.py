"""Sentences and paragraphs over a tokenizer's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..builders.sequences.from_text import Level, from_text
from ..tree import TreeIndex


def text_tree(
    texts: Sequence[str],
    offsets: Any,
    attention_mask: Any = None,
    *,
    levels: Sequence[Level] = ("paragraph", "sentence"),
) -> TreeIndex:
    """Build a batch's trees of text units for :func:`~hsa_geometric.adapters.replace_attention`.

    Each text has a tree of its own as :func:`~hsa_geometric.builders.from_text` builds it, over its
    real tokens. Special tokens, which have no characters, hang directly below the root: name their
    places in ``sinks`` or their ids in ``special_ids`` and each token meets each of them.

    Args:
        texts: those that were tokenized.
        offsets: of each text the characters ``[tokens, 2]`` that its tokens are from: what a fast
            tokenizer of Hugging Face returns with ``return_offsets_mapping=True``.
        attention_mask: ``[texts, tokens]`` which tokens are real. (default: all)
        levels: units from coarse to fine.

    Returns:
        The forest, for this batch alone.

    Raises:
        ImportError: if regex is not installed (``pip install 'hsa_geometric[text]'``).
        ValueError: if there are not as many offsets or masks as texts, or a text does not fit its
            offsets.

    Cost: one scan of each text.

    Example:
        >>> text = "Trees are old. They have leaves!"
        >>> offsets = [[0, 0], [0, 5], [6, 9], [10, 14], [15, 19], [20, 24], [25, 32], [0, 0]]
        >>> tree = text_tree([text], [offsets])
        >>> tree.parent  # two special tokens, 8 and 9 the sentences, 10 the paragraph
        tensor([11,  8,  8,  8,  9,  9,  9, 11, 10, 10, 11, 11])
        >>> from hsa_geometric.adapters import replace_attention
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
        >>> model = replace_attention(model, hierarchy=tree, sinks=(0, -1))
        >>> model(torch.randn(1, 8, 8)).shape
        torch.Size([1, 8, 8])
    """
    masks = [None] * len(texts) if attention_mask is None else attention_mask
    if isinstance(texts, str) or not len(texts) == len(offsets) == len(masks) > 0:
        raise ValueError(
            f"Expected as many 'offsets' and rows of 'attention_mask' as 'texts', at least one "
            f"(got {len(offsets)}, {len(masks)} and {len(texts)})"
        )
    parents, nodes = [], 0
    for text, offset, mask in zip(texts, offsets, masks, strict=True):
        if mask is not None:
            offset = torch.as_tensor(offset)[torch.as_tensor(mask).bool()]
        parents.append(from_text(text, levels=levels, tokens=offset).parent + nodes)
        nodes += parents[-1].numel()
    return TreeIndex.from_parent(torch.cat(parents))
