"""The sweep as markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from .sweep import Record

TITLES = {"forward": "forward", "both": "forward + backward"}


def tables(records: list[Record], copy_rate: float) -> str:
    """Times, ratios and memory of every shape and pass, then what was not run and why."""
    parts = []
    for shape in dict.fromkeys(r.shape for r in records):
        for which in dict.fromkeys(r.which for r in records):
            chosen = [r for r in records if (r.shape, r.which) == (shape, which)]
            if any(r.timing for r in chosen):
                parts += _section(chosen, f"{shape}, {TITLES[which]}", copy_rate)
    parts += _skipped(records)
    return "\n".join(parts)


def _section(records: list[Record], title: str, copy_rate: float) -> list[str]:
    at = {(r.method, r.size): r for r in records}

    def against(base: str) -> Callable[[Record], str]:
        def cell(record: Record) -> str:
            other = at.get((base, record.size))
            ratio = record.median / other.median if other else math.nan
            return "" if math.isnan(ratio) else f"{_digits(ratio)}×"

        return cell

    def moved(record: Record) -> str:
        share = record.moved / record.median / copy_rate
        return "" if math.isnan(share) else f"{100 * share:.0f} %"

    def memory(record: Record) -> str:
        return "" if record.peak is None else f"{record.peak / record.moved:.1f}×"

    parts = [f"\n### {title}\n", "Milliseconds, median [quartiles]:\n", _table(records, _time)]
    if any(r.method == "sdpa" and r.timing for r in records):
        parts += [
            "\nTime relative to SDPA (below 1 is faster):\n",
            _table(records, against("sdpa")),
        ]
    if any(r.method == "floor" and r.timing for r in records):
        parts += ["\nTime relative to the floor:\n", _table(records, against("floor"))]
    own = [r for r in records if r.method == "hsa" and r.which == "forward"]
    if own:
        parts += [
            "\nq, k, v and out moved once, as a share of the measured copy rate:\n",
            _table(own, moved),
        ]
    known = [r for r in records if r.peak is not None]
    if known:
        parts += [
            "\nPeak extra memory relative to q + k + v + out, where these are at least 2 MiB:\n",
            _table(known, memory),
        ]
    return parts


def _time(record: Record) -> str:
    t = record.timing
    if t is None:
        return ""
    return f"{_digits(1e3 * t.median)} [{_digits(1e3 * t.q1)}–{_digits(1e3 * t.q3)}]"


def _digits(x: float) -> str:
    """Three digits, without an exponent."""
    return f"{x:,.{min(3, max(0, 2 - math.floor(math.log10(x))))}f}" if x > 0 else "0"


def _table(records: list[Record], cell: Callable[[Record], str]) -> str:
    """Methods down, leaves across."""
    leaves = {r.size: r.leaves for r in records}
    at = {(r.method, r.size): cell(r) for r in records}
    methods = [
        m for m in dict.fromkeys(r.method for r in records) if any(at.get((m, s)) for s in leaves)
    ]
    return markdown(
        ["leaves", *(f"{n:,}" for n in leaves.values())],
        [[m, *(at.get((m, s)) or "–" for s in leaves)] for m in methods],
    )


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A markdown table, its columns aligned for reading as it is."""
    rows = [head, *rows]
    width = [max(len(row[i]) for row in rows) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [
            row[0].ljust(width[0]),
            *(x.rjust(w) for x, w in zip(row[1:], width[1:], strict=True)),
        ]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (width[0] - 1), *("-" * (w - 1) + ":" for w in width[1:])]
    return "\n".join([line(head), line(rule), *map(line, rows[1:])])


def _skipped(records: list[Record]) -> list[str]:
    """One line for each method and reason, with the shapes and sizes."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in records:
        for reason in (r.skipped, r.no_peak and f"no memory: {r.no_peak}"):
            if reason:
                place = f"{r.shape} {r.leaves:,} {r.which}"
                reasons.setdefault((r.method, reason), []).append(place)
    if not reasons:
        return []
    rows = [
        f"- **{method}**, {', '.join(places[:4])}"
        + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        + f": {reason}"
        for (method, reason), places in reasons.items()
    ]
    return ["\n### Not run, and why\n", *rows]
