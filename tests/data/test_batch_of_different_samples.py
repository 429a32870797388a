"""Samples whose keys differ, or mean different things, do not become a batch in silence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from hsa_geometric import Hierarchy, from_parent

STAR = [2, 2, 2]


def both_ways(*samples):
    return [list(samples), list(reversed(samples))]


@pytest.mark.parametrize("key", ["tree_length", "y", "x", "num_nodes"])
def test_a_key_of_one_sample_only_is_named_with_both_samples(key):
    value = {"num_nodes": 2, "tree_length": torch.zeros(3)}.get(key, torch.zeros(2))
    plain, extra = from_parent(STAR), from_parent(STAR, **{key: value})
    for i, samples in enumerate(both_ways(plain, extra)):
        there, here = (0, 1) if i == 0 else (1, 0)
        message = rf"same keys \(got '{key}' in sample {here}, but not in sample {there}\)"
        with pytest.raises(ValueError, match=message):
            Batch.from_data_list(samples)
        assert Batch.from_data_list(samples, exclude_keys=[key]).num_graphs == 2
    with pytest.raises(ValueError, match="in sample 3, but not in sample 0"):
        Batch.from_data_list([plain, plain, plain, extra])


@given(st.lists(st.sets(st.text("abé -", max_size=2)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_batch_has_every_key_of_every_sample_or_is_refused(keys):
    samples = [from_parent(STAR, **{k: torch.ones(2) for k in names}) for names in keys]
    if all(names == keys[0] for names in keys):
        assert set(Batch.from_data_list(samples).keys()) == keys[0] | {"parent", "batch", "ptr"}
    else:
        odd = set.union(*keys) - set.intersection(*keys)
        with pytest.raises(ValueError, match="to have the same keys") as caught:
            Batch.from_data_list(samples)
        assert any(f"'{key}'" in str(caught.value) for key in odd)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_names_the_key(num_workers):
    samples = [from_parent(STAR), from_parent(STAR, mass=[1.0, 2.0])]
    loader = DataLoader(samples, batch_size=2, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"\(got 'mass' in sample 1, but not in sample 0\)"):
        next(iter(loader))


def test_a_dataset_names_the_key():
    with pytest.raises(ValueError, match="'mass' in sample 0, but not in sample 1"):
        InMemoryDataset.collate([from_parent(STAR, mass=[1.0, 2.0]), from_parent(STAR)])


def test_rows_of_leaves_and_of_samples_do_not_mix():
    leaves, sample = from_parent(STAR, y=[1.0, 2.0]), from_parent(STAR, y=[1.0])
    for samples in both_ways(leaves, sample):
        with pytest.raises(ValueError, match=r"'y' to be the same thing .*\(got .* in sample 0, "):
            Batch.from_data_list(samples)


def test_what_pyg_would_count_up_in_one_sample_alone_is_refused():
    ours, theirs = from_parent(STAR, vertex_index=torch.tensor([0, 1])), from_parent(STAR)
    theirs.vertex_index = torch.tensor([0, 1])
    for samples in both_ways(ours, theirs):
        with pytest.raises(ValueError, match="'vertex_index' to be the same thing"):
            Batch.from_data_list(samples)
    theirs = from_parent(STAR)
    ours, theirs.label = from_parent(STAR, label=torch.tensor([0, 1])), torch.tensor([2, 3])
    for samples in both_ways(ours, theirs):  # where it makes no difference it is let be
        assert sorted(Batch.from_data_list(samples).label.tolist()) == [0, 1, 2, 3]


def test_plain_data_is_no_sample_of_hierarchies():
    with pytest.raises(TypeError, match=r"to be hierarchies \(got Data at sample 1\)"):
        Batch.from_data_list([from_parent(STAR), Data(parent=torch.tensor(STAR))])


def test_samples_may_have_their_keys_in_any_order():
    one = Hierarchy(parent=torch.tensor(STAR), x=torch.zeros(2, 1))
    one.a, one.b = 1.0, 2.0
    other = Hierarchy(x=torch.ones(2, 1), parent=torch.tensor(STAR))
    other.b, other.a = 4.0, 3.0
    batch = Batch.from_data_list([one, other])
    assert batch.a.tolist() == [1, 3] and batch.b.tolist() == [2, 4]
