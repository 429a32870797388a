"""The dense attention matrix where siblings meet."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call, accumulator
from ..dropout import OWN, factors
from .family import Family

INF = float("inf")


def attention_matrix(call: Call) -> tuple[Tensor, Tensor]:
    """Θ ``[H, N, N]`` and log evidence ``[trees, H]``; arguments are already checked."""
    dtype = accumulator(call.q.dtype)
    q, k = call.q.to(dtype), call.k.to(dtype)
    pos_q, pos_k, temperature, bias = call.pos_q, call.pos_k, call.temperature, call.bias
    num_leaves, heads = q.shape[:2]
    tree = Family(call.tree.parent)
    weight = torch.ones(num_leaves) if call.mass is None else call.mass.detach()
    weight = weight.to(q)
    mass_of = [weight[rows].sum() for rows in tree.rows]

    def mean(x: Tensor, node: int) -> Tensor:
        if mass_of[node] == 0:
            return torch.zeros_like(x[0])
        rows = [r for r in tree.rows[node] if weight[r] > 0]
        return torch.einsum("n,nhd->hd", weight[rows] / mass_of[node], x[rows])

    def logit(a: int, b: int) -> Tensor:
        s = call.scale * (mean(q, a) * mean(k, b)).sum(-1)
        if pos_q is not None and pos_k is not None:
            s = s + (pos_q[a].to(dtype) * pos_k[b].to(dtype)).sum(-1)
        if temperature is not None:
            s = s * temperature[a].to(dtype)
        if bias is not None and a != b:
            s = s + bias[a].to(dtype)
        return s

    def kept(node: int, places: list[int]) -> Tensor:
        """By what dropout multiplies weights ``[H, B]`` of members of the node's family."""
        if call.seed is None:
            return torch.ones(heads, len(places)).to(q)
        head = torch.arange(heads, device=q.device).unsqueeze(1)
        place = torch.tensor(places, device=q.device)
        query = call.tree.position[node]
        return factors(call.dropout_p, call.seed, head, query, place, dtype)

    # Sibling logits with log mass, [H, B] for each node with siblings of positive mass.
    siblings: dict[int, list[int]] = {}
    outward: dict[int, Tensor] = {}
    nothing = torch.full((heads,), -INF).to(q)
    for family in tree.children:
        for a in family:
            siblings[a] = [b for b in family if b != a and mass_of[b] > 0]
            if siblings[a]:
                s = [mass_of[b].log() + logit(a, b) for b in siblings[a]]
                outward[a] = torch.stack(s, dim=-1)

    # Upward: f and Z. Z is None where f and S are both minus infinity.
    f: dict[int, Tensor] = {}
    keep: dict[int, Tensor] = {}
    for node in reversed(tree.top_down):
        if mass_of[node] == 0:
            f[node] = nothing
        elif not tree.children[node]:
            f[node] = mass_of[node].log() + logit(node, node) if call.self_loop else nothing
        else:
            f[node] = torch.zeros(heads).to(q)
            for a in tree.children[node]:
                if mass_of[a] > 0:
                    z = f[a]
                    if a in outward:
                        s_total = outward[a].logsumexp(-1)
                        z = s_total if torch.isneginf(f[a]).all() else f[a].logaddexp(s_total)
                    f[node] = f[node] + mass_of[a] / mass_of[node] * z
    for node in tree.top_down:
        if torch.isneginf(f[node]).all():
            keep[node] = torch.zeros(heads).to(q)
        elif node not in outward:
            keep[node] = torch.ones(heads).to(q)
        else:
            keep[node] = torch.sigmoid(f[node] - outward[node].logsumexp(-1))

    # Downward: what is left for the inside, and the blocks of Θ.
    theta = torch.zeros(heads, num_leaves, num_leaves).to(q)
    reach: dict[int, Tensor] = {}
    for node in tree.top_down:
        above = tree.parent[node]
        reach[node] = keep[node] * (1.0 if above == node else reach[above])
        if node in outward:
            given = reach[above] * (1.0 - keep[node])
            places = [tree.children[above].index(b) for b in siblings[node]]
            share = outward[node].softmax(-1) * kept(node, places)
            for j, b in enumerate(siblings[node]):
                columns = tree.rows[b]
                block = (given * share[:, j]).unsqueeze(-1) * weight[columns] / mass_of[b]
                full = torch.zeros_like(theta)
                i = torch.tensor(tree.rows[node]).unsqueeze(1)
                full[:, i, torch.tensor(columns).unsqueeze(0)] = block.unsqueeze(1).expand(
                    -1, len(tree.rows[node]), -1
                )
                theta = theta + full
        if not tree.children[node]:
            full = torch.zeros_like(theta)
            (row,) = tree.rows[node]
            full[:, row, row] = reach[node] * kept(node, [OWN]).squeeze(-1)
            theta = theta + full
    return theta, torch.stack([f[root] for root in tree.roots])
