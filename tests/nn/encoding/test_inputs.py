import re

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric.nn.encoding import Ids, TypedInput

WIDTHS = {"word": Ids(9), "patch": 4, "vector": 2}


def typed(seed=0, **options):
    torch.manual_seed(seed)
    return TypedInput(WIDTHS, 3, **options)


def sample(seed=0, leaves=8):
    g = torch.Generator().manual_seed(seed)
    leaf_type = torch.randint(3, (leaves,), generator=g)
    n = [int((leaf_type == t).sum()) for t in range(3)]
    word = torch.randint(9, (n[0],), generator=g)
    patch, vector = torch.randn(n[1], 4, generator=g), torch.randn(n[2], 2, generator=g)
    return {"word": word, "patch": patch, "vector": vector}, leaf_type


@pytest.mark.parametrize("seed", range(4))
def test_every_leaf_has_the_map_of_its_type(seed):
    lin = typed()
    x, leaf_type = sample(seed)
    out = lin(x, leaf_type)
    taken = {name: iter(rows) for name, rows in x.items()}
    for row, number in enumerate(leaf_type.tolist()):
        name = lin.types[number]
        value = next(taken[name])
        module = lin.maps[number]
        is_id = name == "word"
        expected = module.weight[value] if is_id else module.weight @ value + module.bias
        assert_close(out[row], expected)


def test_a_type_without_leaves_may_be_missing():
    lin = typed()
    x, leaf_type = sample()
    only = leaf_type == 1
    out = lin({"patch": x["patch"]}, leaf_type[only])
    assert_close(out, lin(x, leaf_type)[only])
    assert lin({"word": x["word"][:0]}, leaf_type[:0]).shape == (0, 3)


def test_other_compositions_of_a_batch_are_its_samples_one_by_one():
    lin = typed()
    samples = [sample(seed, leaves=n) for seed, n in enumerate((1, 5, 9))]
    x = {name: torch.cat([x[name] for x, _ in samples]) for name in WIDTHS}
    together = lin(x, torch.cat([t for _, t in samples]))
    assert_close(together, torch.cat([lin(*s) for s in samples]))


def test_every_map_is_trained_and_drawn_anew():
    lin = typed()
    lin(*sample(leaves=20)).square().sum().backward()
    assert all(p.grad.any() for p in lin.parameters())
    weight = lin.maps[1].weight.clone()
    lin.reset_parameters()
    assert not torch.equal(lin.maps[1].weight, weight)


def test_widths_of_minus_one_are_taken_from_the_first_input():
    lin = TypedInput({"a": -1, "b": 2}, 3)
    out = lin({"a": torch.randn(2, 7), "b": torch.randn(1, 2)}, torch.tensor([0, 1, 0]))
    assert out.shape == (3, 3) and lin.maps[0].weight.shape == (3, 7)


def test_it_follows_dtypes_and_runs_under_autocast():
    x, leaf_type = sample()
    expected = typed()(x, leaf_type)
    double = {n: v.double() if v.is_floating_point() else v for n, v in x.items()}
    assert_close(typed().double()(double, leaf_type).float(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = typed()(x, leaf_type)
    assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the narrower dtype first
        mixed = TypedInput({"patch": 4, "word": Ids(9)}, 3)
        out = mixed({"patch": torch.ones(1, 4), "word": torch.tensor([2])}, torch.tensor([1, 0]))
    assert_close(out[0].float(), mixed.maps[1].weight[2], rtol=0.01, atol=0.01)


def test_repr_names_types_and_widths():
    assert repr(TypedInput({"a": 4, "b": Ids(2)}, 3)) == "TypedInput({'a': 4, 'b': Ids(num=2)}, 3)"


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"x": [1]}, TypeError, "Expected 'x' to map types to tensors (got list)"),
        (
            {"sound": torch.ones(1, 2)},
            ValueError,
            "types among ['word', 'patch', 'vector'] in 'x' (got 'sound')",
        ),
        ({"leaf_type": [0, 1]}, TypeError, "'leaf_type' to be a tensor [N] (got [0, 1])"),
        ({"leaf_type": torch.ones(4)}, TypeError, "'leaf_type' to hold integers"),
        (
            {"leaf_type": torch.tensor([0, 1, 3, 0])},
            ValueError,
            "numbers of the types ['word', 'patch', 'vector'] (got leaf_type[2] = 3)",
        ),
        (
            {"leaf_type": torch.tensor([0, -1, 2, 0])},
            ValueError,
            "(got leaf_type[1] = -1)",
        ),
        (
            {"patch": torch.ones(2, 4)},
            ValueError,
            "x['patch'] to have one row for each of the 1 leaves of this type (got 2 rows)",
        ),
        ({"patch": None}, ValueError, "x['patch'] to have one row for each of the 1 leaves"),
        (
            {"patch": torch.ones(1, 5)},
            ValueError,
            "x['patch'] to hold floating-point numbers of shape [N, 4] (got torch.float32 of shape "
            "[1, 5])",
        ),
        ({"patch": torch.ones(1, 4).long()}, ValueError, "(got torch.int64 of shape [1, 4])"),
        (
            {"word": torch.ones(2)},
            TypeError,
            "x['word'] to hold integers, which are ids (got torch.float32)",
        ),
        (
            {"word": torch.ones(2, 1).long()},
            ValueError,
            "x['word'] to be ids [N] (got shape [2, 1])",
        ),
        (
            {"word": torch.tensor([3, 9])},
            ValueError,
            "x['word'] to hold ids in [0, 8] (got 3 to 9)",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    x = {"word": torch.tensor([1, 2]), "patch": torch.ones(1, 4), "vector": torch.ones(1, 2)}
    leaf_type = change.get("leaf_type", torch.tensor([0, 1, 2, 0]))
    x = change.get("x", {n: v for n, v in (x | change).items() if n not in ("leaf_type", "x")})
    if isinstance(x, dict):
        x = {name: rows for name, rows in x.items() if rows is not None}
    with pytest.raises(error, match=re.escape(message)):
        typed()(x, leaf_type)


@pytest.mark.parametrize(
    "widths, error, message",
    [
        ({}, TypeError, "'in_channels' to map types to widths (got {})"),
        (4, TypeError, "'in_channels' to map types to widths (got 4)"),
        ({"a": Ids(0)}, ValueError, "'Ids.num' to be at least 1 (got 0)"),
        ({"a": 0}, ValueError, "'in_channels' to be positive, or -1 (got 0)"),
        ({"a": 2.0}, TypeError, "'in_channels' to be an integer (got float)"),
    ],
)
def test_bad_widths_are_named(widths, error, message):
    with pytest.raises(error, match=re.escape(message)):
        TypedInput(widths, 3)
