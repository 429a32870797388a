"""Hierarchical self-attention as a function, and its dense matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import operator, reference
from ..kernels.call import Call, accumulator
from ..lists import InteractionLists
from ..shard import TreeShard
from ..tree import TreeIndex
from . import checks, list_checks, sharded
from .backends import resolve


def hierarchical_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: TreeIndex | Tensor,
    *,
    lists: InteractionLists | None = None,
    key_tree: TreeIndex | Tensor | None = None,
    scale: float | None = None,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    key_mass: Tensor | None = None,
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

    With :obj:`lists` any pairs of nodes :math:`A, B` may share a weight in place of siblings, of
    one tree or of a query tree and a key tree; :math:`\theta` is the nearest matrix of that form:

    .. math::
        F_A = \mathrm{logaddexp}\Big(\mathrm{logsumexp}_{B \in N(A)} (\log|B| + s_{AB}), \;
        \sum_{c \in \mathrm{chd}(A)} \tfrac{|c|}{|A|} F_c\Big), \qquad
        \theta_{ij} = W_A \, e^{s_{AB} - F_A} \, m_j

    for :math:`i \in A`, :math:`j \in B` and the blocks :math:`N(A)` of :math:`A`;
    :math:`W_\mathrm{root} = 1`, :math:`W_c = W_A \exp(\sum \frac{|c|}{|A|} F_c - F_A)`. To open
    more pairs never lowers :math:`F_\mathrm{root}`; with all opened this is softmax attention.

    Args:
        q: queries of the leaves.
        k: keys of the leaves.
        v: values of the leaves.
        tree: a :class:`~hsa_geometric.TreeIndex`, or a parent vector to build one from. With
            :obj:`lists`, the query tree that they were made for, or, where they have two trees over
            the same leaves and :obj:`key_tree` is not given, either of these.
        lists: which nodes meet, see :mod:`hsa_geometric.interactions`. (default: siblings)
        key_tree: tree of the keys where queries attend to other leaves than themselves, the key
            tree of :obj:`lists`.
        scale: factor of the dot product. (default: :math:`1/\sqrt D`)
        pos_q: position embedding :math:`\epsilon^q` of each tree node within its family.
        pos_k: position embedding :math:`\epsilon^k`, beside :obj:`pos_q`.
        mass: weight :math:`m_i \ge 0` of each leaf, data without gradient; 0 marks padding, which
            no other leaf sees. (default: 1)
        key_mass: the same of the leaves of :obj:`key_tree`.
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
          four by node id. k, v, key_mass and pos_k have the rows of the key tree where there are
          two trees, the other ones those of the query tree
        - **output:** :math:`(N, H, D_v)` in the dtype of :obj:`v`; evidence
          :math:`(\mathrm{trees}, H)` in float32 or float64, trees in ascending id of their roots

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if shapes, devices or values do not fit; the message names the argument.
        ImportError: if :obj:`backend` is ``'triton'`` and Triton is not installed, or ``'cpu'`` and
            the kernel cannot be loaded.

    Cost: :math:`O(\sum b^2 D)` for families of size :math:`b`, or :math:`O(M D)` for :math:`M`
    blocks, and :math:`O(T D)` for the sweeps; :math:`O(T D)` memory, with lists :math:`O(M)` more.
    Lists where siblings meet give the results without lists, bit for bit. Values of :obj:`mass` on
    a CUDA device are not checked.

    Example:
        >>> import torch
        >>> tree = TreeIndex.from_parent(torch.tensor([4, 4, 5, 5, 6, 6, 6]))
        >>> q, k, v = torch.randn(3, 4, 2, 8).unbind(0)
        >>> hierarchical_attention(q, k, v, tree).shape
        torch.Size([4, 2, 8])
    """
    call = checked_call(
        q, k, v, tree, lists, key_tree, scale, pos_q, pos_k, mass, key_mass, temperature, bias,
        self_loop, dropout_p, training, sharded=True,
    )  # fmt: skip
    backend = resolve(backend, call)
    if isinstance(call.tree, TreeShard):
        out, evidence = sharded.attention(call, call.tree, backend, return_evidence)
    else:
        out, evidence = operator.attention(call, backend)
    return out if evidence is None or not return_evidence else (out, evidence)


def attention_matrix(
    q: Tensor,
    k: Tensor,
    tree: TreeIndex | Tensor,
    *,
    lists: InteractionLists | None = None,
    key_tree: TreeIndex | Tensor | None = None,
    scale: float | None = None,
    pos_q: Tensor | None = None,
    pos_k: Tensor | None = None,
    mass: Tensor | None = None,
    key_mass: Tensor | None = None,
    temperature: Tensor | None = None,
    bias: Tensor | None = None,
    self_loop: bool = True,
) -> Tensor:
    r"""The dense matrix :math:`\theta` of :func:`hierarchical_attention`: to look at, and to test.

    Arguments, equation and errors are those of :func:`hierarchical_attention`.

    Shapes:
        - **output:** :math:`(H, N, N)` in float32, or float64, with two trees a row for each query
          and a column for each key; rows sum to one, except the row of
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
    call = checked_call(
        q, k, k, tree, lists, key_tree, scale, pos_q, pos_k, mass, key_mass, temperature, bias,
        self_loop,
    )  # fmt: skip
    with torch.autocast(q.device.type, enabled=False):
        return reference.attention_matrix(call)[0]


def checked_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: TreeIndex | Tensor,
    lists: InteractionLists | None,
    key_tree: TreeIndex | Tensor | None,
    scale: float | None,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    mass: Tensor | None,
    key_mass: Tensor | None,
    temperature: Tensor | None,
    bias: Tensor | None,
    self_loop: bool,
    dropout_p: float = 0.0,
    training: bool = False,
    sharded: bool = False,
) -> Call:
    """The arguments of attention, checked, for a backend."""
    dtype = accumulator(q.dtype) if isinstance(q, Tensor) else torch.float32
    if lists is None:
        list_checks.check_alone(key_tree, key_mass)
        if not (isinstance(tree, TreeIndex) and checks.fit(q, k, v, tree)):
            tree = checks.as_tree(tree, q, sharded=sharded)
            checks.check_queries(q, k, tree)
            checks.check_values(v, q)
        other = tree
    else:
        lists = list_checks.as_lists(lists, tree, key_tree, q, k)
        tree, other = lists.query_tree, lists.key_tree
        list_checks.check_keys(q, k, v, lists)
        list_checks.check_key_mass(key_mass, key_tree, mass, lists, dtype)
        list_checks.check_self_loop(self_loop, lists)
        lists = list_checks.unless_siblings(lists)
    checks.check_node_arguments(q, tree, pos_q, pos_k, temperature, bias, other)
    checks.check_mass(mass, tree, dtype)
    checks.check_dropout(dropout_p)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    dropout_p, seed = float(dropout_p) if training else 0.0, None
    if dropout_p > 0.0:
        seed = torch.randint(1 << 62, (1,), device=q.device)
    return Call(
        q, k, v, pos_q, pos_k, temperature, bias, mass, seed, tree, scale, bool(self_loop),
        dropout_p, mass if key_tree is None else key_mass, lists,
    )  # fmt: skip
