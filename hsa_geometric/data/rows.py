"""What the rows of a value stand for, as far as the name under which it is stored says so."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from torch import Tensor

Rows = Literal["tree", "inner", "leaf", "typed", "sample", "edge", "reference", "other"]

# Keys that always hold one row per leaf. `y` may also belong to the whole sample.
LEAF_KEYS = ("x", "pos", "z", "mass", "batch")
EDGE_KEYS = ("edge_attr", "edge_weight", "edge_type", "e_id")
REFERENCES = ("edge_index", "edge_label_index", "face", "adj", "adj_t")
FOLLOWERS = ("_batch", "_ptr")
OTHER = ("edge_label", "num_nodes", "num_edges", "ptr")


@lru_cache(maxsize=1024)  # PyG asks for each key of each sample
def rows_by_name(key: str) -> Rows | None:
    r"""Say what the rows stored under a reserved name stand for; :obj:`None` for all other names.

    * ``"tree"``: one row for each tree node (:obj:`parent` and every ``tree_*``)
    * ``"inner"``: one row for each inner node, in ascending id (every ``inner_*``)
    * ``"leaf"``: one row for each leaf (:obj:`x`, :obj:`pos`, :obj:`z`, :obj:`mass`, :obj:`batch`)
    * ``"edge"``: one row for each edge (:obj:`edge_attr`, :obj:`edge_weight`, :obj:`edge_type`)
    * ``"reference"``: it names leaves by row (:obj:`edge_index`, :obj:`face`, :obj:`adj`, …)
    * ``"other"``: what PyG counts

    Args:
        key: name of the attribute.

    Example:
        >>> rows_by_name("tree_pos"), rows_by_name("inner_x"), rows_by_name("edge_index")
        ('tree', 'inner', 'reference')
        >>> rows_by_name("surface_area") is None
        True
    """
    if key == "parent":
        return "tree"
    if key.startswith(("tree_", "inner_")):
        if key.endswith(FOLLOWERS):  # follow_batch=['tree_pos'] adds these
            return "other"
        return "tree" if key.startswith("tree_") else "inner"
    if key in LEAF_KEYS:
        return "leaf"
    if key in EDGE_KEYS:
        return "edge"
    if key in REFERENCES:
        return "reference"
    return "other" if key in OTHER else None


def type_number(recorded: str | None) -> int | None:
    """The type whose leaves have a row each, if ``'type 2'`` or the like was recorded of a key."""
    if recorded is None or not recorded.startswith("type "):
        return None
    return int(recorded.removeprefix("type "))


def is_follower(key: str, keys: Any) -> bool:
    """Whether it is what ``follow_batch`` adds to a batch for another one of ``keys``."""
    return any(key.endswith(end) and key.removesuffix(end) in keys for end in FOLLOWERS)


def count_rows(value: Any) -> int | None:
    """Number of rows, or None of what has none."""
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value.shape[0]) if value.ndim else None
    if isinstance(value, (list, tuple)):
        return len(value)
    rows = getattr(value, "num_rows", None)  # of a frame of tensors
    return rows if isinstance(rows, int) else None
