"""Newick, the text format of phylogenetic trees, both ways."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._ids import first
from hsa_geometric.builders._postorder import from_postorder, own_leaves
from hsa_geometric.builders._progress import counting
from hsa_geometric.builders.networkx import labels
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.layout import layout

# Blanks are those of the format, as dendropy has them: any other white space is part of a name.
_BLANK = r"[ \t\r\n]*"
_QUOTED = r"""(?:'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*")"""
_NO_SYNTAX = re.compile(rf"""{_QUOTED}|[\[\]'"]""")  # quoted, a comment, or unclosed
_COMMENT_SIGN = re.compile(r"[\[\]]")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def _labels(length: str) -> re.Pattern[str]:
    return re.compile(
        rf"""{_BLANK}(?P<name>{_QUOTED}|[^ \t\r\n:{{}}'"]*){_BLANK}"""
        rf"""(?::{_BLANK}(?P<length>{length}){_BLANK})?"""
        rf"""(?:\{{(?P<edge>[0-9]+)\}}{_BLANK})?"""
    )


_LABEL, _ANY_LABEL = _labels(_NUMBER), _labels(r"""[^ \t\r\n:{}'"]+""")
_PLAIN = re.compile(r"""[^\s()\[\]{}"':;,=\\]*""")
_QUOTES = ("'", '"')
AT_ONCE = 1024  # labels between two steps of the bar
_SYNTAX = np.array([ord(c) for c in "(),;"])


def from_newick(
    text: str, *, internal: str = "error", progress: bool = False, **leaf_data: Any
) -> Hierarchy:
    r"""Build a hierarchy from a Newick string such as ``(A:0.1,(B,C)D);``.

    Leaves are tree nodes ``0 .. N-1`` in reading order, then come the inner nodes in the order in
    which their brackets close. Several trees, each ended by ``;``, are a forest; trees are counted
    by the ids of their roots, so that a tree of a single leaf comes before all others.

    The label of each node is kept as its attribute ``name``, an empty string where there is none:
    ``h.tree_names.attrs[i]["name"]``. Names need not be unique, so :func:`to_networkx` numbers
    the nodes and gives them this attribute. Branch lengths become ``h.tree_length`` ``[T]``, in
    torch's default precision, NaN for a node without.

    Args:
        text: trees in Newick format: names may be missing, quoted (``'it''s'`` or
            ``"Homo sapiens"``), or plain, and a plain one is taken as it stands (underscores too);
            blanks, a byte-order mark and comments in ``[...]`` (nested ones and those with extended
            data too) are skipped. The edge number of the jplace format, ``A:0.1{7}``, is kept as
            attribute ``edge_num``. After brackets the last ``;`` may be missing.
        internal: what becomes of inner nodes with rows of ``x`` (or other leaf data) of their own,
            row :obj:`a` being that of tree node :obj:`a`, inner nodes last: as for
            :func:`~hsa_geometric.builders.from_parent`. With ``'leaf'`` an own leaf has the name
            of its node and branch length 0. (default: ``'error'``)
        progress: whether a bar on stderr counts the labels that are read. (default: off)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`, leaves in reading order.

    Raises:
        TypeError: if :obj:`text` is no string.
        ValueError: naming the character (counted from 0) and a remedy: a bracket, quote or comment
            without its partner, a missing comma or semicolon, a name with blanks and without
            quotes, a branch length that is no decimal number or too large for the precision, a
            ``;`` without a tree, text after the end, a NEXUS or jplace file around the trees; and
            what :func:`~hsa_geometric.builders.from_parent` raises.

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
    _check_format(text)
    clean, bare = _without_comments(text)
    depth, spans = _scan(bare)

    names: list[dict[Any, Any]] = []
    values, nan = [], float("nan")
    with counting(progress, len(spans), "from_newick", "node") as step:
        for done in range(0, len(spans), AT_ONCE):
            some = spans[done : done + AT_ONCE]
            for match in [_LABEL.fullmatch(clean, *span) for span in some]:
                if match is None:
                    raise _no_label(clean, spans[len(names)])
                name, length, edge = match.groups()
                if name[:1] in _QUOTES:
                    name = name[1:-1].replace(2 * name[0], name[0])
                names.append({"name": name})
                if edge is not None:
                    names[-1]["edge_num"] = int(edge)
                values.append(nan if length is None else float(length))
            step(len(some))
    lengths = torch.tensor(values)
    if (large := first(lengths.isinf())) is not None:
        match = _LABEL.fullmatch(clean, *spans[large])
        assert match is not None
        raise ValueError(
            f"Expected branch lengths to fit in {lengths.dtype} (got {_shorten(match['length'])} "
            f"at character {match.start('length')}; torch.set_default_dtype(torch.float64) takes "
            f"lengths up to 1.8e308)"
        )
    h = from_postorder(depth, names, internal, leaf_data, {"tree_length": lengths})
    h["tree_length"][own_leaves(len(values), h)] = 0
    return h


def to_newick(hierarchy: Hierarchy, *, name: str = "name") -> str:
    r"""Write a hierarchy as a Newick string; the inverse of :func:`from_newick`.

    Each tree is one line. Siblings, and trees, are in the order of the least leaf row below them,
    so leaf rows in reading order, as :func:`from_newick` gives them, are read back as they were.
    Data other than names and branch lengths is left out.

    Args:
        hierarchy: one sample or a batch. ``tree_length`` ``[T]``, if there, is written as branch
            lengths (NaN: none), with as many digits as its precision needs. Names that are not
            plain are written in single quotes, an empty name of a whole tree as ``''``.
        name: attribute that holds the names. A node without it is written with its name in
            :func:`to_networkx` if that is a string or it is a leaf, which for most builders means
            leaf :obj:`i` is named ``i``.

    Raises:
        TypeError, ValueError: if the hierarchy is not valid.
        ValueError: naming the node, if a branch length is infinite.

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
    for node in leaf:
        if is_root[node] and not tail[node]:
            tail[node] = "''"  # a ';' alone is no tree

    parts, closed = [], iter(inner.tolist())
    for node, opens, closes in zip(leaf, opening, closing, strict=True):
        parts += ["(" * opens, tail[node]]
        for _ in range(closes):
            node = next(closed)
            parts += [")", tail[node]]
        parts.append(";\n" if is_root[node] else ",")
    return "".join(parts)[:-1]


def _without_comments(text: str) -> tuple[str, str]:
    """The text with blanks for comments, and once more with underscores for quoted names."""
    clean: list[str] = []
    bare: list[str] = []
    if text[:1] == "\ufeff":
        clean, bare = [" "], [" "]
    done = at = len(clean)
    while match := _NO_SYNTAX.search(text, at):
        at, end = match.span()
        plain = text[done:at]
        if match[0] == "[":
            end = _end_of_comment(text, at)
            clean += [plain, " " * (end - at)]
            bare += [plain, " " * (end - at)]
        elif end - at == 1:
            what = "comment" if match[0] == "]" else "quote"
            raise _no_partner(what, at)
        else:
            clean += [plain, match[0]]
            bare += [plain, "_" * (end - at)]
        done = at = end
    return "".join([*clean, text[done:]]), "".join([*bare, text[done:]])


def _end_of_comment(text: str, start: int) -> int:
    open_ = 0
    for match in _COMMENT_SIGN.finditer(text, start):
        open_ += 1 if match[0] == "[" else -1
        if open_ == 0:
            return match.end()
    raise _no_partner("comment", start)


def _no_partner(what: str, at: int) -> ValueError:
    return ValueError(
        f"Expected 'text' to close what it opens (got a {what} without its partner at "
        f"character {at}; a name with quotes or brackets needs quotes)"
    )


def _check_format(text: str) -> None:
    """Say what to do with the files that have trees inside."""
    begin = text.lstrip("\ufeff \t\r\n")
    at = len(text) - len(begin)
    if begin[:6].upper() == "#NEXUS":
        raise ValueError(
            f"Expected 'text' to hold Newick (got '#NEXUS' at character {at}; pass the trees in it "
            f"as dendropy writes them: dendropy.TreeList.get(data=text, schema='nexus', "
            f"preserve_underscores=True).as_string('newick', preserve_spaces=True, "
            f"unquoted_underscores=True))"
        )
    if begin[:1] == "{":
        raise ValueError(
            f"Expected 'text' to hold Newick (got '{{' at character {at}; of a jplace file pass "
            f"json.loads(text)['tree'])"
        )


def _scan(bare: str) -> tuple[np.ndarray[Any, Any], list[tuple[int, int]]]:
    """Depth and span of the label of each node, in the order in which nodes end.

    A label stands between two signs of the syntax, and each sign but ``(`` ends one.
    """
    letters = np.frombuffer(bare.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    at = np.flatnonzero(np.isin(letters, _SYNTAX))
    sign = letters[at]
    ended = np.flatnonzero(sign == ord(";"))
    past = int(at[ended[-1]]) + 1 if ended.size else 0
    rest = bare[past:].lstrip(" \t\r\n")
    if at.size and sign[-1] == ord(")"):  # the last semicolon is forgotten more often than not
        at, sign = np.append(at, len(bare)), np.append(sign, ord(";"))
    elif rest or not ended.size:
        raise ValueError(
            f"Expected 'text' to hold trees that end with ';' "
            f"(got {_shorten(rest)} at character {len(bare) - len(rest)})"
        )
    opens, closes = sign == ord("("), sign == ord(")")
    depth = np.cumsum(opens.astype(np.int64) - closes)
    _refuse(depth < 0, at, "a '(' before this ')'")
    before = np.concatenate([[0], depth[:-1]])
    _refuse((sign == ord(";")) & (before > 0), at, "a ')' before this ';' or the end")
    _refuse((sign == ord(",")) & (before == 0), at, "';' between trees, not this ','")
    _refuse(opens[1:] & closes[:-1], at[1:], "',' before this '('")
    start = np.concatenate([[0], at[:-1] + 1])
    lone = (sign == ord(";")) & np.concatenate([[True], sign[:-1] == ord(";")])
    for i, j in zip(start[lone].tolist(), at[lone].tolist(), strict=True):
        if not bare[i:j].strip(" \t\r\n"):
            raise ValueError(
                f"Expected a tree before each ';' (got none at character {j} of 'text'; a tree of "
                f"one leaf without a name is \"'';\")"
            )
    filled = opens & (at > start)
    for i, j in zip(start[filled].tolist(), at[filled].tolist(), strict=True):
        if label := bare[i:j].strip(" \t\r\n"):
            raise ValueError(
                f"Expected labels to follow their brackets (got {_shorten(label)} before the '(' "
                f"at character {j})"
            )
    ends = ~opens
    return before[ends], list(zip(start[ends].tolist(), at[ends].tolist(), strict=True))


def _refuse(wrong: np.ndarray[Any, Any], at: np.ndarray[Any, Any], what: str) -> None:
    if wrong.any():
        raise ValueError(f"Expected {what} (at character {int(at[wrong][0])} of 'text')")


def _no_label(clean: str, span: tuple[int, int]) -> ValueError:
    """What is wrong with what stands there."""
    if match := _ANY_LABEL.fullmatch(clean, *span):
        return ValueError(
            f"Expected a branch length to be a decimal number such as 0.1 or 1e-3 (got "
            f"{_shorten(match['length'])} at character {match.start('length')}; leave an unknown "
            f"one out)"
        )
    return ValueError(
        f"Expected a label 'name:length' (got {_shorten(clean[slice(*span)].strip())} at "
        f"character {span[0]}; a name with blanks, colons, braces or quotes needs quotes)"
    )


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
    if (node := first(length.isinf())) is not None:
        raise ValueError(
            f"Expected 'tree_length' to be finite, or NaN for none "
            f"(got tree_length[{node}] = {float(length[node])})"
        )
    return ["" if v == "nan" else f":{v}" for v in length.numpy().astype(str).tolist()]
