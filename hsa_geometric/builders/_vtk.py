"""Reading VTK's meshes, by way of PyVista: their cells cut into simplices that fill them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hsa_geometric.builders._coordinates import as_coordinates
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
        simplex, cell = _triangles(grid) if dim == 2 else _tetrahedra(grid)
    if dim < 2 or len(simplex) == 0:
        raise ValueError("Expected 'mesh' to have faces or volume cells (got none)")
    size = np.bincount(cell, np.abs(sizes(grid.points, simplex)), minlength=grid.n_cells)
    count = np.diff(start)
    share = np.repeat(size / np.maximum(count, 1), count)
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


def _triangles(grid: Any) -> tuple[Ints, Ints]:
    """Triangles that fill the faces, and the face that each is from."""
    import pyvista

    types, place = grid.celltypes.copy(), np.asarray(grid.points)
    start, corner = _rows(grid.GetCells())
    area = _areas(place, start, corner)
    # VTK cuts quads along the shorter diagonal, which of a concave one may lie outside.
    quad = np.flatnonzero(types == QUAD)
    around = place[corner[start[quad, None] + np.arange(4)]]
    side = np.roll(around, -1, axis=1) - around
    turn = (np.cross(side, np.roll(side, -1, axis=1)) * area[quad, None]).sum(axis=2)
    concave = quad[(turn < 0).any(axis=1)]
    if concave.size:
        types[concave] = POLYGON
        grid = pyvista.UnstructuredGrid(grid.cells, types, place)
    face, cell = _cut(grid, TRIANGLE)

    # It leaves polygons whole that touch themselves, as around a courtyard.
    length = np.linalg.norm(area, axis=1)
    polygon = np.flatnonzero((types == POLYGON) & _lacking(place, face, cell, length))
    if polygon.size:
        keep = ~np.isin(cell, polygon)
        more = [_clip(place, corner[start[p] : start[p + 1]], area[p]) for p in polygon]
        face = np.concatenate([face[keep], *more])
        cell = np.concatenate([cell[keep], np.repeat(polygon, [len(m) for m in more])])
        left = polygon[_lacking(place, face, cell, length)[polygon]]
        if left.size:
            raise ValueError(
                "Expected the polygons of 'mesh' not to cross themselves "
                f"(got cell {left[0]}; cut it up before)"
            )
    return face, cell


def _areas(place: Floats, start: Ints, corner: Ints) -> Floats:
    """``[cells, 3]`` vector area of each polygon."""
    count = np.diff(start)
    cell = np.repeat(np.arange(len(count)), count)
    begin = np.repeat(start[:-1], count)
    at = np.arange(len(corner))
    after = np.where(at + 1 < np.repeat(start[1:], count), at + 1, begin)
    spoke = place[corner] - place[corner[begin]]
    part = np.cross(spoke, spoke[after]) / 2
    return np.stack([np.bincount(cell, x, minlength=len(count)) for x in part.T], axis=1)


def _lacking(place: Floats, face: Ints, cell: Ints, area: Floats) -> NDArray[np.bool_]:
    """Polygons that the triangles do not fill."""
    filled = np.bincount(cell, sizes(place, face), minlength=len(area))
    return np.asarray(filled < area * (1 - EQUAL))


def _clip(place: Floats, ring: Ints, area: Floats) -> Ints:
    """Triangles of one polygon, which may touch itself."""
    try:
        import mapbox_earcut
    except ImportError as error:
        raise ImportError(
            "from_mesh cuts polygons that touch themselves with mapbox_earcut: "
            "pip install 'hsa_geometric[meshes]'"
        ) from error
    flat = np.delete(place[ring], np.abs(area).argmax(), axis=1)
    found = mapbox_earcut.triangulate_float64(flat, np.array([len(ring)], dtype=np.uint32))
    return np.asarray(ring[found.astype(np.int64).reshape(-1, 3)])


def _tetrahedra(grid: Any) -> tuple[Ints, Ints]:
    """Tetrahedra that fill the volume cells, and the cell that each is from."""
    place, types = np.asarray(grid.points), grid.celltypes
    simplex, cell = _cut(grid, TETRAHEDRON)
    volume = sizes(place, simplex)
    total = np.bincount(cell, np.abs(volume), minlength=len(types))
    # VTK cuts a solid by its kind, and fills the convex hull of a polyhedron.
    net = np.abs(np.bincount(cell, volume, minlength=len(types)))
    wrong = np.isin(types, SOLIDS) & (net < total * (1 - EQUAL))
    if (types == POLYHEDRON).any():
        true = _volumes(grid)
        wrong |= (types == POLYHEDRON) & (np.abs(true - total) > EQUAL * total)
    if not wrong.any():
        return simplex, cell
    keep, wrong_cells = ~wrong[cell], np.flatnonzero(wrong)
    more = []
    for number in wrong_cells:
        faces = [np.array(face.point_ids) for face in grid.get_cell(number).faces]
        more.append(fill(place, _surface(place, faces), int(number)))
    return (
        np.concatenate([simplex[keep], *more]),
        np.concatenate([cell[keep], np.repeat(wrong_cells, [len(m) for m in more])]),
    )


def _surface(place: Floats, faces: list[Ints]) -> Ints:
    """Triangles of the faces of one cell."""
    import pyvista

    rows = np.concatenate([np.concatenate([[len(face)], face]) for face in faces])
    return _triangles(pyvista.UnstructuredGrid(rows, np.full(len(faces), POLYGON), place))[0]


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
    height = (place[first] - place[apex[cell]]) * _areas(place, start, corner)[face]
    return np.asarray(np.abs(np.bincount(cell, height.sum(axis=1), minlength=grid.n_cells)) / 3)
