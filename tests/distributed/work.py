"""What the processes do: compare shards with the whole, which each of them has too."""

import copy
import functools
import pickle

import torch
import torch.distributed as dist
from helpers import load_example
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv, GraphConv

from hsa_geometric import Hierarchy, TreeIndex, coarsen, functional
from hsa_geometric.distributed import Halo, HierarchyShard, make_shard, shard_hierarchy
from hsa_geometric.nn import HierarchicalAttentionConv, HierarchicalUNet
from hsa_geometric.testing import attention_inputs
from hsa_geometric.testing.zoo import balanced

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


def layers(group, h, level):
    """Convolution, pooling, lifting, coarsening, U-Net and message passing of a hierarchy."""
    torch.manual_seed(3)
    shard = shard_hierarchy(h, group, level=level)
    rows, here = shard.leaf_row, dist.get_rank(group)
    conv = HierarchicalAttentionConv(
        h.x.shape[1], 4, heads=2, num_levels=3, pos_dim=2, residual=True, qk_norm="rms_norm"
    ).double()
    levels = (-2, level)
    unet = HierarchicalUNet(h.x.shape[1], 8, 3, levels=levels, heads=2).double()
    with_edges = HierarchicalUNet(h.x.shape[1], 8, 3, levels, conv=GraphConv, heads=2).double()
    halo, weight = Halo(shard, h.edge_index), h.edge_attr[:, 0].abs()
    cotangent = torch.randn(h.num_nodes, 14, dtype=torch.float64)

    def run(data, cotangent, edges):
        for model in (conv, unet, with_edges):
            model.zero_grad()
        x = data.x.detach().requires_grad_()
        out = torch.cat(
            [
                conv(x, data.tree, mass=data.mass, tree_pos=data.tree_pos),
                unet(x, data.tree, mass=data.mass),
                with_edges(x, data.tree, *edges, mass=data.mass),
            ],
            1,
        )
        (out * cotangent).sum().backward()
        learned = [*conv.parameters(), *unet.parameters(), *with_edges.parameters()]
        grads = torch.cat(
            [torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in learned]
        )
        return out.detach(), x.grad, grads.clone()

    out, grad, learned = run(h, cotangent, (h.edge_index, weight))
    found, found_grad, partial = run(shard, cotangent[rows], (halo, weight[halo.edges]))
    dist.all_reduce(partial, group=group)  # each process has its leaves' part of the gradient
    for a, b in ((found, out[rows]), (found_grad, grad[rows]), (partial, learned)):
        close(a, b, torch.float64)

    # Clusters are named by the rows of their first leaves.
    whole, part = coarsen(h, level), coarsen(shard, level)
    first = first_rows(h.tree, level)
    at = torch.searchsorted(first, part.leaf_row)
    assert torch.equal(first[at], part.leaf_row)
    close(part.x, whole.x[at], torch.float64)
    close(part.mass, whole.mass[at], torch.float64)
    expected = functional.hierarchical_attention(
        *[whole.x.unsqueeze(1)] * 3, whole.tree, mass=whole.mass
    )
    got = functional.hierarchical_attention(*[part.x.unsqueeze(1)] * 3, part.tree, mass=part.mass)
    close(got, expected[at], torch.float64)
    pooled = functional.pool(shard.x, shard.tree, level, mass=shard.mass)
    close(
        functional.lift(pooled, shard.tree, level),
        functional.lift(functional.pool(h.x, h.tree, level, mass=h.mass), h.tree, level)[rows],
        torch.float64,
    )

    x = shard.x.detach().requires_grad_()
    source, target = halo.edge_index
    sums = torch.zeros_like(x).index_add(0, target, halo(x)[source].sin() * h.edge_attr[halo.edges])
    (sums * cotangent[rows, :1]).sum().backward()
    full = h.x.detach().requires_grad_()
    source, target = h.edge_index
    expected = torch.zeros_like(full).index_add(0, target, full[source].sin() * h.edge_attr)
    (expected * cotangent[:, :1]).sum().backward()
    close(sums.detach(), expected.detach()[rows], torch.float64)
    close(x.grad, full.grad[rows], torch.float64)
    return here


def first_rows(tree, level):
    cluster = functional.clusters_at(tree, level).cluster
    return torch.tensor([int((cluster == c).nonzero()[0]) for c in range(int(cluster.max()) + 1)])


def hierarchy(parent, seed=0):
    """Rows of all kinds."""
    generator = torch.Generator().manual_seed(seed)
    tree = TreeIndex.from_parent(parent)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    edges = torch.randint(tree.num_leaves, (2, 3 * tree.num_leaves), generator=generator)
    return Hierarchy(
        x=draw(tree.num_leaves, 5), parent=parent, mass=0.2 + draw(tree.num_leaves).abs(),
        tree_pos=draw(tree.num_nodes, 2), edge_index=edges, edge_attr=draw(edges.shape[1], 1),
    )  # fmt: skip


