"""Which layers attend along which trees and lists: chosen from data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..functional.options import check_integer, check_positive
from ..report._table import number, table
from ._attend import Site
from ._setting import Seen, Setting
from .fidelity_report import _mean, row_of, run
from .replace_attention import M, replace_attention, restore_attention, sites_of

WINDOWS = ((8, 32, 128), (16, 64))
ANGLES = (None, 0.7, 0.35, 0.25, 0.18, 0.12)
T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """One candidate for one layer; :obj:`windows` is None where the layer keeps softmax.

    Attributes:
        layer: number of the layer.
        windows: sizes of the windows.
        angle: at which near nodes meet; None where siblings do.
        logits: share of softmax's.
        kl, variation: to softmax, mean over heads; None where not asked for.
        error: of the layer's output, relative to its size, in squares.
    """

    layer: int
    windows: tuple[int, ...] | None
    angle: float | None
    logits: float
    kl: float | None
    variation: float | None
    error: float


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` measured and chose. Print it; :meth:`apply` it; :meth:`save` it."""

    trials: list[Trial]
    chosen: list[Trial]
    sinks: tuple[int, ...] | None

    def apply(self, model: M) -> M:
        """Replace the attention of the model as chosen; layers that keep softmax are left."""
        for t in self.chosen:
            if t.windows is not None:
                replace_attention(
                    model, layers=[t.layer], hierarchy=t.windows, lists=t.angle, sinks=self.sinks
                )
        return model

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote."""
        found = json.loads(Path(path).read_text())

        def trial(fields: dict[str, Any]) -> Trial:
            windows = fields.pop("windows")
            return Trial(windows=None if windows is None else tuple(windows), **fields)

        sinks = None if found["sinks"] is None else tuple(found["sinks"])
        trials, chosen = ([trial(x) for x in found[name]] for name in ("trials", "chosen"))
        return cls(trials, chosen, sinks)

    @property
    def logits(self) -> float:
        """Share of softmax's logits in the layers in question."""
        return sum(t.logits for t in self.chosen) / len(self.chosen)

    def __str__(self) -> str:
        rows = [["layer", "windows", "angle", "logits, %", "error", "KL, nats", "total variation"]]
        for t in self.chosen:
            windows = "softmax" if t.windows is None else "·".join(map(str, t.windows))
            angle = "–" if t.angle is None else number(t.angle)
            rest = [float("nan") if x is None else x for x in (t.error, t.kl, t.variation)]
            rows.append([str(t.layer), windows, angle, number(100 * t.logits), *map(number, rest)])
        return f"{table(rows)}\nlogits together: {number(100 * self.logits)} %"


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    budget: float | None = None,
    tolerance: float | None = None,
    layers: Sequence[int] | None = None,
    num_layers: int | None = None,
    windows: Sequence[Sequence[int]] = WINDOWS,
    angles: Sequence[float | None] = ANGLES,
    sinks: Sequence[int] | None = None,
    exact: bool = False,
    progress: bool = False,
) -> Calibration:
    r"""Measure candidates layer by layer against softmax, and choose one for each.

    With :obj:`tolerance` each layer gets the one of fewest logits whose output has no greater
    error. With :obj:`budget` all layers start with theirs of fewest logits; then always that layer
    takes a dearer one which gains the most for each logit, while the share of logits allows it. To
    keep softmax is a candidate too. Errors of layers are a sign, no more: measure the whole model.

    Args:
        model: an encoder without replacements.
        batches: what the model is called with: mappings of keywords, tuples, or tensors.
        budget: the wanted share of softmax's logits over all layers to replace, in (0, 1].
        tolerance: the greatest squared error of a layer's attention relative to its size.
        layers: numbers of those in question. (default: all that can be replaced)
        num_layers: how many of them to replace: with a budget those of the least error when each
            has that share, with a tolerance those of the fewest logits. (default: all)
        windows: candidates for the sizes of windows.
        angles: candidates for the angle of near nodes; None lets siblings meet.
        sinks: see :func:`replace_attention`.
        exact: also find divergence and total variation of each candidate, for the table.
        progress: whether to show a progress bar.

    Returns:
        :class:`Calibration`. The model is as it was.

    Raises:
        TypeError: if :obj:`num_layers` is no integer.
        ValueError: if not exactly one of :obj:`budget` and :obj:`tolerance` is given, if it or
            :obj:`num_layers` is out of range, if the least of all candidates exceeds the budget, if
            there are no candidates, or if the model has replacements.

    Cost: for each layer and batch one attention per candidate, and softmax attention.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
        >>> found = calibrate(model, [torch.randn(2, 32, 8)], windows=[(4,), (8,)], budget=0.5)
        >>> found.logits <= 0.5
        True
        >>> model = found.apply(model)
    """
    if (budget is None) == (tolerance is None):
        raise ValueError("Expected one of 'budget' and 'tolerance' (got both or none)")
    check_positive(
        tolerance if budget is None else budget, "tolerance" if budget is None else "budget"
    )
    if budget is not None and budget > 1:
        raise ValueError(f"Expected 'budget' to be a share of logits, at most 1 (got {budget})")
    if not windows or not angles:
        raise ValueError("Expected 'windows' and 'angles' to hold candidates (got none)")
    if any("hsa" in vars(module) for module in model.modules()):
        raise ValueError(
            "Expected 'model' without replacements (got some; restore_attention(model))"
        )
    found: dict[tuple[int, Any], list[Any]] = {}
    try:
        replace_attention(model, layers=layers, hierarchy=tuple(windows[0]), sinks=sinks)
        sites = [site for site in sites_of(model).values() if site.setting is not None]
        if num_layers is not None:
            check_integer(num_layers, "num_layers", 1)
            if num_layers > len(sites):
                raise ValueError(
                    f"Expected 'num_layers' to be at most the {len(sites)} layers in question "
                    f"(got {num_layers})"
                )
        options = {
            (tuple(w), a): Setting(tuple(w), a, site.setting.sinks, (), True)
            for site in sites[:1] if site.setting is not None
            for w in windows for a in angles
        }  # fmt: skip

        def record(site: Site, seen: Seen) -> None:
            for key, setting in options.items():
                row = row_of(site.index, seen, setting, site.name, exact)
                found.setdefault((site.index, key), []).append(row)

        run(model, batches, record, progress, "calibration")
    finally:
        restore_attention(model)
    trials = []
    for (layer, (w, a)), rows in found.items():
        row = _mean(rows)
        kl, variation = (float(x.mean()) if exact else None for x in (row.kl, row.variation))
        trials.append(Trial(layer, w, a, row.logits / row.full, kl, variation, row.error))
    trials += [Trial(s.index, None, None, 1.0, 0.0, 0.0, 0.0) for s in sites]
    lines = [_frontier([t for t in trials if t.layer == s.index]) for s in sites]
    if tolerance is not None:
        chosen = [next(t for t in line if t.error <= tolerance) for line in lines]
        chosen = sorted(chosen, key=lambda t: t.logits)[:num_layers]
    else:
        assert budget is not None

        def loss(line: list[Trial]) -> float:
            return min([t.error for t in line if t.logits <= budget], default=line[0].error)

        chosen = _within(budget, sorted(lines, key=loss)[:num_layers])
    chosen.sort(key=lambda t: t.layer)
    return Calibration(trials, chosen, None if sinks is None else tuple(sinks))


def _frontier(trials: list[Trial]) -> list[Trial]:
    """Those of which no cheaper one has as small an error, by logits; the last is softmax."""
    line: list[Trial] = []
    for t in sorted(trials, key=lambda t: (t.logits, t.error)):
        if t.logits <= 1 and (not line or t.error < line[-1].error):
            line.append(t)
    return line


def _within(budget: float, lines: list[list[Trial]]) -> list[Trial]:
    """Greedily one of each line, their mean share of logits within the budget."""
    at = [0] * len(lines)
    left = budget * len(lines) - sum(line[0].logits for line in lines)
    if left < 0:
        least = sum(line[0].logits for line in lines) / len(lines)
        raise ValueError(
            f"Expected 'budget' to be at least {least:.3g}, the least of the candidates "
            f"(got {budget})"
        )
    while True:
        best, gain = None, 0.0
        for i, line in enumerate(lines):
            for j in range(at[i] + 1, len(line)):
                more = line[j].logits - line[at[i]].logits
                worth = (line[at[i]].error - line[j].error) / more
                if more <= left and worth > gain:
                    best, gain = (i, j, more), worth
        if best is None:
            return [line[j] for line, j in zip(lines, at, strict=True)]
        at[best[0]] = best[1]
        left -= best[2]
