"""Draws a tree, softmax attention and hierarchical attention over its leaves.

``python docs/figures/blocks.py`` writes the picture and prints the number of weights.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm

from hsa_geometric import TreeIndex, from_points
from hsa_geometric.functional import attention_matrix
from hsa_geometric.report import plot_hierarchy

LEAVES = 48
FIGURE = Path(__file__).parent / "blocks.png"


def main(path: Path = FIGURE) -> int:
    """Writes the picture and returns the number of blocks."""
    torch.manual_seed(0)
    pos = torch.rand(LEAVES, 1).sort(dim=0).values  # in tree order
    h = from_points(pos, branching=4)
    wave = 5 * pos @ torch.randn(1, 16)
    q = k = 2 * torch.cat([wave.cos(), wave.sin()], dim=1).unsqueeze(1)
    star = TreeIndex.from_parent(torch.full((LEAVES + 1,), LEAVES))
    soft, ours = (attention_matrix(q, k, tree)[0] for tree in (star, h.tree))

    figure, axes = plt.subplot_mosaic(
        [["tree", "tree"], ["soft", "ours"]],
        figsize=(8, 6.2),
        height_ratios=(1, 2.6),
        layout="constrained",
    )
    plot_hierarchy(h, ax=axes["tree"])
    scale = LogNorm(max(float(soft.min()), 1e-4), float(soft.max()))
    for name, theta, title in (
        ("soft", soft, f"softmax: {LEAVES**2:,} weights"),
        ("ours", ours, f"hierarchical: {blocks(h.tree):,} weights"),
    ):
        image = axes[name].imshow(theta.numpy(), norm=scale, cmap="viridis")
        axes[name].set(title=title, xticks=[], yticks=[], xlabel="keys", ylabel="queries")
    figure.colorbar(image, ax=[axes["soft"], axes["ours"]], shrink=0.9, label="weight")
    figure.savefig(path, dpi=110)
    return blocks(h.tree)


def blocks(tree: TreeIndex) -> int:
    """Pairs of different siblings, and each leaf with itself."""
    size = tree.family_ptr.diff()
    return int((size * (size - 1)).sum()) + tree.num_leaves


if __name__ == "__main__":
    print(f"{main()} weights instead of {LEAVES**2}: {FIGURE}")
