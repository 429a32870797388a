"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(x: float) -> str:
    """Whole numbers with separators, others with three digits, a dash for NaN, rounding as 0.

    Example:
        >>> number(12345.0), number(0.012345), number(-3e-15), number(math.nan)
        ('12,345', '0.0123', '0', '–')
    """
    if math.isnan(x):
        return "–"
    if abs(x) < 1e-12:
        return "0"
    if math.isinf(x) or x == int(x):
        return f"{x:,.0f}"
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first one to the left and the others to the right.

    Example:
        >>> print(table([["a", "10"], ["long", "2"]]))
        a     10
        long   2
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
