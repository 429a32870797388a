"""Hierarchies from points: balanced bisection."""

from __future__ import annotations

from typing import Any

from hsa_geometric.builders._bisection import bisect, check_options
from hsa_geometric.builders._coordinates import Coordinates, as_coordinates
from hsa_geometric.builders._ids import Ids, as_batch
from hsa_geometric.builders.from_parent import built
from hsa_geometric.data.hierarchy import Hierarchy


def from_points(
    pos: Coordinates,
    *,
    method: str = "kd",
    branching: int = 8,
    leaf_size: int | None = None,
    batch: Ids | None = None,
    progress: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a balanced hierarchy over points by cutting them into halves, again and again.

    From one level to the next every part is cut into
    :math:`k = \min(\textrm{branching}, \lceil n / \textrm{leaf\_size} \rceil)` pieces, where
    :math:`n` is the size of the level's largest part, until no part has more than :obj:`leaf_size`
    points. Pieces are made in rounds of bisection: points that are to become :math:`k` pieces are
    put in order along a line and cut in two, with :math:`\lfloor k / 2 \rfloor` pieces before the
    cut and the others behind it; both go on in the same way, along lines of their own. (Three are
    one and two; eight take three rounds.) The :math:`j`-th piece, from 0, of a part of :math:`n`
    points takes those from :math:`\lfloor j n / k \rfloor` to
    :math:`\lfloor (j + 1) n / k \rfloor`. Hence:

    * the nodes of one level differ by at most one leaf, whatever the coordinates;
    * all leaves of a tree have the same depth, but for single points: a part of one point is that
      leaf itself, one level higher up (:obj:`leaf_size` 2 or 3 only);
    * no node has a single child, except for the root of one point.

    The line is

    * ``'kd'``: the coordinate axis in which the points extend furthest (a k-d tree);
    * ``'pca'``: their first principal axis, by eigendecomposition in up to eight dimensions and by
      eight steps of power iteration in more;
    * ``'ball'``: from the point farthest from their mean to the point farthest from that (a ball
      tree, cut at the median).

    Points at the same place on it keep the order that earlier cuts gave them, and that of their
    rows at first; so duplicate points are cut apart like any others.

    Args:
        pos: ``[N, D]`` coordinates, in any number of dimensions, floating point; kept as ``h.pos``.
            A shift that rounds none of them changes no tree, however far it is. An array is copied,
            one of ``np.load(path, mmap_mode="r")`` piece by piece; a tensor is not, so that
            ``torch.from_numpy(np.load(path, mmap_mode="c"))`` leaves the positions on disk.
        method: ``'kd'``, ``'pca'`` or ``'ball'``.
        branching: the most children of an inner node above the lowest ones; at least 2.
        leaf_size: the most leaves below one of the lowest inner nodes; at least 2.
            (default: :obj:`branching`)
        batch: ``[N]`` sample of each point, ids ``0 .. B-1``, in any order; each sample becomes a
            tree of its own, the same as if built alone (tree ``b`` is sample ``b``), and the vector
            is kept as ``h.batch``. (default: one tree)
        progress: whether a bar on stderr counts the points that have found their place.
            (default: off)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    Raises:
        TypeError: if :obj:`pos` holds no floating-point numbers, or an option is no integer.
        ValueError: naming what is wrong: no points, a coordinate that is NaN or infinite (with the
            point), an unknown method, a size below 2, a wrong :obj:`batch`; and what
            :func:`~hsa_geometric.builders.from_parent` raises.

    Cost: :math:`\log_2(N / \textrm{leaf\_size})` sorts of :math:`N` keys, on the device of
    :obj:`pos`; no Python per node. ``'pca'`` and ``'ball'`` sum in float64. Memory, of ten million
    points in float32, at most four times theirs, :obj:`pos` included; the index ``h.tree`` is not:
    it is built at its first use.

    Example:
        >>> import torch
        >>> pos = torch.tensor([[0.0, 0.0], [9.0, 1.0], [8.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> h = from_points(pos, branching=2, leaf_size=3)
        >>> h
        Hierarchy(leaves=5, nodes=8, depth=2, pos=[5, 2])
        >>> h.parent  # left points 0 and 4, the others on the right: the halves differ by one
        tensor([5, 6, 6, 6, 5, 7, 7, 7])
    """
    leaf_size = check_options(method, branching, leaf_size)
    pos = as_coordinates(pos)
    if batch is not None:
        batch = leaf_data["batch"] = as_batch(batch, pos.shape[0]).to(pos.device)
    parent = bisect(
        pos, batch, method=method, branching=branching, leaf_size=leaf_size, progress=progress
    )
    trees = 1 if batch is None else int(batch.max()) + 1
    return built(parent, pos.shape[0], trees, pos=pos, **leaf_data)
