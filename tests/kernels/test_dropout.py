"""Dropout's masks as tensors: the bits that Triton's kernels draw."""

import pytest
import torch
from helpers import DEVICE

from hsa_geometric.kernels.dropout import OWN, factors, philox, uniform

SEEDS = [0, 1, 12345, (1 << 40) + 3, (1 << 62) - 1]


def seed_of(number):
    return torch.tensor([number], device=DEVICE)


def test_the_generator_gives_the_numbers_of_its_inventors():
    # Known answers of Random123's kat_vectors: philox 4x32, 10 rounds, words of counter and key.
    zero = torch.tensor(0)
    assert int(philox(torch.tensor([0]), zero, zero, zero)) == 0x6627E8D5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_masks_are_bit_equal_to_those_of_triton(seed, p):
    pytest.importorskip("triton")
    from mask_kernels import mask, own_mask

    from hsa_geometric.kernels.triton._jit import cover, launch

    heads, keys, seed = 3, 7, seed_of(seed)
    queries = torch.tensor([[0, 5, 1 << 20], [3, 4, (1 << 31) - 1]], device=DEVICE)
    expected = torch.empty(2, heads, keys, 3, device=DEVICE)
    scale = 1.0 / max(1.0 - p, 1e-30)
    launch(
        mask, (cover(expected.numel(), 64),), expected.device,
        expected, queries, seed, expected.numel(), p, scale,
        HEADS=heads, QUERIES=3, KEYS=keys, BLOCK=64,
    )  # fmt: skip
    head = torch.arange(heads, device=DEVICE).view(-1, 1, 1)
    place = torch.arange(keys, device=DEVICE).unsqueeze(1)
    drawn = factors(p, seed, head, queries[:, None, None], place, torch.float32)
    assert torch.equal(drawn, expected)
    assert p < 1 or not drawn.any()

    leaf = queries.flatten()
    expected = torch.empty(6, heads, device=DEVICE)
    launch(
        own_mask, (1,), expected.device,
        expected, leaf, seed, expected.numel(), p, scale, HEADS=heads, BLOCK=64,
    )  # fmt: skip
    head = torch.arange(heads, device=DEVICE)
    own = factors(p, seed, head, leaf.unsqueeze(1), torch.full_like(head, OWN), torch.float32)
    assert torch.equal(own, expected)


@pytest.mark.parametrize("word", [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_uniform_numbers_are_at_least_0_and_less_than_1(word):
    assert 0 <= uniform(torch.tensor(word)) < 1


def test_draws_are_uniform_and_independent_of_each_other():
    n = torch.arange(100, device=DEVICE)
    head, query, place = n[:8].view(-1, 1, 1), n.view(-1, 1), n
    for p in (0.2, 0.7):
        kept = factors(p, seed_of(9), head, query, place, torch.float32) > 0
        assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / kept.numel()) ** 0.5
        chance = p**2 + (1 - p) ** 2
        for dim in range(3):  # neighbouring heads, queries, keys
            same = (kept == kept.roll(1, dim)).double().mean()
            assert abs(same - chance) < 5 * (chance * (1 - chance) / kept.numel()) ** 0.5
