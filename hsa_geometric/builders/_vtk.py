"""Reading VTK's meshes, by way of PyVista: their cells cut into simplices that fill them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsa_geometric.builders._coordinates import as_coordinates
from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._polyhedra import fill

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# VTK's numbers for kinds of cells
TRIANGLE, POLYGON, QUAD, TETRAHEDRON, POLYHEDRON = 5, 7, 9, 10, 42
SOLIDS = (12, 13, 14, 15, 16)  # hexahedron, wedge, pyramid and prisms, with straight edges
EQUAL = 1e-6  # relative, of areas and volumes summed in two ways


def read_vtk(mesh: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points, simplices and sizes of vertices: the cells of the highest dimension, cut up.

    Shapes:
        pos ``[N, 3]`` in its own type, face ``[3, F]`` or ``[4, F]``, size ``[N]`` float64.
    """
    pos = as_coordinates(np.array(mesh.points), "mesh.points", "vertex")
    grid = mesh.cast_to_unstructured_grid().copy()
    grid.clear_data()
    dim = _dimension(grid)
    start, corner = _rows(grid.GetCells())
    outside = corner[(corner < 0) | (corner >= len(pos))]
    if outside.size:
        raise ValueError(
            f"Expected the cells of 'mesh' to hold vertices in [0, {len(pos) - 1}] "
            f"(got {outside[0]})"
        )
    place = pos.double().numpy()
    grid.points = place - place.min(axis=0)  # digits for what is near, wherever the box is
    if dim >= 2:
        simplex, cell, size = _triangles(grid) if dim == 2 else _tetrahedra(grid)
    if dim < 2 or len(simplex) == 0:
        raise ValueError("Expected 'mesh' to have faces or volume cells (got none)")
    of_cell = np.bincount(cell, np.abs(size), minlength=grid.n_cells)
    count = np.diff(start)
    share = np.repeat(of_cell / np.maximum(count, 1), count)
    return (
        pos,
        torch.from_numpy(simplex.T.astype(np.int64)),
        torch.from_numpy(np.bincount(corner, share, minlength=len(pos))),
    )


def sizes(place: Floats, simplex: Ints) -> Floats:
    """Areas of triangles ``[F, 3]``, or signed volumes of tetrahedra ``[F, 4]``."""
    side = place[simplex[:, 1:]] - place[simplex[:, :1]]
    normal = np.cross(side[:, 0], side[:, 1])
    if simplex.shape[1] == 3:
        return np.asarray(np.linalg.norm(normal, axis=1) / 2)
    return np.asarray((normal * side[:, 2]).sum(axis=1) / 6)


def _dimension(grid: Any) -> int:
    """The highest of any cell."""
    first = np.unique(grid.celltypes, return_index=True)[1]
    return max((int(grid.get_cell(cell).dimension) for cell in first), default=0)


def _rows(cells: Any) -> tuple[Ints, Ints]:
    """Where the ids of each row of a vtkCellArray begin and end, and the ids."""
    import pyvista

    arrays = (cells.GetOffsetsArray(), cells.GetConnectivityArray())
    start, ids = (np.asarray(pyvista.convert_array(array), dtype=np.int64) for array in arrays)
    return start, ids


def _cut(grid: Any, kind: int) -> tuple[Ints, Ints]:
    """VTK's simplices of one kind, and the cell that each is from."""
    grid.cell_data["cell"] = np.arange(grid.n_cells)
    cut = grid.triangulate()
    simplex = cut.cells_dict.get(kind, np.empty((0, 3 if kind == TRIANGLE else 4), dtype=np.int64))
    return simplex.astype(np.int64), np.asarray(cut.cell_data["cell"])[cut.celltypes == kind]


def _triangles(grid: Any) -> tuple[Ints, Ints, Floats]:
    """Triangles that fill the faces, the face that each is from, and their areas."""
    types, place = grid.celltypes, np.asarray(grid.points)
    face, cell = _cut(grid, TRIANGLE)
    area = sizes(place, face)
    ring = np.flatnonzero((types == QUAD) | (types == POLYGON))
    if ring.size == 0:
        return face, cell, area
    start, corner = _rows(grid.GetCells())
    vector = _areas(place, start, corner, ring)
    length = np.linalg.norm(vector, axis=1)
    filled = np.bincount(cell, area, minlength=len(types))[ring]
    quad, polygon = (types[ring] == kind for kind in (QUAD, POLYGON))

    # VTK cuts quads along the shorter diagonal, which of a concave one may lie outside, and leaves
    # polygons whole that touch themselves, as around a courtyard.
    over = np.flatnonzero(quad & (filled > length * (1 + EQUAL)))
    over = over[_concave(place[corner[start[ring[over], None] + np.arange(4)]], vector[over])]
    lack = np.flatnonzero(polygon & (filled < length * (1 - EQUAL)))
    if over.size == 0 and lack.size == 0:
        return face, cell, area
    pieces = [_polygons(place, [corner[start[c] : start[c] + 4]]) for c in ring[over]]
    pieces += [
        _clip(place, corner[start[c] : start[c + 1]], normal)
        for c, normal in zip(ring[lack], vector[lack], strict=True)
    ]
    redone = np.concatenate([over, lack])
    for at, piece in zip(redone, pieces, strict=True):
        if sizes(place, piece).sum() < length[at] * (1 - EQUAL):
            raise ValueError(
                "Expected the polygons of 'mesh' not to cross themselves "
                f"(got cell {ring[at]}; cut it up before)"
            )
    face, cell = _replaced(face, cell, ring[redone], pieces)
    return face, cell, sizes(place, face)


