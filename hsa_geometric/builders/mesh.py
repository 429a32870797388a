"""Hierarchies from meshes: shells, and balanced bisection of each."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops, to_scipy_sparse_matrix, to_undirected

from hsa_geometric.builders import _bisection
from hsa_geometric.builders._attach import attach
from hsa_geometric.builders._bisection import bisect
from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._surface import read_mesh
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_choice


def from_mesh(
    mesh: Any,
    *,
    method: str = "pca",
    branching: int = 8,
    leaf_size: int | None = None,
    split_components: bool = True,
    mass: str | None = "area",
    progress: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy over the vertices of a mesh: mesh → shells → pieces → vertices.

    Each connected component (*shell*) is a tree, built as :func:`from_points` does. Where there
    are several shells, such a tree over their centres joins them: up to :obj:`branching` shells are
    the children of the root. Shells of different size have different depth.

    A vertex weighs its area, so that attention does not depend on how finely the surface is meshed:

    .. math::
        m_i = \sum_{F \ni i} \frac{|F|}{\textrm{corners of } F}

    is a third of the triangles around it, a quarter of the quads; masses add up to the area.

    Args:
        mesh: one of

            * a PyVista data set: ``PolyData``, ``UnstructuredGrid``, ``ImageData``, …;
            * a :class:`trimesh.Trimesh`;
            * a :class:`meshio.Mesh`, read by way of PyVista;
            * a :class:`~torch_geometric.data.Data` with :obj:`pos` ``[N, 2 or 3]`` and :obj:`face`
              ``[3, F]``, or ``[4, F]`` for tetrahedra; all of its attributes but a tree are kept;
            * a pair of points ``[N, 2 or 3]`` and triangles ``[F, 3]``, tensors or arrays.

            Of the cells in a file those of the highest dimension count: if there are volume cells,
            vertices weigh volumes and faces and lines are ignored; else they weigh areas.
        method, branching, leaf_size: as for :func:`from_points`.
        split_components: whether shells are kept apart. If not, the tree is that of
            :func:`from_points`, over all vertices.
        mass: ``'area'`` for areas (or volumes), or :obj:`None`: no masses, so all weigh the same.
        progress: whether a bar on stderr counts the vertices that have found their place.
            (default: off)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`; replaces what a Data has
            under the same name.

    Returns:
        One leaf for each vertex, in the order of the mesh, with

        * ``pos`` ``[N, D]``, in the type that the mesh has them in (trimesh: float64): no digit is
          lost before the box's corner is subtracted, so it does not matter where the mesh lies;
        * ``face`` ``[3, F]`` or, of a volume mesh, ``[4, F]``: polygons are cut into triangles and
          volume cells into tetrahedra, concave ones too, without new vertices;
        * ``edge_index`` ``[2, E]`` the edges of these, once in each direction, without self-loops
          (a Data with edges keeps its own);
        * ``mass`` ``[N]``, in the type of ``pos``, at least float32.

    Degenerate meshes: a face without area, or that repeats a vertex, adds no mass, but its edges
    count. An edge may have any number of faces. **Vertices of no face weigh 0**: nobody sees
    them, as is right for what is not part of the surface; all of them together form one more
    shell. Duplicate vertices stay apart, so a mesh whose triangles share none is all shells: merge
    them before (PyVista's ``clean()``).

    Raises:
        ImportError: if SciPy is missing, PyVista for a meshio mesh, or what odd cells need
            (mapbox_earcut, trimesh).
        TypeError: if :obj:`mesh` is none of these, or an array holds the wrong kind of numbers.
        ValueError: naming what is wrong: no vertices or no faces, a coordinate that is NaN or
            infinite (with the vertex), a face with a vertex that is not there, a polygon that
            crosses itself or a polyhedron that is not closed or has no tetrahedra between its own
            vertices (with the cell), a batch of meshes, a mesh without any area while :obj:`mass`
            is ``'area'``, a Data that has masses already; and what :func:`from_points` raises.

    Cost: as :func:`from_points`; shells and what VTK does run on the CPU. No Python per vertex, nor
    per cell but for polygons that touch themselves and for polyhedra that VTK does not fill: some
    milliseconds for each of these, and seconds where it is concave and has dozens of vertices.

    Example:
        >>> pos = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
        >>> h = from_mesh((pos, torch.tensor([[0, 1, 2], [0, 2, 3]])), branching=2)
        >>> h
        Hierarchy(leaves=4, nodes=7, depth=2, edge_index=[2, 10], pos=[4, 2], mass=[4], face=[3, 2])
        >>> h.parent  # left and right side of a rectangle
        tensor([4, 5, 5, 4, 6, 6, 6])
        >>> h.mass
        tensor([0.6667, 0.3333, 0.6667, 0.3333])
    """
    leaf_size = check_options(method, branching, leaf_size, mass)
    surface = read_mesh(mesh)
    pos, face, num_vertices = surface.pos, surface.face, surface.pos.shape[0]
    edge_index = _edges(face, num_vertices)
    own = {"pos": pos, "face": face, "edge_index": edge_index}
    if mass == "area":
        dtype = torch.promote_types(pos.dtype, torch.float32)
        own["mass"] = _check_mass(surface.size.to(dtype), surface.data)

    shell = None
    if split_components:
        shell = _shells(edge_index, face, num_vertices)
    parent = bisect(
        pos, shell, method=method, branching=branching, leaf_size=leaf_size, progress=progress
    )
    if shell is not None and (num_shells := int(shell.max()) + 1) > 1:
        centre = pos.new_zeros(num_shells, pos.shape[1], dtype=torch.float64)
        place = pos.detach().double()
        centre.index_add_(0, shell, place - place.amin(dim=0))
        centre /= shell.bincount().unsqueeze(1)
        above = bisect(centre, method=method, branching=branching, leaf_size=branching)
        # The leaves of this tree are the roots, which are the last nodes, of the other one.
        parent = torch.cat([parent[:-num_shells], above + (parent.numel() - num_shells)])
    h = from_parent(parent, **{**own, **leaf_data})
    return h if surface.data is None else attach(surface.data, h, leaf_data)


