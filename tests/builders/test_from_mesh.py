import sys

import meshio
import networkx
import numpy as np
import pytest
import pyvista
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from pyvista import examples
from torch_geometric.data import Batch, Data

from hsa_geometric.builders.mesh import from_mesh
from hsa_geometric.builders.points import from_points
from hsa_geometric.functional import clusters_at

SQUARE = np.array([[0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]], dtype=np.float32)
HALVES = np.array([[0, 1, 2], [0, 2, 3]])


def vtk_faces(faces):
    faces = np.asarray(faces)
    return np.hstack([np.full((len(faces), 1), faces.shape[1]), faces]).ravel()


def arrays(mesh):
    return np.array(mesh.points), mesh.regular_faces


@st.composite
def soups(draw):
    """Points and any triangles among them: degenerate, duplicate, apart, or not all points."""
    num_vertices = draw(st.integers(3, 30))
    ids = st.integers(0, num_vertices - 1)
    faces = draw(st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=25))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    pos = torch.randn(num_vertices, draw(st.integers(2, 3)), generator=generator)
    return pos, torch.tensor([*faces, (0, 1, 2)])


def test_a_triangle_gives_each_corner_a_third_of_its_area():
    h = from_mesh((torch.from_numpy(SQUARE), torch.from_numpy(HALVES)), branching=2)
    torch.testing.assert_close(h.mass, torch.tensor([2 / 3, 1 / 3, 2 / 3, 1 / 3]))
    assert h.parent.tolist() == [4, 5, 5, 4, 6, 6, 6]
    assert h.face.tolist() == HALVES.T.tolist()
    edges = {(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)}
    assert set(map(tuple, h.edge_index.t().tolist())) == edges | {(j, i) for i, j in edges}
    assert h.edge_index.shape == (2, 10)


def test_every_library_gives_the_same_hierarchy():
    sphere = pyvista.Sphere(theta_resolution=8, phi_resolution=7)
    # Without its symmetries, which rounding in float32 and in float64 breaks otherwise.
    sphere.points += np.random.default_rng(0).normal(0, 0.01, sphere.points.shape)
    points, faces = arrays(sphere)
    meshes = {
        "polydata": sphere,
        "grid": sphere.cast_to_unstructured_grid(),
        "trimesh": trimesh.Trimesh(points, faces, process=False),
        "meshio": meshio.Mesh(points, [("triangle", faces)]),
        "data": Data(pos=torch.from_numpy(points), face=torch.from_numpy(faces).t()),
        "tensors": (torch.from_numpy(points), torch.from_numpy(faces)),
        "arrays": (points, faces),
    }
    first = from_mesh(meshes["polydata"], branching=4)
    for name, mesh in meshes.items():
        h = from_mesh(mesh, branching=4)
        assert torch.equal(h.parent, first.parent), name
        dtype = torch.float64 if name == "trimesh" else torch.float32  # as each holds them
        assert h.mass.dtype == h.pos.dtype == dtype, name
        torch.testing.assert_close(h.mass.float(), first.mass, msg=name)
        assert torch.equal(h.pos, torch.from_numpy(points).to(dtype)), name
        assert torch.equal(h.face, first.face) and torch.equal(h.edge_index, first.edge_index), name


@pytest.mark.parametrize("name", ["planefile", "antfile", "nutfile"])
def test_masses_add_up_to_the_area_and_refining_keeps_it(name):
    mesh = pyvista.read(getattr(examples, name)).triangulate().clean()
    h = from_mesh(mesh)
    assert h.num_nodes == mesh.n_points and (h.mass > 0).all()
    assert float(h.mass.sum()) == pytest.approx(mesh.area, rel=1e-5)
    fine = from_mesh(trimesh.remesh.subdivide(*arrays(mesh)))  # each triangle into four
    assert fine.num_nodes > 3 * h.num_nodes
    assert float(fine.mass.sum()) == pytest.approx(mesh.area, rel=1e-5)


def test_quads_weigh_a_quarter_on_each_corner_and_are_cut_in_two():
    plane = pyvista.Plane(i_size=3, j_size=2, i_resolution=3, j_resolution=2)
    h = from_mesh(plane)
    share = torch.tensor([[1, 2, 2, 1], [2, 4, 4, 2], [1, 2, 2, 1]]) / 4
    torch.testing.assert_close(h.mass, share.flatten())
    assert h.face.shape == (3, 12)


def test_polygons_and_images():
    ball = pyvista.Dodecahedron()
    h = from_mesh(ball)
    torch.testing.assert_close(h.mass, torch.full((20,), ball.area / 20))
    image = pyvista.ImageData(dimensions=(3, 2, 1), spacing=(2, 1, 1))
    share = torch.tensor([1, 2, 1, 1, 2, 1], dtype=torch.float64) / 2
    torch.testing.assert_close(from_mesh(image).mass, share)


