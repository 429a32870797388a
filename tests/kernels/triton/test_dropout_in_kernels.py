"""Dropout's masks: drawn from counters, so that they depend on the pair and the seed alone."""

import pytest
import torch
from attending import attend, equal, families, index
from helpers import DEVICE
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.kernels.triton import siblings as backend
from hsa_geometric.testing import attention_inputs, star


def drop(inputs, tree, seed, p=0.4, **options):
    torch.manual_seed(seed)
    options = {"backend": "triton", "dropout_p": p, "training": True} | options
    return hierarchical_attention(**inputs, tree=tree, **options)


def test_the_mean_over_seeds_is_the_output_without_dropout():
    # Heads are draws too.
    tree = index("unequal_depths")
    one = attention_inputs(tree, heads=1, value_channels=1)
    one["v"] = one["v"].abs() + 1
    draws, heads = 5, 30
    inputs = {n: x.expand(-1, heads, -1) for n, x in one.items()}
    out = torch.stack([drop(inputs, tree, seed) for seed in range(draws)]).squeeze(-1)
    sample = out.movedim(1, 2).flatten(0, 1)
    expected = hierarchical_attention(**one, tree=tree, backend="reference").flatten()
    error = sample.std(0) / (draws * heads) ** 0.5
    assert (error > 0).all()
    assert ((sample.mean(0) - expected) / error).abs().max() < 5


def weights(tree, seed, p, heads=4):
    """Weights [N, H, N] of a star after dropout: equal logits, one hot values."""
    b = tree.num_leaves
    zero = torch.zeros(b, heads, 1, device=DEVICE)
    hot = torch.eye(b, device=DEVICE).unsqueeze(1).expand(b, heads, b)
    return drop({"q": zero, "k": zero, "v": hot}, tree, seed, p)


def test_weights_are_dropped_or_scaled_up_independently():
    tree = TreeIndex.from_parent(star(40)).to(DEVICE)
    p, b = 0.25, 40
    drawn = torch.stack([weights(tree, seed, p) for seed in (1, 2, 1 << 40)])
    kept = drawn > 0
    assert_close(drawn[kept], torch.full_like(drawn[kept], 1 / b / (1 - p)))
    n = kept[0].numel()
    for seed in range(3):
        assert abs(kept[seed].double().mean() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
        own = kept[seed].diagonal(0, 0, 2)
        assert abs(own.double().mean() - (1 - p)) < 5 * (p * (1 - p) / own.numel()) ** 0.5
    # Two seeds, two heads, two queries and two keys agree as often as independent draws do.
    chance = p**2 + (1 - p) ** 2
    for a, c in [(kept[0], kept[1]), (kept[0], kept[2])]:
        assert abs((a == c).double().mean() - chance) < 0.03
    one = kept[0]
    assert abs((one[:, 0] == one[:, 1]).double().mean() - chance) < 0.05
    assert abs((one[:, 0] == one[:, 0].roll(1, 0)).double().mean() - chance) < 0.05
    off = ~torch.eye(b, dtype=torch.bool, device=DEVICE)
    assert abs((one[:, 0] == one[:, 0].t())[off].double().mean() - chance) < 0.05


def test_masks_do_not_depend_on_the_tiles():
    tree = families(17, 40)
    inputs = attention_inputs(tree, pos_channels=1)
    results = []
    for size in (backend.SMALL_TILE, backend.LARGE_TILE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "tile_size", lambda *_, size=size: size)
            torch.manual_seed(3)
            results.append(attend(inputs, tree, dropout_p=0.5, training=True))
    for name, x in results[0].items():
        assert_close(x, results[1][name], rtol=1e-10, atol=1e-10, msg=name)


def test_equal_seeds_give_equal_bits():
    tree = families(17, 40)
    inputs = attention_inputs(tree, pos_channels=1, dtype=torch.float32)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(attend(inputs, tree, dropout_p=0.5, training=True))
    equal(*results)


def test_derivatives_of_both_orders_equal_differences():
    # Along one direction: gradcheck takes ten times as many launches.
    tree = families(5, 2)
    inputs = attention_inputs(tree, channels=2, value_channels=2, pos_channels=1, node_scalars=True)
    generator = torch.Generator().manual_seed(2)
    way, other = (
        [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in inputs.values()]
        for _ in range(2)
    )

    def at(step):
        """A scalar of the outputs, the inputs, and its gradient."""
        moved = {
            n: (x.detach() + step * w.to(DEVICE)).requires_grad_()
            for (n, x), w in zip(inputs.items(), way, strict=True)
        }
        out, evidence = drop(moved, tree, 5, return_evidence=True)
        y = out.square().sum() + evidence.sum()
        learned = list(moved.values())
        return y, learned, torch.autograd.grad(y, learned, create_graph=True)

    def along(xs, directions):
        return sum((x * d.to(x)).sum() for x, d in zip(xs, directions, strict=True))

    step = 1e-5
    (low, _, low_grad), (high, _, high_grad) = at(-step), at(step)
    _, learned, grad = at(0.0)
    second = torch.autograd.grad(along(grad, other), learned)
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert_close(along(grad, way), (high - low) / (2 * step), **close)
    change = along(high_grad, other) - along(low_grad, other)
    assert_close(along(second, way), change / (2 * step), **close)
    assert along(second, way).abs() > 1e-3
