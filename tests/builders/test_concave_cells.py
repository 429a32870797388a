"""Masses and simplices of cells that are not convex, and of all that are."""

import sys
from inspect import isfunction

import numpy as np
import pytest
import pyvista
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyvista.examples import cells as cell_examples

from hsa_geometric.builders.mesh import from_mesh

U = [(0, 0), (3, 0), (3, 5), (2, 5), (2, 1), (1, 1), (1, 5), (0, 5)]  # area 11, perimeter 24
DART = [(0, 0), (-1, -5), (1, 0), (-1, 5)]  # area 5
UTM = np.array([441_871, 6_329_700, 0])
UP = np.array([0, 0, 1])
CONVEX = [
    name for name, make in vars(cell_examples).items() if isfunction(make) and name[0].isupper()
]


def flat(ring):
    return np.column_stack([np.asarray(ring, dtype=float), np.zeros(len(ring))])


def polygon(ring):
    return pyvista.PolyData(flat(ring), faces=[len(ring), *range(len(ring))])


def prism(ring):
    """Points and faces of a prism of height 1."""
    n = len(ring)
    sides = [[i, (i + 1) % n, (i + 1) % n + n, i + n] for i in range(n)]
    points = np.concatenate([flat(ring), flat(ring) + UP])
    return points, [[*range(n)][::-1], [*range(n, 2 * n)], *sides]


def padded(faces):
    return np.concatenate([[len(face), *face] for face in faces])


def polyhedron(points, faces):
    cell = [len(faces), *padded(faces)]
    return pyvista.UnstructuredGrid(np.array([len(cell), *cell]), np.array([42]), points)


def area(ring):
    (x, y), (u, v) = np.transpose(ring), np.roll(ring, -1, axis=0).T
    return abs((x * v - y * u).sum()) / 2


def sizes(h):
    """Of the triangles or tetrahedra."""
    side = h.pos[h.face[1:]] - h.pos[h.face[:1]]
    if len(side) == 2:
        return torch.linalg.cross(*side).norm(dim=1) / 2
    return torch.linalg.det(side.transpose(0, 1)) / 6


