"""Operators as functions of tensors and a :class:`~hsa_geometric.TreeIndex`."""

from .attention import attention_matrix, hierarchical_attention
from .sweeps import aggregate, distribute

__all__ = ["aggregate", "attention_matrix", "distribute", "hierarchical_attention"]
