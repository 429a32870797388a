"""The methods compared. Each makes itself ready for a case, untimed, and returns what is timed.

``exact`` marks methods that compute hierarchical attention itself; the gate holds them to the
oracle. A method that cannot do a case raises :class:`~benchmarks.case.Skipped` with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import GPSConv, TransformerConv

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.functional.backends import has_cpu_kernel
from hsa_geometric.kernels import triton
from hsa_geometric.kernels.cpu.walk import Walk, masses
from hsa_geometric.nn import HierarchicalAttentionConv

from . import recursive, sparse
from .case import Case, Prepared, Skipped
from .compiled import allow_recompiles, flex_attention

MAX_EDGES = 1_000_000  # of edge-list methods, which hold several rows of H * D for each edge
MAX_FLEX = 16_384  # leaves: create_block_mask evaluates the mask at every pair
MAX_DENSE, MAX_RECURSIVE = 2048, 1024


@dataclass(frozen=True)
class Method:
    """An entry of the table of methods.

    Attributes:
        prepare: takes a case and whether gradients are wanted.
        about: one line for ``--list``.
        exact: whether it computes hierarchical attention.
        power: its time grows like N to this power, to foresee which sizes take too long.
    """

    prepare: Callable[[Case, bool], Prepared]
    about: str
    exact: bool = False
    power: int = 1


CORE = ("hsa", "floor", "tree", "sdpa", "layer")  # by default on all shapes; others on 'balanced'


def _limit(what: str, have: int, most: int) -> None:
    if have > most:
        raise Skipped(f"more than {most:,} {what}")


def _operator(q: Tensor, k: Tensor, v: Tensor, tree: TreeIndex, backend: str = "auto") -> Tensor:
    out = hierarchical_attention(q, k, v, tree, backend=backend)
    assert isinstance(out, Tensor)
    return out


def hsa(case: Case, grad: bool) -> Prepared:
    """The operator."""
    q, k, v = case.learned(grad, *case.qkv)
    tree = case.tree
    return Prepared(lambda: _operator(q, k, v, tree), (q, k, v))


class OneThread(Prepared):
    """The same by one thread."""

    def call(self, which: str) -> Callable[[], object]:
        """As of what is made ready, with the number of threads as before afterwards."""
        run, threads = super().call(which), torch.get_num_threads()

        def alone() -> object:
            torch.set_num_threads(1)
            try:
                return run()
            finally:
                torch.set_num_threads(threads)

        return alone


def hsa_one_thread(case: Case, grad: bool) -> Prepared:
    """The operator by one thread."""
    prepared = hsa(case, grad)
    return OneThread(prepared.function, prepared.wrt)


def hsa_scatter(case: Case, grad: bool) -> Prepared:
    """The operator in plain tensor code."""
    q, k, v = case.learned(grad, *case.qkv)
    tree = case.tree
    return Prepared(lambda: _operator(q, k, v, tree, "scatter"), (q, k, v))


def hsa_triton(case: Case, grad: bool) -> Prepared:
    """The operator with its CUDA kernels."""
    if case.device == "cpu" and not (triton.INSTALLED and triton.interpreted()):
        raise Skipped("its kernels run on CUDA devices")
    q, k, v = case.learned(grad, *case.qkv)
    tree = case.tree
    return Prepared(lambda: _operator(q, k, v, tree, "triton"), (q, k, v))


def floor(case: Case, grad: bool) -> Prepared:
    """Cloning q, k, v and out; with gradients, as many bytes again for theirs."""
    tensors = [*case.qkv, case.qkv[2].clone()] * (2 if grad else 1)

    def clone() -> Tensor:
        copies = [x.clone() for x in tensors]
        return copies[0]

    return Prepared(clone)


def tree_build(case: Case, grad: bool) -> Prepared:
    """Building the TreeIndex from a parent vector, and on the CPU how the kernel walks it."""
    if grad:
        raise Skipped("has no gradient")
    parent = case.parent.to(case.device)

    def build() -> Tensor:
        tree = TreeIndex.from_parent(parent)
        if case.device == "cpu" and has_cpu_kernel():
            Walk.of(tree)
            masses(None, tree, torch.float32)
        return tree.order

    return Prepared(build)


def _conv(case: Case) -> HierarchicalAttentionConv:
    torch.manual_seed(case.seed)
    width = case.heads * case.channels
    conv = HierarchicalAttentionConv(width, case.channels, heads=case.heads)
    return conv.to(case.device, case.dtype)


def _module(case: Case, grad: bool, module: torch.nn.Module, *args, **kwargs) -> Prepared:
    (x,) = case.learned(grad, case.x)
    return Prepared(lambda: module(x, *args, **kwargs), (x, *module.parameters()))


def layer(case: Case, grad: bool) -> Prepared:
    """HierarchicalAttentionConv, its matrix products included."""
    return _module(case, grad, _conv(case), case.tree)


def layer_parts(case: Case, grad: bool) -> Prepared:
    """What the layer cannot do without: its three matrix products and the operator."""
    conv, tree = _conv(case), case.tree
    (x,) = case.learned(grad, case.x)
    weights = [w.weight for w in (conv.lin_query, conv.lin_key, conv.lin_value)]

    def parts() -> Tensor:
        q, k, v = ((x @ w.t()).view(-1, case.heads, case.channels) for w in weights)
        return _operator(q, k, v, tree).flatten(1)

    return Prepared(parts, (x, *weights))


def layer_overhead(case: Case, grad: bool) -> Prepared:
    """The layer with one head of one channel: the same Python and indices, little arithmetic."""
    return layer(replace(case, heads=1, channels=1), grad)


def layer_compiled(case: Case, grad: bool) -> Prepared:
    """The layer under torch.compile."""
    allow_recompiles()
    conv = _conv(case)
    conv.compile(dynamic=True)
    return _module(case, grad, conv, case.tree)


def sdpa(case: Case, grad: bool) -> Prepared:
    """Softmax attention within each tree, as fast as torch has it; layout prepared, not timed."""
    trees, leaves = case.dense_batch
    q, k, v = (
        x.view(trees, leaves, case.heads, case.channels).transpose(1, 2).contiguous()
        for x in case.qkv
    )
    q, k, v = case.learned(grad, q, k, v)
    return Prepared(lambda: F.scaled_dot_product_attention(q, k, v), (q, k, v))


def flex_families(case: Case, grad: bool) -> Prepared:
    """FlexAttention among the leaves of one family only: the lowest level of the tree, no more."""
    flex, create_block_mask = flex_attention(case, grad)
    _limit("leaves, whose pairs create_block_mask evaluates", case.tree.num_leaves, MAX_FLEX)
    family = case.tree.up[case.tree.leaf]
    rows = len(family)
    q, k, v = (x.transpose(0, 1).unsqueeze(0).contiguous() for x in case.qkv)
    mask = create_block_mask(
        lambda b, h, i, j: family[i] == family[j], None, None, rows, rows, device=case.device
    )
    q, k, v = case.learned(grad, q, k, v)
    return Prepared(lambda: flex(q, k, v, block_mask=mask), (q, k, v))


def flex_dense(case: Case, grad: bool) -> Prepared:
    """FlexAttention over all pairs whose scores are log θ, given and not timed: only θ·v is."""
    flex, _ = flex_attention(case, False)
    rows, heads = case.tree.num_leaves, case.heads
    _limit("leaves, and θ is a dense matrix", rows, MAX_DENSE)
    if grad:
        raise Skipped("θ is given, so that there is no gradient to q and k")
    q, k, v = case.qkv
    eye = torch.eye(rows, dtype=v.dtype, device=v.device).unsqueeze(1).expand(-1, heads, -1)
    theta = _operator(q, k, eye, case.tree)
    score = theta.transpose(0, 1).log().contiguous()
    q, k, v = (x.transpose(0, 1).unsqueeze(0).contiguous() for x in (q, k, v))

    def run() -> Tensor:
        out = flex(q, k, v, score_mod=lambda s, b, h, i, j: score[h, i, j])
        return out.squeeze(0).transpose(0, 1)

    return Prepared(run)


def transformer_conv(case: Case, grad: bool) -> Prepared:
    """PyG's TransformerConv along all sibling edges of the tree, on features of all its nodes."""
    _limit("sibling edges", case.num_pairs, MAX_EDGES)
    torch.manual_seed(case.seed)
    width = case.heads * case.channels
    conv = TransformerConv(width, case.channels, heads=case.heads, root_weight=False)
    conv = conv.to(case.device, case.dtype)
    x = case.x.new_zeros(case.tree.num_nodes, width)
    x[case.tree.leaf_ids] = case.x
    (x,) = case.learned(grad, x)
    edge_index = case.siblings
    return Prepared(lambda: conv(x, edge_index), (x, *conv.parameters()))


