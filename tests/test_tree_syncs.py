"""How often the host waits for the device: counted on the CPU, for there need be no GPU.

Tensors here say that they are on another device, ``meta``, which has no numbers, but hold theirs in
an ordinary tensor. So the code takes the way it takes on a GPU, and every operator that it calls
passes :class:`Device`, which runs it on the numbers. It counts

- what brings numbers to the host: copies to the CPU (``.cpu()``, ``.tolist()``), single ones
  (``int(x)``, ``x.item()``, ``if x:``, all of them ``aten::_local_scalar_dense``), ``equal``;
- operators whose result has a size that follows from the numbers, which CUDA reads back first:
  :data:`SIZED`, masks as an index, and ``repeat_interleave`` without its ``output_size``;
- copies from the host that are not ``non_blocking``, for which CUDA waits as well, among them that
  of the 0 in ``x[index] = 0``.

Tensors of the host take part in nothing that happens on the device, as on a GPU, save single
numbers; they are read for nothing.
"""

import contextlib
import warnings

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch_geometric.data import Batch

from hsa_geometric import Hierarchy, TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels import operator
from hsa_geometric.testing import (
    ZOO,
    attention_inputs,
    balanced,
    caterpillar,
    chain,
    forest,
    random_parent,
    zoo,
)

SIZED = {
    "nonzero",
    "masked_select",
    "bincount",
    "unique_consecutive",
    "unique_dim",
    "_unique",
    "_unique2",
}


class OnDevice(Tensor):
    """Numbers on the CPU that pass for those of a device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        strides, offset = held.stride(), held.storage_offset()
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides, offset, dtype=held.dtype, device="meta"
        )

    def __init__(self, held):
        self.held = held

    def tolist(self):  # torch refuses to do it for a subclass
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} called without a device")


class Device(TorchDispatchMode):
    """The device: ``waits`` lists the operators that made the host wait for it."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket is torch.ops.aten.scalar_tensor:  # as in `x[i] = 0` on CUDA
            return func(*args, **{**kwargs, "device": torch.device("cpu")})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in tensors if isinstance(x, OnDevice)]
        host = [x for x in tensors if not isinstance(x, OnDevice)]
        target = kwargs.get("device")
        if not here and (target is None or target.type == "cpu"):
            return func(*args, **kwargs)  # no business of the device

        name, to_host = func.overloadpacket.__name__, target is not None and target.type == "cpu"
        if name == "copy_" and host:
            to_host = args[0] is host[0]
        elif name != "_to_copy":
            assert all(x.dim() == 0 for x in host), f"{func}: tensors on two devices"
        if to_host or waits(name, args, kwargs, host):
            self.waits.append(str(func))
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        owners = {id(x.held): x for x in here}
        args, kwargs = tree_map_only(OnDevice, lambda x: x.held, (args, kwargs))
        result = func(*args, **kwargs)
        if to_host:
            return result
        return tree_map_only(
            Tensor, lambda x: owners[id(x)] if id(x) in owners else OnDevice(x), result
        )


def waits(name, args, kwargs, host):
    """Whether CUDA would wait in an operator that leaves its result on the device."""
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masks = (torch.bool, torch.uint8)
        masked = any(x is not None and x.dtype in masks for x in args[1])
        return masked or bool(host)
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name == "_to_copy":
        return bool(host) and not kwargs.get("non_blocking", False)
    if name == "copy_":
        return bool(host) and not (args[2:] and args[2])
    return name in SIZED or name in ("_local_scalar_dense", "equal")


@pytest.fixture
def device():
    with Device() as mode:
        yield mode


def held(x):
    return x.held if isinstance(x, OnDevice) else x


# --- the counter itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, count",
    [
        (lambda x: x + x[1:2], 0),
        (lambda x: x.cumsum(0).sort(stable=True), 0),
        (lambda x: torch.zeros(3, device=x.device).index_add_(0, x, torch.ones_like(x) * 1.0), 0),
        (lambda x: x.repeat_interleave(x, output_size=3), 0),
        (lambda x: torch.tensor([1, 2]).tolist(), 0),
        (lambda x: torch.tensor([1, 2]).to(x.device, non_blocking=True), 0),
        (lambda x: torch.tensor([1, 2]).to(x.device), 1),
        (lambda x: x.repeat_interleave(x), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: torch.empty(3, dtype=torch.long).copy_(x), 1),
        (lambda x: int(x[0]), 1),
        (lambda x: bool((x == 0).all()), 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: x.clone().index_put_((x > 0,), x[:1]), 1),
        (lambda x: x.clone().__setitem__(x, x), 0),
        (lambda x: x.clone().__setitem__(x, 0), 1),
        (lambda x: x.clone().__setitem__(slice(1, 2), 0), 0),
        (lambda x: x.bincount(), 1),
        (lambda x: x.unique(), 1),
        (lambda x: torch.unique_consecutive(x), 1),
    ],
)
def test_what_counts(device, call, count):
    x = OnDevice(torch.arange(3))
    call(x)
    assert len(device.waits) == count, device.waits


def test_two_devices_do_not_mix(device):
    with pytest.raises(AssertionError, match="tensors on two devices"):
        OnDevice(torch.arange(3)) + torch.arange(3)


# --- the index -----------------------------------------------------------------------------------

TREES = {
    "one node": (lambda: torch.tensor([0]), 2),
    "single nodes": (lambda: torch.arange(100), 2),
    "balanced": (lambda: balanced(10, 3), 3),
    "binary": (lambda: balanced(2, 12), 3),
    "ragged": (lambda: random_parent(5000, seed=1), 3),
    "forest of 500": (lambda: forest(*[balanced(3, 2), caterpillar(4)] * 250), 3),
    "32 levels": (lambda: forest(caterpillar(32), balanced(3, 5)), 3),
    "33 levels": (lambda: forest(caterpillar(33), balanced(3, 5)), 4),
    "chain of 3000": (lambda: chain(3000), 4),
    "deep forest": (lambda: forest(caterpillar(40_000), chain(300), balanced(2, 3)), 5),
}


