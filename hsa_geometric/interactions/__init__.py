"""Builders of interaction lists: which nodes of a tree, or of two, meet."""

__all__: list[str] = []
