import pytest
import torch
from torch_geometric.data import Batch, Data

from hsa_geometric.builders.grids import from_grid
from hsa_geometric.builders.sequences import from_markdown, from_sequence, from_text
from hsa_geometric.transforms.grids import GridHierarchy
from hsa_geometric.transforms.sequences import (
    MarkdownHierarchy,
    SequenceHierarchy,
    TextHierarchy,
)

TEXT = "Go on. Do not.\n\nStop here. Now."


@pytest.mark.parametrize(
    ("transform", "build"),
    [
        (
            SequenceHierarchy(windows=(2, 4), collapse=False),
            lambda data: from_sequence(11, windows=(2, 4), collapse=False),
        ),
        (
            SequenceHierarchy(boundaries=["opens", "part"]),
            lambda data: from_sequence(11, boundaries=[data.opens, data.part]),
        ),
        (
            GridHierarchy((1, 11), windows=[(1, 3)], collapse=False),
            lambda data: from_grid((1, 11), windows=[(1, 3)], collapse=False),
        ),
        (
            TextHierarchy(["sentence"], collapse=False),
            lambda data: from_text(TEXT, levels=["sentence"], collapse=False),
        ),
        (MarkdownHierarchy(collapse=False), lambda data: from_markdown(TEXT, collapse=False)),
    ],
    ids=["windows", "boundaries", "grid", "text", "markdown"],
)
def test_all_options_reach_the_builder(transform, build):
    row = torch.arange(11)
    data = Data(x=torch.rand(11, 1), opens=row % 3 == 0, part=row // 6, text=TEXT)
    h, expected = transform(data), build(data)
    assert torch.equal(h.parent, expected.parent)
    for key in set(expected.keys()):
        assert torch.equal(h[key], expected[key])


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
    assert repr(GridHierarchy([4, 4], branching=2)) == "GridHierarchy(shape=(4, 4), branching=2)"
    own = TextHierarchy(["section", "line"], tokens="at", collapse=False)
    assert repr(own) == "TextHierarchy(levels=['section', 'line'], tokens='at', collapse=False)"
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
        (lambda: GridHierarchy((0, 4)), ValueError, r"'shape\[0\]' to be at least 1"),
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
        (SequenceHierarchy(boundaries=["a"]), Data(x=torch.rand(3, 1)), "'data' to have 'a'"),
        (GridHierarchy((2, 2)), Data(x=torch.rand(3, 1)), r"'x' .* the 4 leaves \(got 3 rows\)"),
        (TextHierarchy(), Data(x=torch.rand(3, 1)), "'data' to have 'text'"),
        (TextHierarchy(), Data(x=torch.rand(3, 1), text="Go."), r"'x' .* the 2 leaves"),
        (MarkdownHierarchy(tokens="at"), Data(text="Go."), "'data' to have 'at'"),
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
