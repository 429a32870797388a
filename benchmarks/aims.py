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
    """A bound on the ratio of two times, or on a time in microseconds where ``below`` is None."""

    what: str
    above: Cell
    below: Cell | None
    bound: float
    at_least: bool = False


def _speed(shape: str, leaves: int, which: str, bound: float) -> Aim:
    what = f"{shape}, {leaves:,} leaves, {which}: sdpa / hsa"
    return Aim(what, (shape, leaves, "sdpa", which), (shape, leaves, "hsa", which), bound, True)


def _share(shape: str, leaves: int, which: str, other: str, bound: float) -> Aim:
    what = f"{shape}, {leaves:,} leaves, {which}: hsa / {other}"
    return Aim(what, (shape, leaves, "hsa", which), (shape, leaves, other, which), bound)


PASSES = ("forward", "both")


def groups(largest: int = 1_048_576) -> list[list[Aim]]:
    """Aims whose cells are measured in turn; those beyond :obj:`largest` leaves are left out."""
    found: list[list[Aim]] = []
    for shape in ("balanced", "ragged"):
        for n, bound in ((64, 1), (256, 1), (512, 2)):
            found.append([_speed(shape, n, which, bound) for which in PASSES])
        for n, bound in ((1024, 8), (4096, 25), (16_384, 100)):
            found.append([_speed(shape, n, "forward", bound)])
    found.append([Aim("one molecule of 25 atoms, forward: microseconds",
                      ("molecules", 25, "hsa", "forward"), None, 40)])  # fmt: skip
    for n in (250, 4000, 64_000, 262_144):
        found.append([_share("molecules", n, which, "sdpa", 0.8) for which in PASSES])
    for shape in ("balanced", "ragged"):
        found.append([_share(shape, 262_144, "forward", "floor", 1.4)])
        found.append([_share(shape, 262_144, "both", "floor", 1.6)])
    for which in PASSES:
        deep, balanced = (("deep", 10_000, "hsa", which), ("balanced", 10_000, "hsa", which))
        what = f"3,000 deep / balanced, 10,000 leaves, {which}"
        found.append([Aim(what, deep, balanced, 1.5)])
    found += [[_share("star", 20_000, which, "sdpa", 1.2)] for which in PASSES]
    for which in PASSES:
        cells = [("balanced", 65_536, method, which) for method in ("hsa-one-thread", "hsa")]
        what = f"balanced, 65,536 leaves, {which}: one thread / all"
        found.append([Aim(what, *cells, 1.7, True)])
    for shape in ("balanced", "ragged"):
        found += [
            [Aim(f"{shape}, {n:,} leaves: building tree and walk / forward",
                 (shape, n, "tree", "forward"), (shape, n, "hsa", "forward"), 0.5)]
            for n in (256, 1024, 16_384, 262_144)
        ]  # fmt: skip
    small = [
        [a for a in aims if max(a.above[1], a.below[1] if a.below else 0) <= largest]
        for aims in found
    ]
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
    rows += [_memory(min(largest, 262_144), which, how) for which in PASSES]
    table = markdown(
        ["aim", "bound", "measured", "lowest–highest", "met"],
        [[r["what"], r["bound"], r["measured"], r["range"], r["met"]] for r in rows],
    )
    return table, rows


def _measure(aims: list[Aim], how: Settings) -> tuple[dict[Cell, Timing], dict[Cell, str]]:
    cells: dict[Cell, None] = {}
    for aim in aims:
        for cell in (aim.above, aim.below):
            if cell:
                cells[cell] = None
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
        above = timings[aim.above].median
        below = timings[aim.below].median if aim.below else 1e-6
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


def _memory(leaves: int, which: str, how: Settings) -> dict[str, Any]:
    cell = ("balanced", leaves, "hsa", which)
    row: dict[str, Any] = {
        "what": f"balanced, {leaves:,} leaves, {which}: "
        "peak beyond inputs and output / (q + k + v + out)",
        "bound": "≤ 1.5",
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
    # The output counts in what is found.
    ratio = found / (4 * leaves * width * how.options["dtype"].itemsize) - 0.25
    return row | {"measured": f"{ratio:.2f}", "met": "yes" if ratio <= 1.5 else "no"}
