"""The sweep: every method on every shape and size, skipped cells with their reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from .baselines import METHODS
from .case import Case, Prepared, Skipped
from .measure import Timing, interleaved
from .memory import in_fresh_process, peak

PASSES = ("forward", "both")
NO_MEMORY = {
    "layer-compiled": "would be compiled once more for it",
    "flex-families": "would be compiled once more for it",
    "flex-dense": "would be compiled once more for it",
}
NO_ATTENTION = ("floor", "tree")
LONGEST = 0.5  # seconds of a call whose memory is measured
LEAST_MOVED = 2**21  # bytes of q, k, v and out: pages and reused memory hide smaller peaks


@dataclass
class Record:
    """One method on one tree in one pass, timed or not.

    Attributes:
        size: leaves asked for; ``leaves`` are those there are.
        moved: bytes of q, k, v and out: what any method must move.
        skipped: why there is no time.
        peak: extra bytes at the peak, ``no_peak`` why they are not known.
    """

    shape: str
    size: int
    leaves: int
    nodes: int
    depth: int
    method: str
    which: str
    moved: int
    timing: Timing | None = None
    skipped: str | None = None
    peak: int | None = None
    no_peak: str | None = None

    @property
    def median(self) -> float:
        """Seconds; NaN where it was skipped."""
        return self.timing.median if self.timing else math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        options: of each :class:`~benchmarks.case.Case`: heads, channels, dtype, device, seed.
        threads: CPU threads.
        seconds: of samples for each cell.
        limit: a cell is skipped if one call will probably take longer, by the size before it.
        memory: whether to measure it.
    """

    options: dict[str, Any]
    threads: int = 2
    seconds: float = 0.3
    limit: float = 2.0
    memory: bool = True

    @property
    def device(self) -> str:
        """Where to run."""
        return self.options["device"]


def prepare(case: Case, method: str, which: str) -> Prepared:
    """A method made ready; any error in it is a reason to skip it."""
    try:
        return METHODS[method].prepare(case, which == "both")
    except Skipped:
        raise
    except Exception as error:
        raise Skipped(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error


def sweep(
    grid: Mapping[str, Iterable[int]],
    methods: Mapping[str, Iterable[str]],
    passes: Iterable[str],
    how: Settings,
) -> list[Record]:
    """All records; the methods of a shape take turns at each of its trees."""
    order = {shape: sorted(set(sizes)) for shape, sizes in grid.items()}
    passes = list(passes)
    chosen = {shape: list(methods[shape]) for shape in order}
    records: list[Record] = []
    total = len(passes) * sum(len(chosen[shape]) * len(order[shape]) for shape in order)
    with tqdm(total=total, desc="time", unit="cell") as bar:
        for shape, sizes in order.items():
            for size in sizes:
                case = Case.of(shape, size, **how.options)
                for which in passes:
                    bar.set_postfix_str(f"{shape} {size:,} {which}")
                    records += _time(case, shape, size, chosen[shape], which, records, how, bar)
    if how.memory:
        _memory([r for r in records if r.timing and r.method not in NO_ATTENTION], how)
    return records


def _time(
    case: Case,
    shape: str,
    size: int,
    methods: list[str],
    which: str,
    before: list[Record],
    how: Settings,
    bar: tqdm,
) -> list[Record]:
    """One record a method."""
    tree = case.tree
    q = case.qkv[0]
    new = {
        m: Record(shape, size, tree.num_leaves, tree.num_nodes, tree.depth, m, which, 4 * q.nbytes)
        for m in methods
    }
    ready: dict[str, Prepared] = {}
    for method, record in new.items():
        try:
            _foresee(record, before, how.limit)
            ready[method] = prepare(case, method, which)
        except Skipped as reason:
            record.skipped = str(reason)
            bar.update()
    calls = {m: p.call(which) for m, p in ready.items()}
    timings, failed = interleaved(
        calls, how.device, seconds=how.seconds, done=lambda method: bar.update()
    )
    for method in ready:
        new[method].timing = timings.get(method)
        new[method].skipped = failed.get(method)
    if how.memory and how.device != "cpu":
        for method in timings:
            new[method].peak = peak(calls[method], how.device)
    return list(new.values())


def _foresee(record: Record, before: list[Record], limit: float) -> None:
    """Skip what will probably take longer than the limit, or was too long already."""
    same = (record.shape, record.method, record.which)
    for old in reversed(before):
        if (old.shape, old.method, old.which) == same:
            if old.timing:
                growth = (record.leaves / old.leaves) ** METHODS[record.method].power
                guess = old.timing.median * growth
                if guess > limit:
                    raise Skipped(f"one call would take longer than {limit:g} s (--limit)")
            elif old.skipped and "would take" in old.skipped:
                raise Skipped(old.skipped)
            return


def _memory(records: list[Record], how: Settings) -> None:
    """Fill in the peaks on the CPU, one fresh process for each shape."""
    if how.device != "cpu":
        return
    records = [r for r in records if r.moved >= LEAST_MOVED]
    for record in records:
        record.no_peak = NO_MEMORY.get(record.method)
        if record.median > LONGEST:
            record.no_peak = f"a call takes longer than {LONGEST:g} s"
    options = how.options | {"dtype": str(how.options["dtype"]).removeprefix("torch.")}
    by_cell = {(r.shape, r.size, r.method, r.which): r for r in records if not r.no_peak}
    with tqdm(total=len(by_cell), desc="memory", unit="cell") as bar:
        for shape in dict.fromkeys(r.shape for r in records):
            cells = [cell for cell in by_cell if cell[0] == shape]
            for cell, found in in_fresh_process(cells, options, how.threads):
                if isinstance(found, int):
                    by_cell[cell].peak = found
                else:
                    by_cell[cell].no_peak = found
                bar.update()
