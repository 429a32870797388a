"""The contract of ``segment_sum``, with torch-scatter and without."""

import pytest
import torch
from torch.testing import assert_close

from hsa_geometric.kernels.eager.sweeps import segment_sum

WITH_SCATTER = "torch_geometric.typing.WITH_TORCH_SCATTER"


def rand(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def naive(x, ptr, weight):
    weight = torch.ones(len(x)) if weight is None else weight
    rows = []
    for lo, hi in zip(ptr.tolist()[:-1], ptr.tolist()[1:], strict=True):
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for i in range(lo, hi):
            total += x[i].double() * weight[i].double()
        rows.append(total)
    return torch.stack(rows).to(x.dtype) if rows else x.new_zeros(0, x.shape[1])


@pytest.fixture(params=["as installed", "without torch-scatter"])
def scatter(request, monkeypatch):
    if request.param == "without torch-scatter":
        monkeypatch.setattr(WITH_SCATTER, False)


@pytest.mark.usefixtures("scatter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 130])
@pytest.mark.parametrize("ptr", [[0, 1], [0, 2, 3, 7], [0, 9], [0, 0, 4, 4, 6]])
def test_it_equals_a_loop_over_segments(dtype, weighted, channels, ptr):
    x = rand(ptr[-1], channels, dtype=dtype)
    weight = rand(ptr[-1], dtype=dtype) if weighted else None
    ptr = torch.tensor(ptr)
    out = segment_sum(x, ptr, weight)
    assert out.dtype == dtype
    assert_close(out, naive(x, ptr, weight))


@pytest.mark.usefixtures("scatter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_segment_gives_no_row(dtype, weighted):
    x = torch.empty(0, 3, dtype=dtype)
    out = segment_sum(x, torch.tensor([0]), x[:, 0] if weighted else None)
    assert out.shape == (0, 3) and out.dtype == dtype


@pytest.mark.usefixtures("scatter")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slice_of_a_larger_tensor_gives_the_same(dtype):
    x = rand(9, 4, dtype=dtype)
    weight = rand(9, dtype=dtype)
    ptr = torch.tensor([0, 2, 5])
    assert_close(segment_sum(x[3:8], ptr, weight[3:8]), naive(x[3:8], ptr, weight[3:8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_scatter_gives_what_plain_torch_gives(dtype, monkeypatch):
    pytest.importorskip("torch_scatter", reason="'make test-scatter' has it, as in CI")
    x, weight, ptr = rand(9, 4, dtype=dtype), rand(9, dtype=dtype), torch.tensor([0, 2, 5, 9])
    monkeypatch.setattr(WITH_SCATTER, True)
    expected = segment_sum(x, ptr, weight)
    monkeypatch.setattr(WITH_SCATTER, False)
    assert_close(segment_sum(x, ptr, weight), expected)
