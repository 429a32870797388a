"""PyG's ``TransformerConv`` on sets whose nodes all see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv

from ._attend import Patch, Site, along
from ._setting import Seen


def is_attention(module: nn.Module) -> bool:
    """Whether it is one that is known here."""
    return isinstance(module, TransformerConv)


def refusal(module: nn.Module) -> str | None:
    """Why its attention cannot be replaced."""
    assert isinstance(module, TransformerConv)
    if module.lin_edge is not None:
        return "attributes of edges (edge_dim)"
    if type(module).message is not TransformerConv.message or module.aggr != "add":
        return "messages or an aggregation of its own"
    return None


def install(model: nn.Module, sites: dict[nn.Module, Site]) -> None:
    """Replace how messages are passed; projections, skip connection and gate stay PyG's."""
    for module, site in sites.items():
        if site.setting is not None:
            module.forward = Patch(_forward, module)  # type: ignore[method-assign]
            module.propagate = Patch(_propagate, module)  # type: ignore[assignment]


def _forward(
    module: Any,
    x: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None = None,
    return_attention_weights: bool | None = None,
) -> Tensor:
    """As ``TransformerConv.forward``."""
    site: Site = module.__dict__["hsa"]
    if return_attention_weights is not None or module.explain:
        raise site.fail(
            "no weights of edges to be asked for", "return_attention_weights or explain"
        )
    if edge_attr is not None:
        raise site.fail("no 'edge_attr'", "some")
    if not isinstance(x, Tensor):
        raise site.fail("one tensor 'x', as queries and keys are of the same nodes", "a pair")
    out: Tensor = type(module).forward(module, x, edge_index)
    return out


def _propagate(
    module: Any, edge_index: Any, query: Tensor, key: Tensor, value: Tensor, edge_attr: None
) -> Tensor:
    """As the ``propagate`` of ``TransformerConv``: ``[N, H, D]``."""
    site: Site = module.__dict__["hsa"]
    lengths = _sets(edge_index, query.shape[0], site)
    seen = Seen(query, key, value, query.shape[-1] ** -0.5, lengths, None)
    if site.record is None:
        return along(seen, site, float(module.dropout), module.training)
    site.record(site, seen)
    out: Tensor = type(module).propagate(
        module, edge_index, query=query, key=key, value=value, edge_attr=None
    )
    return out


def _sets(edge_index: Any, nodes: int, site: Site) -> Tensor:
    """``[B]`` sizes of the sets that the edges join, each node of a set with each."""
    if isinstance(edge_index, Tensor) and edge_index.layout is torch.strided:
        source, target = edge_index
        first = torch.full((nodes,), nodes, device=source.device)
        first = first.scatter_reduce(0, target, source, "amin")  # that each node sees
        _, number, sizes = first.unique_consecutive(return_inverse=True, return_counts=True)
        size, start = sizes[number], (sizes.cumsum(0) - sizes)[number]
        place = source - start[target]
        inside = (place >= 0) & (place < size[target])
        if source.numel() == int(sizes.square().sum()) and bool(inside.all()):
            met = torch.zeros_like(source, dtype=torch.bool)
            met[(size.cumsum(0) - size)[target] + place] = True
            if bool(met.all()):
                return sizes.cpu()
    raise site.fail(
        "an 'edge_index' from every node of a set to every node of it, itself too, nodes of a set "
        "being one behind the other",
        "other edges, or a sparse matrix",
    )
