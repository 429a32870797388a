"""Reading meshes: what each library's mesh says, as the same few tensors."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch_geometric.data import Data

from hsa_geometric.builders._attach import attribute, check_sample
from hsa_geometric.builders._coordinates import as_coordinates
from hsa_geometric.functional.options import check_integers

# VTK's numbers for the cells that are left once all others have been cut up
TRIANGLE, TETRAHEDRON = 5, 10


@dataclass(frozen=True)
class Surface:
    """A mesh of triangles or tetrahedra.

    Attributes:
        pos: ``[N, D]`` coordinates, in the type that the hierarchy is to have.
        face: ``[3, F]`` triangles or ``[4, F]`` tetrahedra.
        size: ``[N]`` area or volume of each vertex, float64.
        data: the Data that it was read from, if it was one.
    """

    pos: Tensor
    face: Tensor
    size: Tensor
    data: Data | None = None


def read_mesh(mesh: Any) -> Surface:
    """Tell libraries apart, without importing any, and read the mesh."""
    if isinstance(mesh, Data):
        return _read_data(mesh)
    if isinstance(mesh, (tuple, list)) and len(mesh) == 2:
        return _read_arrays(*mesh)
    if _is(mesh, "trimesh", "Trimesh"):
        pos = torch.from_numpy(np.array(mesh.vertices))
        faces = np.array(mesh.faces, dtype=np.int64)
        return _of_cells(pos, faces, "mesh.vertices", "mesh.faces", torch.get_default_dtype())
    if _is(mesh, "meshio", "Mesh"):
        try:
            import pyvista
        except ImportError as error:
            raise ImportError(
                "from_mesh reads meshio meshes with PyVista: pip install 'hsa_geometric[meshes]'"
            ) from error
        return _read_vtk(pyvista.from_meshio(mesh))
    if _is(mesh, "pyvista", "DataSet"):
        return _read_vtk(mesh)
    raise TypeError(
        "Expected 'mesh' to be a PyVista DataSet, a trimesh.Trimesh, a meshio.Mesh, a PyG Data or "
        f"a pair of points and triangles (got {type(mesh).__name__})"
    )


def _is(mesh: Any, module: str, name: str) -> bool:
    found = sys.modules.get(module)
    return found is not None and isinstance(mesh, getattr(found, name))


def _read_data(data: Data) -> Surface:
    pos, face = attribute(data, "pos", "mesh"), attribute(data, "face", "mesh")
    check_sample(data, "mesh")
    if not isinstance(face, Tensor) or face.dim() != 2:
        raise ValueError("Expected 'mesh.face' to be a tensor of shape [3, F] or [4, F]")
    return replace(_of_cells(pos, face.t(), "mesh.pos", "mesh.face", None), data=data)


def _read_arrays(pos: Any, faces: Any) -> Surface:
    shape = tuple(getattr(faces, "shape", ()))
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(
            f"Expected 'mesh[1]' to be an array of triangles of shape [F, 3] (got {list(shape)})"
        )
    return _of_cells(pos, faces, "mesh[0]", "mesh[1]", None)


def _of_cells(
    pos: Any, cells: Any, pos_name: str, cell_name: str, dtype: torch.dtype | None
) -> Surface:
    """Mesh of ``[F, 3]`` triangles or ``[F, 4]`` tetrahedra."""
    pos = as_coordinates(pos, pos_name, "vertex")
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        cells = torch.from_numpy(cells.astype(np.int64) if cells.dtype.kind == "u" else cells)
    if not isinstance(cells, Tensor):
        raise TypeError(
            f"Expected '{cell_name}' to be a tensor or an array (got {type(cells).__name__})"
        )
    check_integers(cells, cell_name)
    corners = cells.shape[1]
    if corners not in (3, 4):
        raise ValueError(f"Expected '{cell_name}' to have 3 or 4 corners to a face (got {corners})")
    if not corners - 1 <= pos.shape[1] <= 3:
        raise ValueError(
            f"Expected '{pos_name}' to have {'2 or 3' if corners == 3 else '3'} coordinates "
            f"(got {pos.shape[1]})"
        )
    if cells.shape[0] == 0:
        raise ValueError(f"Expected '{cell_name}' to hold at least one face (got none)")
    face = cells.t().long().to(pos.device).contiguous()
    outside = ((face < 0) | (face >= pos.shape[0])).any(dim=0)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise ValueError(
            f"Expected '{cell_name}' to hold vertices in [0, {pos.shape[0] - 1}] "
            f"(got face {first} of {face[:, first].tolist()})"
        )
    place = pos.detach().double()
    shares = (_cell_size(place, face) / corners).repeat(corners)
    size = place.new_zeros(pos.shape[0]).index_add_(0, face.flatten(), shares)
    return Surface(pos if dtype is None else pos.to(dtype), face, size)


def _cell_size(pos: Tensor, face: Tensor) -> Tensor:
    """``[F]`` areas of triangles or volumes of tetrahedra."""
    corner = pad(pos, (0, 3 - pos.shape[1]))[face]
    side = corner[1:] - corner[:1]
    normal = torch.linalg.cross(side[0], side[1])
    if face.shape[0] == 3:
        return normal.norm(dim=1) / 2
    return (normal * side[2]).sum(dim=1).abs() / 6


def _read_vtk(mesh: Any) -> Surface:
    """Any PyVista data set: the cells of its highest dimension, cut into simplices by VTK."""
    import pyvista

    pos = as_coordinates(np.array(mesh.points), "mesh.points", "vertex")
    grid = mesh.cast_to_unstructured_grid()
    types, first = np.unique(grid.celltypes, return_index=True)
    dims = np.zeros(256, dtype=np.int64)
    dims[types] = [grid.get_cell(cell).dimension for cell in first]
    dim = dims[types].max(initial=0)
    corner = np.asarray(grid.cell_connectivity)
    outside = corner[(corner < 0) | (corner >= len(pos))]
    if outside.size:
        raise ValueError(
            f"Expected the cells of 'mesh' to hold vertices in [0, {len(pos) - 1}] "
            f"(got {outside[0]})"
        )
    simplices = None
    if dim >= 2:
        simplices = grid.triangulate().cells_dict.get(TRIANGLE if dim == 2 else TETRAHEDRON)
    if simplices is None:
        raise ValueError("Expected 'mesh' to have faces or volume cells (got none)")
    sizes = grid.compute_cell_sizes(length=False, area=dim == 2, volume=dim == 3)
    size = np.abs(sizes.cell_data["Area" if dim == 2 else "Volume"])
    size[dims[grid.celltypes] != dim] = 0
    corners = np.diff(pyvista.convert_array(grid.GetCells().GetOffsetsArray()))
    share = np.repeat(size / np.maximum(corners, 1), corners)
    return Surface(
        pos.to(torch.get_default_dtype()),
        torch.from_numpy(simplices.T.astype(np.int64)),
        torch.from_numpy(np.bincount(corner, share, minlength=len(pos))),
    )