@pytest.mark.parametrize("name", TREES)
def test_building_an_index_waits_a_few_times_whatever_the_size(device, name):
    build, count = TREES[name]
    parent = build()
    tree = TreeIndex.from_parent(OnDevice(parent))
    assert len(device.waits) == count, device.waits
    assert_same(tree, TreeIndex.from_parent(parent))


@pytest.mark.parametrize("name", ZOO)
def test_the_index_is_that_of_the_cpu(device, name):
    assert_same(TreeIndex.from_parent(OnDevice(zoo(name))), TreeIndex.from_parent(zoo(name)))
    assert len(device.waits) <= 3


@pytest.mark.parametrize("parent", [[1, 2, 0, 3], [3, 3, 9, 3], [*range(1, 99), 0]])
def test_errors_are_those_of_the_cpu(device, parent):
    parent = torch.tensor(parent)
    with pytest.raises(ValueError) as expected:
        TreeIndex.from_parent(parent)
    with pytest.raises(ValueError) as error:
        TreeIndex.from_parent(OnDevice(parent))
    assert str(error.value) == str(expected.value)


def assert_same(tree, expected):
    for x, y in zip(tree.tensors[:-1], expected.tensors[:-1], strict=True):
        assert isinstance(x, OnDevice)
        assert_close(held(x), y, rtol=0, atol=0)
    assert type(tree.key) is Tensor and tree.key.device.type == "cpu"


# --- what comes after ----------------------------------------------------------------------------


@pytest.mark.parametrize("parent", [zoo("forest"), chain(100)], ids=["forest", "deep"])
def test_an_index_and_a_batch_move_without_waiting(device, parent):
    tree = TreeIndex.from_parent(parent)
    assert_same(tree.to("meta", non_blocking=True), tree)
    sample = Hierarchy(x=torch.randn(tree.num_leaves, 2), parent=parent)
    batch = Batch.from_data_list([sample, sample])
    batch = batch.to("meta", non_blocking=True)
    assert isinstance(batch.parent, OnDevice)
    assert device.waits == []
    assert batch.num_nodes == 2 * tree.num_leaves
    assert len(device.waits) == 1
    assert batch.tree.num_trees == 2 * tree.num_trees  # built there, when it is asked for
    assert 1 < len(device.waits) <= 5


@pytest.mark.parametrize("name", ["forest", "deep", "one_node", "chain", "thin"])
def test_attention_on_an_index_does_not_wait(device, name, no_autocast):
    tree = TreeIndex.from_parent(caterpillar(100) if name == "thin" else zoo(name))
    inputs = attention_inputs(tree, pos_channels=2, node_scalars=True)
    expected = attend(inputs, tree)
    there = tree.to("meta", non_blocking=True)
    attend({k: OnDevice(x) for k, x in inputs.items()}, there)  # lays the tree out
    device.waits.clear()
    results = attend({k: OnDevice(x) for k, x in inputs.items()}, there)
    assert device.waits == []
    assert_close([held(x) for x in results], expected)


@pytest.mark.parametrize("mass", [None, "random"])
@pytest.mark.parametrize("name", ["forest", "one_node", "chain", "thin"])
def test_nor_does_it_wait_between_launches_of_kernels(device, name, mass, no_autocast, monkeypatch):
    # The kernels themselves do nothing here.
    from hsa_geometric.kernels.triton import scalars, siblings, sweeps

    launches = []
    for module in (scalars, siblings, sweeps):
        monkeypatch.setattr(module, "launch", lambda *args, **meta: launches.append(args))
    tree = TreeIndex.from_parent(caterpillar(100) if name == "thin" else zoo(name))
    inputs = attention_inputs(tree, pos_channels=2, node_scalars=True, mass=mass)
    there = tree.to("meta", non_blocking=True)
    mass = inputs.pop("mass", None)
    more = {} if mass is None else {"mass": OnDevice(mass)}
    inputs = {k: OnDevice(x) for k, x in inputs.items()}
    options = {"backend": "triton", "dropout_p": 0.5, "training": True, **more}
    attend(inputs, there, **options)  # lays the tree out
    assert len(device.waits) <= 2
    device.waits.clear()
    results = attend(inputs, there, **options)
    assert device.waits == []
    assert all(isinstance(x, OnDevice) for x in results)
    tensors = [x for args in launches for x in args if isinstance(x, Tensor)]
    assert tensors and all(isinstance(x, OnDevice) for x in tensors)


@pytest.fixture
def no_autocast(monkeypatch):
    """``meta`` has no autocast to switch off, and, here, numbers."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    monkeypatch.setattr(operator, "has_no_numbers", lambda x: False)


def attend(inputs, tree, backend="scatter", **options):
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    out = hierarchical_attention(**inputs, tree=tree, backend=backend, **options)
    out.sum().backward()
    return [out.detach(), *(x.grad for x in inputs.values())]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees():
    parent = forest(*[balanced(3, 2), caterpillar(4)] * 250).cuda()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            tree = TreeIndex.from_parent(parent)
        assert len([x for x in found if "synchroniz" in str(x.message)]) <= 4
        torch.cuda.set_sync_debug_mode("default")
        inputs = attention_inputs(tree, pos_channels=2, node_scalars=True)
        torch.cuda.set_sync_debug_mode("error")
        attend(inputs, tree)
    finally:
        torch.cuda.set_sync_debug_mode("default")