def test_volume_meshes_weigh_volumes_and_keep_tetrahedra():
    box = pyvista.ImageData(dimensions=(3, 2, 2))
    h = from_mesh(box)
    share = torch.tensor([1, 2, 1], dtype=torch.float64).repeat(4) / 8
    torch.testing.assert_close(h.mass, share)
    assert h.face.shape == (4, 12) and h.num_nodes == 12
    beam = pyvista.read(examples.hexbeamfile)
    assert float(from_mesh(beam).mass.sum()) == pytest.approx(beam.volume, rel=1e-5)
    points, tets = np.vstack([SQUARE[:3], [[0, 0, 3]]]), [[0, 1, 2, 3]]
    for corners in (tets, [[1, 0, 2, 3]]):  # either orientation
        h = from_mesh(meshio.Mesh(points, [("tetra", corners)]))
        torch.testing.assert_close(h.mass, torch.full((4,), 0.25, dtype=torch.float64))
    h = from_mesh(Data(pos=torch.from_numpy(points), face=torch.tensor(tets).t()))
    torch.testing.assert_close(h.mass, torch.full((4,), 0.25, dtype=torch.float64))
    assert h.edge_index.shape == (2, 12)


def test_only_cells_of_the_highest_dimension_count():
    points = np.vstack([SQUARE[:3], [[0, 0, 3], [9, 9, 9]]])
    cells = [("line", [[0, 4]]), ("triangle", [[0, 1, 2]]), ("tetra", [[0, 1, 2, 3]])]
    h = from_mesh(meshio.Mesh(points, cells))
    assert h.mass.tolist() == [0.25] * 4 + [0]
    h = from_mesh(meshio.Mesh(points, cells[:2]))
    torch.testing.assert_close(h.mass, torch.tensor([1 / 3] * 3 + [0, 0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_keep_the_type_that_a_mesh_has_them_in(dtype):
    points = SQUARE.astype(dtype)
    cloud = pyvista.PolyData(points, faces=vtk_faces(HALVES))
    for mesh in (cloud, meshio.Mesh(points, [("triangle", HALVES)]), (points, HALVES)):
        h = from_mesh(mesh)
        assert h.pos.dtype == h.mass.dtype == torch.from_numpy(points).dtype
    solid = trimesh.creation.box()
    h = from_mesh(solid)
    assert (
        h.pos.dtype == h.mass.dtype == torch.float64 and h.pos.tolist() == solid.vertices.tolist()
    )


def test_half_precision_is_kept_and_masses_are_float32():
    h = from_mesh((torch.from_numpy(SQUARE).half(), HALVES))
    assert (h.pos.dtype, h.mass.dtype) == (torch.float16, torch.float32)


def test_shells_are_the_children_of_the_root_in_the_order_of_their_first_vertices():
    h = from_mesh(pyvista.read(examples.planefile).clean())
    graph = networkx.Graph(h.edge_index.t().tolist())
    shells = sorted(map(sorted, networkx.connected_components(graph)))
    found = clusters_at(h.tree, 1).cluster
    assert [(found == s).nonzero().view(-1).tolist() for s in range(7)] == shells
    assert clusters_at(h.tree, 1).node.tolist() == list(
        range(h.num_tree_nodes - 8, len(h.parent) - 1)
    )
    for s in range(7):
        alone = from_points(h.pos[found == s], method="pca")
        below = h.subgraph(found == s).collapse_chains()
        assert torch.equal(below.parent, alone.parent)


def test_shells_need_not_be_kept_apart():
    mesh = pyvista.read(examples.planefile).clean()
    h = from_mesh(mesh, split_components=False, method="kd", branching=4)
    assert torch.equal(h.parent, from_points(h.pos, branching=4).parent)


def test_many_shells_are_grouped_by_place():
    corner = torch.arange(20.0).repeat_interleave(3).view(-1, 1)
    pos = torch.cat([corner, torch.rand(60, 1)], dim=1)
    pos[1::3, 0] += 0.1
    h = from_mesh((pos, torch.arange(60).view(20, 3)), branching=4)
    parent = h.tree.parent
    children = parent[:-1].bincount()
    assert children.max() <= 4 and h.num_trees == 1
    assert torch.equal(parent[:60].unique_consecutive(return_counts=True)[1], torch.full((20,), 3))
    assert clusters_at(h.tree, 1).cluster.unique_consecutive().tolist() == [0, 1, 2, 3]


def test_vertices_of_no_face_weigh_nothing_and_form_one_shell():
    pos = torch.cat([torch.from_numpy(SQUARE), torch.rand(3, 3)])[[4, 0, 1, 5, 2, 3, 6]]
    faces = torch.tensor([[1, 2, 4], [1, 4, 5]])
    h = from_mesh((pos, faces))
    assert h.parent.tolist() == [8, 7, 7, 8, 7, 7, 8, 9, 9, 9]
    assert h.mass[[0, 3, 6]].tolist() == [0, 0, 0] and float(h.mass.sum()) == pytest.approx(2)
    assert h.edge_index.shape == (2, 10)
    assert "mass" not in from_mesh((pos, faces), mass=None)


def test_degenerate_faces_add_no_mass_but_their_edges_count():
    pos = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [5, 5, 5]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [3, 4, 4], [4, 4, 4]])
    expected = torch.tensor([1, 1, 1, 0, 0]) / 6
    for mesh in ((pos, faces), pyvista.PolyData(pos.numpy(), faces=vtk_faces(faces))):
        h = from_mesh(mesh)
        torch.testing.assert_close(h.mass, expected)
        edges = {(0, 1), (1, 2), (0, 2), (1, 3), (0, 3), (3, 4)}
        assert set(map(tuple, h.edge_index.t().tolist())) == edges | {(j, i) for i, j in edges}
        assert h.parent.tolist() == [5] * 6


def test_an_edge_may_have_three_faces():
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, 0, 0]])
    h = from_mesh((pos, torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])))
    torch.testing.assert_close(h.mass, torch.tensor([3.0, 3, 1, 1, 1]) / 6)


