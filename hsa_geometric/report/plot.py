"""Pictures of a hierarchy: its tree, and its clusters in space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._extra import extra
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import aggregate, clusters_at
from hsa_geometric.functional.layout import layout
from hsa_geometric.surgery._check import check_hierarchy


def plot_hierarchy(
    h: Hierarchy,
    *,
    ax: Any = None,
    color: Tensor | None = None,
    cmap: str | None = None,
    title: str | None = None,
) -> Any:
    r"""Draw the tree as an icicle: a bar for each node, as wide as its leaves are many.

    The root is at the top, children hang below it, and the leaves stand in tree order. All bars are
    one collection, so that 100,000 nodes take seconds; borders are left out where bars are too thin
    for them.

    Args:
        h: a sample or a batch, whose trees stand beside each other.
        ax: matplotlib axes to draw on. (default: new ones)
        color: a number for each leaf ``[N]``, of which a node shows the mean, or for each tree node
            ``[T]``. (default: the place of each node in tree order, so that relatives look alike)
        cmap: name of a colormap. (default: ``'viridis'``, or ``'turbo'`` without :obj:`color`)
        title: of the picture.

    Returns:
        The axes; ``ax.figure.savefig(path)`` writes the picture.

    Raises:
        ImportError: without matplotlib.
        TypeError: if :obj:`h` is no hierarchy or :obj:`color` no tensor of numbers.
        ValueError: if :obj:`color` has a wrong number of rows.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("Agg")
        >>> from hsa_geometric.builders import from_parent
        >>> ax = plot_hierarchy(from_parent([4, 4, 5, 5, 6, 6, 6]), title="two pairs")
        >>> len(ax.collections[0].get_paths())
        7
    """
    check_hierarchy(h)
    values = None if color is None else _node_colors(h, color)
    plt = pyplot()
    from matplotlib.collections import PolyCollection

    tree = h.tree
    place = layout(tree)
    gap = 0.02 * tree.num_leaves / tree.num_trees if tree.num_trees > 1 else 0.0
    from_left = place.start[tree.order[tree.root]].argsort().argsort()[place.tree]
    left = (place.start + gap * from_left).double().cpu()
    width, top = place.leaves.double().cpu(), -tree.level.double().cpu()
    right = left + width
    corners = torch.stack([left, top, right, top, right, top - 1, left, top - 1], dim=1)
    if values is None:
        values = (place.start + 0.5 * place.leaves) / tree.num_leaves
    span = float(right.max())

    if ax is None:
        ax = plt.subplots(figsize=(8, 3.5), layout="constrained")[1]
    shares = width / span * ax.get_window_extent().width  # pixels of each bar
    bars = PolyCollection(
        list(corners.view(-1, 4, 2).numpy()),
        array=values.double().cpu().numpy(),
        cmap=cmap or ("turbo" if color is None else "viridis"),
        edgecolors="white",
        linewidths=(0.08 * shares).clamp(max=0.8).where(shares > 2, 0).numpy(),
        antialiaseds=(shares > 2).tolist(),
    )
    ax.add_collection(bars)
    ax.set(xlim=(0, span), ylim=(-tree.depth - 1, 0), ylabel="level")
    ticks = range(0, tree.depth + 1, max(1, (tree.depth + 1) // 8))
    ax.set_yticks([-level - 0.5 for level in ticks], [str(level) for level in ticks])
    trees = f" in {tree.num_trees:,} trees" if tree.num_trees > 1 else ""
    ax.set_xlabel(f"{tree.num_leaves:,} leaves{trees}, in tree order")
    ax.set_xticks([])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if title is not None:
        ax.set_title(title)
    if color is not None:
        ax.figure.colorbar(bars, ax=ax, pad=0.01)
    return ax


def plot_levels(
    h: Hierarchy,
    *,
    levels: Sequence[int] = (1, 2, 3),
    size: float | None = None,
    axes: Any = None,
) -> Any:
    r"""Draw the leaves in space, once for each level, coloured by their clusters there.

    Args:
        h: a sample or a batch with :obj:`pos` ``[N, 2]`` or ``[N, 3]``.
        levels: levels as :func:`~hsa_geometric.functional.clusters_at` counts them.
        size: area of a point in square points. (default: by their number)
        axes: matplotlib axes, one for each level. (default: new ones in a row)

    Returns:
        An array of axes.

    Raises:
        ImportError: without matplotlib.
        TypeError: if :obj:`h` is no hierarchy or a level no integer.
        ValueError: if :obj:`h` has no :obj:`pos` of two or three columns, or :obj:`levels` and
            :obj:`axes` are not equally many.

    Example:
        >>> import matplotlib, torch
        >>> matplotlib.use("Agg")
        >>> from hsa_geometric.builders import from_parent
        >>> h = from_parent([4, 4, 5, 5, 6, 6, 6], pos=torch.rand(4, 2))
        >>> [ax.get_title() for ax in plot_levels(h, levels=[0, 1])]
        ['level 0: 1 cluster', 'level 1: 2 clusters']
    """
    check_hierarchy(h)
    points = positions(h)
    levels = list(levels)
    if not levels:
        raise ValueError("Expected 'levels' to hold at least one level (got none)")
    clusters = [clusters_at(h.tree, level) for level in levels]
    plt = pyplot()
    from matplotlib.colors import hsv_to_rgb

    if axes is None:
        axes = plt.subplots(
            1,
            len(levels),
            figsize=(3.4 * len(levels), 3.6),
            squeeze=False,
            layout="constrained",
            subplot_kw={"projection": "3d"} if len(points) == 3 else {},
        )[1][0]
    if len(axes) != len(levels):
        raise ValueError(
            f"Expected one of 'axes' for each of {len(levels)} levels (got {len(axes)})"
        )
    size = max(1.0, min(30.0, 12_000 / h.num_nodes)) if size is None else size
    for ax, level, found in zip(axes, levels, clusters, strict=True):
        # Steps of the golden ratio: clusters that stand beside each other look different.
        number = found.cluster.cpu().double()
        hue = number * 0.618033988749895 % 1
        light = 0.95 - 0.18 * (number % 3)
        color = hsv_to_rgb(torch.stack([hue, torch.full_like(hue, 0.65), light], dim=1).numpy())
        ax.scatter(*points, s=size, c=color, linewidths=0)
        equal_axes(ax, points)
        ax.set_axis_off()
        plural = "" if found.num_clusters == 1 else "s"
        title_y = 0.96 if len(points) == 3 else None  # above such axes it would be cut off
        ax.set_title(
            f"level {level}: {found.num_clusters:,} cluster{plural}", fontsize=10, y=title_y
        )
    return axes


def positions(h: Hierarchy) -> Any:
    """``[2 or 3, N]`` coordinates of the leaves, an array."""
    if not isinstance(h.pos, Tensor):
        raise ValueError("Expected 'pos' in 'h' (got none)")
    if h.pos.dim() != 2 or h.pos.size(1) not in (2, 3):
        raise ValueError(f"Expected 'pos' to have shape [N, 2] or [N, 3] (got {list(h.pos.shape)})")
    return h.pos.detach().cpu().double().T.numpy()


def equal_axes(ax: Any, points: Any) -> None:
    """One unit of length in all directions."""
    if len(points) == 2:
        ax.set_aspect("equal")
        return
    extent = [max(float(axis.max() - axis.min()), 1e-9) for axis in points]
    ax.set_box_aspect([side / max(extent) for side in extent], zoom=1.4)


def _node_colors(h: Hierarchy, color: Tensor) -> Tensor:
    """``[T]`` value of each node."""
    if not isinstance(color, Tensor) or color.is_complex():
        raise TypeError("Expected 'color' to be a tensor of real numbers")
    tree = h.tree
    if color.shape == (tree.num_nodes,):
        return color.detach()
    if color.shape == (tree.num_leaves,):
        return aggregate(color.detach().double(), tree) / tree.count[tree.position]
    raise ValueError(
        f"Expected 'color' to have one entry for each of the {tree.num_leaves} leaves or "
        f"{tree.num_nodes} tree nodes (got shape {list(color.shape)})"
    )


def pyplot() -> Any:
    """Matplotlib, imported where pictures are drawn."""
    with extra("examples", "Pictures need matplotlib"):
        import matplotlib.pyplot as plt
    return plt
