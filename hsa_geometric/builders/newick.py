"""Newick, the text format of phylogenetic trees, both ways."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._postorder import from_postorder, own_leaves
from hsa_geometric.builders.networkx import labels
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import layout

_QUOTED = r"'[^']*(?:''[^']*)*'"
_NO_SYNTAX = re.compile(rf"{_QUOTED}|\[[^\]]*\]|['\[\]]")  # quoted, comment, or unclosed
_LABEL = re.compile(rf"\s*({_QUOTED}|[^\s':]*)\s*(?::\s*([^\s':]*)\s*)?")
_PLAIN = re.compile(r"[^\s()\[\]{}':;,]*")
_SYNTAX = np.array([ord(c) for c in "(),;"])


def from_newick(text: str, *, internal: str = "error", **leaf_data: Any) -> Hierarchy:
    r"""Build a hierarchy from a Newick string such as ``(A:0.1,(B,C)D);``.

    Leaves are tree nodes ``0 .. N-1`` in reading order, then come the inner nodes in the order in
    which their brackets close. Several trees, each ended by ``;``, are a forest; trees are counted
    by the ids of their roots, so that a tree of a single leaf comes before all others.

    The label of each node is kept as its attribute ``name``, an empty string where there is none:
    ``h.tree_names.attrs[i]["name"]``. Names need not be unique, so :func:`to_networkx` numbers
    the nodes and gives them this attribute. Branch lengths become ``h.tree_length`` ``[T]``, in
    torch's default precision, NaN for a node without; the key is absent if no node has one.

    Args:
        text: trees in Newick format: names may be missing, quoted (``'it''s'``), or plain, and
            a plain one is taken as it stands (underscores too); blanks and comments in ``[...]``
            (also those with extended data) are skipped.
        internal: what becomes of inner nodes with rows of ``x`` (or other leaf data) of their own,
            row :obj:`a` being that of tree node :obj:`a`, inner nodes last: as for
            :func:`~hsa_geometric.builders.from_parent`. With ``'leaf'`` an own leaf has the name
            of its node and branch length 0. (default: ``'error'``)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`, leaves in reading order.

    Raises:
        TypeError: if :obj:`text` is no string.
        ValueError: naming the character (counted from 0): a bracket, quote or comment without its
            partner, a missing comma or semicolon, a name with blanks and without quotes, a branch
            length that is no number, text after the end, no tree at all; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: one regular expression for each label; the rest is sorting. No recursion, so any
    depth.

    Example:
        >>> h = from_newick("((wolf:1,fox:2)dogs:3,'black bear':5);")
        >>> h
        Hierarchy(leaves=3, nodes=5, depth=2, tree_length=[5], tree_names=[5])
        >>> [attrs["name"] for attrs in h.tree_names.attrs]
        ['wolf', 'fox', 'black bear', 'dogs', '']
        >>> h.parent
        tensor([3, 3, 4, 4, 4])
        >>> h.tree_length
        tensor([1., 2., 5., 3., nan])
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected 'text' to be a string (got {type(text).__name__})")
    clean = _NO_SYNTAX.sub(_blank_comment, text)
    bare = re.sub(_QUOTED, lambda m: "_" * len(m[0]), clean)
    depth, spans = _scan(bare)

    found = [_label(clean, start, end) for start, end in spans]
    names: list[dict[Any, Any]] = [{"name": name} for name, _ in found]
    length = torch.tensor([value for _, value in found])
    if length.isnan().all():
        return from_postorder(depth, names, internal, leaf_data)
    h = from_postorder(depth, names, internal, leaf_data, {"tree_length": length})
    h["tree_length"][own_leaves(len(found), h)] = 0
    return h


def to_newick(hierarchy: Hierarchy, *, name: str = "name") -> str:
    r"""Write a hierarchy as a Newick string; the inverse of :func:`from_newick`.

    Each tree is one line. Siblings, and trees, are in the order of the least leaf row below them,
    so leaf rows in reading order, as :func:`from_newick` gives them, are read back as they were.
    Data other than names and branch lengths is left out.

    Args:
        hierarchy: one sample or a batch. ``tree_length`` ``[T]``, if there, is written as branch
            lengths (NaN: none), with as many digits as its precision needs.
        name: attribute that holds the names. A node without it is written with its name in
            :func:`to_networkx` if that is a string or it is a leaf, which for most builders means
            leaf :obj:`i` is named ``i``.

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.

    Cost: a few Python steps for each node.

    Example:
        >>> from hsa_geometric.builders import from_parent
        >>> to_newick(from_newick("(A:0.1, (B, 'it''s')D:2 [comment] );"))
        "(A:0.1,(B,'it''s')D:2.0);"
        >>> to_newick(from_parent([3, 3, 4, 4, 4]))
        '((0,1),2);'
    """
    hierarchy.validate()
    tree = hierarchy.tree.to("cpu")
    place = layout(tree)
    first, last = place.start, place.start + place.leaves - 1
    lengths = _lengths(hierarchy)
    tail = [
        _quote(label) + length
        for label, length in zip(labels(hierarchy, name), lengths, strict=True)
    ]
    is_inner = torch.ones(tree.num_nodes, dtype=torch.bool)
    is_inner[tree.leaf_ids] = False
    inner = is_inner.nonzero().view(-1)
    opening = torch.bincount(first[inner], minlength=tree.num_leaves).tolist()
    inner = inner[torch.argsort(tree.level[inner], descending=True)]
    inner = inner[torch.argsort(last[inner], stable=True)]
    closing = torch.bincount(last[inner], minlength=tree.num_leaves).tolist()
    leaf = tree.leaf_ids[torch.argsort(first[tree.leaf_ids])].tolist()
    is_root = (tree.parent == torch.arange(tree.num_nodes)).tolist()

    parts, closed = [], iter(inner.tolist())
    for node, opens, closes in zip(leaf, opening, closing, strict=True):
        parts += ["(" * opens, tail[node]]
        for _ in range(closes):
            node = next(closed)
            parts += [")", tail[node]]
        parts.append(";\n" if is_root[node] else ",")
    return "".join(parts)[:-1]


def _blank_comment(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 1:
        what = {"'": "quote", "[": "comment", "]": "comment"}[found]
        raise ValueError(
            f"Expected 'text' to close what it opens (got a {what} without its partner at "
            f"character {match.start()}; a name with quotes or brackets needs quotes)"
        )
    return found if found[0] == "'" else " " * len(found)


def _scan(bare: str) -> tuple[np.ndarray[Any, Any], list[tuple[int, int]]]:
    """Depth and span of the label of each node, in the order in which nodes end.

    A label stands between two signs of the syntax, and each sign but ``(`` ends one.
    """
    letters = np.frombuffer(bare.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    at = np.flatnonzero(np.isin(letters, _SYNTAX))
    sign = letters[at]
    if at.size == 0 or sign[-1] != ord(";") or bare[at[-1] + 1 :].strip():
        past = int(at[sign == ord(";")][-1]) + 1 if (sign == ord(";")).any() else 0
        rest = bare[past:].lstrip()
        raise ValueError(
            f"Expected 'text' to hold trees that end with ';' "
            f"(got {_shorten(rest)} at character {len(bare) - len(rest)})"
        )
    opens, closes = sign == ord("("), sign == ord(")")
    depth = np.cumsum(opens.astype(np.int64) - closes)
    _refuse(depth < 0, at, "a '(' before this ')'")
    before = np.concatenate([[0], depth[:-1]])
    _refuse((sign == ord(";")) & (before > 0), at, "a ')' before this ';'")
    _refuse((sign == ord(",")) & (before == 0), at, "';' between trees, not this ','")
    _refuse(opens[1:] & closes[:-1], at[1:], "',' before this '('")
    start = np.concatenate([[0], at[:-1] + 1])
    for i, j in zip(start[opens].tolist(), at[opens].tolist(), strict=True):
        if label := bare[i:j].strip():
            raise ValueError(
                f"Expected labels to follow their brackets (got {_shorten(label)} before the '(' "
                f"at character {j})"
            )
    ends = ~opens
    return before[ends], list(zip(start[ends].tolist(), at[ends].tolist(), strict=True))


def _refuse(wrong: np.ndarray[Any, Any], at: np.ndarray[Any, Any], what: str) -> None:
    if wrong.any():
        raise ValueError(f"Expected {what} (at character {int(at[wrong][0])} of 'text')")


def _label(clean: str, start: int, end: int) -> tuple[str, float]:
    match = _LABEL.fullmatch(clean, start, end)
    try:
        if match is None:
            raise ValueError
        name, length = match.groups()
        if name[:1] == "'":
            name = name[1:-1].replace("''", "'")
        return name, float("nan") if length is None else float(length)
    except ValueError:
        raise ValueError(
            f"Expected a label 'name:length' (got {_shorten(clean[start:end].strip())} at "
            f"character {start}; a name with blanks, colons or quotes needs quotes)"
        ) from None


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:27]}...")


def _quote(label: Any) -> str:
    text = str(label)
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "''") + "'"


def _lengths(hierarchy: Hierarchy) -> list[str]:
    length = hierarchy._store.get("tree_length")
    if not isinstance(length, Tensor):
        return [""] * hierarchy.num_tree_nodes
    if length.dim() != 1:
        raise ValueError(
            f"Expected 'tree_length' to be one-dimensional (got {length.dim()} dimensions)"
        )
    length = length.detach().cpu()
    if length.dtype not in (torch.float32, torch.float64):
        length = length.float()
    return ["" if v == "nan" else f":{v}" for v in length.numpy().astype(str).tolist()]
