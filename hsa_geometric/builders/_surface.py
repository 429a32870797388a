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
from hsa_geometric.builders._extra import extra
from hsa_geometric.builders._ids import first
from hsa_geometric.builders._vtk import read_vtk, sizes
from hsa_geometric.functional.options import check_integers


@dataclass(frozen=True)
class Surface:
    """A mesh of triangles or tetrahedra.

    Attributes:
        pos: ``[N, D]`` coordinates, in their own type.
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
        return _of_cells(pos, faces, "mesh.vertices", "mesh.faces")
    if _is(mesh, "meshio", "Mesh"):
        with extra("meshes", "from_mesh reads meshio meshes with PyVista"):
            import pyvista
        pos, face, size = read_vtk(pyvista.from_meshio(mesh))  # of float32 points it makes float64
        return Surface(pos.float() if mesh.points.dtype == np.float32 else pos, face, size)
    if _is(mesh, "pyvista", "DataSet"):
        return Surface(*read_vtk(mesh))
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
    return replace(_of_cells(pos, face.t(), "mesh.pos", "mesh.face"), data=data)


def _read_arrays(pos: Any, faces: Any) -> Surface:
    shape = tuple(getattr(faces, "shape", ()))
    if len(shape) != 2 or shape[1] != 3:
        raise ValueError(
            f"Expected 'mesh[1]' to be an array of triangles of shape [F, 3] (got {list(shape)})"
        )
    return _of_cells(pos, faces, "mesh[0]", "mesh[1]")


def _of_cells(pos: Any, cells: Any, pos_name: str, cell_name: str) -> Surface:
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
    if (i := first(((face < 0) | (face >= pos.shape[0])).any(dim=0))) is not None:
        raise ValueError(
            f"Expected '{cell_name}' to hold vertices in [0, {pos.shape[0] - 1}] "
            f"(got face {i} of {face[:, i].tolist()})"
        )
    place = pad(pos.detach().double().cpu(), (0, 3 - pos.shape[1]))
    of_cell = torch.from_numpy(np.abs(sizes(place.numpy(), face.t().cpu().numpy())))
    shares = (of_cell / corners).repeat(corners).to(pos.device)
    size = shares.new_zeros(pos.shape[0]).index_add_(0, face.flatten(), shares)
    return Surface(pos, face, size)
