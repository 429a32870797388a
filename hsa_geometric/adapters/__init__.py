"""Pretrained transformers on hierarchical attention: replaced, measured, chosen, distilled."""

from .replace_attention import replace_attention, restore_attention

__all__ = [
    "replace_attention",
    "restore_attention",
]
