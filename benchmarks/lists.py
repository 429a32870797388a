"""Interaction lists: how near to softmax for how many logits, and in what time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hsa_geometric import from_points
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.interactions import causal, heaviest, near, siblings
from hsa_geometric.lists import InteractionLists

from .measure import interleaved

BUDGETS = ((6.5, 0.145), (21.0, 0.045), (67.0, 0.016))  # logits per leaf, and nats we aim for


def readme_points(count: int = 1000) -> tuple[Tensor, Tensor]:
    """The points of the README and their queries, which are the keys as well."""
    torch.manual_seed(0)
    pos = torch.rand(count, 2)
    wave = 6 * pos @ torch.randn(2, 32)
    return pos, torch.cat([wave.cos(), wave.sin()], dim=1).unsqueeze(1).double()


def gap(q: Tensor, lists: InteractionLists) -> float:
    """Mean divergence from softmax in nats."""
    flat = (q.transpose(0, 1) @ q.permute(1, 2, 0) * q.shape[-1] ** -0.5).logsumexp(-1).mean()
    evidence = hierarchical_attention(q, q, q, lists.query_tree, lists=lists, return_evidence=True)[
        1
    ]
    return float(flat - evidence)


def within(budget: float, tree: Any, pos: Tensor) -> tuple[float, InteractionLists]:
    """The smallest opening angle whose near lists keep to a budget of logits per leaf."""
    low, high = 0.1, 10.0
    for _ in range(12):
        angle = (low * high) ** 0.5
        fits = near(tree, pos, angle=angle).logits_per_leaf <= budget
        low, high = (low, angle) if fits else (angle, high)
    return high, near(tree, pos, angle=high)


def gaps(count: int = 1000) -> Iterator[list[str]]:
    """Gap against logits for the points of the README."""
    pos, q = readme_points(count)
    yield ["lists", "logits per leaf", "gap, nats", "aim"]
    for branching in (8, 2):
        lists = siblings(from_points(pos, branching=branching).tree)
        name = f"siblings, families of {branching}"
        yield [name, f"{lists.logits_per_leaf:.2f}", f"{gap(q, lists):.4f}", ""]
    trees = {
        "k-d, families of 2": from_points(pos, branching=2).tree,
        "ball, families of 3": from_points(pos, method="ball", branching=3, leaf_size=3).tree,
    }
    for budget, aim in BUDGETS:
        for name, tree in trees.items():
            if siblings(tree).logits_per_leaf > budget:
                continue
            angle, lists = within(budget, tree, pos)
            cells = [f"{lists.logits_per_leaf:.2f}", f"{gap(q, lists):.4f}", f"{aim}"]
            yield [f"near, angle {angle:.3f} ({name})", *cells]
        lists = heaviest(trees["k-d, families of 2"], q, q, budget=budget)
        cells = [f"{lists.logits_per_leaf:.2f}", f"{gap(q, lists):.4f}", f"{aim}"]
        yield ["heaviest (k-d, families of 2)", *cells]


def growth(sizes: tuple[int, ...] = (4096, 16384, 65536, 262144)) -> Iterator[list[str]]:
    """Logits per leaf of near lists of points in the plane."""
    yield ["points", "logits per leaf, angle 0.7", "grows by (aim: 1.3)"]
    first = None
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        pos = torch.rand(size, 2, generator=generator)
        found = near(from_points(pos, branching=2).tree, pos, angle=0.7).logits_per_leaf
        first = first or found
        yield [f"{size:,}", f"{found:.2f}", f"{found / first:.2f}"]


def times(count: int = 100_000, seconds: float = 1.0) -> Iterator[list[str]]:
    """Time of forward, float32, 4 heads × 32, on whatever ``'auto'`` chooses."""
    generator = torch.Generator().manual_seed(0)
    pos, other = torch.rand(2, count, 2, generator=generator).unbind(0)
    q, k, v = torch.randn(3, count, 4, 32, generator=generator).unbind(0)
    tree, key_tree = (from_points(x, branching=8).tree for x in (pos, other))
    cases = {
        "siblings, families of 8": siblings(tree),
        "near itself, angle 1, families of 8": near(tree, pos, angle=1.0),
        "near other points, angle 1, families of 8": near(
            tree, pos, angle=1.0, key_tree=key_tree, key_pos=other
        ),
    }
    calls = {
        name: partial(
            hierarchical_attention, q, k, v, tree, lists=x,
            key_tree=None if x.of_one_tree else key_tree,
        )
        for name, x in cases.items()
    }  # fmt: skip
    found, failed = interleaved(calls, seconds=seconds)
    yield ["forward", "logits per leaf", "ms", "of siblings", "ns a logit and head", "of siblings"]
    base: tuple[float, float] | None = None
    for name, x in cases.items():
        if name in failed:
            yield [name, f"{x.logits_per_leaf:.2f}", failed[name], "", "", ""]
            continue
        time = found[name].median
        each = time / x.num_logits / 4 * 1e9
        base = base or (time, each)
        yield [
            name, f"{x.logits_per_leaf:.2f}", f"{time * 1e3:.1f}", f"{time / base[0]:.2f}",
            f"{each:.2f}", f"{each / base[1]:.2f}",
        ]  # fmt: skip


def leak(count: int = 4096) -> Iterator[list[str]]:
    """How many outputs before a token change a bit when it changes."""
    pos = torch.arange(float(count)).unsqueeze(1)
    tree = from_points(pos, branching=8).tree
    lists = causal(tree, window=16)
    q, k, v = torch.randn(3, count, 2, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    before = hierarchical_attention(q, k, v, tree, lists=lists)
    changed = 0
    for t in (1, count // 3, count - 1):
        moved = [x.clone() for x in (q, k, v)]
        for x in moved:
            x[t] += 1
        after = hierarchical_attention(*moved, tree, lists=lists)
        changed += int((after[:t] != before[:t]).any(-1).any(-1).sum())
    yield ["causal", "logits per leaf", "rows before a changed token that change (aim: 0)"]
    yield [f"{count:,} tokens, window 16", f"{lists.logits_per_leaf:.2f}", f"{changed}"]


def markdown(rows: Iterator[list[str]]) -> str:
    """A table."""
    head, *body = rows
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(seconds: float = 1.0, small: bool = False) -> None:
    """Print all tables; small ones to try that they can be made."""
    if small:
        tables = [gaps(100), growth((256, 512)), times(512, seconds), leak(64)]
    else:
        tables = [gaps(), growth(), times(seconds=seconds), leak()]
    for rows in tables:
        print(f"\n{markdown(rows)}", flush=True)
