"""The definition as a plain recursive program: what one writes first, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Node:
    """A subtree: means, mass, log evidence, and what the way down needs of its family.

    Shapes: ``q, k, v`` ``[H, D]``; ``f, outward`` ``[H]``; ``average`` ``[H, D]``.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mass: int
    f: Tensor
    row: int | None = None
    children: list[Node] = field(default_factory=list)
    outward: Tensor | None = None  # log-sum-exp over the siblings; None where there are none
    average: Tensor | None = None  # their softmax average of values


def hierarchical_attention(q: Tensor, k: Tensor, v: Tensor, family: list[list[int]]) -> Tensor:
    """Attention over the leaves; :obj:`family` lists the children of each node id.

    The last node is the only root, and leaf rows follow the ids of the leaves.
    """
    rows = {node: i for i, node in enumerate(n for n, below in enumerate(family) if not below)}
    out: list[Tensor] = [v.new_empty(0)] * len(rows)
    below = set().union(*family)
    for node in range(len(family)):
        if node not in below:
            _down(_up(node, q, k, v, family, rows), torch.ones_like(v[0, :, 0]), 0, out)
    return torch.stack(out)


def _up(node: int, q: Tensor, k: Tensor, v: Tensor, family: list, rows: dict) -> Node:
    """The subtree below :obj:`node`, f after eq. 8 of the paper."""
    scale = q.shape[-1] ** -0.5
    if not family[node]:
        i = rows[node]
        return Node(q[i], k[i], v[i], 1, scale * (q[i] * k[i]).sum(-1), row=i)

    children = [_up(child, q, k, v, family, rows) for child in family[node]]
    mass = sum(child.mass for child in children)

    def mean(name: str) -> Tensor:
        weighted = [child.mass / mass * getattr(child, name) for child in children]
        return torch.stack(weighted).sum(0)

    f = torch.zeros_like(children[0].f)
    for child in children:
        z = child.f
        siblings = [other for other in children if other is not child]
        if siblings:
            keys = torch.stack([other.k for other in siblings])
            logit = scale * (child.q * keys).sum(-1)
            logit = logit + logit.new_tensor([other.mass for other in siblings]).log().unsqueeze(-1)
            child.outward = logit.logsumexp(0)
            values = torch.stack([other.v for other in siblings])
            child.average = (logit.softmax(0).unsqueeze(-1) * values).sum(0)
            z = torch.logaddexp(child.f, child.outward)
        f = f + child.mass / mass * z
    return Node(mean("q"), mean("k"), mean("v"), mass, f, children=children)


def _down(node: Node, given: Tensor, carried: Tensor | int, out: list[Tensor]) -> None:
    """Spend what is :obj:`given` to a subtree: a part outside, the rest inside."""
    inside = given
    if node.outward is not None and node.average is not None:
        inside = given * torch.sigmoid(node.f - node.outward)
        carried = carried + (given - inside).unsqueeze(-1) * node.average
    if node.row is not None:
        out[node.row] = carried + inside.unsqueeze(-1) * node.v
    for child in node.children:
        _down(child, inside, carried, out)
