"""What we aim for, as ratios: a table of aim against measured, yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from tqdm import tqdm

from .case import Case, Skipped
from .measure import Timing, interleaved
from .memory import in_fresh_process, peak
from .report import markdown
from .sweep import Settings, prepare

Cell = tuple[str, int, str, str]  # shape, leaves, method, pass


@dataclass(frozen=True)
class Aim:
    """A bound on the ratio of two times; the pass 'backward' is 'both' less 'forward'."""

    what: str
    above: Cell
    below: Cell
    bound: float
    at_least: bool = False


def _speed(shape: str, leaves: int, which: str, bound: float) -> Aim:
    what = f"{shape}, {leaves:,} leaves, {which}: sdpa / hsa"
    return Aim(what, (shape, leaves, "sdpa", which), (shape, leaves, "hsa", which), bound, True)


def _ratio(
    what: str, above: tuple[str, int], below: tuple[str, int], which: str, bound: float
) -> Aim:
    return Aim(f"{what}, {which}", (*above, "hsa", which), (*below, "hsa", which), bound)


def groups(largest: int = 1_048_576) -> list[list[Aim]]:
    """Aims whose cells are measured in turn; those beyond :obj:`largest` leaves are left out."""
    found: list[list[Aim]] = []
    for shape in ("balanced", "ragged"):
        found += [
            [_speed(shape, 1024, "forward", 2)],
            [_speed(shape, 4096, "forward", 8), _speed(shape, 4096, "both", 5)],
            [_speed(shape, 16_384, "forward", 40), _speed(shape, 16_384, "both", 25)],
        ]
    for shape in ("balanced", "ragged"):
        big, quarter = (shape, 1_048_576), (shape, 262_144)
        own = (*quarter, "hsa")
        found += [
            [_ratio(f"{shape}: 1,048,576 / 262,144 leaves", big, quarter, "forward", 5)],
            [
                Aim(f"{shape}, 262,144 leaves: forward / floor",
                    (*own, "forward"), (*quarter, "floor", "forward"), 4),
                Aim(f"{shape}, 262,144 leaves: backward / forward",
                    (*own, "backward"), (*own, "forward"), 2.5),
            ],
        ]  # fmt: skip
    for n in (1024, 16_384, 262_144):
        pair = ("ragged", n), ("balanced", n)
        found.append(
            [_ratio(f"ragged / balanced, {n:,} leaves", *pair, which, 1.6)
             for which in ("forward", "both")]
        )  # fmt: skip
    pair = ("molecules", 12_800), ("balanced", 12_800)
    found.append(
        [_ratio("512 molecules / balanced", *pair, which, 1.5) for which in ("forward", "both")]
    )
    for shape in ("balanced", "ragged"):
        found += [
            [Aim(f"{shape}, {n:,} leaves: building the tree / forward",
                 (shape, n, "tree", "forward"), (shape, n, "hsa", "forward"), 0.5)]
            for n in (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
        ]  # fmt: skip
    pair = ("deep", 10_000), ("balanced", 10_000)
    found.append(
        [_ratio("3,000 deep / balanced, 10,000 leaves", *pair, which, 10)
         for which in ("forward", "backward")]
    )  # fmt: skip
    for n in (1024, 16_384):
        layer = ("balanced", n, "layer", "both")
        found.append([
            Aim(f"layer, {n:,} leaves, both: products and operator / all",
                ("balanced", n, "layer-parts", "both"), layer, 0.6, True),
            Aim(f"layer, {n:,} leaves, both: compiled / eager",
                ("balanced", n, "layer-compiled", "both"), layer, 1.05),
        ])  # fmt: skip
    for shape in ("balanced", "ragged"):
        cells = [(shape, 1000, method, "both") for method in ("layer", "layer-overhead")]
        what = f"{shape}, 1,000 leaves, both: layer / the same with one head of one channel"
        found.append([Aim(what, *cells, 2, True)])  # so overhead is at most the rest
    small = [[a for a in aims if max(a.above[1], a.below[1]) <= largest] for aims in found]
    return [aims for aims in small if aims]


def run(
    how: Settings, largest: int = 1_048_576, passes: int = 3
) -> tuple[str, list[dict[str, Any]]]:
    """Measure all, several times over; the table, and the same as data.

    A shared machine has better and worse minutes: all aims are measured in turn, :obj:`passes`
    times, and the median ratio counts.
    """
    todo = groups(largest)
    found: dict[Aim, list[float | str]] = {aim: [] for aims in todo for aim in aims}
    for aims in tqdm(todo * passes, desc="aims", unit="group"):
        timings, failed = _measure(aims, how)
        for aim in aims:
            found[aim].append(_ratio_or_reason(aim, timings, failed))
    rows = [_judge(aim, ratios) for aim, ratios in found.items()]
    size = min(largest, 262_144)
    for which in ("forward", "both"):
        rows.append(_memory(size, which, how))
    table = markdown(
        ["aim", "bound", "measured", "lowest–highest", "met"],
        [[r["what"], r["bound"], r["measured"], r["range"], r["met"]] for r in rows],
    )
    return table, rows


def _measure(aims: list[Aim], how: Settings) -> tuple[dict[Cell, Timing], dict[Cell, str]]:
    cells: dict[Cell, None] = {}
    for aim in aims:
        for shape, leaves, method, which in (aim.above, aim.below):
            parts = ("forward", "both") if which == "backward" else (which,)
            for each in parts:
                cells[shape, leaves, method, each] = None
    cases = {cell[:2]: Case.of(*cell[:2], **how.options) for cell in cells}
    calls, skipped = {}, {}
    for cell in cells:
        try:
            prepared = prepare(cases[cell[:2]], cell[2], cell[3])
            calls[cell] = prepared.call(cell[3])
        except Skipped as reason:
            skipped[cell] = str(reason)
    timings, failed = interleaved(calls, how.device, seconds=how.seconds)
    return timings, failed | skipped


def _ratio_or_reason(aim: Aim, timings: dict[Cell, Timing], failed: dict[Cell, str]) -> float | str:
    """Of the medians; or why there is none."""
    try:
        above, below = (_seconds(cell, timings) for cell in (aim.above, aim.below))
    except KeyError as missing:
        return failed.get(missing.args[0], "not measured")
    return above / below


def _judge(aim: Aim, ratios: list[float | str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "what": aim.what,
        "bound": f"{'≥' if aim.at_least else '≤'} {aim.bound:g}",
        "ratios": ratios,
    }
    reasons = [x for x in ratios if isinstance(x, str)]
    if reasons:
        return row | {"measured": reasons[0], "range": "", "met": "–"}
    numbers = sorted(x for x in ratios if not isinstance(x, str))
    ratio = median(numbers)
    met = ratio >= aim.bound if aim.at_least else ratio <= aim.bound
    return row | {
        "measured": f"{ratio:.3g}",
        "range": f"{numbers[0]:.3g}–{numbers[-1]:.3g}",
        "met": "yes" if met else "no",
    }


def _seconds(cell: Cell, timings: dict[Cell, Timing]) -> float:
    if cell[3] != "backward":
        return timings[cell].median
    shape, leaves, method, _ = cell
    both, forward = (timings[shape, leaves, method, which] for which in ("both", "forward"))
    return both.median - forward.median


def _memory(leaves: int, which: str, how: Settings) -> dict[str, Any]:
    cell = ("balanced", leaves, "hsa", which)
    row: dict[str, Any] = {
        "what": f"balanced, {leaves:,} leaves, {which}: peak extra memory / (q + k + v + out)",
        "bound": "≤ 8",
        "range": "",
    }
    if how.device == "cpu":
        options = how.options | {"dtype": str(how.options["dtype"]).removeprefix("torch.")}
        ((_, found),) = in_fresh_process([cell], options, how.threads)
    else:
        prepared = prepare(Case.of("balanced", leaves, **how.options), "hsa", which)
        found = peak(prepared.call(which), how.device)
    if isinstance(found, str):
        return row | {"measured": found, "met": "–"}
    width = how.options["heads"] * how.options["channels"]
    ratio = found / (4 * leaves * width * how.options["dtype"].itemsize)
    return row | {"measured": f"{ratio:.2f}", "met": "yes" if ratio <= 8 else "no"}
