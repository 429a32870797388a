r"""The kernels of :mod:`.scalars`, on numbers ``[T, HEADS]`` in storage order.

Every result is summed by one program in a fixed order; the only atomics count in integers. Below,
f is the log evidence of a node and S, called ``total``, the log-sum-exp of its siblings.
"""

import triton
import triton.language as tl

from .dropout_kernels import own_factor


@triton.jit
def portions(f, total):
    """What a node keeps inside, g = sigmoid(f - S), and the rest, 1 - g; g = 0 if f = -inf."""
    x = f - tl.where(f == float("-inf"), 0.0, total)
    fade = tl.exp(-tl.abs(x))
    more = 1.0 / (1.0 + fade)
    less = fade * more
    return tl.where(x >= 0, more, less), tl.where(x >= 0, less, more)


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


@triton.jit
def last_to_arrive(parent, family, pending, inner_ptr, above):
    """The family that ``parent`` is in, and whether this program is to go on with it.

    A launch that goes up the whole tree has a program for each family. One whose family has inner
    members leaves at once; the others go on to the family of the parent that they have just
    finished, if they are the last of its inner members to arrive there. Who is last depends on the
    run, but not what it computes.
    """
    # All threads have stored; one of them releases what they stored to the program that arrives
    # last, and acquires what the others have released.
    tl.debug_barrier()
    f = tl.load(family + tl.load(above + parent))
    mine = pending + f * tl.num_programs(1) + tl.program_id(1)
    arrived = tl.atomic_add(mine, 1, sem="acq_rel", scope="gpu")
    return f, arrived + 1 == tl.load(inner_ptr + f + 1) - tl.load(inner_ptr + f)


