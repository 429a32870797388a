import math

import pytest
import torch
from helpers import load_example
from torch_geometric.data import Batch

from hsa_geometric import TreeIndex


@pytest.fixture(scope="module")
def mesh():
    return load_example("mesh")


@pytest.fixture(scope="module")
def plane(mesh):
    return mesh.assemble(*mesh.read_mesh("airplane"))


@pytest.fixture(scope="module")
def ant(mesh):
    return mesh.assemble(*mesh.read_mesh("ant"))


def sources(mesh, surface, num=6):
    return mesh.random_sources(num, surface, torch.Generator().manual_seed(0))


def triangle_areas(surface):
    a, b, c = surface.pos[surface.face].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=1) / 2


def test_the_airplane_is_what_the_file_holds(plane):
    assert plane.pos.shape == (1335, 3)
    assert plane.face.shape == (2452, 3)
    assert plane.shell.bincount().sort().values.tolist() == [55, 55, 91, 91, 260, 260, 523]


def test_vertex_areas_add_up_to_the_surface(plane):
    torch.testing.assert_close(plane.area.sum(), triangle_areas(plane).sum())


def test_ground_truth_solves_the_linear_system(mesh, plane):
    f = sources(mesh, plane)(plane)
    u = plane.solve(f)
    left = torch.from_numpy(plane.system @ u.t().numpy()).t()
    torch.testing.assert_close(left, plane.area * f, rtol=1e-8, atol=1e-10)


def test_a_constant_source_on_a_closed_surface_has_the_constant_solution(mesh, plane):
    u = plane.solve(torch.ones(1, 1335, dtype=torch.float64))
    torch.testing.assert_close(u, torch.full_like(u, 1 / mesh.SCREENING))


def test_heat_stays_on_its_shell(plane):
    u = plane.solve((plane.shell == 0).double().unsqueeze(0))[0]
    assert u[plane.shell == 0].min() > 0
    assert u[plane.shell != 0].abs().max() == 0


def test_cotangent_laplacian_has_the_energy_of_linear_functions(mesh, plane):
    # The energy of a coordinate is the integral of its squared tangential gradient; over the three
    # coordinates these add up to 2 everywhere on a surface.
    stiffness = plane.system - mesh._require("scipy.sparse").diags_array(
        mesh.SCREENING * plane.area.numpy()
    )
    pos = plane.pos.numpy()
    energy = float((pos * (stiffness @ pos)).sum())
    assert energy == pytest.approx(2 * float(plane.area.sum()))


def test_refining_keeps_the_surface_and_its_shells(mesh, plane):
    fine = mesh.assemble(*mesh.refine(plane.pos, plane.face))
    assert fine.face.size(0) == 4 * plane.face.size(0)
    torch.testing.assert_close(fine.pos[:1335], plane.pos)
    torch.testing.assert_close(triangle_areas(fine).sum(), triangle_areas(plane).sum())
    assert int(fine.shell.max()) == int(plane.shell.max())


def test_refining_one_shell_leaves_the_others(mesh, plane):
    which = plane.shell[plane.face[:, 0]] == 0
    part = mesh.assemble(*mesh.refine(plane.pos, plane.face, which))
    assert part.face.size(0) == plane.face.size(0) + 3 * int(which.sum())
    torch.testing.assert_close(part.area.sum(), plane.area.sum())
    old = plane.shell != 0
    torch.testing.assert_close(part.area[:1335][old], plane.area[old])


def test_sources_are_functions_of_position(mesh, plane):
    source = sources(mesh, plane)
    fine = mesh.assemble(*mesh.refine(plane.pos, plane.face))
    f = source(plane)
    torch.testing.assert_close(source(fine)[:, :1335], f)
    torch.testing.assert_close(mesh.mean_square(f, plane.area), torch.ones(6, dtype=torch.float64))
    # and so the truth hardly depends on the mesh
    error = mesh.relative_error(fine.solve(source(fine))[:, :1335], plane.solve(f), plane.area)
    assert error.max() < 0.05


def test_relative_error_of_zero_is_one(mesh, ant):
    u = sources(mesh, ant)(ant)
    torch.testing.assert_close(mesh.relative_error(0 * u, u, ant.area), u.new_ones(6))