@given(soup=soups(), branching=st.integers(2, 9), method=st.sampled_from(["kd", "pca", "ball"]))
@settings(max_examples=60, deadline=None)
def test_any_triangles_give_a_valid_tree_that_keeps_shells_together(soup, branching, method):
    pos, faces = soup
    h = from_mesh(soup, branching=branching, method=method)
    assert h.validate() and h.num_trees == 1 and h.pos is pos
    assert h.tree.leaf_ids.tolist() == list(range(len(pos)))
    flat = torch.cat([pos, torch.zeros(len(pos), 3 - pos.shape[1])], dim=1)[faces]
    area = torch.linalg.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]).norm(dim=1) / 2
    torch.testing.assert_close(h.mass.sum(), area.sum())
    assert h.tree.parent.bincount()[len(pos) :].max() <= branching + 1  # a root counts itself

    # Every shell is all that is below some node, and no inner node but the upper ones spans two.
    shell = torch.arange(len(pos))
    for _ in range(len(pos)):
        shell = shell.scatter_reduce(0, h.edge_index[0], shell[h.edge_index[1]], "amin")
    used = torch.zeros(len(pos), dtype=torch.bool)
    used[faces.flatten()] = True
    shell[~used] = -1
    below = torch.eye(h.num_tree_nodes, dtype=torch.bool)[: len(pos)]
    for leaf in range(len(pos)):
        node = leaf
        while not below[leaf, node := int(h.parent[node])]:
            below[leaf, node] = True
    sets = {tuple(column) for column in below.t().tolist()}
    for s in shell.unique():
        assert tuple((shell == s).tolist()) in sets


def test_a_data_keeps_all_it_has():
    data = Data(
        x=torch.rand(4, 2),
        pos=torch.from_numpy(SQUARE),
        face=torch.from_numpy(HALVES).t(),
        edge_index=torch.tensor([[0], [1]]),
        edge_attr=torch.rand(1, 3),
        y=torch.tensor([1.0]),
        name="square",
    )
    keys = data.keys()
    h = from_mesh(data, tree_kind=torch.arange(5))
    assert data.keys() == keys
    assert all(h[key] is data[key] for key in keys)
    assert h.mass.shape == (4,) and h.tree_kind.shape == (5,)


def test_masses_of_a_data_are_kept_on_demand_only():
    data = Data(pos=torch.from_numpy(SQUARE), face=torch.from_numpy(HALVES).t(), mass=torch.ones(4))
    with pytest.raises(ValueError, match=r"no 'mass' beside mass='area' \(got one"):
        from_mesh(data)
    assert from_mesh(data, mass=None).mass is data.mass


SQUARE_MESH = pyvista.PolyData(SQUARE, faces=vtk_faces([[0, 1, 2, 3]]))
POS, FACE = torch.from_numpy(SQUARE), torch.from_numpy(HALVES)


