"""Optional packages, which the extras of this one bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, needs: str) -> Iterator[None]:
    """Around an import: if it fails, say what needs the package and which extra brings it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{needs}: pip install 'hsa_geometric[{name}]'") from error
