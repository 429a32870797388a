import dataclasses
import itertools

import pytest
import torch
from helpers import load_example


@pytest.fixture(scope="module")
def example():
    return load_example("mesh_multiresolution")


@pytest.fixture(scope="module")
def problem(example):
    return example.pose(min_vertices=1, num_cases=12, num_test=4, validate=True)


@pytest.fixture(scope="module")
def body(problem):
    return problem.body


@pytest.fixture
def clock(example, monkeypatch):
    """One second passes whenever the example asks for the time, none otherwise."""
    ticks = itertools.count()
    monkeypatch.setattr(example.time, "process_time", lambda: float(next(ticks)))


def triangle_areas(body):
    a, b, c = body.pos[body.face]
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2


def test_the_body_has_three_holes_and_two_openings(body):
    edges = body.face.t()[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).sort(dim=1).values
    count = len(body.pos) - len(edges.unique(dim=0)) + body.face.size(1)
    assert count == 1 - 5  # Euler's number of a disc, less one for each hole
    assert len(body.face.unique()) == len(body.pos)


def test_outer_vertices_lie_on_the_outline_and_the_others_inside(example, body):
    distance = torch.from_numpy(example.distance(body.pos.numpy()))
    outer = torch.zeros(len(body.pos), dtype=torch.bool)
    outer[body.mesh.boundary_nodes()] = True
    assert distance[outer].abs().max() < 1e-3
    assert distance[~outer].max() < 0


def test_vertex_areas_add_up_to_the_triangles(body):
    torch.testing.assert_close(body.area.sum(), triangle_areas(body).abs().sum())


def test_refining_adds_vertices_where_the_strain_varies(example, body):
    error = torch.from_numpy(body.roughness(example.random_loads(32, body, seed=0)))
    fine = example.make_body(len(body.pos) + 1)
    assert len(body.pos) < len(fine.pos) < 2 * len(body.pos)
    # The body stays the same, but for the outline, which its vertices follow more closely.
    torch.testing.assert_close(fine.area.sum(), body.area.sum(), rtol=5e-3, atol=0)
    assert example.distance(fine.pos.numpy()).max() < 1e-3
    # The worst triangle of all is gone.
    corners = body.pos[body.face[:, error.argmax()]]
    near = torch.cdist(corners.mean(dim=0, keepdim=True), fine.pos).min()
    assert near < torch.cdist(corners.mean(dim=0, keepdim=True), body.pos).min()


def test_stiffness_has_the_energy_of_rigid_and_uniform_displacements(example, body):
    skfem = example._require("skfem")
    basis = skfem.Basis(body.mesh, skfem.ElementVector(skfem.ElementTriP2()))
    x, y = basis.doflocs
    is_first = torch.zeros(basis.N, dtype=torch.bool)
    is_first[basis.nodal_dofs[0]] = is_first[basis.facet_dofs[0]] = True
    is_first = is_first.numpy()
    area, poisson = float(body.area.sum()), example.POISSON_RATIO
    fields = {  # and the energy of a unit strain: in plane stress, 1 / (1 - nu^2)
        "shift": (0 * x + 1, 0.0),
        "rotation": (-y * is_first + x * ~is_first, 0.0),
        "tension": (x * is_first, area / (1 - poisson**2)),
        "shear": (y * is_first, area / (2 * (1 + poisson))),
    }
    for name, (u, energy) in fields.items():
        assert u @ (body.stiffness @ u) == pytest.approx(energy, abs=1e-9), name


def test_truth_is_linear_in_the_load_and_zero_at_the_clamps(example, body):
    f, g = example.random_loads(2, body, seed=5).split(1, dim=1)
    u = body.solve(torch.cat([f, g, 2 * f - 3 * g], dim=1))
    torch.testing.assert_close(u[:, 2], 2 * u[:, 0] - 3 * u[:, 1])
    clamped = body.clamped[:, 0] == 1
    assert 15 < clamped.sum() < 50
    assert u[clamped].abs().max() == 0
    assert (u[~clamped].norm(dim=2) > 0).all()


def test_work_is_reciprocal(example, body):
    # Maxwell and Betti: one load does the same work along the other's displacement.
    f = example.random_loads(6, body, seed=6)
    work = torch.einsum("n,nad,nbd->ab", body.area, f, body.solve(f))
    torch.testing.assert_close(work, work.t(), rtol=0, atol=0.02 * float(work.diag().max()))
    assert (work.diag() > 0).all()


def test_truth_hardly_depends_on_the_mesh(example, body):
    fine = example.assemble(body.mesh.refined(1))
    count = len(body.pos)  # the first vertices stay
    torch.testing.assert_close(fine.pos[:count], body.pos)
    f = torch.ones(1, 1, 2, dtype=torch.float64)
    u, v = body.solve(f.expand(count, 1, 2)), fine.solve(f.expand(len(fine.pos), 1, 2))[:count]
    assert example.relative_error(u, v, body.area).max() < 0.01


