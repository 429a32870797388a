import itertools

import pytest
import torch
from helpers import load_example

from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.functional import lift


@pytest.fixture(scope="module")
def example():
    return load_example("mesh_multiresolution")


@pytest.fixture(scope="module")
def problem(example):
    return example.pose(min_vertices=1, num_cases=12, num_test=4)


@pytest.fixture(scope="module")
def body(problem):
    return problem.body


@pytest.fixture
def clock(example, monkeypatch):
    """One second passes whenever the example asks for the time, none otherwise."""
    ticks = itertools.count()
    monkeypatch.setattr(example.time, "process_time", lambda: float(next(ticks)))


def test_the_body_has_three_holes_and_two_openings(body):
    mesh = body.mesh
    assert mesh.nvertices - mesh.nfacets + mesh.nelements == 1 - 5  # a disc, less one for each
    assert len(body.h.face.unique()) == mesh.nvertices == body.h.num_nodes


def test_outer_vertices_lie_on_the_outline_and_the_others_inside(example, body):
    distance, outer = example.distance(body.mesh.p.T), body.mesh.boundary_nodes()
    assert abs(distance[outer]).max() < 1e-3
    distance[outer] = -1
    assert distance.max() < 0


def test_triangles_are_of_about_one_size_and_none_is_thin(body):
    a, b, c = body.h.pos[body.h.face]
    sides = torch.stack([(a - b).norm(dim=1), (b - c).norm(dim=1), (c - a).norm(dim=1)])
    assert sides.min() > 0.02 and sides.max() < 0.1
    area = torch.linalg.det(torch.stack([b - a, c - a], dim=1)).abs() / 2
    torch.testing.assert_close(area.sum(), body.h.mass.sum())
    assert (area / sides.square().sum(dim=0)).min() > 0.4 / 12**0.5 / 2  # 1 / √48 if equilateral


def test_refining_adds_vertices_where_the_strain_varies(example, body):
    error = torch.from_numpy(body.roughness(example.random_loads(32, body.h, seed=0)))
    fine = example.make_body(body.h.num_nodes + 1)
    assert body.h.num_nodes < fine.h.num_nodes < 2 * body.h.num_nodes
    # The body stays the same, but for the outline, which its vertices follow more closely.
    torch.testing.assert_close(fine.h.mass.sum(), body.h.mass.sum(), rtol=5e-3, atol=0)
    assert example.distance(fine.mesh.p.T).max() < 1e-3
    # The worst triangle of all is gone.
    center = body.h.pos[body.h.face[:, error.argmax()]].mean(dim=0, keepdim=True)
    near = torch.cdist(center, fine.h.pos).min()
    assert near < torch.cdist(center, body.h.pos).min()


def test_truth_is_linear_in_the_load_and_zero_at_the_clamps(example, body):
    f, g = example.random_loads(2, body.h, seed=5).split(1, dim=1)
    u = body.solve(torch.cat([f, g, 2 * f - 3 * g], dim=1))
    torch.testing.assert_close(u[:, 2], 2 * u[:, 0] - 3 * u[:, 1])
    clamped = body.h.clamped[:, 0] == 1
    assert 15 < clamped.sum() < 50
    assert u[clamped].abs().max() == 0
    assert (u[~clamped].norm(dim=2) > 0).all()


def test_work_is_reciprocal(example, body):
    # Maxwell and Betti: one load does the same work along the other's displacement.
    f = example.random_loads(6, body.h, seed=6)
    work = torch.einsum("n,nad,nbd->ab", body.h.mass, f, body.solve(f))
    torch.testing.assert_close(work, work.t(), rtol=0, atol=0.02 * float(work.diag().max()))
    assert (work.diag() > 0).all()


def test_truth_hardly_depends_on_the_mesh(example, body):
    fine = example.assemble(body.mesh.refined(1))
    count = body.h.num_nodes  # the first vertices stay
    torch.testing.assert_close(fine.h.pos[:count], body.h.pos)
    f = torch.ones(1, 1, 2, dtype=torch.float64)
    u, v = body.solve(f.expand(count, 1, 2)), fine.solve(f.expand(fine.h.num_nodes, 1, 2))
    assert example.relative_error(u, v[:count], body.h.mass).max() < 0.01


