"""Kernels that write the masks of the Triton backend down."""

import triton
import triton.language as tl

from hsa_geometric.kernels.triton.dropout_kernels import kept, own_factor


@triton.jit(do_not_specialize=["size"])
def own_mask(
    out, leaf, seed, size, dropout_p, kept_scale, HEADS: tl.constexpr, BLOCK: tl.constexpr
):
    """The factors ``out [N, HEADS]`` of leaves at positions ``leaf``."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < size
    node = tl.load(leaf + i // HEADS, mask=there, other=0)
    tl.store(out + i, own_factor(seed, i % HEADS, node, dropout_p, kept_scale), mask=there)


@triton.jit(do_not_specialize=["size"])
def mask(
    out, queries, seed, size, dropout_p, kept_scale,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The factors ``out [F, HEADS, KEYS, QUERIES]`` of pairs, for ``queries [F, QUERIES]``.

    Keys are the members of the family in order.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    place = at // QUERIES % KEYS
    row = at // QUERIES // KEYS
    query = tl.load(queries + row // HEADS * QUERIES + at % QUERIES, mask=there, other=0)
    keep = kept(seed, row % HEADS, query, place, dropout_p)
    tl.store(out + at, tl.where(keep, kept_scale, 0.0), mask=there)
