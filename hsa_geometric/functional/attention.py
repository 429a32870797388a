"""Hierarchical self-attention as a function, and its dense matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import operator, reference
from ..kernels.call import Call, accumulator
from ..tree import TreeIndex
from . import checks
from .backends import resolve


def hierarchical_attention(
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
    backend: str = "auto",
    return_evidence: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention over the leaves of a tree, from `"Hierarchical Self-Attention: Generalizing
    Neural Attention Mechanics to Multi-Scale Problems" <https://arxiv.org/abs/2509.15448>`_.

    .. math::
        \mathrm{out}_i = \sum_j \theta_{ij} v_j, \qquad
        \theta = \arg\min_\theta \sum_i m_i \,
        \mathrm{KL}(\theta_i \,\|\, \mathrm{softmax}_j(\log m_j + s_{ij}))

    where all leaves below a node :math:`A` share one weight towards all leaves below a sibling
    :math:`B`, with the sibling logit (eq. 7) of mass-weighted means over leaves

    .. math::
        s_{AB} = \tau_A \, (\mathrm{scale} \cdot \bar q_A \cdot \bar k_B + \epsilon^q_A \cdot
        \epsilon^k_B) + \beta_A .

    A root with :math:`N` leaves is softmax attention. A dynamic programme (eq. 8) finds
    :math:`\theta` without forming it.

    Args:
        q: queries of the leaves.
        k: keys of the leaves.
        v: values of the leaves.
        tree: a :class:`~hsa_geometric.TreeIndex`, or a parent vector to build one from.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        pos_q: position embedding :math:`\epsilon^q` of each tree node within its family.
        pos_k: position embedding :math:`\epsilon^k`, beside :obj:`pos_q`.
        mass: weight :math:`m_i \ge 0` of each leaf, data without gradient; 0 marks padding, which
            no other leaf sees. (default: 1)
        temperature: factor :math:`\tau` of the logits of each tree node as a query.
        bias: :math:`\beta`, added to a node's logits towards its siblings, not to a leaf's own.
        self_loop: whether a leaf attends to itself; the paper leaves it out.
        dropout_p: probability of dropping an attention weight in training.
        training: whether to apply dropout.
        backend: ``'cpu'``, a compiled kernel for the CPU; ``'triton'``, kernels for CUDA devices,
            which have run in Triton's interpreter only and never on a GPU; ``'scatter'``, tensor
            code for any device, forward-mode derivatives and ``torch.func``; ``'reference'``, which
            is dense; or ``'auto'``: ``'cpu'`` where it can be had, else ``'scatter'``. Nothing else
            is taken for a backend that is named and cannot run.
        return_evidence: also return the log evidence of each tree,
            :math:`f_\mathrm{root} = \frac{1}{m} \sum_i m_i (\mathrm{logsumexp}_j(\log m_j +
            s_{ij}) - \mathrm{KL}_i)`: the higher, the closer to softmax.

    Shapes:
        - **input:** q, k :math:`(N, H, D)`, v :math:`(N, H, D_v)`, mass :math:`(N)`,
          pos_q, pos_k :math:`(T, H, P)`, temperature, bias :math:`(T, H)`; rows of the latter
          four by node id
        - **output:** :math:`(N, H, D_v)` in the dtype of :obj:`v`; evidence
          :math:`(\mathrm{trees}, H)` in float32 or float64, trees in ascending id of their roots

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or values do not fit; the message names the argument.
        ImportError: if :obj:`backend` is ``'triton'`` and Triton is not installed, or ``'cpu'`` and
            the kernel cannot be loaded.

    Cost: :math:`O(\sum b^2 D)` for families of size :math:`b` and :math:`O(T D)` for the sweeps;
    :math:`O(T D)` memory. Values of :obj:`mass` on a CUDA device are not checked.

    Example:
        >>> import torch
        >>> tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> q, k, v = torch.randn(3, 4, 2, 8).unbind(0)
        >>> hierarchical_attention(q, k, v, tree).shape
        torch.Size([4, 2, 8])
    """
    tree = checks.as_tree(tree, q)
    checks.check_queries(q, k, tree)
    checks.check_values(v, q)
    checks.check_node_arguments(q, tree, pos_q, pos_k, temperature, bias)
    checks.check_mass(mass, tree, accumulator(q.dtype))
    checks.check_dropout(dropout_p)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    dropout_p, seed = float(dropout_p) if training else 0.0, None
    if dropout_p > 0.0:
        seed = torch.randint(1 << 62, (1,), device=q.device)
    call = Call(
        q, k, v, pos_q, pos_k, temperature, bias, mass, seed, tree, scale, bool(self_loop),
        dropout_p,
    )  # fmt: skip
    out, evidence = operator.attention(call, resolve(backend, call))
    return (out, evidence) if return_evidence else out


def attention_matrix(
    q: Tensor,
    k: Tensor,
    tree: TreeIndex | Tensor,
    *,
    scale: float | None = None,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    temperature: Tensor | None = None,
    bias: Tensor | None = None,
    self_loop: bool = True,
) -> Tensor:
    r"""The dense matrix :math:`\theta` of :func:`hierarchical_attention`: to look at, and to test.

    Arguments, equation and errors are those of :func:`hierarchical_attention`.

    Shapes:
        - **output:** :math:`(H, N, N)` in float32, or float64; rows sum to one, except the row of
          a tree that has nothing to attend to (one leaf and ``self_loop=False``), which is 0

    Cost: :math:`O(T N^2)` time, in Python loops over the nodes.

    Example:
        >>> import torch
        >>> q, k = torch.zeros(2, 3, 1, 4).unbind(0)
        >>> attention_matrix(q, k, torch.tensor([3, 3, 4, 4, 4]))[0]
        tensor([[0.3333, 0.3333, 0.3333],
                [0.3333, 0.3333, 0.3333],
                [0.3333, 0.3333, 0.3333]])
    """
    tree = checks.as_tree(tree, q)
    checks.check_queries(q, k, tree)
    checks.check_node_arguments(q, tree, pos_q, pos_k, temperature, bias)
    checks.check_mass(mass, tree, accumulator(q.dtype))
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    call = Call(
        q, k, q, pos_q, pos_k, temperature, bias, mass, None, tree, scale, bool(self_loop), 0.0
    )
    with torch.autocast(q.device.type, enabled=False):
        return reference.attention_matrix(call)[0]
