import pytest
import torch
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.nn.encoding import KeyEncoding, Where
from hsa_geometric.nn.encoding.keys import text_features
from hsa_geometric.testing import star

TREE = TreeIndex.from_parent(star(3))
PLACE = torch.tensor([[1.0, 7.0], [0.0, 7.0], [1.0, 7.0], [0.0, 7.0]])


def test_a_name_always_has_the_same_features():
    one = text_features("title", 8)
    torch.manual_seed(1)
    assert torch.equal(text_features("title", 8), one)
    assert_close(one.norm(), torch.tensor(1.0))
    # By this very text, on any machine: so that weights can be shared.
    assert_close(one[:3], torch.tensor([-0.4623, -0.1980, 0.4695]), rtol=0, atol=1e-4)


def test_names_that_share_parts_are_alike():
    first, last, other = (text_features(x, 64) for x in ("first_name", "last_name", "body"))
    assert first @ last > 0.3 > abs(first @ other)


def test_rows_are_those_of_the_keys():
    encoding = KeyEncoding(["title", "body"], 4)
    out = encoding(Where(TREE, tree_pos=PLACE))
    row = encoding.table.weight + torch.stack([text_features(x, 4) for x in ("title", "body")])
    assert_close(out, row[[1, 0, 1, 0]])
    assert_close(encoding(Where(TREE, torch.tensor([2]), tree_pos=PLACE)), row[[1]])
    out.sum().backward()
    assert encoding.table.weight.grad.eq(2).all()


def test_keys_that_are_only_counted_have_no_text():
    encoding = KeyEncoding(5, 4)
    assert not encoding.text.any() and encoding.names is None
    assert torch.equal(encoding(Where(TREE, tree_pos=PLACE)), encoding.table.weight[[1, 0, 1, 0]])


def test_text_is_not_among_the_weights():
    assert list(KeyEncoding(["a", "b"]).state_dict()) == ["table.weight"]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: KeyEncoding("title"), TypeError, r"a sequence of strings \(got 'title'\)"),
        (lambda: KeyEncoding(["a", 3]), TypeError, r"a sequence of strings .got \['a', 3\]."),
        (lambda: KeyEncoding([]), ValueError, r"'names' to be at least 1 \(got 0\)"),
        (lambda: KeyEncoding(0), ValueError, r"'names' to be at least 1 \(got 0\)"),
        (lambda: KeyEncoding(4, 0), ValueError, r"'out_channels' to be at least 1 \(got 0\)"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("bad", [2, -1])
def test_an_unknown_key_is_named(bad):
    place = PLACE.clone()
    place[2, 0] = bad
    message = rf"ids of keys in \[0, 1\] for the domain 'key' \(got {bad}\)"
    with pytest.raises(ValueError, match=message):
        KeyEncoding(["title", "body"])(Where(TREE, tree_pos=place))


def test_missing_keys_are_named():
    with pytest.raises(ValueError, match="'tree_pos' for the domain 'key'"):
        KeyEncoding()(Where(TREE))
