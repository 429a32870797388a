"""Each error names the argument, what was expected and what came; nothing else is refused."""

import re

import pytest
import torch

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import star


class Holder:
    """Stands for a Hierarchy: something whose ``.tree`` is the index."""

    tree = TreeIndex.from_parent(star(3))


def arguments(**change):
    x = torch.ones(3, 2, 4)
    return {"q": x, "k": x, "v": x, "tree": star(3)} | change


ONES = torch.ones
NODES = torch.ones(4, 2, 1)
META = torch.ones(3, 2, 4, device="meta")
ERRORS = {
    # The tree.
    "tree_list": (
        {"tree": [3, 3, 3, 3]},
        TypeError,
        "Expected 'tree' to be a TreeIndex or a parent vector (got list)",
    ),
    "tree_data": (
        {"tree": Holder()},
        TypeError,
        "Expected 'tree' to be a TreeIndex or a parent vector (got Holder; pass its '.tree')",
    ),
    "tree_float": (
        {"tree": ONES(4)},
        TypeError,
        "Expected 'parent' to hold integers (got torch.float32)",
    ),
    "tree_cycle": (
        {"tree": torch.tensor([3, 3, 4, 4, 3])},
        ValueError,
        "got a cycle above node 0",
    ),
    # Queries, keys and values.
    "q_none": ({"q": None}, TypeError, "Expected 'q' to be a tensor (got NoneType)"),
    "q_int": (
        {"q": ONES(3, 2, 4).long()},
        TypeError,
        "Expected 'q' to hold floating-point numbers (got torch.int64)",
    ),
    "q_flat": (
        {"q": ONES(3, 4)},
        ValueError,
        "Expected 'q' to have 3 dimensions (got 2 dimensions)",
    ),
    "q_rows": (
        {"q": ONES(4, 2, 4), "k": ONES(4, 2, 4)},
        ValueError,
        "Expected 'q' to have one row for each of the 3 leaves (got 4 rows)",
    ),
    "q_empty": (
        {"q": ONES(3, 2, 0), "k": ONES(3, 2, 0)},
        ValueError,
        "Expected 'q' to have heads and channels (got shape [3, 2, 0])",
    ),
    "all_meta": (
        {"q": META, "k": META, "v": META},
        ValueError,
        "Expected 'q' and 'tree' on one device (got meta and cpu; "
        "move the tree with 'tree.to(...)')",
    ),
    "k_list": ({"k": [1.0]}, TypeError, "Expected 'k' to be a tensor (got list)"),
    "k_device": ({"k": META}, ValueError, "Expected 'k' to be on cpu (got meta)"),
    "k_heads": (
        {"k": ONES(3, 1, 4)},
        ValueError,
        "Expected 'k' to have as many heads as 'q' (got 1 and 2)",
    ),
    "k_shape": (
        {"k": ONES(3, 2, 5)},
        ValueError,
        "Expected 'k' to have the shape of 'q' (got [3, 2, 5] and [3, 2, 4])",
    ),
    "k_rows": (
        {"k": ONES(2, 2, 4)},
        ValueError,
        "Expected 'k' to have the shape of 'q' (got [2, 2, 4] and [3, 2, 4])",
    ),
    "k_double": (
        {"k": ONES(3, 2, 4).double()},
        ValueError,
        "Expected 'k' to be torch.float32 as 'q' is (got torch.float64)",
    ),
    "v_complex": (
        {"v": ONES(3, 2, 4) * 1j},
        TypeError,
        "Expected 'v' to hold floating-point numbers (got torch.complex64)",
    ),
    "v_device": ({"v": META}, ValueError, "Expected 'v' to be on cpu (got meta)"),
    "v_dim": (
        {"v": ONES(3, 4)},
        ValueError,
        "Expected 'v' to have 3 dimensions (got 2 dimensions)",
    ),
    "v_rows": (
        {"v": ONES(2, 2, 4)},
        ValueError,
        "Expected 'v' to have one row for each of the 3 leaves (got 2 rows)",
    ),
    "v_heads": (
        {"v": ONES(3, 3, 4)},
        ValueError,
        "Expected 'v' to have as many heads as 'q' (got 3 and 2)",
    ),
    "v_empty": (
        {"v": ONES(3, 2, 0)},
        ValueError,
        "Expected 'v' to have channels (got shape [3, 2, 0])",
    ),
    "v_double": (
        {"v": ONES(3, 2, 4).double()},
        ValueError,
        "Expected 'v' to be torch.float32 as 'q' is (got torch.float64)",
    ),
    # Positions.
    "pos_q_alone": (
        {"pos_q": NODES},
        ValueError,
        "Expected 'pos_k' beside 'pos_q' (got None)",
    ),
    "pos_k_alone": (
        {"pos_k": NODES},
        ValueError,
        "Expected 'pos_q' beside 'pos_k' (got None)",
    ),
    "pos_rows": (
        {"pos_q": ONES(3, 2, 1), "pos_k": NODES},
        ValueError,
        "Expected 'pos_q' to have one row for each of the 4 tree nodes (got 3 rows)",
    ),
    "pos_heads": (
        {"pos_q": NODES, "pos_k": ONES(4, 1, 1)},
        ValueError,
        "Expected 'pos_k' to have as many heads as 'q' (got 1 and 2)",
    ),
    "pos_shape": (
        {"pos_q": NODES, "pos_k": ONES(4, 2, 3)},
        ValueError,
        "Expected 'pos_k' to have the shape of 'pos_q' (got [4, 2, 3] and [4, 2, 1])",
    ),
    "pos_dim": (
        {"pos_q": NODES, "pos_k": ONES(4, 2)},
        ValueError,
        "Expected 'pos_k' to have 3 dimensions (got 2 dimensions)",
    ),
    "pos_type": ({"pos_q": NODES, "pos_k": 1}, TypeError, "Expected 'pos_k' to be a tensor"),
    # Temperature and bias.
    "temperature_type": (
        {"temperature": 2.0},
        TypeError,
        "Expected 'temperature' to be a tensor (got float)",
    ),
    "temperature_dim": (
        {"temperature": ONES(4)},
        ValueError,
        "Expected 'temperature' to have 2 dimensions (got 1 dimensions)",
    ),
    "bias_rows": (
        {"bias": ONES(3, 2)},
        ValueError,
        "Expected 'bias' to have one row for each of the 4 tree nodes (got 3 rows)",
    ),
    "bias_heads": (
        {"bias": ONES(4, 3)},
        ValueError,
        "Expected 'bias' to have as many heads as 'q' (got 3 and 2)",
    ),
    # Masses.
    "mass_type": ({"mass": [1.0] * 3}, TypeError, "Expected 'mass' to be a tensor (got list)"),
    "mass_int": (
        {"mass": ONES(3).long()},
        TypeError,
        "Expected 'mass' to hold floating-point numbers (got torch.int64)",
    ),
    "mass_dim": (
        {"mass": ONES(3, 1)},
        ValueError,
        "Expected 'mass' to have 1 dimensions (got 2 dimensions)",
    ),
    "mass_rows": (
        {"mass": ONES(4)},
        ValueError,
        "Expected 'mass' to have one row for each of the 3 leaves (got 4 rows)",
    ),
    "mass_negative": (
        {"mass": torch.tensor([1.0, -2.0, 1.0])},
        ValueError,
        "Expected 'mass' to be finite and not negative (got mass[1] = -2.0)",
    ),
    "mass_nan": (
        {"mass": torch.tensor([1.0, 2.0, float("nan")])},
        ValueError,
        "Expected 'mass' to be finite and not negative (got mass[2] = nan)",
    ),
    "mass_infinite": (
        {"mass": torch.tensor([float("inf"), 2.0, 1.0])},
        ValueError,
        "Expected 'mass' to be finite and not negative (got mass[0] = inf)",
    ),
    "mass_grad": (
        {"mass": ONES(3).requires_grad_()},
        ValueError,
        "Expected 'mass' to be data without gradient (got requires_grad=True; detach it)",
    ),
    # Options.
    "dropout_low": (
        {"dropout_p": -0.1},
        ValueError,
        "Expected 'dropout_p' to be in [0, 1] (got -0.1)",
    ),
    "dropout_high": (
        {"dropout_p": 1.5},
        ValueError,
        "Expected 'dropout_p' to be in [0, 1] (got 1.5)",
    ),
    "dropout_nan": (
        {"dropout_p": float("nan")},
        ValueError,
        "Expected 'dropout_p' to be in [0, 1] (got nan)",
    ),
    "backend": (
        {"backend": "cuda"},
        ValueError,
        "Expected 'backend' to be one of ['auto', 'reference', 'scatter', 'cpu', 'triton'] "
        "(got 'cuda')",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_named(name):
    change, error, message = ERRORS[name]
    with pytest.raises(error, match=re.escape(message)):
        hierarchical_attention(**arguments(**change))


def test_options_are_keyword_only():
    with pytest.raises(TypeError, match="takes 4 positional arguments"):
        hierarchical_attention(*arguments().values(), 0.5)


def test_good_input_passes():
    assert hierarchical_attention(**arguments()).shape == (3, 2, 4)
    everything = arguments(
        pos_q=NODES, pos_k=NODES, mass=ONES(3), temperature=ONES(4, 2), bias=ONES(4, 2)
    )
    assert hierarchical_attention(**everything).shape == (3, 2, 4)
