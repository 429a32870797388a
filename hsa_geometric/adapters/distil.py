"""A replaced model learns to give what it gave with softmax attention."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..builders._progress import progress_bar
from ..functional.options import check_bool, check_integer, check_positive
from .fidelity_report import call
from .replace_attention import restore_attention, sites_of

Embed = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Distillation:
    """What :func:`distil` did.

    Attributes:
        steps: taken, those before a checkpoint included.
        seconds: of training, likewise.
        history: ``(step, seconds, loss on held-out texts)``, the first before training.
        best: the least of these losses, whose weights the model has.
    """

    steps: int
    seconds: float
    history: list[tuple[int, float, float]]
    best: float


def distil(
    model: nn.Module,
    texts: Sequence[Any],
    *,
    embed: Embed,
    tokenizer: Callable[[list[str]], Any] | None = None,
    seconds: float = 600.0,
    steps: int | None = None,
    rate: float = 1e-4,
    held_out: float = 0.1,
    every: int = 50,
    patience: int = 5,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Distillation:
    r"""Teach a model with replaced attention to embed texts as it does with softmax attention.

    The teacher is a copy of the model at the start, its attention restored; no labels are needed.
    The loss is :math:`1 - \cos` of the embeddings, the optimiser AdamW, with a rate that warms up
    over 20 steps and falls to 0 as a cosine with the time or the steps that are given.

    Args:
        model: with replaced layers; it is trained in place, and in evaluation afterwards.
        texts: strings, with a :obj:`tokenizer`, one for each step; or batches that the model is
            called with. They should be apart from what is tested.
        embed: from the model's output and the batch to embeddings ``[texts, channels]``: pooled
            hidden states, hidden states themselves ``[texts, tokens, channels]``, or logits.
        tokenizer: from a list of one text to a batch, such as ``functools.partial(tokenizer,
            truncation=True, max_length=512, return_tensors="pt")``.
        seconds: of training, without what the teacher takes.
        steps: end after so many instead.
        rate: the highest learning rate.
        held_out: share of the texts, at least one, whose loss decides when to stop.
        every: so many steps this loss is found.
        patience: stop where so many of these in a row are no better than the best.
        seed: of the order of texts, and of dropout. With :obj:`steps` results repeat.
        checkpoint: a file to go on from if it is there, written whenever the loss is found. The
            model must be in the state it first had: the teacher is made of it.
        progress: whether to show a progress bar.

    Returns:
        :class:`Distillation`.

    Raises:
        TypeError: if texts are strings and there is no tokenizer.
        ValueError: if nothing is replaced in the model, there are fewer than two texts, or a number
            is out of range.

    Cost: forward and backward a step, and one pass of the teacher over each text that is reached,
    whose embedding is kept.

    Example:
        >>> from hsa_geometric.adapters import replace_attention
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, dropout=0.0)
        >>> model = replace_attention(model, hierarchy=4)
        >>> texts = [torch.randn(1, 16, 8) for _ in range(10)]
        >>> found = distil(model, texts, embed=lambda out, batch: out.mean(1), steps=40, every=10)
        >>> found.best < found.history[0][2]
        True
    """
    batches = _batches(texts, tokenizer)
    if not any(site.setting is not None for site in sites_of(model).values()):
        raise ValueError("Expected 'model' to have replaced attention (got none)")
    check_positive(seconds, "seconds")
    check_positive(rate, "rate")
    check_bool(progress, "progress")
    for value, name in ((every, "every"), (patience, "patience"), (steps, "steps")):
        if value is not None:
            check_integer(value, name, 1)
    if not 0 < held_out < 1:
        raise ValueError(f"Expected 'held_out' to be in (0, 1) (got {held_out})")
    teacher = restore_attention(copy.deepcopy(model)).eval()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(batches), generator=generator).tolist()
    apart = min(max(1, round(held_out * len(batches))), len(batches) - 1)
    held, learned = order[:apart], order[apart:]

    @torch.no_grad()
    @cache
    def wanted(i: int) -> Tensor:
        return embed(call(teacher, batches[i]), batches[i])

    def loss(i: int) -> Tensor:
        found = embed(call(model, batches[i]), batches[i])
        return 1 - F.cosine_similarity(found, wanted(i), -1).mean()

    @torch.no_grad()
    def check() -> float:
        model.eval()
        found = sum(float(loss(i)) for i in held) / len(held)
        model.train()
        return found

    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    step, spent, since = 0, 0.0, 0
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, since = state["step"], state["seconds"], state["since"]
        history, best, kept = [tuple(x) for x in state["history"]], state["best"], state["kept"]
        generator.set_state(state["generator"])
        queue = state["queue"]
    else:
        best = check()
        history, queue = [(0, 0.0, best)], []
        kept = {name: x.clone() for name, x in model.state_dict().items()}
    model.train()
    torch.manual_seed(seed + step)
    bar = progress_bar(
        total=100.0, desc="distillation", disable=not progress,
        bar_format="{desc}: {percentage:.0f}% [{elapsed}<{remaining}]{postfix}",
    )  # fmt: skip
    share = 0.0
    while share < 1 and since < patience:
        if not queue:
            queue = torch.randperm(len(learned), generator=generator).tolist()
        text = learned[queue.pop()]
        wanted(text)
        start = time.perf_counter()
        share = spent / seconds if steps is None else step / steps
        for group in optimiser.param_groups:
            falling = 0.5 * (1 + torch.tensor(share * torch.pi).cos())
            group["lr"] = rate * min(1.0, (step + 1) / 20) * float(falling)
        optimiser.zero_grad()
        loss(text).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
        spent += time.perf_counter() - start
        share = min(1.0, spent / seconds if steps is None else step / steps)
        bar.update(100 * share - bar.n)  # whole steps: a bar shows no smaller ones
        if step % every and share < 1:
            continue
        history.append((step, spent, check()))
        since += 1
        if history[-1][2] < best:
            best, since = history[-1][2], 0
            kept = {name: x.clone() for name, x in model.state_dict().items()}
        bar.set_postfix_str(f"loss {best:.4f}, {step} steps", refresh=False)
        if path is not None:
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
                 "seconds": spent, "since": since, "history": history, "best": best, "kept": kept,
                 "generator": generator.get_state(), "queue": queue},
                path,
            )  # fmt: skip
    bar.close()
    model.load_state_dict(kept)
    model.eval()
    return Distillation(step, spent, history, best)


def _batches(texts: Sequence[Any], tokenizer: Any) -> list[Any]:
    if isinstance(texts, str) or len(texts) < 2:
        raise ValueError("Expected 'texts' to hold at least two (got fewer)")
    if not any(isinstance(text, str) for text in texts):
        return list(texts)
    if tokenizer is None:
        raise TypeError("Expected a 'tokenizer' for texts that are strings (got None)")
    return [tokenizer([text]) for text in texts]