def gps_conv(case: Case, grad: bool) -> Prepared:
    """PyG's GPSConv with multi-head attention, no local part; its two-layer MLP included."""
    torch.manual_seed(case.seed)
    width = case.heads * case.channels
    conv = GPSConv(width, None, heads=case.heads, norm=None).to(case.device, case.dtype)
    return _module(case, grad, conv, None, case.batch)


def sparse_levels(case: Case, grad: bool) -> Prepared:
    """The paper's appendix E.3: one torch.sparse matrix of sibling pairs for each depth."""
    _limit("sibling pairs", case.num_pairs, MAX_EDGES)
    q, k, v = case.learned(grad, *case.qkv)
    with warnings.catch_warnings():  # that invariants of sparse tensors are not checked
        warnings.simplefilter("ignore")
        plan = sparse.plan(case.tree, case.siblings, case.heads, case.dtype)
    return Prepared(lambda: sparse.hierarchical_attention(q, k, v, plan), (q, k, v))


def recursive_python(case: Case, grad: bool) -> Prepared:
    """A recursive Python program, node by node."""
    _limit("leaves, and a Python call for each node", case.tree.num_leaves, MAX_RECURSIVE)
    _limit("levels of recursion", case.tree.depth, 200)
    _limit("sibling pairs", case.num_pairs, MAX_EDGES)
    family: list[list[int]] = [[] for _ in range(case.tree.num_nodes)]
    for node, above in enumerate(case.parent.tolist()):
        if node != above:
            family[above].append(node)
    q, k, v = case.learned(grad, *case.qkv)
    return Prepared(lambda: recursive.hierarchical_attention(q, k, v, family), (q, k, v))


