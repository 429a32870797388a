"""What the processes do: compare shards with the whole, which each of them has too."""

import torch
import torch.distributed as dist

from hsa_geometric import Hierarchy, TreeIndex, coarsen, functional
from hsa_geometric.distributed import Halo, HierarchyShard, make_shard, shard_hierarchy
from hsa_geometric.nn import HierarchicalAttentionConv, HierarchicalUNet
from hsa_geometric.testing import attention_inputs

BY_NODE = ("pos_q", "pos_k", "temperature", "bias")


def node_ids(whole, shard):
    """Id in the whole of each node of a shard: the leaves here and what is above them."""
    keep = torch.zeros(whole.num_nodes, dtype=torch.bool)
    keep[whole.leaf_ids[shard.leaf_row]] = True
    for _ in range(whole.depth):
        keep[whole.parent[keep]] = True
    return keep.nonzero().view(-1)


def close(found, expected, dtype):
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def attention(group, parents, options, dtype, backends, draw):
    """Outputs, evidence and gradients of each tree, forward and backward."""
    for parent in parents:
        whole = TreeIndex.from_parent(parent)
        shard = shard_hierarchy(Hierarchy(parent=parent), group)
        rows, nodes = shard.leaf_row, node_ids(whole, shard)
        given = attention_inputs(whole, dtype=dtype, **draw)
        generator = torch.Generator().manual_seed(5)
        cotangent = torch.randn(given["v"].shape, generator=generator, dtype=dtype)
        weight = torch.randn(whole.num_trees, 2, generator=generator, dtype=dtype)

        def run(tree, inputs, cotangent, weight, backend):
            inputs = {n: x.detach().requires_grad_(n != "mass") for n, x in inputs.items()}
            out, f = functional.hierarchical_attention(
                **inputs, tree=tree, return_evidence=True, backend=backend, **options
            )
            loss = (out * cotangent).sum() + (f * weight)[f.isfinite()].sum()
            loss.backward()
            return out.detach(), f.detach(), {n: x.grad for n, x in inputs.items() if n != "mass"}

        part = {n: x[nodes if n in BY_NODE else rows] for n, x in given.items()}
        for backend in backends:
            expected, f, grads = run(whole, given, cotangent, weight, backend)
            # All have the evidence: so that it counts once, process 0 alone asks for its gradient.
            mine = weight * (dist.get_rank(group) == 0)
            found, f_found, found_grads = run(shard.tree, part, cotangent[rows], mine, backend)
            close(found, expected[rows], dtype)
            close(f_found, f, dtype)
            for name, grad in grads.items():
                if name in BY_NODE:
                    summed = torch.zeros_like(grad).index_copy(0, nodes, found_grads[name])
                    dist.all_reduce(summed, group=group)
                    close(summed, grad, dtype)
                else:
                    close(found_grads[name], grad[rows], dtype)
            # Without evidence and without gradients: other paths.
            with torch.no_grad():
                out = functional.hierarchical_attention(
                    **part, tree=shard.tree, backend=backend, **options
                )
            close(out, expected[rows], dtype)
    return len(rows)
