"""It does not matter where points lie: all builders of places, near the origin and far from it."""

import meshio
import numpy as np
import pytest
import pyvista
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from hsa_geometric import coarsen, from_graph, from_mesh, from_points, from_voxels
from hsa_geometric.report import dilution
from hsa_geometric.transforms import MeshHierarchy, PointHierarchy, VoxelHierarchy

UTM = (441_871.0, 6_329_700.0, 0.0)


def strip(pos):
    """Triangles of three consecutive points."""
    return torch.arange(len(pos) - 2).view(-1, 1) + torch.arange(3)


def in_vtk(pos):
    return pyvista.PolyData.from_regular_faces(pos.numpy(), strip(pos).numpy())


def path(pos):
    edge = torch.stack([torch.arange(len(pos) - 1), torch.arange(1, len(pos))])
    return Data(pos=pos, edge_index=torch.cat([edge, edge.flip(0)], dim=1))


def halves(pos):
    return torch.arange(len(pos)) * 2 // len(pos)


BUILDERS = {
    "points, kd": lambda p: from_points(p, branching=2),
    "points, pca": lambda p: from_points(p, method="pca", branching=2),
    "points, ball": lambda p: from_points(p, method="ball", branching=3),
    "points, batch": lambda p: from_points(p, method="pca", branching=2, batch=halves(p)),
    "voxels, size": lambda p: from_voxels(p, size=2.5),
    "voxels, levels": lambda p: from_voxels(p, levels=3),
    "voxels, batch": lambda p: from_voxels(p, size=0.75, batch=halves(p)),
    "mesh, tensors": lambda p: from_mesh((p, strip(p)), branching=2),
    "mesh, shells": lambda p: from_mesh((p, strip(p)[::3]), branching=2),
    "mesh, arrays": lambda p: from_mesh((p.numpy(), strip(p).numpy()), branching=2),
    "mesh, Data": lambda p: from_mesh(Data(pos=p, face=strip(p).t()), branching=2),
    "mesh, PyVista": lambda p: from_mesh(in_vtk(p), branching=2),
    "mesh, meshio": lambda p: from_mesh(
        meshio.Mesh(p.numpy(), [("triangle", strip(p).numpy())]), branching=2
    ),
    "mesh, trimesh": lambda p: from_mesh(
        trimesh.Trimesh(p.numpy(), strip(p).numpy(), process=False), branching=2
    ),
    "graph": lambda p: from_graph(path(p), method="agglomerative"),
    "PointHierarchy": lambda p: PointHierarchy("pca", branching=2)(Data(pos=p)),
    "VoxelHierarchy": lambda p: VoxelHierarchy(levels=2)(Data(pos=p)),
    "MeshHierarchy": lambda p: MeshHierarchy(branching=2)(Data(pos=p, face=strip(p).t())),
}


@st.composite
def clouds(draw, dtype, step, reach):
    """Points at multiples of ``step``, and a shift of up to ``reach`` that rounds none of them."""
    num_points = draw(st.integers(5, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    high = draw(st.sampled_from([2, 8, int(64 / step)]))
    pos = torch.randint(0, high, (num_points, 3), generator=generator).to(dtype) * step
    pos[0], pos[1], pos[2] = torch.eye(3, dtype=dtype)  # a triangle with an area
    whole = st.integers(-reach, reach)
    shift = draw(st.just(UTM) if dtype == torch.float64 else st.tuples(whole, whole, whole))
    shift = draw(st.just(shift) | st.tuples(whole, whole, whole))
    shift = torch.tensor(shift, dtype=dtype)
    assert torch.equal((pos + shift) - shift, pos)
    return pos, shift


def assert_same_wherever(build, pos, shift):
    near, far = build(pos), build(pos + shift)
    assert torch.equal(far.parent, near.parent)
    assert torch.equal(far.pos.double(), (pos + shift).double())
    if "mass" in near:
        torch.testing.assert_close(far.mass, near.mass, rtol=1e-12, atol=1e-15)
    if "face" in near:
        assert torch.equal(far.face, near.face)


@pytest.mark.parametrize("name", BUILDERS)
@given(cloud=clouds(torch.float64, 2.0**-12, 2**32))
@settings(max_examples=15, deadline=None)
def test_an_exact_shift_changes_no_tree(name, cloud):
    assert_same_wherever(BUILDERS[name], *cloud)


@pytest.mark.parametrize("name", BUILDERS)
@given(cloud=clouds(torch.float32, 2.0**-4, 2**18))
@settings(max_examples=15, deadline=None)
def test_nor_does_one_in_float32(name, cloud):
    assert_same_wherever(BUILDERS[name], *cloud)


@pytest.mark.parametrize("name", ["mesh, PyVista", "mesh, trimesh", "mesh, meshio", "mesh, arrays"])
def test_842_vertices_in_utm_metres_stay_842(name):
    pos = torch.from_numpy(np.asarray(pyvista.Sphere().points, dtype=np.float64))
    pos = (pos * 2**20).round() / 2**20 + torch.rand(842, 3).mul(2**20).round() / 2**28
    h = BUILDERS[name](pos + torch.tensor(UTM, dtype=torch.float64))
    assert h.pos.unique(dim=0).shape[0] == 842
    assert torch.equal(h.parent, BUILDERS[name](pos).parent)


@pytest.mark.parametrize("method", ["kd", "pca", "ball"])
def test_float32_far_away_gives_what_float32_holds(method):
    pos = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 100
    far = pos + torch.tensor(UTM)  # steps of 1/32 and of 1/2
    exact = far - torch.tensor(UTM)  # without rounding
    one, other = from_points(far, method=method), from_points(exact, method=method)
    assert torch.equal(one.parent, other.parent)


@pytest.mark.parametrize("method", ["pca", "ball"])
def test_parts_far_from_each_other_are_cut_as_they_are_alone(method):
    cross = torch.tensor([[-3.0, 0], [3, 0], [-1, 0.5], [1, -0.5], [0.25, 2], [-0.25, -2]]).double()
    alone = from_points(cross, method=method, branching=2)
    pos = torch.cat([cross - torch.tensor(UTM[:2]), cross + torch.tensor(UTM[:2])])
    h = from_points(pos, method=method, branching=2)
    for half in (torch.arange(12) < 6, torch.arange(12) >= 6):
        assert torch.equal(h.subgraph(half).collapse_chains().parent, alone.parent)


@given(cloud=clouds(torch.float64, 2.0**-12, 2**32))
@settings(max_examples=25, deadline=None)
def test_means_of_coarse_graphs_move_along(cloud):
    pos, shift = cloud
    near = coarsen(from_points(pos, branching=2, field=pos), level=-2)
    far = coarsen(from_points(pos + shift, branching=2, field=pos + shift), level=-2)
    step = torch.finfo(torch.float64).eps * float((pos + shift).abs().max())
    for key in ("pos", "field"):
        torch.testing.assert_close(far[key], near[key] + shift, rtol=0, atol=step)


@given(cloud=clouds(torch.float64, 2.0**-12, 2**32))
@settings(max_examples=25, deadline=None)
def test_distances_do_not_depend_on_the_origin(cloud):
    pos, shift = cloud
    near, far = (dilution(from_points(p, branching=2)).distance for p in (pos, pos + shift))
    torch.testing.assert_close(far, near, rtol=1e-9, atol=1e-9, equal_nan=True)
