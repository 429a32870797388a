"""From a tree to softmax by a dial: attention matrices of interaction lists, and what they cost.

Points in the plane whose queries and keys are alike where they are near. The tree is a k-d tree;
siblings meet in it, or pairs of nodes near each other, or those whose attention is large and
uneven. Run ``python examples/interaction_lists.py`` (a minute).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hsa_geometric import from_points
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.functional import attention_matrix, hierarchical_attention
from hsa_geometric.functional.layout import layout
from hsa_geometric.interactions import between, heaviest, near, siblings

FIGURE = Path(__file__).parent / "figures" / "interaction_lists.png"
ANGLES = (2.0, 1.6, 1.4, 1.2, 1.0, 0.8, 0.65, 0.5, 0.4, 0.31)
BUDGETS = (4.0, 6.5, 10.0, 15.0, 21.0, 35.0, 67.0)


def points(count: int) -> tuple[Tensor, Tensor]:
    """Positions, and queries that are the keys as well."""
    torch.manual_seed(0)
    pos = torch.rand(count, 2)
    wave = 6 * pos @ torch.randn(2, 32)
    return pos, torch.cat([wave.cos(), wave.sin()], dim=1).unsqueeze(1)


def gap(q: Tensor, lists: Any) -> float:
    """Mean divergence from softmax attention in nats."""
    q = q.double()
    flat = (q.transpose(0, 1) @ q.permute(1, 2, 0) * q.shape[-1] ** -0.5).logsumexp(-1).mean()
    found = hierarchical_attention(q, q, q, lists.query_tree, lists=lists, return_evidence=True)
    return float(flat - found[1])


def main(
    count: int = 1000, shown: int = 128, out: str | Path = FIGURE, progress: bool = True
) -> dict[str, Any]:
    """Measures all lists, and saves the picture.

    Args:
        count: number of points of the curve.
        shown: number of points of the matrices.
        out: where the picture goes.
        progress: show a progress bar.

    Returns:
        Logits per leaf and gap in nats of each list of a family, by ``'siblings'``, ``'near'`` and
        ``'heaviest'``; and the path of the ``picture``.
    """
    pos, q = points(count)
    trees = [from_points(pos, branching=b).tree for b in (2, 3, 4, 8, 16, 32)]
    budgets = [b for b in BUDGETS if b < 0.5 * count]
    wanted = [
        *(("siblings", siblings, (tree,), {}) for tree in trees),
        *(("near", near, (trees[0], pos), {"angle": angle}) for angle in ANGLES),
        *(("heaviest", heaviest, (trees[0], q, q), {"budget": b}) for b in budgets),
    ]
    found: dict[str, Any] = {}
    for name, make, given, options in progress_bar(
        wanted, desc="lists", unit="list", disable=not progress
    ):
        lists = make(*given, **options)
        found.setdefault(name, []).append((lists.logits_per_leaf, gap(q, lists)))
    for name, values in found.items():
        print(name, *(f"{cost:.1f}: {nats:.4f}" for cost, nats in values))
    found["picture"] = _draw(found, shown, Path(out))
    return found


def _draw(found: dict[str, Any], shown: int, out: Path) -> Path:
    from matplotlib.figure import Figure

    pos, q = points(shown)
    tree = from_points(pos, branching=2).tree
    rows = layout(tree).start[tree.leaf_ids].argsort()  # leaves in the order of the tree
    lists = {
        "siblings": siblings(tree),
        "near, angle 1": near(tree, pos, angle=1.0),
        "everything: softmax": between(tree, tree, levels=None),
    }
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, (name, x) in zip(axes, lists.items(), strict=False):
        theta = attention_matrix(q, q, tree, lists=x)[0][rows][:, rows]
        ax.imshow(theta.clamp(min=1e-5).log().numpy(), cmap="magma", interpolation="nearest")
        ax.set_title(f"{name}\n{x.logits_per_leaf:.1f} logits per leaf", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    for name in ("siblings", "near", "heaviest"):
        axes[3].loglog(*zip(*found[name], strict=True), marker="o", markersize=3, label=name)
    for axis, ticks in (
        (axes[3].xaxis, (4, 8, 16, 32, 64)),
        (axes[3].yaxis, (0.02, 0.05, 0.1, 0.2)),
    ):
        axis.set_ticks(ticks, [str(x) for x in ticks])
        axis.set_ticks([], minor=True)
    axes[3].set_xlabel("logits per leaf")
    axes[3].set_ylabel("nats from softmax")
    axes[3].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    return out


if __name__ == "__main__":
    main()
