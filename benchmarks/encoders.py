"""A whole encoder of long texts, with softmax attention and along trees.

``python -m benchmarks.encoders``: ``torch.nn.TransformerEncoder`` of 6 layers, 384 channels and 12
heads with random weights, one text, float32, one thread; forward, and a training step with AdamW.
Softmax attention is ``scaled_dot_product_attention``; then all layers are replaced, near lists over
windows of 8, 32, 128, … tokens. Medians of CPU time, and the peak of memory beyond what was there.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
from torch import nn

from hsa_geometric.adapters import replace_attention
from hsa_geometric.report._peak import peak

from .measure import machine, machine_line


def calls(
    tokens: int, angle: float | None, sizes: tuple[int, int, int]
) -> dict[str, Callable[[], None]]:
    """Forward and training step of a new encoder; softmax attention where there is no angle."""
    torch.manual_seed(0)
    layers, channels, heads = sizes
    layer = nn.TransformerEncoderLayer(channels, heads, 4 * channels, 0.0, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says when it has no fast path
        model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    if angle is not None:
        windows = tuple(8 * 4**i for i in range(12) if 8 * 4**i < tokens)
        replace_attention(model, hierarchy=windows, lists=angle)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(1, tokens, channels)

    @torch.no_grad()
    def forward() -> None:
        model(x)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return {"forward": forward, "training step": step}


def main(
    lengths: tuple[int, ...] = (2048, 8192),
    turns: int = 3,
    angle: float = 0.35,
    sizes: tuple[int, int, int] = (6, 384, 12),
) -> dict[tuple[int, str], float]:
    """Prints the table; returns how many times faster each call is."""
    torch.set_num_threads(1)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it forms the whole matrix
    gains = {}
    print(machine_line(machine(1)))
    print("| tokens | | SDPA, s | HSA, s | SDPA / HSA | SDPA, MB | HSA, MB |")
    print("|--:|:--|--:|--:|--:|--:|--:|")
    for tokens in lengths:
        both = [calls(tokens, a, sizes) for a in (None, angle)]
        for what in both[0]:
            memory = [peak(of[what]) / 1e6 for of in both]  # warms up, too
            times: list[list[float]] = [[], []]
            for _ in range(turns):
                for of, own in zip(both, times, strict=True):
                    start = process_time()
                    of[what]()
                    own.append(process_time() - start)
            softmax, ours = map(median, times)
            gains[tokens, what] = softmax / ours
            print(
                f"| {tokens:,} | {what} | {softmax:.2f} | {ours:.2f} | {softmax / ours:.1f} "
                f"| {memory[0]:,.0f} | {memory[1]:,.0f} |",
                flush=True,
            )
    torch.backends.mha.set_fastpath_enabled(before)
    return gains


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--angle", type=float, default=0.35, help="of near lists")
    args = parser.parse_args()
    main(tuple(args.lengths), args.turns, args.angle)