def inside(ring, point):
    """Even-odd rule."""
    (x, y), (u, v) = np.transpose(ring), np.roll(ring, -1, axis=0).T
    px, py = point[:, :1], point[:, 1:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        across = ((y > py) != (v > py)) & (px < (u - x) * (py - y) / (v - y) + x)
    return across.sum(axis=1) % 2 == 1


def check(mesh, size, ring=None):
    """Masses and simplices add up to the size; these lie inside."""
    h = from_mesh(mesh)
    assert float(h.mass.sum()) == pytest.approx(size, rel=1e-9)
    assert float(sizes(h).abs().sum()) == pytest.approx(size, rel=1e-9)
    if ring is not None:
        middle = h.pos[h.face].mean(dim=0).numpy() - np.asarray(mesh.points).min(0)
        assert inside(np.asarray(ring) - np.min(ring, axis=0), middle).all()
    return h


@st.composite
def stars(draw, most=30):
    """Simple polygons around the origin."""
    number = draw(st.integers(4, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    angle = (np.arange(number) + 0.9 * rng.random(number)) / number * 2 * np.pi
    radius = 0.2 + rng.random(number)
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


@pytest.mark.parametrize("shift", [0 * UTM, UTM])
def test_a_u_of_area_11_weighs_11(shift):
    for first in range(8):
        ring = np.roll(U, first, axis=0)
        h = check(polygon(ring).translate(shift), 11, ring)
        torch.testing.assert_close(h.mass, torch.full((8,), 11 / 8, dtype=torch.float64))


@pytest.mark.parametrize("shift", [0 * UTM, UTM])
def test_the_surface_of_a_u_prism_weighs_46(shift):
    points, faces = prism(U)
    check(pyvista.PolyData(points + shift, faces=padded(faces)), 46)


@pytest.mark.parametrize("shift", [0 * UTM, UTM])
def test_a_u_shaped_polyhedron_weighs_11_as_do_its_tetrahedra(shift):
    points, faces = prism(U)
    h = check(polyhedron(points + shift, faces), 11, U)
    torch.testing.assert_close(h.mass, torch.full((16,), 11 / 16, dtype=torch.float64))
    assert (sizes(h) > 0).all() and h.num_nodes == 16
    tips = torch.isin(h.edge_index, torch.tensor([3, 6, 11, 14])).all(dim=0)
    across = h.edge_index[:, tips] % 8  # the two tips at most along the prism, not over the notch
    assert torch.equal(across[0], across[1])


def test_faces_of_a_polyhedron_may_be_turned_in_any_way():
    points, faces = prism(U)
    check(polyhedron(points, [face[:: (-1) ** i] for i, face in enumerate(faces)]), 11, U)


@pytest.mark.parametrize("first", range(4))
def test_concave_quads_and_hexahedra_are_filled(first):
    ring = np.roll(DART, first, axis=0)
    check(polygon(ring), 5, ring)
    points, _ = prism(ring)
    hexahedron = pyvista.UnstructuredGrid(np.arange(-1, 8) + 9 * (np.arange(9) == 0), [12], points)
    check(hexahedron, 5, ring)


@given(ring=stars(), turn=st.booleans(), far=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_simple_polygon_is_filled(ring, turn, far):
    ring = ring[::-1] if turn else ring
    mesh = polygon(ring)
    size = area(ring)
    if far:
        mesh.points = np.round(mesh.points * 2**20) / 2**20 + UTM
        size = area(np.round(ring * 2**20) / 2**20)
    check(mesh, size, ring)


@given(ring=stars(9))
@settings(max_examples=15, deadline=None)
def test_any_prism_is_filled(ring):
    h = check(polyhedron(*prism(ring)), area(ring), ring)
    assert (sizes(h) > 0).all()


def test_a_courtyard_is_left_out():
    ring = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)]
    check(polygon(ring), 12)
    once = polygon([*ring[:4], *ring[5:9]])
    once.faces = [10, 0, 1, 2, 3, 0, 4, 5, 6, 7, 4]
    check(once, 12)


def test_cells_side_by_side_are_told_apart():
    points, faces = prism(U)
    box, _ = prism([(0, 0), (1, 0), (1, 1), (0, 1)])
    u = [len(faces), *padded(faces)]
    grid = pyvista.UnstructuredGrid(
        np.array([len(u), *u, 8, *range(16, 24), 3, 0, 1, 2]),
        np.array([42, 12, 5]),
        np.concatenate([points, box + np.array([9, 0, 0])]),
    )
    h = check(grid, 12)
    torch.testing.assert_close(h.mass, torch.tensor([11 / 16] * 16 + [1 / 8] * 8).double())


@pytest.mark.parametrize("name", CONVEX)
def test_all_convex_cells_of_pyvista_weigh_what_vtk_says(name):
    mesh = getattr(cell_examples, name)()
    if mesh.n_cells == 0 or mesh.get_cell(0).dimension < 2:
        return
    dim = mesh.get_cell(0).dimension
    size = mesh.compute_cell_sizes()["Area" if dim == 2 else "Volume"]
    h = from_mesh(mesh)
    assert float(h.mass.sum()) == pytest.approx(float(np.abs(size).sum()), rel=1e-6)
    assert float(sizes(h).abs().sum()) == pytest.approx(float(h.mass.sum()), rel=1e-6)
    assert h.face.shape[0] == dim + 1


def test_twisted_prisms_have_no_tetrahedra_and_say_so():
    # Schoenhardt's polyhedron: all its inner diagonals lie outside.
    low = np.arange(3) * 2 * np.pi / 3
    rings = [np.column_stack([np.cos(a), np.sin(a)]) for a in (low, low + np.pi / 6)]
    points = np.concatenate([flat(rings[0]), flat(rings[1]) + UP])
    after = [1, 2, 0]
    sides = [[i, j, j + 3] for i, j in enumerate(after)] + [
        [i, j + 3, i + 3] for i, j in enumerate(after)
    ]
    with pytest.raises(ValueError, match=r"own vertices \(found none for cell 0; cut it up before"):
        from_mesh(polyhedron(points, [[2, 1, 0], [3, 4, 5], *sides]))


def test_open_polyhedra_are_named():
    points, faces = prism(U)
    with pytest.raises(ValueError, match=r"to close it, two to an edge \(got cell 0\)"):
        from_mesh(polyhedron(points, faces[:-1]))


@pytest.mark.parametrize(
    ("missing", "faces"),
    [("mapbox_earcut", None), ("trimesh", 1), ("scipy.optimize", 0)],
)
def test_missing_libraries_name_the_extra(monkeypatch, missing, faces):
    if faces is None:
        mesh = polygon([(0, 0), (4, 0), (4, 4), (0, 0), (2, 1), (3, 1), (3, 2), (2, 1)])
    else:
        points, sides = prism(U)
        mesh = polyhedron(points, [sides[0][:: -1 if faces else 1], *sides[1:]])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[meshes\]'"):
        from_mesh(mesh)
