"""What every backend is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..lists import InteractionLists
from ..tree import TreeIndex


class Call(NamedTuple):
    """The arguments of attention over a tree, checked at the door.

    Attributes:
        q: ``[N, H, D]``, as ``k``, and ``v [N, H, Dv]``. float64 is not mixed with less; half
            precisions and float32 may be. With lists rows of k and v are those of the key tree.
        pos_q: ``[T, H, P]`` by node id, as ``pos_k``, with lists that of the key tree.
        temperature: ``[T, H]`` by node id, as ``bias``.
        mass: ``[N]``, in any floating dtype.
        seed: ``[1]`` int64 on the device of ``q`` where there is dropout.
        tree: the tree; with lists that of the queries.
        scale: factor of the dot products.
        self_loop: whether a leaf attends to itself.
        dropout_p: probability that a weight is dropped; 0 where nothing is.
        key_mass: mass of each leaf of the key tree where that is another than the query tree.
        lists: which nodes meet; None where siblings do.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pos_q: Tensor | None
    pos_k: Tensor | None
    temperature: Tensor | None
    bias: Tensor | None
    mass: Tensor | None
    seed: Tensor | None
    tree: TreeIndex
    scale: float
    self_loop: bool
    dropout_p: float
    key_mass: Tensor | None = None
    lists: InteractionLists | None = None

    @property
    def learned(self) -> tuple[Tensor | None, ...]:
        """The tensors that are differentiated, which come first."""
        return self.q, self.k, self.v, self.pos_q, self.pos_k, self.temperature, self.bias

    @property
    def mass_of_keys(self) -> Tensor | None:
        """Mass of each row of k and v."""
        return self.mass if self.lists is None or self.lists.of_one_tree else self.key_mass


NUM_LEARNED = 7


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums of :obj:`dtype` are taken: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32
