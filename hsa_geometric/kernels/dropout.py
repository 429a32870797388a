"""Which weights dropout keeps: drawn from counters, so that every backend keeps the same.

A draw depends on the seed, the head, the position of the query and the place of the key within its
family alone: neither tiles nor other trees nor the order of computation have a part in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

OWN = -1  # the place that stands for a leaf's weight of itself
WORD = 0xFFFFFFFF


def factors(
    p: float, seed: Tensor, head: Tensor, query: Tensor, place: Tensor, dtype: torch.dtype
) -> Tensor:
    """0, or 1 / (1 − p), by which dropout multiplies a weight.

    Args:
        p: probability of 0; with 1 all are 0.
        seed: ``[1]`` int64.
        head: head of each weight, int64, as the next two of shapes that broadcast.
        query: position of who attends.
        place: rank of who is attended to within its family, or :data:`OWN`.
        dtype: of the result.

    Example:
        >>> heads = torch.arange(6)
        >>> factors(0.5, torch.tensor([7]), heads, heads * 0, heads * 0, torch.float32)
        tensor([0., 2., 0., 2., 2., 0.])
    """
    keep = uniform(philox(seed, place & WORD, query & WORD, head & WORD)) >= p
    return keep.to(dtype) * kept_scale(p)


def kept_scale(p: float) -> float:
    """By what dropout multiplies the weights that it keeps."""
    return 1.0 / max(1.0 - p, 1e-30)


def philox(seed: Tensor, c0: Tensor, c1: Tensor, c2: Tensor) -> Tensor:
    """First word of Philox 4x32-10 for the counter ``(c0, c1, c2, 0)``.

    From `"Parallel Random Numbers: As Easy as 1, 2, 3" <https://doi.org/10.1145/2063384.2063405>`_.
    Words of 32 bits stand in int64, whose products wrap around and keep all 64 bits.
    """
    k0, k1, c3 = seed & WORD, high(seed), torch.zeros_like(c0)
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high(b) ^ c1 ^ k0, b & WORD, high(a) ^ c3 ^ k1, a & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0


def high(x: Tensor) -> Tensor:
    """The upper 32 bits."""
    return (x >> 32) & WORD


def uniform(word: Tensor) -> Tensor:
    """A word of 32 bits as a float32 in [0, 1), as Triton makes it: ``uint_to_uniform_float``."""
    return torch.minimum(word, WORD - word).float() * 4.6566127342e-10
