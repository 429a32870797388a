"""What several examples share: models of equal size, trained with several seeds, as a table."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hsa_geometric.builders._progress import progress_bar


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


def compare(
    variants: Iterable[str],
    seeds: int,
    prepare: Callable[[int], Any],
    train: Callable[[str, Any, Any], dict[str, Any]],
    *,
    steps: int,
    key: str,
    titles: tuple[str, str],
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
        progress: show a progress bar.

    Returns:
        Of each variant the figures, a list, their ``mean`` and ``std``, its ``parameters``, and
        ``seconds`` of a run on average; and all runs.
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
    print(f"\n| {titles[0]} | {titles[1]} | parameters | seconds of CPU per run |")
    print("|:--|--:|--:|--:|")
    for name, own in runs.items():
        figures = torch.tensor([run[key] for run in own])
        results[name] = r = {
            key: figures.tolist(),
            "mean": float(figures.mean()),
            "std": float(figures.std(correction=0)),
            "parameters": parameters(own[0]["model"]),
            "seconds": sum(run["seconds"] for run in own) / seeds,
        }
        print("| {} | {mean:.3f} ± {std:.3f} | {parameters:,} | {seconds:.0f} |".format(name, **r))
    return results, runs
