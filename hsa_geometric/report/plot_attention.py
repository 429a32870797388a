"""Pictures of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional import AttentionBlocks
from hsa_geometric.functional.attention_blocks import check_leaf
from hsa_geometric.functional.checks import check_rows, check_tensor
from hsa_geometric.functional.options import check_bool, check_choice, check_integer
from hsa_geometric.report import _attention_pictures as draw
from hsa_geometric.report._block_matrix import block_matrix, ends_of
from hsa_geometric.report.plot import pyplot
from hsa_geometric.surgery._check import check_hierarchy

KINDS = ("points", "surface", "molecule", "text", "html", "image", "matrix")
LINEAR = ("molecule", "text", "html")  # few leaves: no need of a logarithm
OUTLINED = 2_000  # so many blocks are drawn with their borders


class AttentionPicture(NamedTuple):
    """A picture and what it shows.

    Attributes:
        ax: matplotlib axes (``ax.figure.savefig(path)`` writes them), a plotter of PyVista
            (``screenshot(path)``), or a string of HTML.
        weight: float64, ``[N]`` the number of each leaf; of a matrix ``[P, P]`` that of each pixel.
    """

    ax: Any
    weight: Tensor


@torch.no_grad()
def plot_attention(
    h: Hierarchy,
    attention: AttentionBlocks | Tensor,
    leaf: int | Sequence[int] | None = None,
    *,
    to: bool = False,
    head: int | None = None,
    kind: str | None = None,
    text: str | None = None,
    molecule: Any = None,
    backend: str = "matplotlib",
    ax: Any = None,
    norm: Any = None,
    cmap: str | None = None,
    title: str | None = None,
    pixels: int = 512,
) -> AttentionPicture:
    r"""Draw what a leaf attends to, or who attends to it, or the whole matrix by its blocks.

    Args:
        h: a sample, or, for points, surfaces and matrices, a batch.
        attention: blocks, as :func:`attention_blocks` makes them; or a number for each leaf
            ``[N]``, as of :func:`attention_rollout`, in which case :obj:`leaf` is only marked.
        leaf: row of the leaf, or rows of several, whose mean is drawn (with :obj:`to`, their sum).
            Without it blocks are drawn as a matrix.
        to: draw who attends to the leaf, instead of what it attends to.
        head: number of the head. (default: the mean over all)
        kind: what is drawn. (default: the first in this list that :obj:`h` has the data for)

            * ``'matrix'``: a pixel for some queries and some keys, in tree order, with the mean of
              their weights; where blocks are few, with their borders;
            * ``'text'``, if :obj:`text` is given: words on shaded ground, paragraph by paragraph;
              ``'html'`` returns the same as HTML, for texts of any length;
            * ``'molecule'``: RDKit's drawing of ``h.smiles``, or of :obj:`molecule`;
            * ``'surface'``: the triangles of ``h.face``;
            * ``'image'``: the grid of :func:`~hsa_geometric.builders.from_grid`;
            * ``'points'``: ``h.pos`` in two or three dimensions.
        text: the text of :func:`~hsa_geometric.builders.from_text`.
        molecule: the RDKit molecule of :func:`~hsa_geometric.builders.from_molecule`, where
            :obj:`h` has no ``smiles``.
        backend: ``'matplotlib'``, or for surfaces ``'pyvista'``.
        ax: axes, or a plotter, to draw on. (default: a new one; of PyVista one off screen)
        norm: of matplotlib, from weights to colours. (default: linear for molecules and texts,
            else four orders of magnitude)
        cmap: name of a colormap. (default: ``'Oranges'`` where linear, else ``'viridis'``,
            for points reversed)
        title: of the picture.
        pixels: at most so many along each side of a matrix.

    Returns:
        :class:`AttentionPicture`: the picture as ``ax``, and what it shows as ``weight``.

    Raises:
        ImportError: without matplotlib, RDKit or PyVista where they are needed, naming the extra.
        TypeError, ValueError: naming the argument: a leaf or a head that is not there, none at
            all, attention over other leaves, a hierarchy without the positions, faces or offsets
            that the kind needs, a batch where one sample is drawn.

    Cost: that of :meth:`~hsa_geometric.functional.AttentionBlocks.rmatmul`, and linear in what is
    drawn; a matrix adds 16 numbers for each block.

    Example:
        >>> import matplotlib, torch
        >>> matplotlib.use("Agg")
        >>> from hsa_geometric.builders import from_grid
        >>> from hsa_geometric.report import attention_blocks
        >>> h = from_grid((4, 4))
        >>> q = k = torch.zeros(16, 1, 8)
        >>> picture = plot_attention(h, attention_blocks(h, q, k), leaf=5)
        >>> picture.weight.sum()
        tensor(1.0000, dtype=torch.float64)
    """
    check_hierarchy(h)
    check_bool(to, "to")
    check_choice(kind, "kind", (None, *KINDS))
    check_choice(backend, "backend", ("matplotlib", "pyvista"))
    is_blocks = isinstance(attention, AttentionBlocks)
    kind = _kind_of(h, is_blocks and leaf is None, text) if kind is None else kind
    if kind == "matrix":
        if not isinstance(attention, AttentionBlocks):
            raise TypeError(
                f"Expected 'attention' to be AttentionBlocks for kind='matrix' "
                f"(got {type(attention).__name__})"
            )
        return _matrix(attention, head, ax, norm, cmap, title, pixels)

    weight, marked = _weight_of(h, attention, leaf, to, head)
    if kind not in ("points", "surface") and h.tree.num_trees > 1:
        raise ValueError(
            f"Expected one tree in 'h' for kind='{kind}' (got {h.tree.num_trees}; take a sample of "
            f"the batch, and its rows of the attention)"
        )
    if backend == "pyvista" and kind != "surface":
        raise ValueError(f"Expected backend='matplotlib' for kind='{kind}' (got 'pyvista')")
    pyplot()
    log = kind not in LINEAR
    weight = weight.detach().cpu().double()
    norm = draw.norm_of(weight, log) if norm is None else norm
    if cmap is None:  # what is light is not seen as dots on white
        cmap = "viridis_r" if kind == "points" else "viridis" if log else "Oranges"
    style = (ax, norm, cmap)
    if kind == "html":
        return AttentionPicture(draw.text_html(h, weight, marked, text, norm, cmap), weight)
    if backend == "pyvista":
        plotter = draw.draw_surface_pyvista(h, weight, marked, *style)
        if title is not None:
            plotter.add_title(title, font_size=12)
        return AttentionPicture(plotter, weight)
    if kind == "text":
        ax, colors = draw.draw_text(h, weight, marked, text, *style)
    elif kind == "molecule":
        ax, colors = draw.draw_molecule(h, weight, marked, molecule, *style)
    else:
        how = {"points": draw.draw_points, "surface": draw.draw_surface, "image": draw.draw_image}
        ax, colors = how[kind](h, weight, marked, *style)
    ax.set_axis_off()
    _finish(ax, colors, title)
    return AttentionPicture(ax, weight)


def _kind_of(h: Hierarchy, matrix: bool, text: str | None) -> str:
    if matrix:
        return "matrix"
    if text is not None:
        return "text"
    if isinstance(h.get("smiles"), str):
        return "molecule"
    face = h.get("face")
    if isinstance(face, Tensor) and face.shape[0] == 3:
        return "surface"
    return "points" if draw.grid_of(h) is None or h.tree.num_trees > 1 else "image"


def _weight_of(
    h: Hierarchy, attention: Any, leaf: Any, to: bool, head: int | None
) -> tuple[Tensor, list[int]]:
    """``[N]`` what is drawn, and the rows that are marked."""
    if isinstance(attention, Tensor):
        check_tensor(attention, "attention", 1)
        check_rows(attention, "attention", h.tree)
        return attention, [] if leaf is None else _rows(leaf, h.tree)
    if not isinstance(attention, AttentionBlocks):
        raise TypeError(
            f"Expected 'attention' to be AttentionBlocks or a tensor "
            f"(got {type(attention).__name__})"
        )
    if leaf is None:
        raise ValueError("Expected 'leaf' beside blocks for this 'kind' (got None)")
    _check_head(head, attention)
    start, end = attention.query_tree, attention.key_tree
    if to:
        start, end = end, start
    if end.num_leaves != h.num_nodes:
        raise ValueError(
            f"Expected 'attention' over the {h.num_nodes} leaves of 'h' (got {end.num_leaves})"
        )
    rows = _rows(leaf, start)
    x = attention.weight.new_zeros(start.num_leaves)
    x[rows] = 1 if to else 1 / len(rows)
    weight = attention.matmul(x) if to else attention.rmatmul(x)
    weight = weight.mean(0) if head is None else weight[head]
    return weight, rows if start.num_leaves == end.num_leaves else []


def _rows(leaf: Any, tree: Any) -> list[int]:
    rows = [leaf] if isinstance(leaf, int) else list(leaf)
    if not rows:
        raise ValueError("Expected 'leaf' to hold at least one leaf (got none)")
    for row in rows:
        check_leaf(row, tree)
    return rows


def _check_head(head: Any, blocks: AttentionBlocks) -> None:
    if head is None:
        return
    check_integer(head, "head")
    if not 0 <= head < blocks.heads:
        raise ValueError(f"Expected 'head' to be in [0, {blocks.heads - 1}] (got {head})")


def _matrix(
    blocks: AttentionBlocks, head: int | None, ax: Any, norm: Any, cmap: Any, title: str | None,
    pixels: int,
) -> AttentionPicture:  # fmt: skip
    _check_head(head, blocks)
    check_integer(pixels, "pixels", 1)
    pyplot()
    from matplotlib.collections import PolyCollection

    weight = blocks.weight.mean(0) if head is None else blocks.weight[head]
    image = block_matrix(blocks, weight, pixels).cpu()
    norm = draw.norm_of(image, True) if norm is None else norm
    ax = draw.new_axes(ax, (6, 5))
    extent = (0, blocks.key_tree.num_leaves, blocks.query_tree.num_leaves, 0)
    colors = ax.imshow(
        image.clamp(min=norm.vmin).numpy(), norm=norm, cmap=cmap or "viridis", extent=extent,
        aspect="auto", interpolation="none",
    )  # fmt: skip
    if blocks.num_blocks <= OUTLINED:
        ax.add_collection(
            PolyCollection(
                list(_corners(blocks).cpu().numpy()), facecolors="none", edgecolors="white",
                linewidths=0.4,
            )
        )  # fmt: skip
    ax.set(xlabel="keys, in tree order", ylabel="queries", xticks=[], yticks=[])
    _finish(ax, colors, title)
    return AttentionPicture(ax, image)


def _corners(blocks: AttentionBlocks) -> Tensor:
    """``[M, 4, 2]`` corners of each block."""
    (top, bottom), (left, right) = (
        ends_of(tree, at)
        for tree, at in zip((blocks.query_tree, blocks.key_tree), blocks.blocks, strict=True)
    )
    corners = [left, top, right, top, right, bottom, left, bottom]
    return torch.stack(corners, 1).view(-1, 4, 2).double()


def _finish(ax: Any, colors: Any, title: str | None) -> None:
    if title is not None:
        ax.set_title(title)
    ax.figure.colorbar(colors, ax=ax, pad=0.02, fraction=0.05, label="weight")
