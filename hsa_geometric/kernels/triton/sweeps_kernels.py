r"""The kernels of :mod:`.sweeps` and :mod:`.evidence`.

A tile is ``ROWS`` nodes by ``BLOCK`` channels. Every row of a result is summed by one program in a
fixed order, so that repeated runs are equal to the last bit; the only atomics count in integers.
Row numbers are int64, so that rows · channels may pass :math:`2^{31}`.
"""

import triton
import triton.language as tl

# What `climb` adds up: leaf values, node values with weights by channel, or log evidence.
LEAVES = tl.constexpr(0)
SCAN = tl.constexpr(1)
EVIDENCE = tl.constexpr(2)

# What `descend` adds up: x, x times the weights of the edges below it, or x times its own share.
PLAIN = tl.constexpr(0)
WEIGHT = tl.constexpr(1)
SHARE = tl.constexpr(2)


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


@triton.jit
def _logaddexp(a, b):
    """log(eᵃ + eᵇ), −∞ where both are."""
    top = tl.maximum(a, b)
    low = tl.minimum(a, b)
    infinite = tl.abs(top) == float("inf")
    x = tl.exp(tl.where(infinite, 0.0, low) - tl.where(infinite, 0.0, top))
    # log(1 + x) with the rounding of 1 + x taken back: exact for small x.
    u = 1.0 + x
    log1p = tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))
    # A NaN in either must show; which of the two tl.maximum returns is not defined.
    return tl.where((a == a) & (b == b), top + log1p, a + b)


