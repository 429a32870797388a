r"""The dense attention matrix where any pairs of nodes are opened, straight from the definition.

.. math::
    S_A = \mathrm{logsumexp}_{B \in N(A)} (\log|B| + s_{AB}), \qquad
    F_A = \mathrm{logaddexp}\Big(S_A, \sum_{c \in \mathrm{chd}(A)} \frac{|c|}{|A|} F_c\Big), \qquad
    \theta_{ij} = W_A \, e^{s_{AB} - F_A} \, m_j
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..call import Call, accumulator
from ..dropout import factors
from .family import Family

INF = float("inf")


def blocks_of(call: Call, query: Family, key: Family) -> list[list[int]]:
    """The key nodes that each query node attends to: from the roots, through what is opened."""
    assert call.lists is not None
    opened, hidden = (
        set(map(tuple, x.t().tolist())) for x in (call.lists.opened, call.lists.hidden)
    )
    met = list(zip(query.roots, key.roots, strict=True))
    found: list[list[int]] = [[] for _ in query.parent]
    for a, b in met:  # grows while it is read
        if (a, b) in opened:
            met += [(c, d) for c in query.children[a] or [a] for d in key.children[b] or [b]]
        elif (a, b) not in hidden:
            found[a].append(b)
    return found


def attention_matrix(call: Call) -> tuple[Tensor, Tensor]:
    """Θ ``[H, N_q, N_k]`` and log evidence ``[trees, H]``; arguments are already checked."""
    assert call.lists is not None
    dtype, lists = accumulator(call.q.dtype), call.lists
    q, k = call.q.to(dtype), call.k.to(dtype)
    heads = q.shape[1]
    query, key = Family(lists.query_tree.parent), Family(lists.key_tree.parent)

    def weights(mass: Tensor | None, rows: Tensor) -> Tensor:
        return (torch.ones(rows.shape[0]) if mass is None else mass.detach()).to(q)

    m_q, m_k = weights(call.mass, q), weights(call.mass_of_keys, k)
    mass_q, mass_k = ([m[r].sum() for r in t.rows] for m, t in ((m_q, query), (m_k, key)))

    def mean(x: Tensor, weight: Tensor, rows: list[int]) -> Tensor:
        rows = [r for r in rows if weight[r] > 0]
        if not rows:
            return torch.zeros_like(x[0])
        return torch.einsum("n,nhd->hd", weight[rows] / weight[rows].sum(), x[rows])

    q_mean = [mean(q, m_q, rows) for rows in query.rows]
    k_mean = [mean(k, m_k, rows) for rows in key.rows]

    def is_own(a: int, b: int) -> bool:
        return lists.of_one_tree and a == b and not query.children[a]

    def logit(a: int, b: int) -> Tensor:
        s = call.scale * (q_mean[a] * k_mean[b]).sum(-1)
        if call.pos_q is not None and call.pos_k is not None:
            s = s + (call.pos_q[a].to(dtype) * call.pos_k[b].to(dtype)).sum(-1)
        if call.temperature is not None:
            s = s * call.temperature[a].to(dtype)
        if call.bias is not None and not is_own(a, b):
            s = s + call.bias[a].to(dtype)
        return mass_k[b].log() + s

    def kept(a: int, b: int) -> Tensor:
        """By what dropout multiplies the weight of a block, ``[H]``."""
        if call.seed is None:
            return torch.ones(heads).to(q)
        head = torch.arange(heads, device=q.device)
        at = lists.query_tree.position[a], lists.key_tree.position[b]
        return factors(call.dropout_p, call.seed, head, *at, dtype)

    # Who is attended to by whom, and with which logits.
    found = blocks_of(call, query, key)
    seen = [
        [b for b in below if mass_k[b] > 0 and (call.self_loop or not is_own(a, b))]
        for a, below in enumerate(found)
    ]
    logits = [[logit(a, b) for b in below] for a, below in enumerate(seen)]

    # Upward. E is what the children find. E and F are not there where they are minus infinity.
    e: dict[int, Tensor] = {}
    f: dict[int, Tensor] = {}
    for a in reversed(query.top_down):
        below = [c for c in query.children[a] if mass_q[c] > 0]
        if below and all(c in f for c in below):
            e[a] = torch.stack([mass_q[c] / mass_q[a] * f[c] for c in below]).sum(0)
        z = [*logits[a], e[a]] if a in e else logits[a]
        if z:
            f[a] = torch.stack(z, -1).logsumexp(-1)

    # Downward: what is left for the children, and the weights that all rows below a node share.
    reach = {a: torch.ones(heads).to(q) for a in query.roots}
    row = {a: torch.zeros(heads, k.shape[0]).to(q) for a in query.roots}
    for a in query.top_down:
        keep = torch.zeros(heads).to(q) if logits[a] else torch.ones(heads).to(q)
        if logits[a] and a in e:
            keep = (e[a] - f[a]).exp()
        if logits[a]:
            share = reach[a] * (1 - keep) * torch.stack(logits[a]).softmax(0)
            blocks = [
                (share[i] * kept(a, b) / mass_k[b]).unsqueeze(-1) * m_k[key.rows[b]]
                for i, b in enumerate(seen[a])
            ]
            own = torch.zeros_like(row[a])
            own[:, [j for b in seen[a] for j in key.rows[b]]] = torch.cat(blocks, -1)
            row[a] = row[a] + own
        for c in query.children[a]:
            reach[c], row[c] = reach[a] * keep, row[a]
    theta = torch.stack([row[a] for a in query.leaves], 1)
    nothing = torch.full((heads,), -INF).to(q)
    return theta, torch.stack([f.get(root, nothing) for root in query.roots])
