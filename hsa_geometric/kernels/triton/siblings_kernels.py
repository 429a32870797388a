"""The kernels of :mod:`.siblings`: tiles of queries against tiles of keys, over ragged families.

Families are segments of consecutive positions. A program owns ``BLOCK`` consecutive queries of one
head; the keys they need are consecutive too, from the start of the first query's family to the end
of the last one's, and come in tiles of ``BLOCK`` with a running log-sum-exp. Pairs of two families
are masked. So one tile holds many small families, and many tiles share a large one. What a key
gives back is summed the same way by the program that owns it: nothing is added across programs, and
repeated runs agree to the last bit.

Common arguments: ``qkv [T, H D + H D + H V]``, ``pos_q`` and ``pos_k [T, H P]`` (not read if P is
0), ``log_mass [T]``, and the family ``starts[a] : ends[a]`` of the node at each position (empty for
a root). The first tile begins ``shift`` before position 0, so that families of a size that divides
the tile are not cut. A scale is two float32 numbers, for float64's sake: a kernel takes no other.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(x, at, there, stride, column, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Columns ``column : column + WIDTH`` of the rows ``at``: ``[BLOCK, PADDED]``, 0 elsewhere."""
    c = tl.arange(0, PADDED)
    mask = there[:, None] & (c < WIDTH)[None, :]
    return tl.load(x + at[:, None] * stride + column + c[None, :], mask=mask, other=0.0)


