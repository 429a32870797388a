"""Progress of what may take long: a bar where one is asked for, and else nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

from hsa_geometric.functional.options import check_bool

Step: TypeAlias = Callable[[int], object]
"""Says that so many more of the things counted are done."""


def no_step(done: int) -> None:
    """Count nothing."""


@contextmanager
def counting(progress: bool, total: int, desc: str, unit: str) -> Iterator[Step]:
    """Count up to a total on a bar, if there is to be one."""
    check_bool(progress, "progress")
    if not progress:
        yield no_step
        return
    with progress_bar(total=total, desc=desc, unit=unit) as bar:
        yield bar.update


def progress_bar(*args: Any, **options: Any) -> Any:
    """Returns a ``tqdm`` bar; where it is no terminal, one that writes a line every ten seconds.

    Set what it shows with ``refresh=False``, or each step writes.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "A progress bar needs tqdm, which comes with torch_geometric: pip install tqdm"
        ) from error
    if (options.get("file") or sys.stderr).isatty():
        return tqdm(*args, **options)
    return _lines()(*args, **{"mininterval": 10, "miniters": 1, **options})


@cache
def _lines() -> Any:
    from tqdm import tqdm

    class Lines(tqdm):  # type: ignore[misc]
        """Writes whole lines instead of going back to the start of one."""

        @staticmethod
        def status_printer(file: Any) -> Any:
            def write(status: str) -> None:
                if status.strip():
                    file.write(f"{status.strip()}\n")
                    file.flush()

            return write

    return Lines
