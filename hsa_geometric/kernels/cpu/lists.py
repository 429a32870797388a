"""Attention by interaction lists: the call of ``native/src/lists.h``, forward and backward."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from ...lists import InteractionLists
from ...native import kernel
from ..call import Call, accumulator
from . import walk
from .call import NO_ROWS, NOTHING, address, beside, like, node_values, pack, rows, run
from .walk import Walk, masses

# What follows two calls in ``ListsCall`` of ``native/src/call.h``.
MORE = Struct("=10q")
# Threads that may share a head on the way back: each has sums of all keys' gradients of its own.
MOST_PARTS = 4
# Rows of numbers are padded to whole vectors, of 16 numbers at most.
VECTOR = 16


class Blocks(NamedTuple):
    """The lists as the kernel reads them.

    Attributes:
        packed: the tensors of ``native/src/blocks.h``, one after another.
        masks: who of a group meets a key, a bit for each.
        groups: number of groups of siblings that meet the same keys.
        most: groups of one family at most.
        logits: that are computed, those that no block asks for included.
    """

    packed: Tensor
    masks: Tensor
    groups: int
    most: int
    logits: int

    @classmethod
    def of(cls, lists: InteractionLists) -> Blocks:
        """Those of lists, made at the first call."""
        return lists.once("cpu blocks", lambda: cls._made(lists))

    @classmethod
    def _made(cls, lists: InteractionLists) -> Blocks:
        sizes, sides = torch.empty(5, dtype=torch.long), []
        for tree in (lists.query_tree, lists.key_tree):
            order, inner = Walk.of(tree), tree.num_nodes - tree.num_leaves
            sides += [order.packed.data_ptr(), tree.num_nodes, inner, tree.num_trees]
            sides.append(order.families)
        ptr, block = lists.ptr.contiguous(), lists.blocks[1].contiguous()
        lib = kernel()
        built = lib.hsa_blocks(*sides, ptr.data_ptr(), block.data_ptr(), sizes.data_ptr())
        if not built:
            raise MemoryError("backend='cpu' found no memory for interaction lists")
        length, num_masks, groups, most, logits = sizes.tolist()
        packed = torch.empty(length, dtype=torch.int32)
        masks = torch.empty(num_masks, dtype=torch.long)
        lib.hsa_take_blocks(built, packed.data_ptr(), masks.data_ptr())
        if max(length, num_masks) >= 2**31:
            raise ValueError(
                f"Expected 'lists' to have fewer than 2^31 runs of keys for backend='cpu' "
                f"(got {max(length, num_masks)}; backend='scatter' has no such limit)"
            )
        return cls(packed, masks, groups, most, logits)

    def threads(self, heads: int, channels: int) -> int:
        """How many threads pay."""
        worth = self.logits * heads * channels // (128 * walk.WORTH_A_THREAD)
        return max(1, min(torch.get_num_threads(), worth))


def _padded(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR


class Sides(NamedTuple):
    """The query tree and the key tree of a call, each as a call over one tree, and their sizes."""

    query: Call
    key: Call
    blocks: Blocks
    nodes: int  # of the query tree, as the next
    per: int  # families at most, times heads
    heads: int
    width: int
    values: int
    row: int  # numbers of a key in all heads, and of a value
    value_row: int
    direct: bool  # whether rows of k and v are read where they are

    @classmethod
    def of(cls, call: Call) -> Sides:
        """Those of a call."""
        lists = call.lists
        assert lists is not None
        (_, heads, width), values = call.q.shape, call.v.shape[2]
        query_tree, key_tree = lists.query_tree, lists.key_tree
        families = query_tree.num_nodes - query_tree.num_leaves + query_tree.num_trees
        positions = 0 if call.pos_k is None else call.pos_k.shape[2]
        direct = (
            call.mass_of_keys is None and call.pos_k is None
            and call.k.dtype == call.v.dtype == accumulator(call.q.dtype)
            and width % VECTOR == 0 and values % VECTOR == 0
        )  # fmt: skip
        return cls(
            call._replace(q=beside(call.q), tree=query_tree),
            call._replace(
                q=beside(call.k), k=beside(call.k), v=beside(call.v), pos_q=call.pos_k,
                temperature=None, bias=None, mass=call.mass_of_keys, tree=key_tree,
            ),
            Blocks.of(lists), query_tree.num_nodes, families * heads, heads, width, values,
            heads * _padded(width + positions), heads * _padded(values), direct,
        )  # fmt: skip

    @property
    def rows(self) -> int:
        """How many rows the key tree has: of families, or of all nodes; and one for nobody."""
        tree = self.key.tree
        return (Walk.of(tree).families if self.direct else tree.num_nodes) + 1

    def parts(self) -> int:
        """How many threads share a head on the way back."""
        threads = self.blocks.threads(self.heads, 2 * self.width + self.values)
        return min(MOST_PARTS, -(-threads // self.heads))


def _run(
    function: str,
    sides: Sides,
    dtype: torch.dtype,
    query: tuple[list[tuple[int, int, int]], list[Tensor | None], tuple[int, ...], bool],
    key: tuple[list[tuple[int, int, int]], list[Tensor | None]],
    parts: int,
) -> None:
    """Call the kernel; the order of everything here is that of ``call.h``."""
    calls = []
    for call, (leaves, learned, addresses, save) in (
        (sides.query, query), (sides.key, (*key, (0,) * 15, False))
    ):  # fmt: skip
        mass, given = masses(call.mass, call.tree, dtype), node_values(call, dtype)
        calls.append((call, Walk.of(call.tree), mass, given, leaves, learned, addresses, save))
    blocks, lists = sides.blocks, sides.query.lists
    assert lists is not None
    # Rows of keys and values, and what they get: of all parts but the first every node has a row.
    more = sides.rows + (parts - 1) * (sides.key.tree.num_nodes + 1) if parts else 0
    tensors = [
        torch.empty(number, dtype=dtype)
        for number in (
            sides.rows * sides.row, sides.rows * sides.value_row,
            more * sides.row, more * sides.value_row,
        )
    ]  # fmt: skip
    rest = MORE.pack(
        blocks.packed.data_ptr(), blocks.masks.data_ptr(), blocks.groups,
        *(x.data_ptr() for x in tensors), parts, lists.of_one_tree, sides.direct,
    )  # fmt: skip
    threads = blocks.threads(sides.heads, 2 * sides.width + sides.values)
    packed = b"".join(pack(*x, threads=threads) for x in calls) + rest
    run(getattr(kernel(), function), packed)


def forward(call: Call, save: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output ``[N, H, Dv]``, log evidence ``[trees, H]``, and what :func:`backward` needs."""
    sides = Sides.of(call)
    _, _, blocks, nodes, per, heads, width, values, *_ = sides
    q, v = sides.query.q, sides.key.v
    dtype = accumulator(q.dtype)
    out = torch.empty(q.shape[0], heads, values, dtype=v.dtype)
    evidence = torch.empty(call.tree.num_trees, heads, dtype=dtype)
    saved = saved_like(call) if save else []
    # Without backward g is kept by family, and U of leaves stands in the output.
    inner, scalars = saved[1:] or (
        torch.empty(per * (width + values), dtype=dtype), torch.empty(2 * per, dtype=dtype)
    )  # fmt: skip
    # What nobody needs afterwards: Z, W and parts of I of large families.
    own = torch.empty(per * (values + 1) + blocks.most * heads, dtype=dtype)
    size = own.element_size()
    at_means, at_i, at_z = inner.data_ptr(), scalars.data_ptr(), own.data_ptr()
    at_u, at_g, at_w = at_means + per * width * size, at_i + per * size, at_z + per * values * size
    leaf = rows(saved[0]) if save else NO_ROWS
    addresses = (
        evidence.data_ptr(), 0,
        at_means, at_u, at_z, at_i, at_g, at_w, at_g + nodes * heads * size,
        0, 0, 0, 0, 0, at_w + per * size,
    )  # fmt: skip
    leaves = [rows(q), NO_ROWS, NO_ROWS, rows(out), leaf, *[NO_ROWS] * 4]
    key_leaves = [NO_ROWS, rows(sides.key.k), rows(v), *[NO_ROWS] * 6]
    _run(
        "hsa_lists_forward", sides, dtype, (leaves, NOTHING, addresses, save),
        (key_leaves, NOTHING), 0,
    )  # fmt: skip
    return out, evidence, saved


