import pytest
import torch
from helpers import load_example
from torch_geometric.utils import get_mesh_laplacian
from tqdm import tqdm

from hsa_geometric.functional import clusters_at

mesh = load_example("mesh")


@pytest.fixture(scope="module")
def planes():
    return mesh.surfaces_of("airplane")


@pytest.fixture(scope="module")
def plane(planes):
    return planes["original"]


@pytest.fixture(scope="module")
def ant():
    return mesh.assemble(*mesh.read_mesh("ant"))


def sources(surface, num=6):
    return mesh.random_sources(num, surface, torch.Generator().manual_seed(0))


def triangle_areas(surface):
    a, b, c = surface.h.pos[surface.h.face]
    return torch.linalg.cross(b - a, c - a).norm(dim=1) / 2


def test_the_airplane_is_what_the_file_holds_and_fills_the_cube(plane):
    assert plane.h.pos.shape == (1335, 3) and plane.h.face.shape == (3, 2452)
    shells = clusters_at(plane.h.tree, 1).cluster  # the children of the root
    assert shells.bincount().sort().values.tolist() == [55, 55, 91, 91, 260, 260, 523]
    low, high = plane.h.pos.aminmax(dim=0)
    torch.testing.assert_close(low, -high)
    torch.testing.assert_close(high.max(), torch.tensor(1.0, dtype=torch.float64))


def test_ground_truth_solves_the_equation_of_the_energies(plane):
    # The energy of a coordinate is the integral of its squared tangential gradient; over the three
    # coordinates these add up to 2 everywhere on a surface.
    near, weight = get_mesh_laplacian(plane.h.pos, plane.h.face)
    stiffness = torch.zeros(1335, 1335, dtype=torch.float64)
    stiffness.index_put_(tuple(near), -weight, accumulate=True)
    energy = (plane.h.pos * (stiffness @ plane.h.pos)).sum()
    torch.testing.assert_close(energy, 2 * triangle_areas(plane).sum())
    f = sources(plane)(plane)
    u = plane.solve(f)
    left = u @ stiffness + mesh.SCREENING * plane.h.mass * u
    torch.testing.assert_close(left, plane.h.mass * f, rtol=1e-8, atol=1e-10)


def test_a_constant_source_on_a_closed_surface_has_the_constant_solution(plane):
    u = plane.solve(torch.ones(1, 1335, dtype=torch.float64))
    torch.testing.assert_close(u, torch.full_like(u, 1 / mesh.SCREENING))


def test_heat_stays_on_its_shell(plane):
    first = clusters_at(plane.h.tree, 1).cluster == 0
    u = plane.solve(first.double().unsqueeze(0))[0]
    assert u[first].min() > 0
    assert u[~first].abs().max() == 0


def test_splitting_keeps_the_surface_its_shells_and_what_is_not_split(planes, plane):
    shells = clusters_at(plane.h.tree, 1).cluster
    largest = (shells == shells.bincount().argmax())[plane.h.face[0]]
    for where, split in (("all split", torch.ones_like(largest)), ("part split", largest)):
        fine = planes[where].h
        assert fine.face.shape[1] == 2452 + 3 * int(split.sum())
        assert clusters_at(fine.tree, 1).num_clusters == 7
        torch.testing.assert_close(fine.pos[:1335], plane.h.pos)
        torch.testing.assert_close(fine.mass.sum(), triangle_areas(plane).sum())
        kept = plane.h.face[:, ~split].unique()
        assert bool(len(kept)) == (where == "part split")
        torch.testing.assert_close(fine.mass[kept], plane.h.mass[kept])


def test_sources_are_functions_of_position(planes, plane):
    source, fine = sources(plane), planes["all split"]
    f = source(plane)
    torch.testing.assert_close(source(fine)[:, :1335], f)
    torch.testing.assert_close(mesh.norm(f, plane.h.mass), torch.ones(6, dtype=torch.float64))
    # and so the truth hardly depends on the mesh
    u = plane.solve(f)
    error = mesh.relative_error(fine.solve(source(fine))[:, :1335], u, plane.h.mass)
    assert error.max() < 0.05
    zero = mesh.relative_error(0 * u, u, plane.h.mass)
    torch.testing.assert_close(zero, torch.ones_like(zero))


def test_models_have_equal_parameter_counts():
    counts = [sum(p.numel() for p in mesh.make_model(name).parameters()) for name in mesh.VARIANTS]
    assert max(counts) < 1.01 * min(counts)


@pytest.mark.parametrize("variant", mesh.VARIANTS)
def test_samples_of_a_batch_do_not_see_each_other(ant, variant):
    torch.manual_seed(0)
    model = mesh.make_model(variant).eval()
    batch = mesh.given_to_model(ant, True, 2)
    f = sources(ant, num=2)(ant).float()
    out = model(f, batch)
    other = model(torch.stack([f[0], -f[1]]), batch)
    torch.testing.assert_close(out[0], other[0], rtol=0, atol=0)
    assert not torch.equal(out[1], other[1])
    torch.testing.assert_close(mesh.predict(model, ant, f).float(), out)


def test_message_passing_alone_sees_only_a_few_edges(plane):
    # The reason for the example: a source moves attention's answer everywhere.
    f = torch.zeros(2, 1335)
    f[1, 0] = 1.0
    seen = {}
    for variant in (mesh.PASSING, mesh.FLAT, mesh.HSA):
        torch.manual_seed(0)
        one, other = mesh.predict(mesh.make_model(variant).eval(), plane, f)
        seen[variant] = int((one != other).sum())
    assert seen[mesh.PASSING] < 250
    assert seen[mesh.FLAT] > 1200 and seen[mesh.HSA] > 1200


def test_message_passing_trains_for_the_seconds_given_and_others_for_the_steps(ant, monkeypatch):
    ticks = iter(range(10**6))  # a second passes whenever the example asks for the time
    monkeypatch.setattr(mesh.time, "process_time", lambda: float(next(ticks)))
    bar = tqdm(total=8, disable=True)
    passing = mesh.train(mesh.PASSING, ant, 2, seed=0, min_seconds=4.0, bar=bar)
    assert (passing["steps"], passing["seconds"]) == (4, 4.0)
    assert mesh.train(mesh.HSA, ant, 2, seed=0, min_seconds=0.0, bar=bar)["steps"] == 2


def test_main_returns_the_numbers_and_saves_the_picture(tmp_path, capsys):
    out = tmp_path / "figures" / "ant.png"
    found = mesh.main(("ant",), steps=2, seeds=1, num_test=4, out=out, progress=False)["ant"]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert found[mesh.PASSING]["steps"] >= found[mesh.HSA]["steps"] == 2
    assert found[mesh.PASSING]["seconds"] >= found[mesh.HSA]["seconds"]
    assert [found[where].pop("vertices") for where in mesh.MESHES] == [486, 1854, 678]
    errors = [
        error for where in mesh.MESHES for column in found[where].values() for error in column
    ]
    assert len(errors) == 3 * 4 and all(0 < error < 10 for error in errors)
    assert found["original"][mesh.HSA] == pytest.approx(found[mesh.HSA]["original"])
    printed = capsys.readouterr().out
    assert "| flat softmax |" in printed and "| part split | 678 |" in printed
    assert str(out) in printed


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("_compare.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'pyvista'.*pip install 'hsa_geometric\[examples\]'"):
        mesh.main(())
