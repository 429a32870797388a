"""Which rows a key of a hierarchy has; the one place that knows the naming rule."""

from __future__ import annotations

from typing import Literal

Rows = Literal["tree", "inner", "leaf", "other"]


def rows_of(key: str) -> Rows:
    r"""Say what the rows of the value stored under :obj:`key` stand for.

    * ``"tree"``: one row for each tree node (:obj:`parent` and every ``tree_*``)
    * ``"inner"``: one row for each inner node, in ascending id (every ``inner_*``)
    * ``"other"``: edges, and the bookkeeping PyG adds to a batch
    * ``"leaf"``: all the rest, that is leaves or whole samples

    Args:
        key: name of the attribute.

    Example:
        >>> rows_of("tree_pos"), rows_of("inner_x"), rows_of("edge_index"), rows_of("x")
        ('tree', 'inner', 'other', 'leaf')
    """
    if key.endswith(("_batch", "_ptr")) or key == "ptr":  # follow_batch=['tree_pos'] adds these
        return "other"
    if key == "parent" or key.startswith("tree_"):
        return "tree"
    if key.startswith("inner_"):
        return "inner"
    if key == "num_nodes" or any(word in key for word in ("edge", "index", "face", "adj")):
        return "other"
    return "leaf"