def error_of(call, *args):
    """What it raises, as text."""
    try:
        call(*args)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refused(group):
    """Errors of processes that do not agree, by name."""
    rank = dist.get_rank(group)
    h = Hierarchy(parent=balanced(3, 2), x=torch.zeros(9, 4))
    pieces, ranks = torch.tensor([9, 10, 11]), torch.tensor([0, 1, 1])
    found = {}
    three = make_shard(h, pieces, ranks, rank, 3)
    found["processes"] = error_of(HierarchyShard.attach, three, group)
    found["another's"] = error_of(HierarchyShard.attach, make_shard(h, pieces, ranks, 0, 2), group)
    found["whole"] = error_of(HierarchyShard.attach, h, group)
    other = Hierarchy(parent=balanced(3, 2 + rank))
    found["cuts"] = error_of(shard_hierarchy, other, group)
    shard = shard_hierarchy(h, group)
    x = shard.x.to(torch.float64 if rank else torch.float32).unsqueeze(1)
    found["dtypes"] = error_of(functional.hierarchical_attention, x, x, x, shard.tree)
    x = shard.x.unsqueeze(1)
    found["aggregate"] = error_of(functional.aggregate, shard.x, shard.tree)
    found["matrix"] = error_of(functional.attention_matrix, x, x, shard.tree)
    found["entmax"] = error_of(functional.entmax_attention, x, x, x, shard.tree)
    found["level"] = error_of(functional.pool, shard.x, shard.tree, 0)
    found["batch"] = error_of(Batch.from_data_list, [shard, shard])
    found["subgraph"] = error_of(shard.subgraph, torch.tensor([0]))
    found["shard"] = error_of(shard_hierarchy, shard, group)
    found["pickle"] = error_of(pickle.dumps, shard.tree)
    unet = HierarchicalUNet(4, 4, 2, levels=(-2,), heads=1, conv=GCNConv)
    found["edges"] = error_of(unet, shard.x, shard.tree, torch.zeros(2, 0, dtype=torch.long))
    halo = Halo(shard, torch.zeros(2, 0, dtype=torch.long))
    found["halo"] = error_of(halo, shard.leaf_row)
    q = x.detach().requires_grad_()
    out = functional.hierarchical_attention(q, x, x, shard.tree)
    again = functools.partial(torch.autograd.grad, out.sum(), q, create_graph=True)
    found["twice"] = error_of(again)
    return found


def copies(group):
    """A shard goes through copies and pickles, and attaches again."""
    h = hierarchy(balanced(3, 3))
    shard = shard_hierarchy(h, group)
    loaded = pickle.loads(pickle.dumps(shard))
    again = HierarchyShard.attach(loaded, group)
    x = shard.x.unsqueeze(1)
    expected = functional.hierarchical_attention(x, x, x, shard.tree)
    for one in (again, copy.copy(shard), copy.deepcopy(shard)):
        found = functional.hierarchical_attention(x, x, x, one.tree)
        assert torch.equal(found, expected)
    assert shard.validate() and shard.tree.depth == 3
    return repr(shard)


def dropped(group):
    """Dropout keeps the mean, draws differently in each process, and its gradients are right."""
    whole = TreeIndex.from_parent(balanced(4, 2))
    shard = shard_hierarchy(Hierarchy(parent=balanced(4, 2)), group)
    torch.manual_seed(0)
    q = torch.zeros(whole.num_leaves, 500, 1)
    v = torch.ones(whole.num_leaves, 500, 1)
    x = [y[shard.leaf_row] for y in (q, q, v)]
    out = functional.hierarchical_attention(*x, shard.tree, dropout_p=0.3, training=True)
    assert abs(float(out.mean()) - 1) < 0.05
    return float(out.std()), out[0, :, 0].tolist()


def second(group):
    """Second derivatives by plain tensor code."""
    h = hierarchy(balanced(2, 3))
    shard = shard_hierarchy(h, group)
    rows = shard.leaf_row

    def run(x, tree, take):
        x = x.detach().requires_grad_()
        q = x.unsqueeze(1)
        out = functional.hierarchical_attention(q, q, q, tree, backend="scatter")
        (grad,) = torch.autograd.grad((out.squeeze(1) ** 2 * take).sum(), x, create_graph=True)
        return torch.autograd.grad((grad**3).sum(), x)[0]

    weight = torch.arange(h.x.numel(), dtype=torch.float64).view_as(h.x).cos()
    close(run(h.x[rows], shard.tree, weight[rows]), run(h.x, h.tree, weight)[rows], torch.float64)


def lost(group):
    """Process 1 goes away while others compute."""
    h = Hierarchy(parent=balanced(3, 2), x=torch.zeros(9, 4))
    shard = shard_hierarchy(h, group)
    x = shard.x.unsqueeze(1)
    functional.hierarchical_attention(x, x, x, shard.tree)
    if dist.get_rank(group) == 1:
        return "away"
    return error_of(functional.hierarchical_attention, x, x, x, shard.tree)


def example(group, folder):
    """The example in the default group."""
    return load_example("distributed").main(folder)
