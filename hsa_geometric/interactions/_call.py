"""Weights of blocks, for builders and reports that look at them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import list_checks
from ..functional.checks import check_mass
from ..kernels.call import Call
from ..lists import InteractionLists


def float64_call(
    q: Tensor,
    k: Tensor,
    lists: InteractionLists,
    mass: Tensor | None,
    key_mass: Tensor | None,
    scale: float | None,
) -> Call:
    """A checked call in float64, without a graph, whose values are the keys."""
    list_checks.check_keys(q, k, k, lists)
    check_mass(mass, lists.query_tree, torch.float64)
    check_mass(key_mass, lists.key_tree, torch.float64, "key_mass")
    if lists.of_one_tree and key_mass is not None:
        raise ValueError("Expected no 'key_mass' for lists of one tree (got a tensor)")
    q, k = q.detach().double(), k.detach().double()
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    mass, key_mass = (None if x is None else x.detach().double() for x in (mass, key_mass))
    return Call(
        q, k, k, None, None, None, None, mass, None, lists.query_tree, scale, True, 0.0,
        key_mass, lists,
    )  # fmt: skip
