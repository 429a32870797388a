import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from hsa_geometric import Hierarchy
from hsa_geometric.builders import from_parent
from hsa_geometric.builders.grids import from_grid
from hsa_geometric.builders.sequences import from_markdown, from_sequence, from_text
from hsa_geometric.transforms.grids import GridHierarchy
from hsa_geometric.transforms.sequences import (
    MarkdownHierarchy,
    SequenceHierarchy,
    TextHierarchy,
)

TEXTS = ["Go on. Do not.\n\nStop here. Now.", "One.", "Go! There. And back."]


def texts():
    return [
        Data(x=torch.rand(from_text(text).num_nodes, 2), y=torch.tensor([[1.0, 2.0]]), text=text)
        for text in TEXTS
    ]


CASES = {
    "windows": (
        SequenceHierarchy(windows=(2, 4)),
        lambda: [Data(x=torch.rand(n, 2)) for n in (5, 1, 9)],
        lambda data: from_sequence(data.num_nodes, windows=(2, 4)),
    ),
    "boundaries": (
        SequenceHierarchy(boundaries=["opens", "part"]),
        lambda: [
            Data(x=torch.rand(n, 2), opens=torch.arange(n) % 3 == 0, part=torch.arange(n) // 6)
            for n in (5, 13)
        ],
        lambda data: from_sequence(data.num_nodes, boundaries=[data.opens, data.part]),
    ),
    "grid": (
        GridHierarchy((3, 4), windows=[2]),
        lambda: [Data(x=torch.rand(12, 2)) for _ in range(3)],
        lambda data: from_grid((3, 4), windows=[2]),
    ),
    "text": (TextHierarchy(), texts, lambda data: from_text(data.text)),
    "markdown": (MarkdownHierarchy(), texts, lambda data: from_markdown(data.text)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loader_gives_the_trees_of_the_builder(case):
    transform, make, build = CASES[case]
    samples = make()
    keys = [sample.keys() for sample in samples]
    out = [transform(sample) for sample in samples]
    assert [sample.keys() for sample in samples] == keys  # the caller's stay as they were
    for sample, h in zip(samples, out, strict=True):
        assert isinstance(h, Hierarchy) and h.validate()
        assert torch.equal(h.parent, build(sample).parent)
        assert all(h[key] is sample[key] for key in sample.keys())  # noqa: SIM118
    batch = next(iter(DataLoader(out, batch_size=len(out))))
    assert batch.validate()
    assert batch.num_trees == len(out)
    for sample, h in zip(out, batch.to_data_list(), strict=True):
        assert torch.equal(sample.parent, h.parent) and torch.equal(sample.x, h.x)
        for key in ("offset", "tree_span", "tree_kind", "pos"):
            assert key not in sample or torch.equal(sample[key], h[key])


def test_edges_and_positions_stay():
    data = Data(pos=torch.rand(4, 3), edge_index=torch.tensor([[0, 1], [1, 3]]), y=torch.ones(1, 3))
    h = GridHierarchy((2, 2))(data)
    assert h.pos is data.pos and h.edge_index is data.edge_index and h.y is data.y


def test_an_older_tree_is_replaced_with_its_rows():
    old = from_parent([3, 3, 4, 4, -1], x=torch.rand(3, 1), tree_pos=torch.rand(5, 1))
    h = SequenceHierarchy(branching=2)(old)
    assert h.parent.tolist() == [3, 3, 4, 4, 4] and "tree_pos" not in h and h.x is old.x
    assert old.tree_pos is not None


def test_character_offsets_may_come_with_the_data():
    data = Data(words="Go on. Do.", chars=torch.tensor([[0, 2], [2, 6], [6, 10], [0, 0]]))
    for transform in (
        TextHierarchy(text="words", tokens="chars"),
        MarkdownHierarchy(text="words", tokens="chars"),
    ):
        h = transform(data)
        # Sentence 4 and a token alone are paragraph 5; the special token is below the root.
        assert h.parent.tolist() == [4, 4, 5, 6, 5, 6, 6]
        assert torch.equal(h.offset, data.chars)


def test_representations_name_the_options():
    assert repr(SequenceHierarchy()) == "SequenceHierarchy()"
    assert repr(SequenceHierarchy(windows=(2, 4))) == "SequenceHierarchy(windows=(2, 4))"
    assert repr(GridHierarchy([4, 4], branching=2)) == "GridHierarchy((4, 4), branching=2)"
    own = TextHierarchy(["section", ("verse", r"^\d")])
    assert repr(own) == "TextHierarchy(levels=['section', 'verse'])"
    assert repr(MarkdownHierarchy()) == "MarkdownHierarchy()"


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SequenceHierarchy(windows=(2, 3)), ValueError, "whole multiples"),
        (lambda: SequenceHierarchy(windows=(2,), boundaries=["a"]), ValueError, "one of 'windows'"),
        (
            lambda: SequenceHierarchy(boundaries="a"),
            TypeError,
            "'boundaries' to be a list of names",
        ),
        (lambda: GridHierarchy((0, 4)), ValueError, r"shape\[0\] = 0"),
        (lambda: GridHierarchy((4, 4), branching=1), ValueError, "'branching'"),
        (lambda: TextHierarchy(["verse"]), ValueError, r"\(got 'verse'\)"),
    ],
)
def test_bad_options_are_named_early(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("transform", "data", "match"),
    [
        (SequenceHierarchy(), Data(x=torch.rand(0, 1)), "'data' to have nodes"),
        (SequenceHierarchy(boundaries=["a"]), Data(x=torch.rand(3, 1)), "the attribute 'a'"),
        (GridHierarchy((2, 2)), Data(x=torch.rand(3, 1)), r"'x' .* the 4 leaves \(got 3 rows\)"),
        (TextHierarchy(), Data(x=torch.rand(3, 1)), "the attribute 'text'"),
        (TextHierarchy(), Data(x=torch.rand(3, 1), text="Go."), r"'x' .* the 2 leaves"),
        (MarkdownHierarchy(tokens="at"), Data(text="Go."), "the attribute 'at'"),
        (
            SequenceHierarchy(),
            Batch.from_data_list([Data(x=torch.rand(3, 1))] * 2),
            "'data' to be one sample",
        ),
    ],
)
def test_data_that_does_not_fit_is_named(transform, data, match):
    with pytest.raises(ValueError, match=match):
        transform(data)
