"""The kernels of :mod:`.siblings`: tiles of queries against tiles of keys, over ragged families.

Families are segments of consecutive positions. A program owns ``BLOCK`` consecutive queries of one
head; the keys they need are consecutive too, from the start of the first query's family to the end
of the last one's, and come in tiles of ``OTHERS`` with a running log-sum-exp. Pairs of two families
are masked. So one tile holds many small families, and many tiles share a large one. What a key
gives back is summed the same way by the program that owns it: nothing is added across programs, and
repeated runs agree to the last bit.

Common arguments: ``q [N, H D]``, ``k`` and ``v [N, H V]`` of leaves; ``means [F, H D + H D + H V]``
of inner nodes; ``pos_q`` and ``pos_k [T, H P]`` (not read if P is 0); ``temperature`` and ``bias``
``[T, H]``; ``log_mass [T]``; ``source``, ``starts`` and ``ends [T]``, see :class:`.places.Places`.
Tiles are numbered from ``first``; tile 0 begins ``shift`` before position 0, so that on the widest
level families of one size that divides the tile are not cut. A scale is two float32 numbers, for
float64's sake: a kernel takes no other. Logits are temperature · (scale q·k + ε·ε) + log mass; what
a query adds to all its logits, its bias, is added to their log-sum-exp instead.
"""

import triton
import triton.language as tl

from .dropout_kernels import kept

