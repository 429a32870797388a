r"""The kernels of :mod:`.sweeps`.

Every row of a result is summed by one program in a fixed order, so that repeated runs are equal to
the last bit; the only atomics count in integers. Row numbers are int64, so that rows · channels may
pass :math:`2^{31}`. For ``source``, see :class:`.places.Places`.
"""

import triton
import triton.language as tl

from .dropout_kernels import own_factor
from .scalars_kernels import last_to_arrive, portions


@triton.jit
def _leaf_rows(x, row, there, stride, c, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """Columns ``c`` of leaf rows, ``[ROWS, BLOCK]``; 0 elsewhere."""
    mask = there[:, None] & (c < WIDTH)[None, :]
    return tl.load(x + row[:, None] * stride + c[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit(do_not_specialize=["first", "count", "num_roots"])
def climb(
    x0, x1, x2, weight, y,
    source, family, pending, family_ptr, family_parent, inner_ptr, above,
    stride0, stride1, stride2, first, count, num_roots,
    WIDTH0: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr,
    WEIGHTED: tl.constexpr, CLIMB: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum leaf rows and rows of ``y [F, C]`` over families, into their parents' rows of it.

    A row of ``y`` is one of ``x0``, one of ``x1`` and one of ``x2`` beside each other. One program
    takes one family of ``first : first + count`` and a block of the channels of one of them. With
    ``CLIMB`` all families of the tree are launched at once, see :func:`last_to_arrive`.
    """
    ACC: tl.constexpr = y.dtype.element_ty
    CHANNELS: tl.constexpr = WIDTH0 + WIDTH1 + WIDTH2
    END0: tl.constexpr = (WIDTH0 + BLOCK - 1) // BLOCK
    END1: tl.constexpr = END0 + (WIDTH1 + BLOCK - 1) // BLOCK
    block = tl.program_id(1)
    f = first + tl.program_id(0).to(tl.int64)
    # Columns of x0, x1 or x2, how many there are, and where they begin in y.
    begin = tl.where(block < END0, 0, tl.where(block < END1, END0, END1))
    c = (block - begin) * BLOCK + tl.arange(0, BLOCK)
    width = tl.where(block < END0, WIDTH0, tl.where(block < END1, WIDTH1, WIDTH2))
    offset = tl.where(block < END0, 0, tl.where(block < END1, WIDTH0, WIDTH0 + WIDTH1))
    inside = c < width
    go = tl.program_id(0) < count
    if CLIMB:
        go = tl.load(inner_ptr + f) == tl.load(inner_ptr + f + 1)
    while go:
        lo = tl.load(family_ptr + f)
        hi = tl.load(family_ptr + f + 1)
        parent = tl.load(family_parent + f)
        mixed = tl.load(inner_ptr + f) < tl.load(inner_ptr + f + 1)
        acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
        for start in range(lo, hi, ROWS):
            member = start + tl.arange(0, ROWS).to(tl.int64)
            real = member < hi
            row = tl.load(source + member, mask=real, other=0).to(tl.int64)
            is_leaf = real & (row >= 0)
            if block < END0:
                x = _leaf_rows(x0, row, is_leaf, stride0, c, WIDTH0, ACC)
            elif block < END1:
                x = _leaf_rows(x1, row, is_leaf, stride1, c, WIDTH1, ACC)
            else:
                x = _leaf_rows(x2, row, is_leaf, stride2, c, WIDTH2, ACC)
            if mixed:
                there = (real & (row < 0))[:, None] & inside[None, :]
                at = (-1 - row)[:, None] * CHANNELS + offset + c[None, :]
                # Rows written by other programs of this launch: read from the L2 cache, which all
                # share (.cg).
                x += tl.load(y + at, mask=there, other=0.0, cache_modifier=".cg")
            if WEIGHTED:
                x *= tl.load(weight + member, mask=real, other=0.0)[:, None]
            acc += x
        mine = (-1 - tl.load(source + parent)).to(tl.int64)
        tl.store(y + mine * CHANNELS + offset + c, tl.sum(acc, 0), mask=inside)
        go = (parent >= num_roots) & CLIMB
        if go:
            f, go = last_to_arrive(parent, family, pending, inner_ptr, above)


@triton.jit(do_not_specialize=["first", "stop", "done", "steps", "num_roots"])
def descend(
    x, weight, f, total, reach, z,
    inner, above,
    first, stop, done, steps, num_roots,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr,
    FINISHED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum rows ``x [F, HEADS, WIDTH]`` over each inner node and its ancestors, for ``first:stop``.

    With ``SHARE`` they count by the share of a leaf's attention that their node gives to its
    siblings, else by the ``weight [T]`` of the edges below them.

    Each row walks up by itself, from the node to the root or, with ``FINISHED``, to an ancestor
    before node ``done``, whose sum ``z`` is finished. Neighbours share their ancestors, which
    therefore come from the caches.
    """
    ACC: tl.constexpr = z.dtype.element_ty
    i = first.to(tl.int64) * HEADS + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = i // HEADS
    head = i % HEADS
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (c < WIDTH)[None, :]
    c = c[None, :]
    real = n < stop
    walking = real
    acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
    path = tl.full([ROWS], 1.0, dtype=ACC)
    for _ in range(steps):
        node = tl.load(inner + n, mask=walking, other=0)
        there = walking[:, None] & inside
        value = tl.load(x + (n * HEADS + head)[:, None] * WIDTH + c, mask=there, other=0.0)
        walking = walking & (node >= num_roots)
        up = tl.load(above + node, mask=walking, other=0)
        if SHARE:
            at = node * HEADS + head
            own = tl.load(f + at, mask=walking, other=0.0)
            _, rest = portions(own, tl.load(total + at, mask=walking, other=0.0))
            share = rest * tl.load(reach + up * HEADS + head, mask=walking, other=0.0)
            acc += value * share[:, None]
        else:
            acc += value * path[:, None]
            path *= tl.load(weight + node, mask=walking, other=1.0)
        if FINISHED:
            last = walking & (up < done)
            at = (up * HEADS + head)[:, None] * WIDTH + c
            value = tl.load(z + at, mask=last[:, None] & inside, other=0.0)
            if SHARE:
                acc += value
            else:
                acc += value * path[:, None]
            walking = walking & (up >= done)
        n = tl.where(walking, up, n)
    tl.store(z + i[:, None] * WIDTH + c, acc, mask=real[:, None] & inside)


@triton.jit(do_not_specialize=["num_rows", "num_roots"])
def finish(
    v, mean, z, reach, f, total, seed, out,
    leaf, above,
    v_stride, num_rows, num_roots, dropout_p, kept_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The output ``[N, HEADS, WIDTH]``: each leaf's own value, its siblings', and those above."""
    ACC: tl.constexpr = z.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    real = i < num_rows
    head = i % HEADS
    node = tl.load(leaf + i // HEADS, mask=real, other=0)
    below = real & (node >= num_roots)
    up = tl.load(above + node, mask=below, other=0) * HEADS + head
    own = tl.load(f + node * HEADS + head, mask=real, other=0.0)
    keep, rest = portions(own, tl.load(total + node * HEADS + head, mask=real, other=0.0))
    weight = tl.load(reach + up, mask=below, other=1.0)
    alone = keep * weight
    if DROPOUT:
        alone *= own_factor(seed, head, node, dropout_p, kept_scale)
    inside = c < WIDTH
    there = below[:, None] & inside
    at = i[:, None] * WIDTH + c
    v_at = (i // HEADS * v_stride + head * WIDTH)[:, None] + c
    acc = tl.load(z + up[:, None] * WIDTH + c, mask=there, other=0.0)
    acc += tl.load(mean + at, mask=there, other=0.0).to(ACC) * (rest * weight)[:, None]
    acc += tl.load(v + v_at, mask=real[:, None] & inside, other=0.0).to(ACC) * alone[:, None]
    tl.store(out + at, acc, mask=real[:, None] & inside)


@triton.jit(do_not_specialize=["num_rows"])
def dots(
    x, mean, v, seed, by_mean, by_own,
    place,
    v_stride, num_rows, dropout_p, kept_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEAF: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dot products ``by_mean [T, HEADS]`` of rows of ``x`` and M, of nodes at positions ``place``.

    For leaves also those of ``x`` and the leaf's own value, ``by_own [T, HEADS]``.
    """
    ACC: tl.constexpr = by_mean.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = i < num_rows
    first = tl.zeros([ROWS], dtype=ACC)
    second = tl.zeros([ROWS], dtype=ACC)
    for start in range(0, WIDTH, BLOCK):
        c = start + tl.arange(0, BLOCK)
        there = real[:, None] & (c < WIDTH)[None, :]
        at = i[:, None] * WIDTH + c[None, :]
        v_at = (i // HEADS * v_stride + i % HEADS * WIDTH)[:, None] + c[None, :]
        left = tl.load(x + at, mask=there, other=0.0).to(ACC)
        first += tl.sum(left * tl.load(mean + at, mask=there, other=0.0).to(ACC), 1)
        if LEAF:
            second += tl.sum(left * tl.load(v + v_at, mask=there, other=0.0).to(ACC), 1)
    node = tl.load(place + i // HEADS, mask=real, other=0)
    head = i % HEADS
    tl.store(by_mean + node * HEADS + head, first, mask=real)
    if LEAF:
        if DROPOUT:
            second *= own_factor(seed, head, node, dropout_p, kept_scale)
        tl.store(by_own + node * HEADS + head, second, mask=real)
