"""What holds for each transform alike: what it carries, replaces, refuses, and how it batches."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose

import hsa_geometric.transforms
from hsa_geometric import Hierarchy, NestedSignal, TextLeaves, from_parent
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import assert_isolated
from hsa_geometric.transforms import (
    GraphHierarchy,
    GridHierarchy,
    LinkageHierarchy,
    MarkdownHierarchy,
    MeshHierarchy,
    MoleculeHierarchy,
    NestedSignalHierarchy,
    PointHierarchy,
    SequenceHierarchy,
    TextHierarchy,
    VoxelHierarchy,
)

OF_BATCHES = [PointHierarchy("ball", branching=2), VoxelHierarchy(levels=2), GraphHierarchy()]
OF_SAMPLES = [
    GridHierarchy((2, 3)),
    LinkageHierarchy(),
    MeshHierarchy(branching=2, mass=None),
    MoleculeHierarchy(),
    SequenceHierarchy(branching=2),
    TextHierarchy(),
    MarkdownHierarchy(),
    NestedSignalHierarchy(NestedSignal({"word": TextLeaves({"Go": 1}, unknown=0)}), attr="text"),
]
every = pytest.mark.parametrize("transform", OF_BATCHES + OF_SAMPLES, ids=repr)


def sample(seed=0):
    """Six nodes that are points, a mesh, a ring of carbons, a grid and a text at once."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    return Data(
        x=torch.rand(6, 2, generator=generator),
        pos=torch.rand(6, 3, generator=generator),
        edge_index=torch.cat([ring, ring.flip(0)], dim=1),
        edge_attr=torch.rand(12, 3, generator=generator),
        face=torch.tensor([[0, 1, 3], [1, 2, 4], [2, 3, 5]]),
        y=torch.tensor([[float(seed), 1.0]]),
        mass=torch.rand(6, generator=generator),
        smiles="C1CCCCC1",
        text="Go on. Do not.",
        fingerprint=torch.arange(2048),  # of the whole sample, as long as it likes
        number=torch.tensor(seed),
        tags=["a", "b"],
        size=3,  # the name of an option, too
    )


def test_there_are_no_others():
    tested = {type(transform).__name__ for transform in OF_BATCHES + OF_SAMPLES}
    assert tested == set(hsa_geometric.transforms.__all__)


@every
def test_all_is_carried_and_the_given_data_stays_as_it_is(transform):
    data = sample()
    before = dict(data.to_dict())
    h = Compose([transform])(data)
    assert isinstance(h, Hierarchy) and h.validate() and h.num_trees == 1
    gone = (
        transform.attr if isinstance(transform, NestedSignalHierarchy) else None
    )  # it is the tree
    kept = {key: value for key, value in before.items() if key != gone}
    assert list(h.to_dict())[: len(kept) + 1] == ["parent", *kept]
    assert all(h[key] is value for key, value in kept.items())
    assert data.to_dict() == before and type(data) is Data


@every
def test_an_earlier_tree_is_replaced_with_all_that_belongs_to_its_nodes(transform):
    data = sample()
    first = from_parent([6] * 7, tree_pos=torch.rand(7, 1), inner_area=[2.0])
    for key, value in data.to_dict().items():
        first[key] = value
    h, expected = transform(first), transform(data)
    assert set(h.keys()) == set(expected.keys()) and torch.equal(h.parent, expected.parent)
    assert first.tree_pos.shape == (7, 1) and first.num_tree_nodes == 7


@every
def test_samples_batch_in_a_loader_and_do_not_see_one_another(transform):
    samples = [transform(sample(seed)) for seed in range(3)]
    batch = next(iter(DataLoader(samples, batch_size=3, follow_batch=["parent"])))
    assert batch.validate() and batch.num_trees == 3 and batch.num_nodes == 18
    assert batch.y[:, 0].tolist() == [0, 1, 2] and batch["size"].tolist() == [3] * 3
    for one, h in zip(batch.to_data_list(), samples, strict=True):
        assert torch.equal(one.parent, h.parent) and torch.equal(one.x, h.x)
    qkv = torch.randn(3, 18, 1, 4, generator=torch.Generator().manual_seed(1)).double()
    mass = batch.mass.double()
    assert_isolated(lambda *x: hierarchical_attention(*x, batch.tree, mass=mass), batch.tree, *qkv)


@pytest.mark.parametrize("transform", OF_BATCHES, ids=repr)
def test_a_batch_becomes_a_forest_of_the_samples_trees(transform):
    samples = [sample(seed) for seed in range(3)]
    batch = Batch.from_data_list(samples)
    h = transform(batch)
    assert h.validate() and h.num_trees == 3 and h.batch is batch.batch
    for b, data in enumerate(samples):
        assert torch.equal(h.subgraph(h.batch == b).parent, transform(data).parent)
    trees = Batch.from_data_list([transform(data) for data in samples], follow_batch=["parent"])
    again = transform(trees)
    assert torch.equal(again.parent, h.parent) and "parent_ptr" not in again


@pytest.mark.parametrize("transform", OF_SAMPLES, ids=repr)
def test_a_batch_is_refused_where_samples_are_needed(transform):
    with pytest.raises(
        (TypeError, ValueError), match=r"(one sample|one molecule).*\(got a .*batch"
    ):
        transform(Batch.from_data_list([sample(), sample()]))


@every
def test_what_does_not_fit_is_named(transform):
    data = sample()
    data.mass = torch.ones(5)
    with pytest.raises(ValueError, match=r"'mass' .* the 6 leaves \(got 5 rows\)"):
        transform(data)
    data = sample()
    data.depth = 3
    with pytest.raises(AttributeError, match="'depth': it follows from 'parent'"):
        transform(data)
    with pytest.raises(TypeError, match=r"a (PyG )?Data.*\(got NoneType"):
        transform(None)


@every
def test_it_shows_the_options_that_are_not_the_default_ones(transform):
    again = eval(repr(transform))
    assert repr(again) == repr(transform)
    assert torch.equal(again(sample()).parent, transform(sample()).parent)