# log2 e and its inverse: exponentials are powers of two, which the hardware has.
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _columns(there, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Column numbers ``[1, PADDED]``, and which entries there are of the rows ``there``."""
    c = tl.arange(0, PADDED)[None, :]
    mask = there[:, None]
    if WIDTH < PADDED:
        mask = mask & (c < WIDTH)
    return c, mask


@triton.jit
def _rows(
    leaves, inner, row, there, stride, column, inner_stride, inner_column,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``WIDTH`` columns of nodes' rows, ``[BLOCK, PADDED]``; 0 elsewhere."""
    c, mask = _columns(there & (row >= 0), WIDTH, PADDED)
    x = tl.load(leaves + row[:, None] * stride + column + c, mask=mask, other=0.0).to(ACC)
    if tl.min(row, 0) < 0:  # most tiles hold leaves alone
        c, mask = _columns(there & (row < 0), WIDTH, PADDED)
        at = (-1 - row)[:, None] * inner_stride + inner_column + c
        x += tl.load(inner + at, mask=mask, other=0.0)
    return x


@triton.jit
def _numbers(x, at, there, stride, column, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """``WIDTH`` columns of the rows ``at`` of one tensor; 0 elsewhere."""
    c, mask = _columns(there, WIDTH, PADDED)
    return tl.load(x + at[:, None] * stride + column + c, mask=mask, other=0.0)


@triton.jit
def _put(x, value, at, there, stride, column, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write where :func:`_numbers` reads."""
    c, mask = _columns(there, WIDTH, PADDED)
    tl.store(x + at[:, None] * stride + column + c, value, mask=mask)


@triton.jit
def _product(p, x, pairs, out, PRECISION: tl.constexpr):
    """``out + p x`` for ``p [M, N]``, which is 0 where ``pairs`` is not, and ``x [N, C]``.

    A tile may hold another family's NaN, and 0 NaN = NaN: rows that are not finite are left out of
    the product, and make those rows NaN that have a pair with them.
    """
    if tl.sum(tl.sum(x * 0.0, 1), 0) != 0.0:
        spoilt = tl.sum(x * 0.0, 1)
        x = tl.where(spoilt[:, None] == 0.0, x, 0.0)
        out += tl.sum(tl.where(pairs, spoilt[None, :], 0.0), 1)[:, None]
    return tl.dot(p, x, acc=out, input_precision=PRECISION, out_dtype=out.dtype)


@triton.jit
def _tile(
    source, starts, ends, num_nodes, first, shift,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Of this program: its head, positions, which of them exist, their rows, and families."""
    head = tl.program_id(0) % HEADS
    me = (first + tl.program_id(0) // HEADS).to(INDEX) * BLOCK - shift + tl.arange(0, BLOCK)
    here = (me >= 0) & (me < num_nodes)
    row = tl.load(source + me, mask=here, other=0).to(INDEX)
    start = tl.load(starts + me, mask=here, other=num_nodes).to(INDEX)
    end = tl.load(ends + me, mask=here, other=0).to(INDEX)
    return head, me, here, row, start, end


@triton.jit
def _answers(
    k_leaf, v_leaf, means, pos_k, log_mass, at, row, there, head, k_stride, v_stride,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Keys, values, position embeddings and log masses of the nodes at positions ``at``."""
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    k = _rows(
        k_leaf, means, row, there, k_stride, head * D, WIDTH, (HEADS + head) * D, D, D_PAD, ACC
    )
    v = _rows(
        v_leaf, means, row, there, v_stride, head * V, WIDTH, 2 * HEADS * D + head * V,
        V, V_PAD, ACC,
    )  # fmt: skip
    eps = k
    if P > 0:
        eps = _numbers(pos_k, at, there, HEADS * P, head * P, P, P_PAD)
    return k, v, eps, tl.load(log_mass + at, mask=there, other=float("-inf"))


@triton.jit
def _relations(me, start, end, them):
    """Of owners ``me`` and others: who is of one family, who is the same, and who are siblings."""
    family = (them[None, :] >= start[:, None]) & (them[None, :] < end[:, None])
    myself = them[None, :] == me[:, None]
    return family, myself, family & ~myself


@triton.jit
def _products(q, k, eps, eps_k, scale, P: tl.constexpr, PRECISION: tl.constexpr):
    """``[M, N]``: scale q·k + ε·ε."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION, out_dtype=q.dtype) * scale
    if P > 0:
        s = tl.dot(eps, tl.trans(eps_k), acc=s, input_precision=PRECISION, out_dtype=q.dtype)
    return s


@triton.jit(do_not_specialize=["num_nodes", "num_roots", "first", "shift"])
def forward(
    q_leaf, k_leaf, v_leaf, means, pos_q, pos_k, temperature, bias, log_mass,
    source, starts, ends, seed,
    mean_leaf, mean_inner, total, f,
    q_stride, k_stride, v_stride, num_nodes, num_roots, first, shift,
    scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
    TEMPERATURE: tl.constexpr, BIAS: tl.constexpr, SELF_LOOP: tl.constexpr,
    DROPOUT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """M of leaves and inner nodes ``[N | F, H, V]``, S ``[T, H]``, and f ``[T, H]`` of leaves."""
    ACC: tl.constexpr = means.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head, me, here, row, start, end = _tile(
        source, starts, ends, num_nodes, first, shift, HEADS, BLOCK, INDEX
    )
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    q = _rows(q_leaf, means, row, here, q_stride, head * D, WIDTH, head * D, D, D_PAD, ACC)
    eps = q
    if P > 0:
        eps = _numbers(pos_q, me, here, HEADS * P, head * P, P, P_PAD)
    if TEMPERATURE:
        factor = tl.load(temperature + me * HEADS + head, mask=here, other=0.0)
        q *= factor[:, None]
        eps *= factor[:, None]

    # Without a sibling of positive mass `top` stays at a number that exp can take.
    top = tl.full([BLOCK], -3.0e38, dtype=ACC)
    norm = tl.zeros([BLOCK], dtype=ACC)
    own = tl.zeros([BLOCK], dtype=ACC)
    acc = tl.zeros([BLOCK, V_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for begin in range(tl.min(start, 0), last, OTHERS):
        them = begin + tl.arange(0, OTHERS)
        there = them < last
        their = tl.load(source + them, mask=there, other=0).to(INDEX)
        k, v, eps_k, mass = _answers(
            k_leaf, v_leaf, means, pos_k, log_mass, them, their, there, head, k_stride, v_stride,
            HEADS, D, V, P, D_PAD, V_PAD, P_PAD, ACC,
        )  # fmt: skip
        _, myself, pairs = _relations(me, start, end, them)
        s = _products(q, k, eps, eps_k, scale, P, PRECISION) + mass[None, :]
        own += tl.sum(tl.where(myself, s, 0.0), 1)
        s = tl.where(pairs, s * LOG2_E, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        fade = tl.exp2(top - higher)
        norm = norm * fade + tl.sum(p, 1)
        if DROPOUT:
            place = them[None, :] - start[:, None]
            p = tl.where(kept(seed, head, me[:, None], place, dropout_p), p * kept_scale, 0.0)
        acc = _product(p, v, pairs, acc * fade[:, None], PRECISION)
        top = higher

    # The norm is at least 1, or 0 without a sibling of positive mass: then M = 0 and S = -inf.
    some = tl.where(norm == 0, 1.0, norm)
    log_total = tl.where(norm == 0, float("-inf"), (tl.log2(some) + top) * LN_2)
    if BIAS:
        log_total += tl.load(bias + me * HEADS + head, mask=here, other=0.0)
    tl.store(total + me * HEADS + head, log_total, mask=here)
    is_leaf = here & (row >= 0)
    if not SELF_LOOP:
        own = tl.full([BLOCK], float("-inf"), dtype=ACC)
    tl.store(f + me * HEADS + head, own, mask=is_leaf)
    acc = acc * (1.0 / some)[:, None]
    rounded = acc.to(mean_leaf.dtype.element_ty)
    _put(mean_leaf, rounded, row, is_leaf, HEADS * V, head * V, V, V_PAD)
    if tl.min(row, 0) < 0:
        _put(mean_inner, acc, -1 - row, here & (row < 0), HEADS * V, head * V, V, V_PAD)


@triton.jit(do_not_specialize=["num_nodes", "num_roots", "first", "shift"])
def backward_queries(
    q_leaf, k_leaf, v_leaf, means, pos_q, pos_k, temperature, bias, log_mass,
    source, starts, ends, seed,
    total, grad_leaf, grad_inner, share, shared, by_own, alone, weight, z, above,
    by_q, by_means, by_pos_q, by_temperature,
    q_stride, k_stride, v_stride, num_nodes, num_roots, first, shift,
    scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
    TEMPERATURE: tl.constexpr, BIAS: tl.constexpr, SELF_LOOP: tl.constexpr,
    DROPOUT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, LEAVES: tl.constexpr,
):  # fmt: skip
    """Gradients of q, pos_q and the temperature, of the leaves of a tile or of its inner nodes.

    The gradient of M is share · ``grad [N | F, H, V]``, the output's gradient summed over a
    subtree. That of the logit of a pair is p (kept · share · grad·v + shared). To a leaf also comes
    what the means above it were given, ``z [F, H D + H D + H V]``.
    """
    ACC: tl.constexpr = means.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head, me, here, row, start, end = _tile(
        source, starts, ends, num_nodes, first, shift, HEADS, BLOCK, INDEX
    )
    here = here & ((row >= 0) == LEAVES)
    start = tl.where(here, start, num_nodes)
    end = tl.where(here, end, 0)
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    q = _rows(q_leaf, means, row, here, q_stride, head * D, WIDTH, head * D, D, D_PAD, ACC)
    g = _rows(grad_leaf, grad_inner, row, here, HEADS * V, head * V, HEADS * V, head * V,
              V, V_PAD, ACC)  # fmt: skip
    g *= tl.load(share + me * HEADS + head, mask=here, other=0.0)[:, None]
    common = tl.load(shared + me * HEADS + head, mask=here, other=0.0)
    top = tl.load(total + me * HEADS + head, mask=here, other=0.0)
    if BIAS:
        top -= tl.load(bias + me * HEADS + head, mask=here, other=0.0)
    top = tl.where(top < -2.0e38, -2.0e38, top) * LOG2_E
    own = tl.load(by_own + me * HEADS + head, mask=here, other=0.0)
    eps = q
    by_eps = tl.zeros([BLOCK, P_PAD], dtype=ACC)
    if P > 0:
        eps = _numbers(pos_q, me, here, HEADS * P, head * P, P, P_PAD)
    factor = tl.full([BLOCK], 1.0, dtype=ACC)
    if TEMPERATURE:
        factor = tl.load(temperature + me * HEADS + head, mask=here, other=0.0)

    acc = tl.zeros([BLOCK, D_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for begin in range(tl.min(start, 0), last, OTHERS):
        them = begin + tl.arange(0, OTHERS)
        there = them < last
        their = tl.load(source + them, mask=there, other=0).to(INDEX)
        k, v, eps_k, mass = _answers(
            k_leaf, v_leaf, means, pos_k, log_mass, them, their, there, head, k_stride, v_stride,
            HEADS, D, V, P, D_PAD, V_PAD, P_PAD, ACC,
        )  # fmt: skip
        family, myself, pairs = _relations(me, start, end, them)
        s = _products(q, k, eps, eps_k, scale, P, PRECISION)
        if TEMPERATURE:
            s *= factor[:, None]
        s = (s + mass[None, :]) * LOG2_E
        p = tl.exp2(tl.where(pairs, s, float("-inf")) - top[:, None])
        ds = tl.dot(g, tl.trans(v), input_precision=PRECISION, out_dtype=ACC)
        if DROPOUT:
            place = them[None, :] - start[:, None]
            ds = tl.where(kept(seed, head, me[:, None], place, dropout_p), ds * kept_scale, 0.0)
        ds = tl.where(pairs, p * (ds + common[:, None]), tl.where(myself, own[:, None], 0.0))
        acc = _product(ds, k, family, acc, PRECISION)
        if P > 0:
            by_eps = _product(ds, eps_k, family, by_eps, PRECISION)

    acc *= scale
    if TEMPERATURE:
        by_factor = tl.sum(acc * q, 1)
        if P > 0:
            by_factor += tl.sum(by_eps * eps, 1)
        tl.store(by_temperature + me * HEADS + head, by_factor, mask=here)
        acc *= factor[:, None]
        by_eps *= factor[:, None]
    if P > 0:
        _put(by_pos_q, by_eps, me, here, HEADS * P, head * P, P, P_PAD)
    if LEAVES:
        w = tl.load(weight + me, mask=here, other=0.0)[:, None]
        up = tl.load(above + me, mask=here, other=0).to(INDEX)
        below = here & (me >= num_roots)
        acc += w * _numbers(z, up, below, WIDTH, head * D, D, D_PAD)
        acc = acc.to(by_q.dtype.element_ty)
        _put(by_q, acc, row, here, HEADS * D, head * D, D, D_PAD)
    else:
        _put(by_means, acc, -1 - row, here, WIDTH, head * D, D, D_PAD)


@triton.jit(do_not_specialize=["num_nodes", "num_roots", "first", "shift"])
def backward_keys(
    q_leaf, k_leaf, v_leaf, means, pos_q, pos_k, temperature, bias, log_mass,
    source, starts, ends, seed,
    total, grad_leaf, grad_inner, share, shared, by_own, alone, weight, z, above,
    by_k, by_v, by_means, by_pos_k,
    q_stride, k_stride, v_stride, num_nodes, num_roots, first, shift,
    scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, OTHERS: tl.constexpr,
    TEMPERATURE: tl.constexpr, BIAS: tl.constexpr, SELF_LOOP: tl.constexpr,
    DROPOUT: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, LEAVES: tl.constexpr,
):  # fmt: skip
    """Gradients of k, v and pos_k: who asked a key are those whom it asks, its family.

    Those of a leaf's value also hold what its own weight ``alone [T, H]`` gives.
    """
    ACC: tl.constexpr = means.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head, me, here, row, start, end = _tile(
        source, starts, ends, num_nodes, first, shift, HEADS, BLOCK, INDEX
    )
    here = here & ((row >= 0) == LEAVES)
    start = tl.where(here, start, num_nodes)
    end = tl.where(here, end, 0)
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    k, v, eps_k, mass = _answers(
        k_leaf, v_leaf, means, pos_k, log_mass, me, row, here, head, k_stride, v_stride,
        HEADS, D, V, P, D_PAD, V_PAD, P_PAD, ACC,
    )  # fmt: skip
    by_eps = tl.zeros([BLOCK, P_PAD], dtype=ACC)

    acc_k = tl.zeros([BLOCK, D_PAD], dtype=ACC)
    acc_v = tl.zeros([BLOCK, V_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for begin in range(tl.min(start, 0), last, OTHERS):
        them = begin + tl.arange(0, OTHERS)
        there = them < last
        their = tl.load(source + them, mask=there, other=0).to(INDEX)
        q = _rows(q_leaf, means, their, there, q_stride, head * D, WIDTH, head * D, D, D_PAD, ACC)
        g = _rows(grad_leaf, grad_inner, their, there, HEADS * V, head * V, HEADS * V, head * V,
                  V, V_PAD, ACC)  # fmt: skip
        g *= tl.load(share + them * HEADS + head, mask=there, other=0.0)[:, None]
        eps = q
        if P > 0:
            eps = _numbers(pos_q, them, there, HEADS * P, head * P, P, P_PAD)
        if TEMPERATURE:
            factor = tl.load(temperature + them * HEADS + head, mask=there, other=0.0)
            q *= factor[:, None]
            eps *= factor[:, None]
        top = tl.load(total + them * HEADS + head, mask=there, other=0.0)
        if BIAS:
            top -= tl.load(bias + them * HEADS + head, mask=there, other=0.0)
        top = tl.where(top < -2.0e38, -2.0e38, top) * LOG2_E
        own = tl.load(by_own + them * HEADS + head, mask=there, other=0.0)
        common = tl.load(shared + them * HEADS + head, mask=there, other=0.0)
        family, myself, pairs = _relations(me, start, end, them)
        s = (_products(k, q, eps_k, eps, scale, P, PRECISION) + mass[:, None]) * LOG2_E
        p = tl.where(pairs, tl.exp2(tl.where(pairs, s, float("-inf")) - top[None, :]), 0.0)
        ds = tl.dot(v, tl.trans(g), input_precision=PRECISION, out_dtype=ACC)
        kept_p = p
        if DROPOUT:
            place = me[:, None] - start[:, None]
            keep = kept(seed, head, them[None, :], place, dropout_p)
            ds = tl.where(keep, ds * kept_scale, 0.0)
            kept_p = tl.where(keep, p * kept_scale, 0.0)
        ds = tl.where(pairs, p * (ds + common[None, :]), tl.where(myself, own[None, :], 0.0))
        acc_k = _product(ds, q, family, acc_k, PRECISION)
        acc_v = _product(kept_p, g, pairs, acc_v, PRECISION)
        if P > 0:
            by_eps = _product(ds, eps, family, by_eps, PRECISION)

    acc_k *= scale
    if P > 0:
        _put(by_pos_k, by_eps, me, here, HEADS * P, head * P, P, P_PAD)
    if LEAVES:
        w = tl.load(weight + me, mask=here, other=0.0)[:, None]
        up = tl.load(above + me, mask=here, other=0).to(INDEX)
        below = here & (me >= num_roots)
        acc_k += w * _numbers(z, up, below, WIDTH, (HEADS + head) * D, D, D_PAD)
        acc_v += w * _numbers(z, up, below, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
        lone = tl.load(alone + me * HEADS + head, mask=here, other=0.0)[:, None]
        acc_v += lone * _numbers(grad_leaf, row, here, HEADS * V, head * V, V, V_PAD).to(ACC)
        acc_k = acc_k.to(by_k.dtype.element_ty)
        acc_v = acc_v.to(by_v.dtype.element_ty)
        _put(by_k, acc_k, row, here, HEADS * D, head * D, D, D_PAD)
        _put(by_v, acc_v, row, here, HEADS * V, head * V, V, V_PAD)
    else:
        _put(by_means, acc_k, -1 - row, here, WIDTH, (HEADS + head) * D, D, D_PAD)
        _put(by_means, acc_v, -1 - row, here, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
