"""Cutting a polyhedron, concave or not, into tetrahedra between its own vertices."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hsa_geometric.builders._extra import extra

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FLAT = 1e-7  # six times the volume of a tetrahedron, in a unit cube, below which it has none
MANY = 40_000  # tetrahedra that are tried


def fill(place: Floats, face: Ints, number: int) -> Ints:
    r"""Tetrahedra that fill the inside of a closed surface, without new vertices.

    Tetrahedra that all turn the same way fill a surface exactly once if they bound it: if of the
    two sides of each triangle as many tetrahedra are on the one as on the other, but for the
    surface, where one more is inside. A fan from a vertex that sees all faces is such a set; where
    there is none, a mixed-integer programme looks for one.

    Args:
        place: ``[N, 3]`` coordinates.
        face: ``[F, 3]`` triangles of the surface, turned in any way.
        number: of the cell, for errors.

    Returns:
        ``[K, 4]`` tetrahedra of positive volume.
    """
    ids, local = np.unique(face, return_inverse=True)
    at = place[ids] - place[ids].min(axis=0)
    side = at.max(axis=0)
    at = at / np.where(side > 0, side, 1)  # in a unit cube; no tetrahedron is turned by that
    local = _outward(at, local.reshape(-1, 3), number)
    found = _fan(at, local)
    if found is None:
        found = _search(at, local)
    if found is None:
        raise ValueError(
            "Expected the polyhedra of 'mesh' to be made of tetrahedra between their own vertices "
            f"(found none for cell {number}; cut it up before, or give its surface: "
            "'mesh.extract_surface()')"
        )
    return np.asarray(ids[found])


def _outward(at: Floats, face: Ints, number: int) -> Ints:
    """The triangles in one sense, with their normals outside."""
    face = face[(face != np.roll(face, 1, axis=1)).all(axis=1)]
    if not _closed(face):
        with extra("meshes", "from_mesh turns the faces of polyhedra with trimesh"):
            import trimesh
        surface = trimesh.Trimesh(at, face, process=False, validate=False)
        trimesh.repair.fix_winding(surface)
        face = np.array(surface.faces, dtype=np.int64)
        if not _closed(face):
            raise ValueError(
                "Expected the faces of each polyhedron of 'mesh' to close it, two to an edge "
                f"(got cell {number})"
            )
    inside_out = _heights(at, face, at.mean(axis=0, keepdims=True)).sum() < 0
    return face[:, ::-1] if inside_out else face


def _closed(face: Ints) -> bool:
    """Whether each edge is there in both directions, as often."""
    edge = np.concatenate([face[:, [0, 1]], face[:, [1, 2]], face[:, [2, 0]]])
    code = edge[:, 0] * (face.max() + 1) + edge[:, 1]
    back = edge[:, 1] * (face.max() + 1) + edge[:, 0]
    return np.array_equal(np.sort(code), np.sort(back))


def _heights(at: Floats, face: Ints, apex: Floats) -> Floats:
    """``[A, F]`` six times the volume of each triangle and apex, positive behind the triangle."""
    corner = at[face]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return np.asarray((normal * corner[:, 0]).sum(axis=1) - apex @ normal.T)


def _fan(at: Floats, face: Ints) -> Ints | None:
    """From a vertex that sees every triangle, the one that sees them best."""
    volume = _heights(at, face, at)
    volume[face.T, np.arange(len(face))] = 0
    sees = np.flatnonzero((volume >= -FLAT).all(axis=1))
    if sees.size == 0:
        return None
    apex = sees[(volume[sees] > FLAT).sum(axis=1).argmin()]
    seen = face[volume[apex] > FLAT]
    return np.column_stack([seen[:, ::-1], np.full(len(seen), apex)])


def _search(at: Floats, face: Ints) -> Ints | None:
    """The fewest tetrahedra whose boundary is the surface, or :obj:`None`."""
    with extra("meshes", "from_mesh needs SciPy"):
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array
    tet = _candidates(at, face)
    if tet is None or len(tet) == 0:
        return None
    side = at[tet[:, 1:]] - at[tet[:, :1]]
    volume = np.linalg.det(side)
    turned = volume < 0
    tet[turned] = tet[turned][:, [1, 0, 2, 3]]
    # Flat ones, either way round, let another diagonal divide a face.
    flat = np.abs(volume) <= FLAT
    tet = np.concatenate([tet, tet[flat][:, [1, 0, 2, 3]]])
    flat = np.concatenate([flat, flat[flat]])

    outside = ([1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1])
    sides = np.concatenate([*(tet[:, corners] for corners in outside), face])
    order = np.argsort(sides, axis=1)
    sign = np.where(np.isin(order @ [9, 3, 1], [5, 15, 19]), 1.0, -1.0)  # 012, 120 and 201
    row = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    size = (int(row.max()) + 1, len(tet))
    inner = len(tet) * 4
    of = np.tile(np.arange(len(tet)), 4)
    bounds_of = coo_array((sign[:inner], (row[:inner], of)), shape=size).tocsr()
    target = np.bincount(row[inner:], sign[inner:], minlength=size[0])
    result = milp(
        np.ones(len(tet)),
        integrality=np.ones(len(tet)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(bounds_of, target, target),
        options={"time_limit": 60},
    )
    if result.x is None:
        return None
    return np.asarray(tet[(result.x > 0.5) & ~flat])


def _candidates(at: Floats, face: Ints) -> Ints | None:
    """``[K, 4]`` vertices whose tetrahedron may lie inside, or :obj:`None` if they are too many."""
    num = len(at)
    pair = np.array(list(combinations(range(num), 2)))
    part = np.array([0.11, 0.31, 0.5, 0.71, 0.91])[:, None, None]
    along = at[pair[:, 0]] * (1 - part) + at[pair[:, 1]] * part
    inside = (_winding(at, face, along.reshape(-1, 3)).reshape(len(part), -1) > 1e-4).all(axis=0)
    near = np.zeros((num, num), dtype=bool)
    near[pair[inside, 0], pair[inside, 1]] = True
    tuples = pair[inside]
    for _ in range(2):  # cliques of three, then of four
        together = np.logical_and.reduce(near[tuples], axis=1)
        if together.sum() > MANY:
            return None
        at_tuple, last = together.nonzero()
        tuples = np.column_stack([tuples[at_tuple], last])
    middle = at[tuples].mean(axis=1)
    return np.asarray(tuples[_winding(at, face, middle) > 1e-4])


def _winding(at: Floats, face: Ints, point: Floats) -> Floats:
    """How often the surface goes around each point; on the surface, the part of it inside."""
    out = np.empty(len(point))
    for begin in range(0, len(point), 4096):
        some = slice(begin, begin + 4096)
        corner = at[face] - point[some, None, None]
        length = np.linalg.norm(corner, axis=-1)
        a, b, c = (corner[:, :, i] for i in range(3))
        x, y, z = (length[:, :, i] for i in range(3))
        above = (a * np.cross(b, c)).sum(axis=-1)
        below = x * y * z + (a * b).sum(-1) * z + (b * c).sum(-1) * x + (c * a).sum(-1) * y
        # In the plane of a triangle the angle is 2 pi inside it, of no certain sign, and 0 outside.
        angle = np.where(
            np.abs(above) < 1e-12, np.where(below < 0, np.pi, 0), np.arctan2(above, below)
        )
        out[some] = angle.sum(axis=1) / (2 * np.pi)
    return out