def test_loads_have_unit_size_and_depend_on_the_seed_alone(example, body):
    f = example.random_loads(3, body.h, seed=1)
    unit = body.h.mass.sum().sqrt().expand(3)
    torch.testing.assert_close(example.norm(f, body.h.mass), unit)
    assert torch.equal(f, example.random_loads(3, body.h, seed=1))
    assert not torch.equal(f, example.random_loads(3, body.h, seed=2))


def test_relative_error_of_zero_is_one(example, problem):
    data = problem.levels[-1]
    error = example.relative_error(0 * data.displacement, data.displacement, data.mass)
    torch.testing.assert_close(error, torch.ones(16))


def test_levels_keep_area_force_and_mean_displacement(problem):
    fine = problem.levels[-1]
    assert list(problem.levels) == [-3, -2, -1]
    sizes = [data.num_nodes for data in problem.levels.values()]
    assert sizes == [64, 128, problem.body.mesh.nvertices]
    for data in problem.levels.values():
        assert data.validate()
        torch.testing.assert_close(data.mass.sum(), fine.mass.sum())
        for field in ("load", "displacement"):
            total, expected = (torch.einsum("n,nbd->bd", x.mass, x[field]) for x in (data, fine))
            torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


def test_means_of_finer_levels_are_closer_to_the_vertices(example, problem):
    fine, error = problem.levels[-1], []
    for level, data in problem.levels.items():
        means = lift(data.displacement, fine.tree, level)
        error.append(example.relative_error(means, fine.displacement, fine.mass).mean())
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
    steps = example.train_level(model, data, 12, 6e-3, 8, 60.0, generator, watch)
    assert steps == 60
    assert seen == [float(step) for step in range(1, 61)]
    assert example.mean_error(model, data, held_out) < 0.8 * before


def test_both_ways_train_for_equal_time(example, problem, clock):
    problem = problem._replace(coarsening=1.0)
    steps = {}
    for kind in example.PLANS:
        found = example.train(kind, problem, 8.0, 0, progress_bar(disable=True))
        assert found["curve"][0][0] == 0 and found["curve"][-1][0] == found["seconds"] == 8.0
        assert found["error"] == found["errors"][-1][-1]
        steps[kind] = found["steps"]
    # By this clock a step takes a second, and so did coarsening, which counts.
    assert steps == {example.MULTI: {-3: 2 - 1, -2: 4, -1: 2}, example.FINE: {-1: 8}}


def test_shares_of_the_time_add_up(example):
    for plan in example.PLANS.values():
        assert sum(share for share, _, _ in plan.values()) == 1
    assert example.LEVELS == (-3, -2, -1)


def test_main_returns_the_numbers_and_saves_the_pictures(example, tmp_path, capsys):
    threads = torch.get_num_threads()
    out = tmp_path / "figures" / "bracket.png"
    found = example.main(1, 0.4, 1, 8, 4, out, progress=False)
    assert torch.get_num_threads() == threads
    for path in (out, out.with_stem("bracket_levels")):
        assert path.read_bytes().startswith(b"\x89PNG")
    errors = [
        error
        for kind in example.PLANS
        for after in found[kind]["errors"][0].values()
        for error in after.values()
    ]
    assert len(errors) == (3 + 1) * 3  # three stages and one, each tested on three levels
    assert all(0 < error < 10 for error in errors)
    printed = capsys.readouterr().out
    assert "| coarse to fine |" in printed and "| then on 128 clusters |" in printed
    assert "vertices alone |" in printed and str(out) in printed


def test_main_refuses_zero_seeds_and_seconds(example, problem, monkeypatch):
    monkeypatch.setattr(example, "pose", lambda *args: problem)
    with pytest.raises(ValueError, match="at least 1 seed"):
        example.main(seeds=0)
    with pytest.raises(ValueError, match=r"'seconds' to be positive \(got 0\)"):
        example.main(seconds=0)


def test_a_missing_package_names_the_extra(example, monkeypatch):
    monkeypatch.setattr("_compare.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'skfem'.*pip install 'hsa_geometric\[examples\]'"):
        example.main()
