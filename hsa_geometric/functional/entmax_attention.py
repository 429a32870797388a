"""Hierarchical attention by 1.5-entmax, which gives weights of exactly 0."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.operator import attend_by
from ..kernels.scatter import entmax
from ..tree import TreeIndex
from .attention import checked_call


@torch.compiler.disable
def entmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: TreeIndex | Tensor,
    *,
    scale: float | None = None,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    temperature: Tensor | None = None,
    bias: Tensor | None = None,
    self_loop: bool = True,
    dropout_p: float = 0.0,
    training: bool = False,
    return_evidence: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention over the leaves of a tree with 1.5-entmax (`"Sparse Sequence-to-Sequence Models"
    <https://arxiv.org/abs/1905.05702>`_) in place of softmax within each family.

    A node shares its attention out between itself, with its log evidence :math:`f_A` for a logit,
    and its siblings:

    .. math::
        p_A = \arg\max_p \langle p, z_A \rangle +
        \tfrac43 \Big( 1 - \sum_j p_j^{3/2} \Big), \qquad
        z_A = \big( f_A, \log|B| + s_{AB}, \dots \big), \qquad
        f_C = \sum_{A \in \mathrm{chd}(C)} \frac{|A|}{|C|} Z_A

    where :math:`Z_A` is the maximum. Each block of leaves below a node :math:`A` gets, of what
    reaches the family, the part :math:`p_{AB}` to the leaves below :math:`B`, and :math:`p_{AA}` to
    itself, so rows sum to one; many blocks get exactly 0. With the entropy in place of the
    last term it is :func:`hierarchical_attention`. A star tree gives 1.5-entmax attention.

    Masses enter as :math:`\log|B|` and as weights of means, but, unlike with softmax, a leaf of
    mass 2 is not two leaves, and the matrix is not the nearest to a flat one.

    Args:
        q, k, v, tree: as for :func:`hierarchical_attention`, and so is all else; evidence is
            :math:`f` of roots.

    Shapes:
        - **input, output:** those of :func:`hierarchical_attention`

    Raises:
        TypeError, ValueError: those of :func:`hierarchical_attention`.

    Cost: as ``backend='scatter'`` of :func:`hierarchical_attention`, and sorting each family's
    logits; one level at a time. Computed in float32 at least, by plain tensor code. Levels are a
    loop, so ``torch.compile`` runs it as it is, between two graphs.

    Example:
        >>> import torch
        >>> q = k = torch.tensor([[[3.0]], [[0.0]], [[-3.0]]])
        >>> v = torch.eye(3).unsqueeze(1)
        >>> entmax_attention(q, k, v, torch.tensor([3, 3, 3, 3])).squeeze(1)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.3333, 0.3333, 0.3333],
                [0.0000, 0.0000, 1.0000]])
    """
    call = checked_call(
        q, k, v, tree, None, None, scale, pos_q, pos_k, mass, None, temperature, bias, self_loop,
        dropout_p, training,
    )  # fmt: skip
    out, evidence = attend_by(entmax, call)
    return (out, evidence) if return_evidence else out