def check_options(method: str, branching: int, leaf_size: int | None, mass: str | None) -> int:
    """Check the options; returns the leaf size, by default the branching."""
    check_choice(mass, "mass", ("area", None))
    return _bisection.check_options(method, branching, leaf_size)


def _edges(face: Tensor, num_vertices: int) -> Tensor:
    pairs = [face[[i, j]] for i, j in combinations(range(face.shape[0]), 2)]
    edge_index, _ = remove_self_loops(torch.cat(pairs, dim=1))
    undirected: Tensor = to_undirected(edge_index, num_nodes=num_vertices)
    return undirected


def _shells(edge_index: Tensor, face: Tensor, num_vertices: int) -> Tensor:
    """``[N]`` component of each vertex, by first vertex; those of no face are the last one."""
    with extra("meshes", "from_mesh needs SciPy"):
        from scipy.sparse.csgraph import connected_components

        near = to_scipy_sparse_matrix(edge_index, num_nodes=num_vertices)
    shell = torch.from_numpy(connected_components(near, directed=False)[1]).long()
    shell = shell.to(face.device)
    used = torch.zeros(num_vertices, dtype=torch.bool, device=face.device)
    used[face.flatten()] = True
    shell[~used] = num_vertices
    return torch.unique(shell, return_inverse=True)[1]


def _check_mass(mass: Tensor, data: Data | None) -> Tensor:
    if data is not None and data.get("mass") is not None:
        raise ValueError(
            "Expected 'mesh' to have no 'mass' beside mass='area' (got one; mass=None keeps it)"
        )
    if not mass.sum() > 0:
        raise ValueError("Expected 'mesh' to have a positive area or volume (got 0)")
    return mass
