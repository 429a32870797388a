"""What only a GPU can show. None has run these tests yet."""

import pytest
import torch
from attending import EVERYTHING, attend, equal, index
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.triton import call
from hsa_geometric.testing import (
    attention_inputs,
    balanced,
    caterpillar,
    forest,
    random_parent,
    star,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TREES = {
    "balanced": lambda: balanced(8, 5),
    "ragged": lambda: random_parent(50_000, reach=2000, seed=1),
    "molecules": lambda: forest(*(random_parent(40, reach=15, seed=i) for i in range(500))),
    "star": lambda: star(3000),
    "deep": lambda: caterpillar(2000),
}


@pytest.fixture(params=TREES)
def tree(request):
    return TreeIndex.from_parent(TREES[request.param]().cuda())


def step(tree, dtype=torch.bfloat16, **options):
    """A call's tensors, and a function that runs forward and backward on them."""
    inputs = attention_inputs(tree, heads=4, channels=32, value_channels=32, dtype=dtype)
    inputs = {n: x.requires_grad_() for n, x in inputs.items()}

    def run():
        out = hierarchical_attention(**inputs, tree=tree, backend="triton", **options)
        return [out, *torch.autograd.grad(out.float().square().sum(), list(inputs.values()))]

    return inputs, run


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_results_are_those_of_the_torch_backend_on_the_cpu(tree, dtype):
    inputs = attention_inputs(tree, heads=2, channels=24, value_channels=33, dtype=dtype)
    here = {n: x.cpu().double() for n, x in inputs.items()}
    expected = attend(here, TreeIndex.from_parent(tree.parent.cpu()), backend="scatter")
    close = 1e-9 if dtype == torch.float64 else 2e-4
    for name, x in attend(inputs, tree).items():
        scale = expected[name].abs().max()
        assert_close(x.cpu().double() / scale, expected[name] / scale, rtol=0, atol=close)


def test_half_precision_is_within_its_roundings(tree):
    inputs = attention_inputs(tree, heads=2, channels=32, value_channels=32, dtype=torch.bfloat16)
    expected = attend({n: x.double() for n, x in inputs.items()}, tree, backend="scatter")
    for name, x in attend(inputs, tree).items():
        error = (x.double() - expected[name]).abs().max() / expected[name].abs().max()
        assert error < 4 * torch.finfo(torch.bfloat16).eps, name


def test_one_launch_and_one_launch_a_level_are_equal_to_the_last_bit(tree, monkeypatch):
    inputs = attention_inputs(tree, dtype=torch.float32, **EVERYTHING)
    expected = attend(inputs, tree)
    for _ in range(5):
        equal(attend(inputs, tree), expected)
    monkeypatch.setattr(call, "ONE_LAUNCH", False)
    equal(attend(inputs, tree), expected)


def test_a_million_leaves():
    tree = TreeIndex.from_parent(balanced(10, 6).cuda())
    inputs = attention_inputs(tree, heads=2, channels=16, value_channels=16, dtype=torch.bfloat16)
    out = attend(inputs, tree)["out"]
    expected = hierarchical_attention(**{n: x.float() for n, x in inputs.items()}, tree=tree,
                                      backend="scatter")  # fmt: skip
    assert_close(out.float(), expected, rtol=0.02, atol=0.02)


def test_a_star_of_100_000_leaves_takes_linear_memory():
    tree = TreeIndex.from_parent(star(100_000).cuda())
    inputs = attention_inputs(tree, heads=1, channels=32, value_channels=32, dtype=torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = attend(inputs, tree)["out"]
    assert torch.cuda.max_memory_allocated() - before < 200e6
    q, k, v = (inputs[n].movedim(1, 0).unsqueeze(0).float() for n in "qkv")
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)[0, 0]
    assert_close(out[:, 0].float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_nothing_waits_for_the_device(tree, dropout_p):
    _, run = step(tree, dropout_p=dropout_p, training=True)
    run()  # compiles, and works out what follows from the tree
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("backend", ["triton", "scatter"])
def test_forward_and_backward_are_captured_in_a_graph(tree, backend):
    inputs = attention_inputs(tree, heads=4, channels=32, value_channels=32, dtype=torch.bfloat16)
    inputs = {n: x.requires_grad_() for n, x in inputs.items()}

    def run():
        out = hierarchical_attention(**inputs, tree=tree, backend=backend)
        return [out, *torch.autograd.grad(out.float().square().sum(), list(inputs.values()))]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for x in inputs.values():
            x.copy_(torch.randn_like(x))
    graph.replay()
    for x, y in zip(captured, run(), strict=True):
        assert_close(x, y)


def test_it_runs_on_the_stream_that_is_current(tree):
    inputs, run = step(tree)
    expected = run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        with torch.no_grad():
            for x in inputs.values():
                x.mul_(1.0)
        results = run()
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_it_runs_on_the_device_of_its_tensors(tree):
    inputs = attention_inputs(tree, dtype=torch.float32)
    expected = attend(inputs, tree)
    second = tree.to("cuda:1")
    results = attend({n: x.to("cuda:1") for n, x in inputs.items()}, second)
    for name, x in results.items():
        assert x.device == torch.device("cuda:1")
        assert torch.equal(x.cpu(), expected[name].cpu()), name


def test_it_compiles_with_inductor():
    tree = index("shuffled_forest")
    inputs, _ = step(tree, torch.float32)
    compiled = torch.compile(hierarchical_attention, fullgraph=True)
    expected = hierarchical_attention(**inputs, tree=tree, backend="triton")
    assert_close(compiled(**inputs, tree=tree, backend="triton"), expected)


def test_attention_layers_train_in_mixed_precision():
    from hsa_geometric.nn import HierarchicalAttentionConv

    tree = TreeIndex.from_parent(random_parent(500, reach=50, seed=2).cuda())
    torch.manual_seed(0)
    conv = HierarchicalAttentionConv(16, 4, heads=4, backend="triton", dropout=0.1).cuda()
    x = torch.randn(tree.num_leaves, 16, device="cuda")
    target = x.roll(1, 1)
    optimizer = torch.optim.Adam(conv.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = (conv(x, tree).float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
