import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from hsa_geometric import NestedSignal, NumberLeaves, TensorLeaves
from hsa_geometric.transforms import NestedSignalHierarchy

SIGNAL = NestedSignal({"number": NumberLeaves(), "row": TensorLeaves(2)})


def test_the_signal_becomes_the_tree_and_comes_back():
    transform = NestedSignalHierarchy(SIGNAL)
    data = Data(signal={"a": [1, 2.5], "b": torch.ones(2, 2)}, y=torch.tensor([1.0]))
    h = transform(data)
    assert "signal" not in h and "signal" in data and h.y is data.y
    assert h.leaf_type.tolist() == [0, 0, 1, 1]
    assert SIGNAL.to_nested(h)["a"] == [1, 2.5]


def test_signals_of_any_composition_batch_in_a_loader():
    transform = NestedSignalHierarchy(SIGNAL)
    signals = [{"a": 1}, [torch.ones(3, 2)], [{"b": 2}, torch.ones(1, 2)]]
    loader = DataLoader([transform(Data(signal=x)) for x in signals], batch_size=3)
    batch = next(iter(loader))
    assert batch.leaf_type.tolist() == [0, 1, 1, 1, 0, 1]
    assert batch.x_number.view(-1).tolist() == [1, 2] and batch.x_row.shape == (4, 2)


def test_errors_are_named():
    with pytest.raises(TypeError, match=r"'signal' to be a NestedSignal \(got dict\)"):
        NestedSignalHierarchy({"number": NumberLeaves()})
    with pytest.raises(ValueError, match="'data' to have 'page'"):
        NestedSignalHierarchy(SIGNAL, attr="page")(Data(signal=[1]))
    with pytest.raises(TypeError, match=r"signal\[0\] .*\(got NoneType\)"):
        NestedSignalHierarchy(SIGNAL)(Data(signal=[None]))