def _replaced(simplex: Ints, cell: Ints, redone: Ints, pieces: list[Ints]) -> tuple[Ints, Ints]:
    """All simplices, those of some cells anew."""
    keep = ~np.isin(cell, redone)
    return (
        np.concatenate([simplex[keep], *pieces]),
        np.concatenate([cell[keep], np.repeat(redone, [len(piece) for piece in pieces])]),
    )


def _areas(place: Floats, start: Ints, corner: Ints, ring: Ints) -> Floats:
    """``[len(ring), 3]`` vector areas of some rows of corners."""
    count = start[ring + 1] - start[ring]
    area = np.zeros((len(ring), 3))
    for number in np.unique(count[count > 2]):
        same = np.flatnonzero(count == number)
        around = place[corner[start[ring[same], None] + np.arange(number)]]
        spoke = around[:, 1:] - around[:, :1]
        area[same] = np.cross(spoke[:, :-1], spoke[:, 1:]).sum(axis=1) / 2
    return area


def _concave(quad: Floats, area: Floats) -> NDArray[np.bool_]:
    """Which quads ``[Q, 4, 3]`` turn the other way at a corner."""
    side = np.roll(quad, -1, axis=1) - quad
    turn = np.cross(side, np.roll(side, -1, axis=1)) * area[:, None]
    return np.asarray((turn.sum(axis=2) < 0).any(axis=1))


def _polygons(place: Floats, rings: list[Ints]) -> Ints:
    """Triangles that fill some polygons."""
    import pyvista

    rows = np.concatenate([np.concatenate([[len(ring)], ring]) for ring in rings])
    return _triangles(pyvista.UnstructuredGrid(rows, np.full(len(rings), POLYGON), place))[0]


def _clip(place: Floats, ring: Ints, area: Floats) -> Ints:
    """Triangles of one polygon, which may touch itself."""
    with extra("meshes", "from_mesh cuts polygons that touch themselves with mapbox_earcut"):
        import mapbox_earcut
    flat = np.delete(place[ring], np.abs(area).argmax(), axis=1)
    found = mapbox_earcut.triangulate_float64(flat, np.array([len(ring)], dtype=np.uint32))
    return np.asarray(ring[found.astype(np.int64).reshape(-1, 3)])


def _tetrahedra(grid: Any) -> tuple[Ints, Ints, Floats]:
    """Tetrahedra that fill the volume cells, the cell that each is from, and their volumes."""
    place, types = np.asarray(grid.points), grid.celltypes
    simplex, cell = _cut(grid, TETRAHEDRON)
    volume = sizes(place, simplex)
    total = np.bincount(cell, np.abs(volume), minlength=len(types))
    # VTK cuts a solid by its kind, and fills the convex hull of a polyhedron.
    net = np.abs(np.bincount(cell, volume, minlength=len(types)))
    wrong = np.isin(types, SOLIDS) & (net < total * (1 - EQUAL))
    if (types == POLYHEDRON).any():
        wrong |= (types == POLYHEDRON) & (np.abs(_volumes(grid) - total) > EQUAL * total)
    if not wrong.any():
        return simplex, cell, volume
    redone, pieces = np.flatnonzero(wrong), []
    for number in redone:
        rings = [np.array(face.point_ids) for face in grid.get_cell(number).faces]
        used, rows = np.unique(np.concatenate(rings), return_inverse=True)
        local = np.split(rows, np.cumsum([len(ring) for ring in rings])[:-1])
        near = place[used]
        pieces.append(used[fill(near, _polygons(near, local), int(number))])
    simplex, cell = _replaced(simplex, cell, redone, pieces)
    return simplex, cell, sizes(place, simplex)


def _volumes(grid: Any) -> Floats:
    """``[cells]`` volumes of the polyhedra, by the divergence theorem; 0 for other cells."""
    place = np.asarray(grid.points)
    begin, face = _rows(grid.GetPolyhedronFaceLocations())
    start, corner = _rows(grid.GetPolyhedronFaces())
    cell = np.repeat(np.arange(grid.n_cells), np.diff(begin))
    first = corner[start[face]]
    # Each face's height above a vertex of the cell.
    apex = np.zeros(grid.n_cells, dtype=np.int64)
    apex[cell] = first
    area = _areas(place, start, corner, np.arange(len(start) - 1))
    height = (place[first] - place[apex[cell]]) * area[face]
    return np.asarray(np.abs(np.bincount(cell, height.sum(axis=1), minlength=grid.n_cells)) / 3)
