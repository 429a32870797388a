"""Backend 'cpu' called by many at once: Python's threads, DataLoader's workers, DataParallel."""

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from helpers import attend
from torch.func import functional_call
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.cpu import walk
from hsa_geometric.native import library
from hsa_geometric.nn import HierarchicalAttentionConv
from hsa_geometric.testing import attention_inputs, forest, random_parent, star

pytestmark = pytest.mark.skipif(library() is None, reason="the kernel is not built")
CALLERS = 8


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(walk, "WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def at_once(function, arguments):
    """Results of calls that begin together, each in a thread of its own."""
    barrier = Barrier(len(arguments))

    def wait_and_call(argument):
        barrier.wait()
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(wait_and_call, arguments))


def sample(number):
    parent = forest(random_parent(300 + 30 * number, reach=20 + number, seed=number), star(70))
    inputs = attention_inputs(
        TreeIndex.from_parent(parent), heads=1 + number % 4, channels=3 + number,
        node_scalars=True, mass="zeros", dtype=torch.float32, seed=number,
    )  # fmt: skip
    return parent, inputs


def test_calls_from_8_threads_give_what_they_give_one_by_one():
    samples = [sample(number) for number in range(CALLERS)]

    def call(argument):
        parent, inputs = argument
        tree = TreeIndex.from_parent(parent)
        return [attend(inputs, tree, backend="cpu") for _ in range(10)]

    expected = [call(one) for one in samples]
    for one, found in zip(expected, at_once(call, samples), strict=True):
        for x, y in zip(one, found, strict=True):
            assert all(torch.equal(x[name], y[name]) for name in x)


def test_8_threads_that_meet_at_a_new_tree_give_the_same():
    parent, inputs = sample(3)
    expected = attend(inputs, TreeIndex.from_parent(parent), backend="cpu")
    for _ in range(10):
        tree = TreeIndex.from_parent(parent)  # of which nothing is worked out yet
        for found in at_once(lambda _, t=tree: attend(inputs, t, backend="cpu"), range(CALLERS)):
            assert all(torch.equal(found[name], x) for name, x in expected.items())


class Attended(Dataset):
    """Attention, and a gradient of it, worked out by whoever asks for an item."""

    def __init__(self):
        self.parent, self.inputs = sample(1)
        self.tree = TreeIndex.from_parent(self.parent)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        walk.WORTH_A_THREAD = 1
        torch.set_num_threads(1 + index % 2)  # workers have one; some may ask for more
        # The tree of before the worker began, and one of its own.
        tree = self.tree if index < 2 else TreeIndex.from_parent(self.parent)
        return attend(self.inputs, tree, backend="cpu")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader_may_call_it(start):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    data = Attended()
    expected = [data[i] for i in range(len(data))]  # so the parent's threads have worked
    workers = 2 if start == "fork" else 1
    loader = DataLoader(
        data, batch_size=None, num_workers=workers, multiprocessing_context=start, timeout=120
    )
    for one, found in zip(expected, loader, strict=True):
        assert all(torch.equal(x, found[name]) for name, x in one.items())


def test_replicas_in_threads_have_the_gradients_of_the_whole_batch():
    # As DataParallel does: replicas whose parameters depend on the module's, a thread for each.
    torch.manual_seed(0)
    conv = HierarchicalAttentionConv(6, 4, heads=2, backend="cpu")
    parents = [random_parent(200, reach=20, seed=seed) for seed in range(4)]
    trees = [TreeIndex.from_parent(parent) for parent in parents]
    x = [torch.randn(tree.num_leaves, 6) for tree in trees]
    whole = conv(torch.cat(x), TreeIndex.from_parent(forest(*parents)))
    expected = torch.autograd.grad(whole.square().sum(), list(conv.parameters()))

    def replica(number):
        parameters = {n: p * 1 for n, p in conv.named_parameters()}
        return functional_call(copy.deepcopy(conv), parameters, (x[number], trees[number]))

    parts = at_once(replica, range(4))
    assert_close(torch.cat(parts), whole)
    loss = sum(part.square().sum() for part in parts)
    assert_close(torch.autograd.grad(loss, list(conv.parameters())), expected)


def test_backwards_from_8_threads_add_up():
    parent, inputs = sample(2)
    tree = TreeIndex.from_parent(parent)
    q, k, v = (inputs[n].double().requires_grad_() for n in "qkv")

    def step(_):
        hierarchical_attention(q, k, v, tree, backend="cpu").square().sum().backward()

    step(0)
    expected = [x.grad.clone() for x in (q, k, v)]
    for x in (q, k, v):
        x.grad = None
    at_once(step, range(CALLERS))
    for x, once in zip((q, k, v), expected, strict=True):
        assert_close(x.grad, CALLERS * once)