@pytest.mark.parametrize(
    ("mesh", "options", "error", "match"),
    [
        ("file.stl", {}, TypeError, r"'mesh' to be a PyVista DataSet, .* \(got str\)"),
        (trimesh.Scene(), {}, TypeError, r"\(got Scene\)"),
        ((POS, [[0, 1, 2]]), {}, ValueError, r"'mesh\[1\]' .* of shape \[F, 3\] \(got \[\]\)"),
        ((POS, FACE.t()), {}, ValueError, r"'mesh\[1\]' .* of shape \[F, 3\] \(got \[3, 2\]\)"),
        ((POS, FACE.float()), {}, TypeError, r"'mesh\[1\]' to hold integers \(got torch.float32"),
        ((POS, FACE[:0]), {}, ValueError, r"'mesh\[1\]' to hold at least one face"),
        ((POS, FACE + 1), {}, ValueError, r"'mesh\[1\]' .* \[0, 3\] \(got face 1 of \[1, 3, 4\]"),
        ((POS, FACE - 1), {}, ValueError, r"\(got face 0 of \[-1, 0, 1\]\)"),
        ((POS[:0], FACE), {}, ValueError, r"'mesh\[0\]' to hold at least one vertex"),
        ((POS * torch.nan, FACE), {}, ValueError, r"'mesh\[0\]' .* \(got mesh\[0\]\[0\] = \[nan"),
        ((POS.long(), FACE), {}, TypeError, r"'mesh\[0\]' to hold floating-point numbers"),
        ((torch.rand(4, 4), FACE), {}, ValueError, r"'mesh\[0\]' to have 2 or 3 coord.* \(got 4"),
        ((POS * 0, FACE), {}, ValueError, r"'mesh' to have a positive area or volume \(got 0\)"),
        (Data(pos=POS), {}, ValueError, r"'mesh' to have 'face' \(got \['pos'\]\)"),
        (Data(face=FACE.t()), {}, ValueError, r"'mesh' to have 'pos'"),
        (Data(pos=POS, face=FACE), {}, ValueError, r"'mesh.face' .* 3 or 4 corners .* \(got 2\)"),
        (Data(pos=POS, face=FACE[0]), {}, ValueError, r"'mesh.face' .* shape \[3, F\] or \[4, F\]"),
        (
            Data(pos=POS[:, :2], face=torch.tensor([[0], [1], [2], [3]])),
            {},
            ValueError,
            r"'mesh.pos' to have 3 coordinates \(got 2\)",
        ),
        (
            Batch.from_data_list([Data(pos=POS, face=FACE.t())] * 2),
            {},
            ValueError,
            r"'mesh' to be one sample \(got a batch",
        ),
        (pyvista.PolyData(), {}, ValueError, r"'mesh.points' to hold at least one vertex"),
        (pyvista.PolyData(SQUARE), {}, ValueError, r"faces or volume cells \(got none\)"),
        (pyvista.Line(), {}, ValueError, r"faces or volume cells \(got none\)"),
        (
            pyvista.PolyData(SQUARE * np.nan, faces=vtk_faces(HALVES)),
            {},
            ValueError,
            r"'mesh.points' to be finite \(got mesh.points\[0\]",
        ),
        (
            meshio.Mesh(SQUARE + np.inf, [("triangle", HALVES)]),
            {},
            ValueError,
            r"'mesh.points' to be finite",
        ),
        (
            meshio.Mesh(SQUARE, [("triangle", HALVES + 1)]),
            {},
            ValueError,
            r"'mesh' to hold vertices in \[0, 3\] \(got 4\)",
        ),
        (SQUARE_MESH, {"mass": "volume"}, ValueError, r"'mass' .* \['area', None\] \(got 'volume'"),
        (SQUARE_MESH, {"mass": torch.ones(4)}, ValueError, r"'mass' to be one of"),
        (SQUARE_MESH, {"method": "x"}, ValueError, r"'method' to be one of \['kd', 'pca', 'ball'"),
        (SQUARE_MESH, {"leaf_size": 1}, ValueError, r"'leaf_size' to be at least 2"),
        (SQUARE_MESH, {"x": torch.rand(3, 1)}, ValueError, r"'x' .* the 4 leaves \(got 3 rows\)"),
    ],
)
def test_bad_meshes_are_named(mesh, options, error, match):
    with pytest.raises(error, match=match):
        from_mesh(mesh, **options)


@pytest.mark.parametrize(("missing", "needs"), [("scipy.sparse", "SciPy"), ("pyvista", "PyVista")])
def test_missing_libraries_name_the_extra(monkeypatch, missing, needs):
    mesh = meshio.Mesh(SQUARE, [("triangle", HALVES)])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{needs}: pip install 'hsa_geometric\[meshes\]'"):
        from_mesh(mesh)