@triton.jit(do_not_specialize=["first", "count", "num_roots"])
def climb(
    y, f_given, total, by_mean, weight, log_mass,
    family, pending, family_ptr, family_parent, inner_ptr, above,
    first, count, num_roots,
    HEADS: tl.constexpr, EVIDENCE: tl.constexpr, CLIMB: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill ``y`` at inner nodes from what it holds at leaves, for families ``first:first + count``.

    With ``EVIDENCE`` y is f, else what a gradient finds inside a subtree: the sum over its members
    of what they keep inside and of what they give to their siblings, ``by_mean``.
    """
    ACC: tl.constexpr = y.dtype.element_ty
    f = first + tl.program_id(0).to(tl.int64)
    c = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = c < HEADS
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
            there = real[:, None] & inside[None, :]
            at = member[:, None] * HEADS + c[None, :]
            # Written by other programs of this launch: from the L2 cache, which all share (.cg).
            value = tl.load(y + at, mask=there, other=0.0, cache_modifier=".cg")
            sibling = tl.load(total + at, mask=there, other=0.0)
            if EVIDENCE:
                w = tl.load(weight + member, mask=real, other=0.0)[:, None]
                acc += tl.where(w == 0.0, 0.0, _logaddexp(value, sibling)) * w
            else:
                keep, rest = portions(tl.load(f_given + at, mask=there, other=0.0), sibling)
                acc += value * keep + rest * tl.load(by_mean + at, mask=there, other=0.0)
        result = tl.sum(acc, 0)
        if EVIDENCE:
            empty = tl.load(log_mass + parent) == float("-inf")
            result = tl.where(empty, float("-inf"), result)
        tl.store(y + parent * HEADS + c, result, mask=inside)
        go = (parent >= num_roots) & CLIMB
        if go:
            f, go = last_to_arrive(parent, family, pending, inner_ptr, above)


@triton.jit(do_not_specialize=["first", "stop", "done", "steps", "num_roots"])
def descend(
    out, f, total, reach, by_mean, by_inside, weight, by_evidence,
    inner, above,
    first, stop, done, steps, num_roots,
    HEADS: tl.constexpr, REACH: tl.constexpr, FINISHED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``out [F, HEADS]`` of the inner nodes ``first:stop``, from the roots down.

    With ``REACH`` it is the fraction W of its attention that a leaf below keeps inside, else the
    gradient of f. Rows walk up as those of :func:`.sweeps_kernels.descend`.
    """
    ACC: tl.constexpr = out.dtype.element_ty
    i = first.to(tl.int64) * HEADS + tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    n = i // HEADS
    head = i % HEADS
    real = n < stop
    walking = real
    acc = tl.zeros([ROWS], dtype=ACC)
    path = tl.full([ROWS], 1.0, dtype=ACC)
    for _ in range(steps):
        node = tl.load(inner + n, mask=walking, other=0)
        at = node * HEADS + head
        own = tl.load(f + at, mask=walking, other=0.0)
        keep, rest = portions(own, tl.load(total + at, mask=walking, other=0.0))
        if REACH:
            path *= tl.where(walking, keep, 1.0)
        else:
            acc += path * tl.load(by_evidence + at, mask=walking & (node < num_roots), other=0.0)
        walking = walking & (node >= num_roots)
        up = tl.load(above + node, mask=walking, other=0)
        if not REACH:
            w = tl.load(reach + up * HEADS + head, mask=walking, other=0.0)
            given = tl.load(by_inside + at, mask=walking, other=0.0)
            given -= tl.load(by_mean + at, mask=walking, other=0.0)
            acc += tl.where(walking, path * keep * rest * w * given, 0.0)
            edge = keep * tl.load(weight + node, mask=walking, other=0.0)
            path *= tl.where(walking, edge, 1.0)
        if FINISHED:
            last = walking & (up < done)
            if REACH:
                path *= tl.load(out + up * HEADS + head, mask=last, other=1.0)
            else:
                acc += path * tl.load(out + up * HEADS + head, mask=last, other=0.0)
            walking = walking & (up >= done)
        n = tl.where(walking, up, n)
    if REACH:
        acc = path
    tl.store(out + i, acc, mask=real)


@triton.jit(do_not_specialize=["size", "num_roots"])
def gradients(
    f, total, reach, by_mean, by_inside, by_f, weight, by_evidence, seed,
    share, shared, by_own, alone, by_bias,
    source, above,
    size, num_roots, dropout_p, kept_scale,
    HEADS: tl.constexpr, SELF_LOOP: tl.constexpr, BIAS: tl.constexpr,
    DROPOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What attention within families needs for its gradients, ``[T, HEADS]`` each.

    ``share`` of a leaf's attention that the node gives to its siblings, ``shared`` by all logits of
    the node as a query, the gradient ``by_own`` of a leaf's own logit, the weight ``alone`` of its
    own value, and the gradient ``by_bias``.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < size
    node = i // HEADS
    head = i % HEADS
    below = real & (node >= num_roots)
    up = tl.load(above + node, mask=below, other=0) * HEADS + head
    sibling = tl.load(total + i, mask=real, other=0.0)
    keep, rest = portions(tl.load(f + i, mask=real, other=0.0), sibling)
    w = tl.load(reach + up, mask=below, other=1.0)
    mean = tl.load(by_mean + i, mask=real, other=0.0)
    given = tl.load(by_inside + i, mask=real, other=0.0) - mean
    direct = tl.where(below, keep * rest * w * given, 0.0)
    above_f = tl.load(by_f + up, mask=below, other=0.0)
    above_f *= tl.load(weight + node, mask=below, other=0.0)
    # Of S: nothing where there are no siblings.
    by_total = tl.where(below & (sibling > float("-inf")), above_f * rest - direct, 0.0)
    gives = tl.where(below, rest * w, 0.0)
    tl.store(share + i, gives, mask=real)
    tl.store(shared + i, by_total - gives * mean, mask=real)
    if BIAS:
        tl.store(by_bias + i, by_total, mask=real)
    is_leaf = tl.load(source + node, mask=real, other=0) >= 0
    own = tl.load(by_evidence + i, mask=real & (node < num_roots), other=0.0)
    own = tl.where(is_leaf & SELF_LOOP, own + direct + above_f * keep, 0.0)
    tl.store(by_own + i, own, mask=real)
    lone = tl.where(is_leaf, keep * w, 0.0)
    if DROPOUT:
        lone *= own_factor(seed, head, node, dropout_p, kept_scale)
    tl.store(alone + i, lone, mask=real)
