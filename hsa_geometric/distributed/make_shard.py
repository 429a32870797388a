"""One process's part of a hierarchy, for a cut that is given."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..data.hierarchy import Hierarchy
from ..data.leaves import check_no_references, keep_leaves


def make_shard(
    h: Hierarchy, pieces: Tensor, ranks: Tensor, rank: int, num_processes: int
) -> Hierarchy:
    r"""Take one process's leaves and the tree nodes above them, for a cut through the tree.

    Needs no process group: so one program can write the shards of all processes.

    Args:
        h: the whole, a sample or a batch.
        pieces: node ids, such that every leaf lies below exactly one, or is one.
        ranks: process of each piece.
        rank: the process whose part is taken.
        num_processes: how many there are.

    Returns:
        A hierarchy with the keys of :class:`HierarchyShard`, for :meth:`HierarchyShard.attach`.
        Edges and faces among its own leaves are kept, see :class:`Halo` for the others.

    Shapes:
        - **input:** pieces, ranks :math:`(P)`

    Raises:
        ValueError: if a leaf is below no piece or below two, a rank is out of range, or :obj:`h`
            has a key that names leaves by row besides :obj:`edge_index` and :obj:`face`.

    Cost: :math:`O(T \log \text{depth})`.

    Example:
        >>> import torch
        >>> from hsa_geometric import from_parent
        >>> h = from_parent([4, 4, 5, 5, 6, 6, 6])
        >>> part = make_shard(h, torch.tensor([4, 5]), torch.tensor([0, 1]), 1, 2)
        >>> part.parent, part.leaf_row, part.cut_parent
        (tensor([2, 2, 3, 3]), tensor([2, 3]), tensor([2, 2, 2]))
    """
    check_no_references(h)
    tree = h.tree
    ids = torch.arange(tree.num_nodes, device=tree.device)
    is_piece = torch.zeros_like(ids, dtype=torch.bool)
    is_piece[pieces] = True
    top = _above(tree.parent, is_piece, tree.depth)

    below = torch.where(is_piece, ids, tree.parent)
    for _ in range(tree.depth.bit_length()):
        below = below[below]
    of_leaf = below[tree.leaf_ids]
    nested = is_piece & (tree.parent != ids) & is_piece[below[tree.parent]]
    if not bool(is_piece[of_leaf].all()) or bool(nested.any()):
        raise ValueError("Expected every leaf to lie below exactly one of 'pieces'")
    if pieces.numel() != ranks.numel() or bool(((ranks < 0) | (ranks >= num_processes)).any()):
        raise ValueError(f"Expected 'ranks' to hold a number below {num_processes} for each piece")

    holder = torch.full_like(ids, -1)
    holder[pieces] = ranks.to(ids)
    mask = holder[of_leaf] == rank
    keep = torch.zeros_like(is_piece)
    keep[tree.leaf_ids[mask]] = True
    keep = _above(tree.parent, keep, tree.depth)
    level = tree.level
    deepest = torch.zeros_like(ids).scatter_reduce(0, of_leaf, level[tree.leaf_ids], "amax")
    number = top.cumsum(0) - 1
    piece = is_piece.nonzero().view(-1)

    plain = Hierarchy()  # of a batch, a sample
    for key, value in h._store.items():
        if key != "ptr" and not key.endswith(("_ptr", "_batch")):
            plain[key] = value
    plain._store._set_recorded(h._store._recorded())
    out = keep_leaves(plain, plain._with_nodes(copy.copy(plain), keep, tree.parent), mask)
    out.tree_cut = torch.where(top, number, -1)[keep]
    out.cut_parent = number[tree.parent[top]]
    out.cut_rank, out.cut_depth = holder[piece], deepest[piece] - level[piece]
    out.cut_size = ids.new_tensor([tree.num_leaves, num_processes])
    out.leaf_row = mask.nonzero().view(-1)
    record = {"cut_rank": "sample", "cut_depth": "sample", "cut_size": "sample"}
    record |= {"cut_parent": "sample", "leaf_row": "leaf"}
    out._store._set_recorded(out._store._recorded() | record)
    return out


def _above(parent: Tensor, mask: Tensor, depth: int) -> Tensor:
    """The nodes in a mask, and all their ancestors."""
    out, jump = mask.clone(), parent
    for _ in range(depth.bit_length()):
        out[jump[out]] = True
        jump = jump[jump]
    return out