@pytest.mark.parametrize("name", ["airplane", "ant", "nut"])
def test_the_tree_is_balanced(mesh, name):
    surface = mesh.assemble(*mesh.read_mesh(name))
    num_nodes = surface.area.numel()
    parent = mesh.bisect(surface, leaf_size=8, branching=8)
    tree = TreeIndex.from_parent(parent)
    assert (tree.num_leaves, tree.num_trees) == (num_nodes, 1)
    torch.testing.assert_close(tree.leaf_ids, torch.arange(num_nodes))

    # The children of the root are the shells.
    root = num_nodes
    node = torch.arange(num_nodes)
    while (above := parent[node] != root).any():
        node = torch.where(above, parent[node], node)
    torch.testing.assert_close(node - root - 1, surface.shell)

    # Pieces have at most eight children, and siblings differ by at most one vertex per halving.
    size = torch.diff(tree.family_ptr)
    assert size[1:].max() <= 8
    largest = int(surface.shell.bincount().max())
    assert tree.depth <= 2 + math.ceil(math.log(largest / 8, 8))
    count = torch.empty_like(parent).scatter_(0, tree.order, tree.count)
    for shell_node in range(root + 1, root + 2 + int(surface.shell.max())):
        children = (parent == shell_node).nonzero().view(-1)
        if count[shell_node] > 64:
            assert children.numel() == 8
            assert count[children].max() - count[children].min() <= 1


def test_flat_is_a_star(mesh, ant):
    tree = mesh.build_hierarchy(ant, flat=True).tree
    assert (tree.num_leaves, tree.num_nodes, tree.depth) == (486, 487, 1)


def test_models_have_equal_parameter_counts(mesh):
    count = [sum(p.numel() for p in mesh.Operator(kind).parameters()) for kind in (True, False)]
    assert abs(count[0] - count[1]) < 0.02 * min(count)


@pytest.mark.parametrize("attention", [True, False])
def test_samples_of_a_batch_do_not_see_each_other(mesh, ant, attention):
    torch.manual_seed(0)
    model = mesh.Operator(attention).eval()
    data = mesh.build_hierarchy(ant)
    batch = Batch.from_data_list([data, data])
    f = sources(mesh, ant, num=2)(ant).float()
    out = model(f, batch)
    other = model(torch.stack([f[0], -f[1]]), batch)
    torch.testing.assert_close(out[0], other[0], rtol=0, atol=0)
    assert not torch.equal(out[1], other[1])
    torch.testing.assert_close(mesh.predict(model, data, f).float(), out)


def test_message_passing_alone_sees_only_a_few_edges(mesh, plane):
    # The reason for the example: a source moves attention's answer on the whole shell.
    f = torch.zeros(1, 1335)
    spot = f.clone()
    spot[0, int((plane.shell == 0).nonzero()[0])] = 1.0
    seen = {}
    for attention in (False, True):
        torch.manual_seed(0)
        model, data = mesh.Operator(attention).eval(), mesh.build_hierarchy(plane)
        change = mesh.predict(model, data, spot) - mesh.predict(model, data, f)
        seen[attention] = int((change != 0).sum())
    assert seen[False] < 250
    assert seen[True] > 1200


def test_main_returns_the_numbers_and_saves_the_picture(mesh, tmp_path, capsys):
    out = tmp_path / "figures" / "ant.png"
    numbers = mesh.main(meshes=("ant",), steps=3, seeds=1, num_test=4, out=out)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert numbers["ant/mp/steps"] >= numbers["ant/hsa/steps"] == 3
    assert numbers["ant/mp/seconds"] >= numbers["ant/hsa/seconds"]
    assert numbers["ant/vertices, all split"] == 1854
    errors = [value for key, value in numbers.items() if "/error, " in key and "std" not in key]
    assert len(errors) == 1 + 4 * 3  # flat on one mesh, the others on three
    assert all(0 < error < 10 for error in errors)
    printed = capsys.readouterr().out
    assert "| message passing + flat softmax |" in printed
    assert str(out) in printed


def test_a_missing_package_names_the_extra(mesh):
    with pytest.raises(ImportError, match=r'pip install "hsa_geometric\[examples\]"'):
        mesh._require("no_such_package")
