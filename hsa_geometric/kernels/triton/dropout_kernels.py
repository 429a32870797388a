"""Which weights dropout keeps: the same for equal arguments, forward or backward."""

import triton
import triton.language as tl


@triton.jit
def kept(seed, head, query, place, p):
    """Philox with the counter (key's place within the family, position of the query, head).

    So neither tiles nor other trees have a part in it. A leaf's own weight has the place -1.
    """
    zero = place.to(tl.int32) * 0
    draw, _, _, _ = tl.philox(
        tl.load(seed), place.to(tl.int32), query.to(tl.int32) + zero, head.to(tl.int32) + zero, zero
    )
    return tl.uint_to_uniform_float(draw) >= p


@triton.jit
def own_factor(seed, head, node, p, kept_scale):
    """0, or 1 / (1 - p), by which dropout multiplies a leaf's own weight."""
    place = node.to(tl.int32) * 0 - 1
    return tl.where(kept(seed, head, node, place, p), kept_scale, 0.0)