def test_loads_have_unit_size_and_depend_on_the_seed_alone(example, body):
    f = example.random_loads(3, body, seed=1)
    unit = body.area.sum().sqrt().expand(3)
    torch.testing.assert_close(example.norm(f, body.area), unit)
    assert torch.equal(f, example.random_loads(3, body, seed=1))
    assert not torch.equal(f, example.random_loads(3, body, seed=2))


def test_relative_error_of_zero_is_one(example, problem):
    data = problem.levels[-1]
    error = example.relative_error(0 * data.displacement, data.displacement, data.mass)
    torch.testing.assert_close(error, torch.ones(16))


def test_levels_keep_area_force_and_mean_displacement(problem):
    fine = problem.levels[-1]
    assert list(problem.levels) == [-3, -2, -1]
    sizes = [data.num_nodes for data in problem.levels.values()]
    assert sizes == [64, 128, 889]
    for data in problem.levels.values():
        assert data.validate()
        torch.testing.assert_close(data.mass.sum(), fine.mass.sum())
        for field in ("load", "displacement"):
            total, expected = (torch.einsum("n,nbd->bd", x.mass, x[field]) for x in (data, fine))
            torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


def test_means_of_finer_levels_are_closer_to_the_vertices(problem):
    error = [problem.numbers[f"means/error, {level}"] for level in (-3, -2, -1)]
    assert error[0] > error[1] > 0.02
    assert error[2] < 1e-6


def test_the_same_weights_work_on_every_level_and_linearly(example, problem):
    torch.manual_seed(0)
    model = example.Operator()
    for data in problem.levels.values():
        f, g = data.load[:, :1], data.load[:, 1:2]
        out = model(torch.cat([f, g, 2 * f - 3 * g], dim=1), data)
        assert out.shape == (data.num_nodes, 3, 2)
        expected = 2 * out[:, 0] - 3 * out[:, 1]
        torch.testing.assert_close(out[:, 2], expected, rtol=1e-3, atol=1e-4)


def test_load_cases_do_not_see_each_other(example, problem):
    torch.manual_seed(0)
    model, data = example.Operator(), problem.levels[-2]
    together = model(data.load[:, :5], data)
    alone = torch.cat([model(data.load[:, [case]], data) for case in range(5)], dim=1)
    torch.testing.assert_close(together, alone)


def test_a_load_moves_the_whole_body(example, problem):
    # More than the few edges that two layers of message passing see.
    torch.manual_seed(0)
    model, data = example.Operator(), problem.levels[-1]
    f = torch.zeros(data.num_nodes, 1, 2)
    f[data.pos[:, 0].argmax()] = 1.0
    assert (model(f, data) != 0).all()


def test_training_lasts_for_the_seconds_given_and_learns(example, problem, clock):
    torch.manual_seed(0)
    model, data, held_out = example.Operator(), problem.levels[-3], problem.held_out
    before, seen = example.mean_error(model, data, held_out), []
    generator = torch.Generator().manual_seed(0)
    # By this clock each step takes a second, and what watches it nothing.
    watch = lambda spent: (seen.append(spent), example.time.process_time())  # noqa: E731
    steps = example.train(model, data, 12, 8, 6e-3, 80.0, generator, watch)
    assert steps == 80
    assert seen == [float(step) for step in range(1, 81)]
    assert example.mean_error(model, data, held_out) < 0.7 * before


def test_both_ways_train_for_equal_time(example, problem, clock):
    problem, found = dataclasses.replace(problem, coarsening=1.0), {}
    for kind in ("multi", "fine"):
        _, numbers, curve = example.run(kind, problem, 8.0, 0, progress=False)
        found |= numbers
        assert curve[0][0] == 0 and curve[-1][0] == 8.0
    steps = {level: found[f"multi/{level}/steps"] for level in example.LEVELS}
    # By this clock a step takes a second, and so did coarsening, which counts.
    assert steps == {-3: 2 - 1, -2: 4, -1: 2}
    assert found["fine/-1/steps"] == 8


def test_shares_of_the_time_add_up(example):
    assert sum(example.SHARES.values()) == 1
    assert list(example.SHARES) == list(example.RATES) == list(example.LEVELS)


def test_main_returns_the_numbers_and_saves_the_pictures(example, tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "figures" / "bracket.png"
    numbers = example.main(1, 0.6, 1, 8, 4, out, progress=False)
    assert torch.get_num_threads() == threads
    for path in (out, out.with_stem("bracket_levels")):
        assert path.read_bytes().startswith(b"\x89PNG")
    errors = [value for key, value in numbers.items() if "after" in key and "std" not in key]
    assert len(errors) == (3 + 1) * 3  # three stages and one, each tested on three levels
    assert all(0 < error < 10 for error in errors)
    assert numbers["-1/nodes"] == 889
    printed = capsys.readouterr().out
    assert "| then on 128 clusters |" in printed
    assert "| on 889 vertices alone |" in printed
    assert str(out) in printed


def test_main_refuses_zero_seeds(example):
    with pytest.raises(ValueError, match="at least 1 seed and some seconds"):
        example.main(seeds=0)


def test_a_missing_package_names_the_extra(example):
    with pytest.raises(ImportError, match=r'pip install "hsa_geometric\[examples\]"'):
        example._require("no_such_package")