def saved_like(call: Call) -> list[Tensor]:
    """Empty tensors of what :func:`forward` keeps for :func:`backward`.

    U of the leaves, as v is; means and U of families; and S, g by node and I by family.
    """
    tree, (leaves, heads, width), values = call.tree, call.q.shape, call.v.shape[2]
    per = (tree.num_nodes - tree.num_leaves + tree.num_trees) * heads
    dtype, new = accumulator(call.q.dtype), call.q.new_empty
    return [
        call.v.new_empty(leaves, heads, values),
        new(per * (width + values), dtype=dtype),
        new(2 * tree.num_nodes * heads + per, dtype=dtype),
    ]


def backward(
    call: Call, saved: list[Tensor], grad: Tensor | None, grad_evidence: Tensor | None
) -> list[Tensor | None]:
    """Gradients of q, k, v, pos_q, pos_k, temperature and bias; None for those that are None."""
    sides = Sides.of(call)
    _, _, _, nodes, per, heads, width, values, *_ = sides
    q, k, v = sides.query.q, sides.key.k, sides.key.v
    dtype, parts = accumulator(q.dtype), sides.parts()
    grad = v.new_zeros(q.shape[0], heads, values) if grad is None else beside(grad)
    if grad_evidence is not None:
        grad_evidence = grad_evidence.to(dtype).contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    given = (call.pos_q, call.pos_k, call.temperature, call.bias)
    learned = [None if x is None else torch.zeros(x.shape, dtype=dtype) for x in given]

    leaf, inner, scalars = saved
    # Sums of gradients by family, gradients of means, W and I by family, and two scalars by
    # node.
    own = torch.empty(per * (values + width + 2) + 2 * nodes * heads, dtype=dtype)
    size = own.element_size()
    at_means, at_i, at_sums = inner.data_ptr(), scalars.data_ptr(), own.data_ptr()
    at_g, at_z = at_i + per * size, at_sums + per * values * size
    at_w = at_z + per * width * size
    at_di = at_w + per * size
    at_dw = at_di + per * size
    addresses = (
        0, address(grad_evidence),
        at_means, at_means + per * width * size, 0, at_i, at_g, at_w,
        at_g + nodes * heads * size, at_sums, at_dw, at_di, at_z, at_dw + nodes * heads * size, 0,
    )  # fmt: skip
    leaves = [rows(q), *[NO_ROWS] * 3, *map(rows, (leaf, grad, dq)), NO_ROWS, NO_ROWS]
    key_leaves = [NO_ROWS, rows(k), rows(v), *[NO_ROWS] * 4, rows(dk), rows(dv)]
    _run(
        "hsa_lists_backward", sides, dtype, (leaves, learned, addresses, True),
        (key_leaves, [None, learned[1], None, None]), parts,
    )  # fmt: skip
    return [dq, dk, dv, *like(learned, given)]
