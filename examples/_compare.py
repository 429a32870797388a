"""What several examples share: models of equal size, trained with several seeds, as a table."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from hsa_geometric.builders._progress import progress_bar


def needs(*names: str) -> None:
    """Says which extra brings the packages that an example needs, where one is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(f"This example needs {missing}: pip install 'hsa_geometric[examples]'")


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{x.mean():.{digits}f} ± {x.std(correction=0):.{digits}f}"


def parameters(model: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def of_equal_size(make: Callable[[str, int], Any], variant: str, largest: str, least: int) -> Any:
    """Returns ``make(variant, width)`` with as many parameters as ``make(largest, least)``.

    ``width`` is that of MLPs: what a variant lacks of others' parameters, its MLPs have more of.
    """
    own, more, aim = (parameters(make(*of)) for of in
                      ((variant, least), (variant, least + 1), (largest, least)))  # fmt: skip
    return make(variant, least + round((aim - own) / (more - own)))


def descend(loss: Tensor, model: nn.Module, optimizer: Any, schedule: Any) -> None:
    """One step of training, of a gradient of length 1 at most."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def warm_cosine(optimizer: Any, done: Callable[[], float]) -> Any:
    """A rate that rises over 20 steps, and falls as a cosine while ``done()`` grows to 1."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done()))),
    )


class Clock:
    """How long a run may take: so many epochs, or as many as begin within seconds of CPU.

    It starts when it is made. Its :attr:`steps` are what a run tells the progress bar.
    """

    def __init__(self, epochs: int, seconds: float | None = None):
        if seconds is not None and seconds < 1:
            raise ValueError(f"Expected 'seconds' to be at least 1 (got {seconds})")
        self.limit, self.seconds, self.start = epochs, seconds, time.process_time()
        self.steps = epochs if seconds is None else int(seconds)

    def __str__(self) -> str:
        return f"{self.limit} epochs" if self.seconds is None else f"{self.seconds:g} s each"

    @property
    def spent(self) -> float:
        """Seconds of CPU so far."""
        return time.process_time() - self.start

    def schedule(self, optimizer: Any, rate: float, steps: int, warm: float = 0.3) -> Any:
        """A rate that rises and falls, for epochs of so many steps or until time is over."""
        if self.seconds is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
            return warm_cosine(optimizer, lambda: self.spent / self.steps)
        total = self.limit * steps
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=total, pct_start=warm
        )

    def epochs(self, bar: Any) -> Iterator[int]:
        """Counts epochs until time is over."""
        told = 0
        for epoch in itertools.count():
            done = epoch if self.seconds is None else min(self.steps, int(self.spent))
            bar.update(done - told)
            told = done
            if done >= self.steps:
                return
            yield epoch


def compare(
    variants: Iterable[str],
    seeds: int,
    prepare: Callable[[int], Any],
    train: Callable[[str, Any, Any], dict[str, Any]],
    *,
    steps: int,
    key: str,
    titles: tuple[str, str],
    more: tuple[str, ...] = (),
    progress: bool,
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Trains every variant with every seed and prints the table.

    Args:
        variants: their names.
        seeds: number of seeds.
        prepare: takes a seed and returns the data of all variants.
        train: takes a variant, its data and the progress bar, and returns ``model``, ``seconds``
            and the figure :obj:`key`.
        steps: how often a run updates the bar.
        key: name of the figure.
        titles: of the first two columns.
        more: names of further numbers of a run, columns of their own.
        progress: show a progress bar.

    Returns:
        Of each variant the figures, a list, their ``mean`` and ``std``, its ``parameters``, and
        ``seconds`` and :obj:`more` of a run on average; and all runs.
    """
    if seeds < 1 or steps < 1:
        raise ValueError(f"Expected at least 1 seed and 1 epoch (got {seeds} and {steps})")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches of this size gain nothing from more
    total = seeds * len(runs) * steps
    with progress_bar(total=total, unit="step", disable=not progress) as bar:
        for seed in range(seeds):
            torch.manual_seed(seed)
            data = prepare(seed)
            for name, own in runs.items():
                bar.set_description(f"seed {seed}, {name}", refresh=False)
                torch.manual_seed(seed)
                own.append(train(name, data, bar))
    torch.set_num_threads(threads)

    results = {}
    columns = ("parameters", *more, "seconds of CPU per run")
    print(f"\n| {' | '.join((*titles, *columns))} |\n|:--|--:{'|--:' * len(columns)}|")
    for name, own in runs.items():
        figures = torch.tensor([run[key] for run in own])
        results[name] = r = {
            key: figures.tolist(),
            "mean": float(figures.mean()),
            "std": float(figures.std(correction=0)),
            "parameters": parameters(own[0]["model"]),
            **{other: sum(run[other] for run in own) / seeds for other in (*more, "seconds")},
        }
        cells = [f"{r['parameters']:,}", *(f"{r[x]:.0f}" for x in (*more, "seconds"))]
        print(f"| {name} | {spread(r[key])} | {' | '.join(cells)} |")
    return results, runs
