"""The scalar recursion for the log evidence f, in one launch for the whole forest.

The same operator as :mod:`hsa_geometric.kernels.eager.evidence`, whose recursion this is. It goes
up the tree as the upward sweep does, see :mod:`.sweeps`: one launch at any depth. Its backward is
a downward sweep.
"""

from __future__ import annotations

from torch import Tensor

from ..eager.evidence import differentiate
from ..eager.operator import tree_operator
from ..eager.plan import Plan
from .sweeps import climb, scan_down


@tree_operator("hsa_geometric::triton_evidence")
def evidence(
    leaf_f: Tensor, sibling: Tensor, weight: Tensor, log_mass: Tensor | None, tree: list[Tensor]
) -> Tensor:
    """f ``[T, H]`` from leaf values ``[N, H]``, S ``[T, H]``, w ``[T]`` and log mass ``[T]``.

    Without log mass no node has mass 0.
    """
    finite = weight if log_mass is None else log_mass
    return climb(
        sibling.new_empty(sibling.shape),
        Plan.of(tree),
        "EVIDENCE",
        weight.contiguous(),
        leaves=[leaf_f],
        sibling=sibling.contiguous(),
        log_mass=finite.contiguous(),
    )


differentiate(evidence, scan_down)