METHODS: dict[str, Method] = {
    "hsa": Method(hsa, "the operator, backend 'auto'", exact=True),
    "hsa-one-thread": Method(hsa_one_thread, "the operator by one thread", exact=True),
    "hsa-scatter": Method(hsa_scatter, "the operator, backend 'scatter'", exact=True),
    "hsa-triton": Method(hsa_triton, "the operator, backend 'triton'", exact=True),
    "floor": Method(floor, "cloning q, k, v and out (twice with gradients)"),
    "tree": Method(tree_build, "TreeIndex.from_parent, and how the kernel walks it"),
    "sdpa": Method(sdpa, "softmax attention: F.scaled_dot_product_attention", power=2),
    "layer": Method(layer, "HierarchicalAttentionConv"),
    "layer-parts": Method(layer_parts, "the layer's matrix products and operator alone"),
    "layer-overhead": Method(layer_overhead, "the layer with one head of one channel"),
    "layer-compiled": Method(layer_compiled, "the layer under torch.compile"),
    "gps": Method(gps_conv, "GPSConv, multi-head attention and MLP", power=2),
    "transformer-conv": Method(transformer_conv, "TransformerConv along sibling edges"),
    "sparse-levels": Method(sparse_levels, "the paper's appendix E.3", exact=True),
    "recursive": Method(recursive_python, "plain recursive Python", exact=True),
    "flex-families": Method(flex_families, "FlexAttention among leaf families", power=2),
    "flex-dense": Method(flex_dense, "FlexAttention given log θ of all pairs", True, power=2),
}
