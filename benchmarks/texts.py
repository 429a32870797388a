"""A training step of the text example's model, along the tree and flat.

``python -m benchmarks.texts``: 8 texts of paragraphs, sentences and words, 64 channels, 4
heads, 1 layer, float32, one thread; forward, backward and AdamW. Medians of CPU time, as other
processes lengthen the clock's; the models take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch

from hsa_geometric import TreeIndex
from hsa_geometric.nn import HierarchicalTransformer, Ids

from .measure import machine, machine_line

TEXTS, SENTENCE, PARAGRAPH = 8, 24, 6


def text_trees(words: int) -> TreeIndex:
    """Texts of so many words, in sentences of 24 and paragraphs of 6 sentences."""
    leaf = torch.arange(TEXTS * words)
    text, place = leaf // words, leaf % words
    sentences = -(-words // SENTENCE)
    paragraphs = -(-sentences // PARAGRAPH)
    first_sentence = leaf.numel()
    first_paragraph = first_sentence + TEXTS * sentences
    first_text = first_paragraph + TEXTS * paragraphs
    sentence = torch.arange(TEXTS * sentences)
    paragraph = torch.arange(TEXTS * paragraphs)
    return TreeIndex.from_parent(
        torch.cat(
            [
                first_sentence + text * sentences + place // SENTENCE,
                first_paragraph
                + sentence // sentences * paragraphs
                + sentence % sentences // PARAGRAPH,
                first_text + paragraph // paragraphs,
                first_text + torch.arange(TEXTS),
            ]
        )
    )


def step(attention: str, words: int) -> Callable[[], None]:
    """A training step."""
    torch.manual_seed(0)
    tree = text_trees(words)
    model = HierarchicalTransformer(
        Ids(1000), 64, 2, 1, attention=attention, readout="attention", mlp_channels=64
    )
    optimizer = torch.optim.AdamW(model.parameters())
    x, y = torch.randint(1000, (tree.num_leaves,)), torch.randint(2, (TEXTS,))

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(model(x, tree), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main(lengths: tuple[int, ...] = (256, 1024, 4096), turns: int = 15) -> dict[int, float]:
    """Prints the table; returns the ratio of times for each length."""
    torch.set_num_threads(1)
    ratios = {}
    print(machine_line(machine(1)))
    print("| words of a text | HSA, ms a step | softmax, ms a step | HSA / softmax |")
    print("|--:|--:|--:|--:|")
    for words in lengths:
        steps = {name: step(name, words) for name in ("softmax", "flat")}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(turns + 2):
            for name, run in steps.items():
                start = process_time()
                run()
                if turn >= 2:
                    times[name].append(1e3 * (process_time() - start))
        hsa, flat = median(times["softmax"]), median(times["flat"])
        ratios[words] = hsa / flat
        print(f"| {words:,} | {hsa:.1f} | {flat:.1f} | {hsa / flat:.2f} |")
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    main(tuple(args.lengths), args.turns)