@triton.jit
def _put_rows(x, value, at, there, stride, column, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write where :func:`_rows` reads."""
    c = tl.arange(0, PADDED)
    mask = there[:, None] & (c < WIDTH)[None, :]
    tl.store(x + at[:, None] * stride + column + c[None, :], value, mask=mask)


@triton.jit
def _product(p, x, pairs, out):
    """``out + p x`` for ``p [M, N]``, which is 0 where ``pairs`` is not, and ``x [N, C]``.

    A tile may hold another family's NaN, and 0 NaN = NaN: what is not finite is left out of the
    product, and makes those rows NaN that have a pair with it.
    """
    finite = tl.abs(x) < float("inf")
    out = tl.dot(p, tl.where(finite, x, 0.0), acc=out, input_precision="ieee", out_dtype=out.dtype)
    if tl.min(tl.min(finite.to(tl.int32), 1), 0) == 0:
        spoilt = tl.where(finite, 0.0, 1.0).to(tl.float32)
        reached = tl.dot(pairs.to(tl.float32), spoilt, input_precision="ieee")
        out = tl.where(reached > 0, float("nan"), out)
    return out


@triton.jit
def _kept(seed, head, query, place, p):
    """Which weights dropout keeps: the same for equal arguments, forward or backward.

    Philox with the counter (key's place within the family, position of the query, head), so that
    neither tiles nor other trees have a part in it.
    """
    zero = place.to(tl.int32) * 0
    draw, _, _, _ = tl.philox(
        seed, place.to(tl.int32), query.to(tl.int32) + zero, head.to(tl.int32) + zero, zero
    )
    return tl.uint_to_uniform_float(draw) >= p


@triton.jit
def _logits(q, k, eps, eps_k, scale, P: tl.constexpr):
    """``[M, N]``: scale q·k + ε·ε."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee", out_dtype=q.dtype) * scale
    if P > 0:
        s = tl.dot(eps, tl.trans(eps_k), acc=s, input_precision="ieee", out_dtype=q.dtype)
    return s


@triton.jit(do_not_specialize=["num_nodes", "shift"])
def forward(
    qkv, pos_q, pos_k, log_mass, starts, ends, seed,
    mean, total, own,
    num_nodes, shift, scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, DROPOUT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """M ``[T, H, V]``, S and own logits ``[T, H]`` of the queries of a tile."""
    ACC: tl.constexpr = mean.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head = tl.program_id(0) % HEADS
    tile = (tl.program_id(0) // HEADS).to(INDEX)
    me = tile * BLOCK - shift + tl.arange(0, BLOCK)
    here = (me >= 0) & (me < num_nodes)
    start = tl.load(starts + me, mask=here, other=num_nodes).to(INDEX)
    end = tl.load(ends + me, mask=here, other=0).to(INDEX)
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    q = _rows(qkv, me, here, WIDTH, head * D, D, D_PAD)
    eps = q
    if P > 0:
        eps = _rows(pos_q, me, here, HEADS * P, head * P, P, P_PAD)

    # Without a sibling of positive mass `top` stays at a number that exp can take.
    top = tl.full([BLOCK], -3.0e38, dtype=ACC)
    norm = tl.zeros([BLOCK], dtype=ACC)
    acc = tl.zeros([BLOCK, V_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for first in range(tl.min(start, 0), last, BLOCK):
        them = first + tl.arange(0, BLOCK)
        there = them < last
        k = _rows(qkv, them, there, WIDTH, (HEADS + head) * D, D, D_PAD)
        v = _rows(qkv, them, there, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
        eps_k = k
        if P > 0:
            eps_k = _rows(pos_k, them, there, HEADS * P, head * P, P, P_PAD)
        bias = tl.load(log_mass + them, mask=there, other=float("-inf"))
        pairs = (them[None, :] >= start[:, None]) & (them[None, :] < end[:, None])
        pairs = pairs & (them[None, :] != me[:, None])
        s = _logits(q, k, eps, eps_k, scale, P) + bias[None, :]
        s = tl.where(pairs, s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        fade = tl.exp(top - higher)
        norm = norm * fade + tl.sum(p, 1)
        if DROPOUT:
            place = them[None, :] - start[:, None]
            kept = _kept(tl.load(seed), head, me[:, None], place, dropout_p)
            p = tl.where(kept, p * kept_scale, 0.0)
        acc = _product(p, v, pairs, acc * fade[:, None])
        top = higher

    k = _rows(qkv, me, here, WIDTH, (HEADS + head) * D, D, D_PAD)
    diagonal = tl.sum(q * k, 1) * scale + tl.load(log_mass + me, mask=here, other=0.0)
    if P > 0:
        eps_k = _rows(pos_k, me, here, HEADS * P, head * P, P, P_PAD)
        diagonal += tl.sum(eps * eps_k, 1)
    # The norm is at least 1, or 0 without a sibling of positive mass: then M = 0 and S = -inf.
    some = tl.where(norm == 0, 1.0, norm)
    log_total = tl.where(norm == 0, float("-inf"), tl.log(some) + top)
    tl.store(own + me * HEADS + head, diagonal, mask=here)
    tl.store(total + me * HEADS + head, log_total, mask=here)
    _put_rows(mean, acc / some[:, None], me, here, HEADS * V, head * V, V, V_PAD)


@triton.jit(do_not_specialize=["num_nodes", "shift"])
def backward_queries(
    qkv, pos_q, pos_k, log_mass, starts, ends, seed,
    mean, total, grad_mean, grad_total, grad_own,
    grad_qkv, grad_pos_q, shared,
    num_nodes, shift, scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, DROPOUT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of q and pos_q, and ``shared [T, H]``: what all logits of a query have in common.

    The derivative of the logit of a pair is p (kept · dM·v + shared), shared = dS − dM·M.
    """
    ACC: tl.constexpr = mean.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head = tl.program_id(0) % HEADS
    tile = (tl.program_id(0) // HEADS).to(INDEX)
    me = tile * BLOCK - shift + tl.arange(0, BLOCK)
    here = (me >= 0) & (me < num_nodes)
    start = tl.load(starts + me, mask=here, other=num_nodes).to(INDEX)
    end = tl.load(ends + me, mask=here, other=0).to(INDEX)
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    q = _rows(qkv, me, here, WIDTH, head * D, D, D_PAD)
    g = _rows(grad_mean, me, here, HEADS * V, head * V, V, V_PAD)
    average = _rows(mean, me, here, HEADS * V, head * V, V, V_PAD)
    top = tl.load(total + me * HEADS + head, mask=here, other=0.0)
    top = tl.where(top < -3.0e38, -3.0e38, top)
    common = tl.load(grad_total + me * HEADS + head, mask=here, other=0.0)
    common -= tl.sum(g * average, 1)
    tl.store(shared + me * HEADS + head, common, mask=here)
    eps = q
    grad_eps = tl.zeros([BLOCK, P_PAD], dtype=ACC)
    if P > 0:
        eps = _rows(pos_q, me, here, HEADS * P, head * P, P, P_PAD)

    acc = tl.zeros([BLOCK, D_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for first in range(tl.min(start, 0), last, BLOCK):
        them = first + tl.arange(0, BLOCK)
        there = them < last
        k = _rows(qkv, them, there, WIDTH, (HEADS + head) * D, D, D_PAD)
        v = _rows(qkv, them, there, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
        eps_k = k
        if P > 0:
            eps_k = _rows(pos_k, them, there, HEADS * P, head * P, P, P_PAD)
        bias = tl.load(log_mass + them, mask=there, other=float("-inf"))
        pairs = (them[None, :] >= start[:, None]) & (them[None, :] < end[:, None])
        pairs = pairs & (them[None, :] != me[:, None])
        s = _logits(q, k, eps, eps_k, scale, P) + bias[None, :]
        p = tl.exp(tl.where(pairs, s, float("-inf")) - top[:, None])
        ds = tl.dot(g, tl.trans(v), input_precision="ieee", out_dtype=ACC)
        if DROPOUT:
            place = them[None, :] - start[:, None]
            kept = _kept(tl.load(seed), head, me[:, None], place, dropout_p)
            ds = tl.where(kept, ds * kept_scale, 0.0)
        ds = tl.where(pairs, p * (ds + common[:, None]), 0.0)
        acc = _product(ds, k, pairs, acc)
        if P > 0:
            grad_eps = _product(ds, eps_k, pairs, grad_eps)

    by_own = tl.load(grad_own + me * HEADS + head, mask=here, other=0.0)
    k = _rows(qkv, me, here, WIDTH, (HEADS + head) * D, D, D_PAD)
    acc = (acc + by_own[:, None] * k) * scale
    _put_rows(grad_qkv, acc, me, here, WIDTH, head * D, D, D_PAD)
    if P > 0:
        eps_k = _rows(pos_k, me, here, HEADS * P, head * P, P, P_PAD)
        grad_eps += by_own[:, None] * eps_k
        _put_rows(grad_pos_q, grad_eps, me, here, HEADS * P, head * P, P, P_PAD)


@triton.jit(do_not_specialize=["num_nodes", "shift"])
def backward_keys(
    qkv, pos_q, pos_k, log_mass, starts, ends, seed,
    total, grad_mean, grad_own, shared,
    grad_qkv, grad_pos_k,
    num_nodes, shift, scale_high, scale_low, dropout_p, kept_scale,
    HEADS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    D_PAD: tl.constexpr, V_PAD: tl.constexpr, P_PAD: tl.constexpr,
    BLOCK: tl.constexpr, DROPOUT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Gradients of k, v and pos_k: who asked a key are those whom it asks, its family."""
    ACC: tl.constexpr = total.dtype.element_ty
    INDEX: tl.constexpr = tl.int64 if WIDE else tl.int32
    WIDTH: tl.constexpr = HEADS * (2 * D + V)
    head = tl.program_id(0) % HEADS
    tile = (tl.program_id(0) // HEADS).to(INDEX)
    me = tile * BLOCK - shift + tl.arange(0, BLOCK)
    here = (me >= 0) & (me < num_nodes)
    start = tl.load(starts + me, mask=here, other=num_nodes).to(INDEX)
    end = tl.load(ends + me, mask=here, other=0).to(INDEX)
    scale = tl.full([1], scale_high, ACC) + tl.full([1], scale_low, ACC)
    k = _rows(qkv, me, here, WIDTH, (HEADS + head) * D, D, D_PAD)
    v = _rows(qkv, me, here, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
    bias = tl.load(log_mass + me, mask=here, other=float("-inf"))
    eps_k = k
    grad_eps = tl.zeros([BLOCK, P_PAD], dtype=ACC)
    if P > 0:
        eps_k = _rows(pos_k, me, here, HEADS * P, head * P, P, P_PAD)

    grad_k = tl.zeros([BLOCK, D_PAD], dtype=ACC)
    grad_v = tl.zeros([BLOCK, V_PAD], dtype=ACC)
    last = tl.max(end, 0)
    for first in range(tl.min(start, 0), last, BLOCK):
        them = first + tl.arange(0, BLOCK)
        there = them < last
        q = _rows(qkv, them, there, WIDTH, head * D, D, D_PAD)
        g = _rows(grad_mean, them, there, HEADS * V, head * V, V, V_PAD)
        eps = q
        if P > 0:
            eps = _rows(pos_q, them, there, HEADS * P, head * P, P, P_PAD)
        top = tl.load(total + them * HEADS + head, mask=there, other=0.0)
        top = tl.where(top < -3.0e38, -3.0e38, top)
        common = tl.load(shared + them * HEADS + head, mask=there, other=0.0)
        pairs = (them[None, :] >= start[:, None]) & (them[None, :] < end[:, None])
        pairs = pairs & (them[None, :] != me[:, None])
        s = _logits(k, q, eps_k, eps, scale, P) + bias[:, None]
        p = tl.where(pairs, tl.exp(tl.where(pairs, s, float("-inf")) - top[None, :]), 0.0)
        ds = tl.dot(v, tl.trans(g), input_precision="ieee", out_dtype=ACC)
        kept_p = p
        if DROPOUT:
            place = me[:, None] - start[:, None]
            kept = _kept(tl.load(seed), head, them[None, :], place, dropout_p)
            ds = tl.where(kept, ds * kept_scale, 0.0)
            kept_p = tl.where(kept, p * kept_scale, 0.0)
        ds = tl.where(pairs, p * (ds + common[None, :]), 0.0)
        grad_k = _product(ds, q, pairs, grad_k)
        grad_v = _product(kept_p, g, pairs, grad_v)
        if P > 0:
            grad_eps = _product(ds, eps, pairs, grad_eps)

    by_own = tl.load(grad_own + me * HEADS + head, mask=here, other=0.0)
    q = _rows(qkv, me, here, WIDTH, head * D, D, D_PAD)
    grad_k = (grad_k + by_own[:, None] * q) * scale
    _put_rows(grad_qkv, grad_k, me, here, WIDTH, (HEADS + head) * D, D, D_PAD)
    _put_rows(grad_qkv, grad_v, me, here, WIDTH, 2 * HEADS * D + head * V, V, V_PAD)
    if P > 0:
        eps = _rows(pos_q, me, here, HEADS * P, head * P, P, P_PAD)
        grad_eps += by_own[:, None] * eps
        _put_rows(grad_pos_k, grad_eps, me, here, HEADS * P, head * P, P, P_PAD)


@triton.jit(do_not_specialize=["size"])
def dropout_mask(
    out, queries, seed, size, dropout_p, kept_scale,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The factors ``out [F, H, KEYS, QUERIES]`` of the other kernels, for ``queries [F, QUERIES]``.

    Keys are the members of the family in order.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    place = at // QUERIES % KEYS
    row = at // QUERIES // KEYS
    family = row // HEADS
    head = row % HEADS
    query = tl.load(queries + family * QUERIES + at % QUERIES, mask=there, other=0)
    kept = _kept(tl.load(seed), head, query, place, dropout_p)
    tl.store(out + at, tl.where(kept, kept_scale, 0.0), mask=there)
