import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric.functional import clusters_at

PATH = Path(__file__).parents[2] / "examples" / "mesh_multiresolution.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("mesh_multiresolution_example", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def problem(example):
    return example.simulate(6, 0, seed=3)


def test_the_bracket_has_two_round_holes(example):
    mesh = example.bracket(1)
    a, b, c = mesh.p[:, mesh.t].transpose(1, 0, 2)
    area = abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]) / 2
    holes = sum(torch.pi * r**2 for _, _, r in example.HOLES)
    assert area.min() > 0
    assert area.sum() == pytest.approx(example.LENGTH * example.HEIGHT - holes, rel=0.02)


def test_what_is_clamped_stays_and_the_rest_moves(problem):
    fixed = problem.fixed.view(-1).bool()
    assert fixed.any() and (problem.shift[:, fixed] == 0).all()
    assert (problem.shift[:, ~fixed].norm(dim=-1) > 0).all()


def test_equal_seeds_give_equal_cases(example, problem):
    again = example.simulate(6, 0, seed=3)
    assert_close(again.shift, problem.shift)


def test_a_level_holds_the_means_of_its_clusters(example, problem):
    data = example.levels(problem, (-1, -2))
    fine, coarse = data[-1], data[-2]
    cluster = clusters_at(fine.tree, -2).cluster
    weight = fine.mass[cluster == 0]
    expected = (fine.load[cluster == 0] * weight.view(-1, 1, 1)).sum(0) / weight.sum()
    assert_close(coarse.load[0], expected)
    assert coarse.mass[0] == pytest.approx(float(weight.sum()), rel=1e-5)
    assert coarse.num_nodes < fine.num_nodes / 3


def test_relative_errors_weigh_by_area(example, problem):
    fine = example.levels(problem, (-1,))[-1]
    true = fine.shift[:, [0, 2]]
    half = torch.tensor([1.0, 0.5])
    assert_close(example.relative_error(true * half.view(1, 2, 1), true, fine), 1 - half)
    heaviest = int(fine.mass.argmax())
    off = true.clone()
    off[heaviest] += 1.0
    expected = (2 * fine.mass[heaviest] / (fine.mass.view(-1, 1, 1) * true**2).sum((0, 2))).sqrt()
    assert_close(example.relative_error(off, true, fine), expected)


def test_the_model_is_linear_in_the_load(example, problem):
    data = example.levels(problem, (-2,))[-2]
    torch.manual_seed(0)
    model = example.Surrogate(data.place.shape[1], 8)
    a, b = data.load[:, :1], data.load[:, 1:2]
    with torch.no_grad():
        both = model(2 * a - b, data)
        assert_close(both, 2 * model(a, data) - model(b, data), rtol=1e-3, atol=1e-5)


def test_main_returns_the_numbers_and_draws(example, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    result = example.main(
        seconds=1.0, seeds=2, cases=6, test_cases=2, first_test=0, refinements=0, channels=8,
        batch_size=2, picture=picture, progress=False,
    )  # fmt: skip
    assert picture.stat().st_size > 10_000
    assert all(len(errors) == 2 for errors in result["error"].values())
    assert all(0 < e < 5 for errors in result["error"].values() for e in errors)
    assert all(n > 0 for steps in result["steps"].values() for n in steps)
    assert 0 < result["clusters as they are"] < 1
    assert "| mesh alone | 1 |" in capsys.readouterr().out


def test_training_lowers_the_error(example, problem):
    data = example.levels(problem, (-2,))[-2]
    torch.manual_seed(0)
    model = example.Surrogate(data.place.shape[1], 16)
    cases = torch.arange(6)
    before = example.test(model, data, cases)
    example.train(
        model, data, seconds=3, cases=6, batch_size=2, lr=3e-3, seed=0, progress=False
    )  # fmt: skip
    assert example.test(model, data, cases) < before
