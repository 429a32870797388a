import math

import pytest
import torch
from helpers import rows_below
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.nn.encoding import GridEncoding, PointEncoding, Where
from hsa_geometric.nn.encoding.points import relative_positions
from hsa_geometric.testing import ZOO, forest, star, zoo


def by_walk(pos, parent, mass=None):
    """Centres relative to the parent's over the family's rms radius, in Python's arithmetic."""
    rows, above, pos = rows_below(parent), parent.tolist(), pos.tolist()
    mass = [1.0] * len(pos) if mass is None else mass.tolist()
    dim = len(pos[0])
    weight = [math.fsum(mass[i] for i in below) for below in rows]
    centre = [
        [math.fsum(mass[i] * pos[i][d] for i in below if mass[i]) / w if w else 0.0
         for d in range(dim)]
        for below, w in zip(rows, weight, strict=True)
    ]  # fmt: skip
    out = []
    for node, up in enumerate(above):
        family = [a for a, p in enumerate(above) if p == up != a and weight[a]]
        if node == up or not weight[node]:
            out.append([0.0] * dim)
            continue
        square = [weight[a] * math.dist(centre[a], centre[up]) ** 2 for a in family]
        radius = math.sqrt(math.fsum(square) / weight[up])
        offset = [x - y for x, y in zip(centre[node], centre[up], strict=True)]
        out.append([x / radius if len(family) > 1 else 0.0 for x in offset])
    return torch.tensor(out, dtype=torch.float64)


def places(name, seed=0):
    tree = TreeIndex.from_parent(zoo(name))
    generator = torch.Generator().manual_seed(seed)
    return tree, torch.randn(tree.num_leaves, 2, generator=generator, dtype=torch.float64)


def test_relative_positions_by_hand():
    # Leaves 0 and 1 below node 4, at 0 and 2; leaf 2 at 7 beside it below the root 5, leaf 3 at 3.
    parent = torch.tensor([4, 4, 5, 5, 5, 5])
    pos = torch.tensor([[0.0], [2.0], [7.0], [3.0]])
    # Centres: node 4 at 1, of two leaves; the root at 3. Offsets −2, 4, 0; rms (2·4 + 16) / 4 = 6.
    expected = torch.tensor([-1.0, 1.0, 4 / 6**0.5, 0.0, -2 / 6**0.5, 0.0])
    assert_close(relative_positions(pos, TreeIndex.from_parent(parent))[:, 0], expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_relative_positions_are_those_of_a_walk_over_the_tree(name, weighted):
    tree, pos = places(name)
    mass = None
    if weighted:
        mass = torch.rand(tree.num_leaves, generator=torch.Generator().manual_seed(1)).double()
        mass[::3] = 0
    out = relative_positions(pos, tree, mass)
    assert_close(out, by_walk(pos, zoo(name), mass), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["two_levels", "unequal_depths", "forest"])
def test_moving_and_scaling_all_points_changes_no_place(name):
    tree, pos = places(name)
    expected = relative_positions(pos, tree)
    assert_close(relative_positions(3 * pos + torch.tensor([5.0, -7.0]), tree), expected)


def test_padding_of_mass_zero_is_seen_by_nobody():
    tree, pos = places("two_levels")
    mass = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 1.0, 1.0, 3.0])  # the first family whole
    real = torch.cat([mass > 0, torch.tensor([False, True, True, True])])
    pos[mass == 0] = torch.nan
    out = relative_positions(pos, tree, mass)
    pos[mass == 0] = 1e6
    assert torch.equal(out, relative_positions(pos, tree, mass)) and out.isfinite().all()
    alone = torch.tensor([5, 5, 6, 6, 6, 7, 7, 7])  # the same without the padding
    expected = relative_positions(pos[mass > 0], TreeIndex.from_parent(alone), mass[mass > 0])
    assert_close(out[real], expected)


def test_a_leaf_of_mass_two_is_two_leaves_in_one_place():
    pos = torch.tensor([[0.0, 1.0], [3.0, 1.0], [3.0, 1.0], [5.0, 5.0]])
    double = relative_positions(pos, TreeIndex.from_parent(star(4)))
    one = pos[[0, 1, 3]], TreeIndex.from_parent(star(3)), torch.tensor([1.0, 2.0, 1.0])
    assert_close(relative_positions(*one), double[[0, 1, 3, 4]])


def test_members_in_one_place_have_none():
    pos = torch.tensor([[0.1, 0.7]]).expand(3, 2)
    assert not relative_positions(pos, TreeIndex.from_parent(star(3))).any()
    far = relative_positions(1000 * pos.double(), TreeIndex.from_parent(star(3)))
    assert not far.any()


def test_no_tree_of_a_batch_notices_the_others():
    parents = [zoo(name) for name in ZOO]
    pos = [places(name)[1] for name in ZOO]
    together = relative_positions(torch.cat(pos), TreeIndex.from_parent(forest(*parents)))
    alone = [
        relative_positions(p, TreeIndex.from_parent(t)) for p, t in zip(pos, parents, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_fourier_features_are_cosines_and_sines_of_the_drawn_frequencies():
    tree, pos = places("ragged")
    encoding = PointEncoding(2, 6).double()
    angle = relative_positions(pos, tree) @ encoding.frequency
    expected = torch.cat([angle.cos(), angle.sin()], 1) / 3**0.5
    assert_close(encoding(Where(tree, pos=pos)), expected)
    node = torch.tensor([3, 0])
    assert_close(encoding(Where(tree, node, pos=pos)), expected[node])


@pytest.mark.parametrize("length", [0.5, 2.0])
def test_their_products_approach_a_gaussian_of_the_distance(length):
    torch.manual_seed(0)
    encoding = PointEncoding(2, 20000, length)
    place = torch.randn(5, 2)
    out = encoding(Where(TreeIndex.from_parent(star(4)), tree_pos=place))
    expected = (-torch.cdist(place, place).square() / (2 * length**2)).exp()
    assert_close(out @ out.T, expected, rtol=0, atol=0.03)


def test_positions_that_are_given_come_before_coordinates():
    tree = TreeIndex.from_parent(star(4))
    encoding, place = GridEncoding(), torch.randn(5, 3)
    out = encoding(Where(tree, tree_pos=place, pos=torch.randn(4, 2)))
    assert_close(out, encoding(Where(tree, tree_pos=place[:, :2])))


def test_frequencies_are_kept_with_the_weights_and_not_learned():
    encoding, other = PointEncoding(), PointEncoding()
    other.load_state_dict(encoding.state_dict())
    assert torch.equal(other.frequency, encoding.frequency) and not list(encoding.parameters())
    encoding.reset_parameters()
    assert not torch.equal(other.frequency, encoding.frequency)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: PointEncoding(0), ValueError, r"'dim' to be at least 1 \(got 0\)"),
        (lambda: PointEncoding(3, 5), ValueError, r"'out_channels' to be even \(got 5\)"),
        (lambda: GridEncoding(length=0.0), ValueError, "'length' to be positive and finite"),
        (lambda: GridEncoding(length="1"), TypeError, r"'length' to be a number \(got str\)"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_missing_places_are_named():
    tree = TreeIndex.from_parent(star(4))
    with pytest.raises(ValueError, match="'tree_pos' or 'pos' for the domain 'points'"):
        PointEncoding()(Where(tree))
    with pytest.raises(
        ValueError, match=r"'pos' to have 2 columns for the domain 'grid' \(got 3\)"
    ):
        GridEncoding()(Where(tree, pos=torch.randn(4, 3)))
