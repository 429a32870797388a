import math

import pytest
import torch
from helpers import rows_below
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.nn.encoding import RankEncoding, SequenceEncoding, Where
from hsa_geometric.testing import ZOO, star, zoo


def ranks(parent):
    rows, above = rows_below(parent), parent.tolist()
    out = []
    for node, up in enumerate(above):
        family = sorted(
            (a for a, p in enumerate(above) if p == up != a), key=lambda a: min(rows[a])
        )
        out.append(0 if node == up else family.index(node))
    return out


def test_sines_and_cosines_by_hand():
    # F = 4: wavelengths 1 and 1000^(1/2), sines first.
    out = SequenceEncoding(4)(Where(TreeIndex.from_parent(star(3))))
    slow = 1000**-0.5
    expected = [
        [math.sin(p), math.sin(p * slow), math.cos(p), math.cos(p * slow)] for p in (0, 1, 2, 0)
    ]
    assert_close(out, torch.tensor(expected) * 0.5**0.5)


@pytest.mark.parametrize("name", ZOO)
def test_the_place_is_the_rank_among_siblings(name):
    tree, encoding = TreeIndex.from_parent(zoo(name)), SequenceEncoding(6, max_period=50.0)
    rank = torch.tensor(ranks(zoo(name)), dtype=torch.float32)
    rate = 50.0 ** (-torch.arange(3) / 3)
    angle = rank[:, None] * rate
    expected = torch.cat([angle.sin(), angle.cos()], 1) * (1 / 3) ** 0.5
    assert_close(encoding(Where(tree)), expected)
    assert_close(encoding(Where(tree)).square().sum(1), torch.ones(tree.num_nodes))


def test_near_ranks_are_more_alike_than_far_ones():
    out = SequenceEncoding(32)(Where(TreeIndex.from_parent(star(9))))[:9]
    alike = out @ out.T
    assert alike[0, 1] > alike[0, 3] > alike[0, 8]
    assert_close(alike[2, 4], alike[5, 7])  # by distance alone


@pytest.mark.parametrize("encoding", [SequenceEncoding(4), RankEncoding(9, 4)])
def test_positions_that_are_given_replace_ranks(encoding):
    tree = TreeIndex.from_parent(star(4))
    given = torch.tensor([[2.0, 9.0], [0.0, 9.0], [1.0, 9.0], [3.0, 9.0], [0.0, 0.0]])
    by_rank, by_place = encoding(Where(tree)), encoding(Where(tree, tree_pos=given))
    assert_close(by_place[:4], by_rank[[2, 0, 1, 3]])


def test_only_the_nodes_asked_for_are_encoded():
    tree, node = TreeIndex.from_parent(zoo("ragged")), torch.tensor([5, 2, 7])
    for encoding in (SequenceEncoding(4), RankEncoding(3, 4)):
        assert_close(encoding(Where(tree, node)), encoding(Where(tree))[node])


def test_ranks_have_rows_of_a_table_and_the_last_one_is_shared():
    encoding = RankEncoding(3, 2)
    out = encoding(Where(TreeIndex.from_parent(star(5))))
    assert torch.equal(out, encoding.table.weight[[0, 1, 2, 2, 2, 0]])
    out.sum().backward()
    assert torch.equal(encoding.table.weight.grad, torch.tensor([[2.0] * 2, [1.0] * 2, [3.0] * 2]))


def test_it_follows_the_module_s_dtype():
    tree = TreeIndex.from_parent(star(3))
    assert SequenceEncoding(4).double()(Where(tree)).dtype == torch.float64
    assert RankEncoding(4, 4).double()(Where(tree)).dtype == torch.float64


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: SequenceEncoding(5), ValueError, r"'out_channels' to be even \(got 5\)"),
        (lambda: SequenceEncoding(0), ValueError, r"'out_channels' to be at least 2 \(got 0\)"),
        (
            lambda: SequenceEncoding(2.0),
            TypeError,
            r"'out_channels' to be an integer \(got float\)",
        ),
        (lambda: SequenceEncoding(4, -1.0), ValueError, "'max_period' to be positive and finite"),
        (lambda: RankEncoding(0), ValueError, r"'num_ranks' to be at least 1 \(got 0\)"),
        (lambda: RankEncoding(4, 0), ValueError, r"'out_channels' to be at least 1 \(got 0\)"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