@triton.jit(do_not_specialize=["first", "count", "num_roots"])
def climb(
    x0, x1, x2, weight, sibling, log_mass, y,
    row, family, pending, family_ptr, family_parent, inner_ptr, above,
    first, count, num_roots, channels, width0, width1,
    KIND: tl.constexpr, SOURCES: tl.constexpr, WEIGHTS: tl.constexpr, CLIMB: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the families ``first : first + count`` into their parents' rows of ``y``.

    One program takes one family and one block of channels. With ``CLIMB`` all families of the tree
    are launched at once: a program whose family has inner members leaves at once; the others go
    on to the family of the parent that they have just finished, if they are the last of its inner
    members to arrive there. Who is last depends on the run, but not what it computes. The programs
    after ``count`` write roots that are leaves.

    ``WEIGHTS`` is the number of dimensions of ``weight``, 0 for none.
    """
    ACC: tl.constexpr = y.dtype.element_ty
    f = first + tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels

    if KIND != SCAN:  # noqa: SIM102 (known when this is compiled)
        if tl.program_id(0) >= count:
            root = tl.zeros([1], dtype=tl.int64) + (tl.program_id(0) - count)
            root_leaf = tl.load(row + root)
            root_there = (root_leaf >= 0)[:, None] & inside[None, :]
            root_x = _leaf_rows(
                x0, x1, x2, root_leaf, c, root_there, channels, width0, width1, SOURCES, ACC
            )
            tl.store(y + root[:, None] * channels + c[None, :], root_x, mask=root_there)

    go = tl.program_id(0) < count
    if CLIMB:
        begin = tl.load(inner_ptr + f, mask=go, other=0)
        end = tl.load(inner_ptr + f + 1, mask=go, other=0)
        go = go & (begin == end)
    while go:
        hi = tl.load(family_ptr + f + 1)
        parent = tl.load(family_parent + f)
        acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
        for start in range(tl.load(family_ptr + f), hi, ROWS):
            member = start + tl.arange(0, ROWS).to(tl.int64)
            real = member < hi
            there = real[:, None] & inside[None, :]
            at = member[:, None] * channels + c[None, :]
            # Rows written by other programs of this launch: read from the L2 cache, which all
            # share (.cg).
            if KIND == SCAN:
                value = tl.load(y + at, mask=there, other=0.0, cache_modifier=".cg")
            else:
                leaf = tl.load(row + member, mask=real, other=-1)
                is_leaf = there & (leaf >= 0)[:, None]
                x = _leaf_rows(x0, x1, x2, leaf, c, is_leaf, channels, width0, width1, SOURCES, ACC)
                tl.store(y + at, x, mask=is_leaf)
                is_inner = there & (leaf < 0)[:, None]
                value = tl.load(y + at, mask=is_inner, other=0.0, cache_modifier=".cg")
                value = tl.where(is_leaf, x, value)
            if WEIGHTS == 1:
                w = tl.load(weight + member, mask=real, other=0.0)[:, None]
            if WEIGHTS == 2:
                w = tl.load(weight + at, mask=there, other=0.0)
            if KIND == EVIDENCE:
                value = _logaddexp(value, tl.load(sibling + at, mask=there, other=0.0))
                value = tl.where(w == 0.0, 0.0, value)
            if WEIGHTS > 0:
                value = value * w
            acc += value
        total = tl.sum(acc, 0)
        mine = y + parent * channels + c
        if KIND == SCAN:
            total += tl.load(mine, mask=inside, other=0.0)
        if KIND == EVIDENCE:
            empty = tl.load(log_mass + parent) == float("-inf")
            total = tl.where(empty, float("-inf"), total)
        tl.store(mine, total, mask=inside)

        go = (parent >= num_roots) & CLIMB
        if go:
            # All threads have stored; one of them releases what they stored to the program that
            # arrives last, and acquires what the others have released.
            tl.debug_barrier()
            f = tl.load(family + tl.load(above + parent))
            arrived = tl.atomic_add(
                pending + f * tl.num_programs(1) + tl.program_id(1), 1, sem="acq_rel", scope="gpu"
            )
            go = arrived + 1 == tl.load(inner_ptr + f + 1) - tl.load(inner_ptr + f)


@triton.jit(do_not_specialize=["first"])
def give(
    y, factor, child, parent, ptr, first, channels,
    WEIGHTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One pass over a deep tree: add to rows ``parent`` of ``y`` their segments of ``child``."""
    m = first + tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = c < channels
    hi = tl.load(ptr + m + 1)
    acc = tl.zeros([ROWS, BLOCK], dtype=y.dtype.element_ty)
    for start in range(tl.load(ptr + m), hi, ROWS):
        k = start + tl.arange(0, ROWS).to(tl.int64)
        real = k < hi
        there = real[:, None] & inside[None, :]
        node = tl.load(child + k, mask=real, other=0)
        value = tl.load(y + node[:, None] * channels + c[None, :], mask=there, other=0.0)
        if WEIGHTS == 1:
            value *= tl.load(factor + k, mask=real, other=0.0)[:, None]
        if WEIGHTS == 2:
            value *= tl.load(factor + k[:, None] * channels + c[None, :], mask=there, other=0.0)
        acc += value
    mine = y + tl.load(parent + m) * channels + c
    tl.store(mine, tl.load(mine, mask=inside, other=0.0) + tl.sum(acc, 0), mask=inside)


@triton.jit(do_not_specialize=["first", "stop", "done", "reach", "num_roots"])
def descend(
    x, factor, z, v, own, out, index, up, link,
    first, stop, done, reach, num_roots, channels, heads, head_width,
    KIND: tl.constexpr, INDEX: tl.constexpr, FINISHED: tl.constexpr, OWN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum over each node's ancestors, for the nodes ``index[first:stop]`` (or ``first:stop``).

    Each row walks up by itself, from the node to the root or, with ``FINISHED``, to an ancestor
    before position ``done``, whose finished sum stands in row ``link[child]`` of ``z``. Neighbours
    share their ancestors, which therefore come from the caches. ``factor [T, heads]`` holds for
    ``head_width`` channels each.
    """
    ACC: tl.constexpr = out.dtype.element_ty
    i = first + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = (c < channels)[None, :]
    head = (c // head_width)[None, :]
    c = c[None, :]
    real = i < stop
    node = i
    if INDEX:
        node = tl.load(index + i, mask=real, other=0)
    walking = real
    total = tl.zeros([ROWS, BLOCK], dtype=ACC)
    path = tl.full([ROWS, BLOCK], 1.0, dtype=ACC)
    for _ in range(reach):
        here = walking[:, None] & inside
        value = tl.load(x + node[:, None] * channels + c, mask=here, other=0.0).to(ACC)
        if KIND == SHARE:
            value *= tl.load(factor + node[:, None] * heads + head, mask=here, other=0.0)
        if KIND == WEIGHT:
            value *= path
        total = tl.where(here, total + value, total)
        walking = walking & (node >= num_roots)
        above = tl.load(up + node, mask=walking, other=0)
        if KIND == WEIGHT:
            edge = walking[:, None] & inside
            path *= tl.load(factor + node[:, None] * heads + head, mask=edge, other=1.0)
        if FINISHED:
            last = walking & (above < done)
            row = tl.load(link + node, mask=last, other=0)
            here = last[:, None] & inside
            value = tl.load(z + row[:, None] * channels + c, mask=here, other=0.0)
            if KIND == WEIGHT:
                value *= path
            total = tl.where(here, total + value, total)
            walking = walking & (above >= done)
        node = tl.where(walking, above, node)
    here = real[:, None] & inside
    if OWN:
        value = tl.load(v + i[:, None] * channels + c, mask=here, other=0.0).to(ACC)
        total += value * tl.load(own + i[:, None] * heads + head, mask=here, other=0.0)
    tl.store(out + i[:, None] * channels + c, total, mask=here)


@triton.jit(do_not_specialize=["num_rows"])
def dot(a, b, out, num_rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Dot products of the rows of ``a`` and ``b``."""
    ACC: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = i < num_rows
    acc = tl.zeros([ROWS, BLOCK], dtype=ACC)
    for start in range(0, width, BLOCK):
        c = start + tl.arange(0, BLOCK)
        there = real[:, None] & (c < width)[None, :]
        at = i[:, None] * width + c[None, :]
        left = tl.load(a + at, mask=there, other=0.0).to(ACC)
        acc += left * tl.load(b + at, mask=there, other=0.0).to(ACC)
    tl.store(out + i, tl.sum(acc, 1), mask=real)
