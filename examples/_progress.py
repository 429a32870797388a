"""The progress bar of all examples."""

import sys
from typing import Any

try:
    from tqdm import tqdm
except ImportError as error:
    raise ImportError(
        "This example needs 'tqdm': pip install \"hsa_geometric[examples]\""
    ) from error


class _Lines(tqdm):
    """Writes whole lines instead of going back to the start of one."""

    @staticmethod
    def status_printer(file: Any) -> Any:
        def write(status: str) -> None:
            if status.strip():
                file.write(f"{status.strip()}\n")
                file.flush()

        return write


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """Returns a ``tqdm`` bar; where it is no terminal, one that writes a line every ten seconds.

    Set what it shows with ``refresh=False``, or each step writes.
    """
    if (options.get("file") or sys.stderr).isatty():
        return tqdm(*args, **options)
    return _Lines(*args, **{"mininterval": 10, "miniters": 1, **options})
