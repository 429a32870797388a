"""Hierarchies of sequences: windows, texts, Markdown."""

from hsa_geometric.builders.sequences.from_markdown import MARKDOWN_KINDS, from_markdown
from hsa_geometric.builders.sequences.from_sequence import from_sequence
from hsa_geometric.builders.sequences.from_text import from_text

__all__ = ["MARKDOWN_KINDS", "from_markdown", "from_sequence", "from_text"]
