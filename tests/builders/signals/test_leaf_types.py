import pytest
import torch
from torch_geometric.data import Data

from hsa_geometric import GraphLeaves, ImageLeaves, NumberLeaves, TensorLeaves, TextLeaves
from hsa_geometric.builders.signals._leaves import ranks


def test_ranks_by_hand():
    # leaves 0 1 | 2 3, their parents 4 and 5, the root 6
    parent = torch.tensor([4, 4, 5, 5, 6, 6, 6])
    assert ranks(parent, torch.tensor([0, 1, 2, 3]))[:6].tolist() == [0, 1, 0, 1, 0, 1]
    assert ranks(parent, torch.tensor([7, 7, 2, 9]))[:6].tolist() == [0, 0, 0, 1, 1, 0]


def test_patches_are_those_of_the_image():
    image = torch.rand(3, 4, 6)
    leaves = ImageLeaves(3, size=2).encode(image)
    assert torch.equal(leaves.rows[4], image[:, 2:4, 2:4].flatten())
    assert leaves.place[4].tolist() == [1, 1] and leaves.place[2].tolist() == [0, 2]
    assert leaves.parent.tolist() == [6] * 7


@pytest.mark.parametrize("shape", [(2, 4, 6), (3, 5, 6), (3, 4), (3, 0, 6)])
def test_images_of_other_shapes_are_not_taken(shape):
    spec = ImageLeaves(3, size=2)
    assert spec.takes(torch.rand(3, 4, 6)) and not spec.takes(torch.rand(shape))
    assert not spec.takes(torch.rand(3, 4, 6).double())


def test_tensors_elsewhere_are_not_taken():
    assert not TensorLeaves(2).takes(torch.rand(3, 2, device="meta"))
    assert not ImageLeaves(1, 1).takes(torch.rand(1, 3, 2, device="meta"))


def test_words_are_those_of_the_pattern():
    spec = TextLeaves({"a-b": 3}, unknown=0, pattern=r"[\w-]+")
    assert spec.encode("a-b, c").rows.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("vocabulary", "match"),
    [
        ({"b": 1}, r"words of the vocabulary \(got 'a'\)"),
        (lambda words: [1], r"an id for each of 2 words \(got 1\)"),
        (lambda words: [1, -1], "integers from 0 on"),
        (lambda words: [1, 0.5], "integers from 0 on"),
    ],
)
def test_ids_that_are_none_are_refused(vocabulary, match):
    with pytest.raises(ValueError, match=match):
        TextLeaves(vocabulary).encode("a b")


EDGES = torch.tensor([[0], [1]])


@pytest.mark.parametrize(
    "graph",
    [
        Data(edge_index=EDGES),
        Data(x=torch.rand(2, 3)),
        Data(x=torch.rand(2, 4), edge_index=EDGES),
        Data(x=torch.rand(2, 3), edge_index=EDGES, edge_attr=torch.rand(1, 2)),
        Data(x=torch.rand(2, 3), edge_index=EDGES, y=torch.ones(1)),
        "no graph",
    ],
)
def test_graphs_with_other_tensors_than_declared_are_not_taken(graph):
    assert not GraphLeaves(3).takes(graph)


@pytest.mark.parametrize(
    ("spec", "graph", "error", "match"),
    [
        ({}, {"edge_index": EDGES + 1}, ValueError, r"rows in \[0, 1\] \(got 1 to 2\)"),
        ({}, {"edge_index": EDGES.float()}, ValueError, "'edge_index' .* of integers"),
        ({"edge_width": 2}, {"edge_attr": torch.rand(1, 3)}, ValueError, r"'edge_attr' \[1, 2\]"),
        ({"coordinates": 2}, {"pos": torch.rand(2, 3)}, ValueError, r"'pos' \[2, 2\]"),
        ({"tree": lambda data: data}, {}, TypeError, "'tree' to return a Hierarchy"),
    ],
)
def test_graphs_that_do_not_fit_are_refused(spec, graph, error, match):
    data = Data(**({"x": torch.rand(2, 3), "edge_index": EDGES} | graph))
    with pytest.raises(error, match=match):
        GraphLeaves(3, **spec).encode(data)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: TensorLeaves(0), ValueError, "'width' to be at least 1"),
        (lambda: TensorLeaves(2, torch.int64), ValueError, "'dtype' to be of floating point"),
        (lambda: TextLeaves(["a"]), TypeError, r"'vocabulary' .*\(got list\)"),
        (lambda: TextLeaves({}, levels=("chapter",)), ValueError, "'levels' to be among"),
        (lambda: TextLeaves({}, pattern=r"\w*"), ValueError, "no empty word"),
        (lambda: ImageLeaves(3, size=0), ValueError, "'size' to be at least 1"),
        (lambda: ImageLeaves(3, size=2, branching=1), ValueError, "'branching' to be at least 2"),
        (lambda: GraphLeaves(3, coordinates=0), ValueError, "'coordinates' to be at least 1"),
    ],
)
def test_wrong_options_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_rows_of_no_value_have_the_width_and_the_type():
    specs = [NumberLeaves(), TensorLeaves(3, torch.float64), TensorLeaves(None), ImageLeaves(3, 2)]
    shapes = [(tuple(spec.stack([]).shape), spec.stack([]).dtype) for spec in specs]
    kinds = [torch.float32, torch.float64, torch.int64, torch.float32]
    assert shapes == list(zip([(0, 1), (0, 3), (0,), (0, 12)], kinds, strict=True))
