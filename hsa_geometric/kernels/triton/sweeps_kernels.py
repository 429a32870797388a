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
def _leaf_rows(
    x0, x1, x2, leaf, c, there, channels, width0, width1,
    SOURCES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Rows ``leaf`` of up to three tensors beside each other, at channels ``c``: ``[ROWS, BLOCK]``.

    A load whose mask is false costs an instruction and no traffic.
    """
    c = c[None, :]
    leaf = leaf[:, None]
    x = tl.load(x0 + leaf * width0 + c, mask=there & (c < width0), other=0.0).to(ACC)
    if SOURCES > 1:
        d = c - width0
        there1 = there & (d >= 0) & (d < width1)
        x = tl.where(d < 0, x, tl.load(x1 + leaf * width1 + d, mask=there1, other=0.0).to(ACC))
    if SOURCES > 2:
        d = c - width0 - width1
        width2 = channels - width0 - width1
        there2 = there & (d >= 0)
        x = tl.where(d < 0, x, tl.load(x2 + leaf * width2 + d, mask=there2, other=0.0).to(ACC))
    return x


@triton.jit(do_not_specialize=["first", "count", "num_roots"])
def climb(
    x0, x1, x2, weight, y,
    source, family, pending, family_ptr, family_parent, inner_ptr, above,
    first, count, num_roots, channels, width0, width1,
    SOURCES: tl.constexpr, WEIGHTED: tl.constexpr, CLIMB: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum leaf rows and rows of ``y [F, channels]`` over families, into their parents' rows of it.

    One program takes one family of ``first : first + count`` and one block of channels. With
    ``CLIMB`` all families of the tree are launched at once, see :func:`last_to_arrive`.
    """
    ACC: tl.constexpr = y.dtype.element_ty
    f = first + tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (c < channels)[None, :]
    go = tl.program_id(0) < count
    if CLIMB:
        go = tl.load(inner_ptr + f) == tl.load(inner_ptr + f + 1)
    while go:
        hi = tl.load(family_ptr + f + 1)
        parent = tl.load(family_parent + f)
        acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
        for start in range(tl.load(family_ptr + f), hi, ROWS):
            member = start + tl.arange(0, ROWS).to(tl.int64)
            real = member < hi
            row = tl.load(source + member, mask=real, other=0).to(tl.int64)
            is_leaf = (real & (row >= 0))[:, None] & inside
            is_inner = (real & (row < 0))[:, None] & inside
            x = _leaf_rows(x0, x1, x2, row, c, is_leaf, channels, width0, width1, SOURCES, ACC)
            # Rows written by other programs of this launch: read from the L2 cache, which all
            # share (.cg).
            at = (-1 - row)[:, None] * channels + c[None, :]
            x = tl.where(
                is_leaf, x, tl.load(y + at, mask=is_inner, other=0.0, cache_modifier=".cg")
            )
            if WEIGHTED:
                x *= tl.load(weight + member, mask=real, other=0.0)[:, None]
            acc += x
        mine = (-1 - tl.load(source + parent)).to(tl.int64)
        tl.store(y + mine * channels + c, tl.sum(acc, 0), mask=c < channels)
        go = (parent >= num_roots) & CLIMB
        if go:
            f, go = last_to_arrive(parent, family, pending, inner_ptr, above)


@triton.jit(do_not_specialize=["first", "stop", "done", "steps", "num_roots"])
def descend(
    x, weight, f, total, reach, z,
    inner, above,
    first, stop, done, steps, num_roots, heads, width,
    SHARE: tl.constexpr, FINISHED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum rows ``x [F, heads, width]`` over each inner node and its ancestors, for ``first:stop``.

    With ``SHARE`` they count by the share of a leaf's attention that their node gives to its
    siblings, else by the ``weight [T]`` of the edges below them.

    Each row walks up by itself, from the node to the root or, with ``FINISHED``, to an ancestor
    before node ``done``, whose sum ``z`` is finished. Neighbours share their ancestors, which
    therefore come from the caches.
    """
    ACC: tl.constexpr = z.dtype.element_ty
    i = first.to(tl.int64) * heads + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = i // heads
    head = i % heads
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (c < width)[None, :]
    c = c[None, :]
    real = n < stop
    walking = real
    acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
    path = tl.full([ROWS], 1.0, dtype=ACC)
    for _ in range(steps):
        node = tl.load(inner + n, mask=walking, other=0)
        there = walking[:, None] & inside
        value = tl.load(x + (n * heads + head)[:, None] * width + c, mask=there, other=0.0)
        walking = walking & (node >= num_roots)
        up = tl.load(above + node, mask=walking, other=0)
        if SHARE:
            at = node * heads + head
            own = tl.load(f + at, mask=walking, other=0.0)
            _, rest = portions(own, tl.load(total + at, mask=walking, other=0.0))
            share = rest * tl.load(reach + up * heads + head, mask=walking, other=0.0)
            acc += value * share[:, None]
        else:
            acc += value * path[:, None]
            path *= tl.load(weight + node, mask=walking, other=1.0)
        if FINISHED:
            last = walking & (up < done)
            at = (up * heads + head)[:, None] * width + c
            value = tl.load(z + at, mask=last[:, None] & inside, other=0.0)
            if SHARE:
                acc += value
            else:
                acc += value * path[:, None]
            walking = walking & (up >= done)
        n = tl.where(walking, up, n)
    tl.store(z + i[:, None] * width + c, acc, mask=real[:, None] & inside)


@triton.jit(do_not_specialize=["num_rows", "num_roots"])
def finish(
    v, mean, z, reach, f, total, seed, out,
    leaf, above,
    num_rows, num_roots, heads, width, dropout_p, kept_scale,
    DROPOUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The output ``[N, heads, width]``: each leaf's own value, its siblings', and those above."""
    ACC: tl.constexpr = z.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    real = i < num_rows
    head = i % heads
    node = tl.load(leaf + i // heads, mask=real, other=0)
    below = real & (node >= num_roots)
    up = tl.load(above + node, mask=below, other=0) * heads + head
    own = tl.load(f + node * heads + head, mask=real, other=0.0)
    keep, rest = portions(own, tl.load(total + node * heads + head, mask=real, other=0.0))
    weight = tl.load(reach + up, mask=below, other=1.0)
    alone = keep * weight
    if DROPOUT:
        alone *= own_factor(seed, head, node, dropout_p, kept_scale)
    inside = c < width
    there = below[:, None] & inside
    at = i[:, None] * width + c
    acc = tl.load(z + up[:, None] * width + c, mask=there, other=0.0)
    acc += tl.load(mean + at, mask=there, other=0.0).to(ACC) * (rest * weight)[:, None]
    acc += tl.load(v + at, mask=real[:, None] & inside, other=0.0).to(ACC) * alone[:, None]
    tl.store(out + at, acc, mask=real[:, None] & inside)


@triton.jit(do_not_specialize=["num_rows"])
def dots(
    x, mean, v, seed, by_mean, by_own,
    place,
    num_rows, heads, width, dropout_p, kept_scale,
    LEAF: tl.constexpr, DROPOUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Dot products ``by_mean [T, heads]`` of rows of ``x`` and M, of nodes at positions ``place``.

    For leaves also those of ``x`` and the leaf's own value, ``by_own [T, heads]``.
    """
    ACC: tl.constexpr = by_mean.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = i < num_rows
    first = tl.zeros([ROWS], dtype=ACC)
    second = tl.zeros([ROWS], dtype=ACC)
    for start in range(0, width, BLOCK):
        c = start + tl.arange(0, BLOCK)
        there = real[:, None] & (c < width)[None, :]
        at = i[:, None] * width + c[None, :]
        left = tl.load(x + at, mask=there, other=0.0).to(ACC)
        first += tl.sum(left * tl.load(mean + at, mask=there, other=0.0).to(ACC), 1)
        if LEAF:
            second += tl.sum(left * tl.load(v + at, mask=there, other=0.0).to(ACC), 1)
    node = tl.load(place + i // heads, mask=real, other=0)
    head = i % heads
    tl.store(by_mean + node * heads + head, first, mask=real)
    if LEAF:
        if DROPOUT:
            second *= own_factor(seed, head, node, dropout_p, kept_scale)
        tl.store(by_own + node * heads + head, second, mask=real)
