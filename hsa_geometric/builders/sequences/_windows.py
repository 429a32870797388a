"""Sizes of windows: of a sequence, or along each axis of a grid."""

from __future__ import annotations

from collections.abc import Sequence

from hsa_geometric.functional.options import check_integer


def as_windows(
    windows: Sequence[int | Sequence[int]] | None,
    branching: int | Sequence[int] | None,
    shape: tuple[int, ...],
    default: int,
) -> list[tuple[int, ...]]:
    """Sizes of the windows along each axis, from fine to coarse.

    Either the given ones, or the powers of the branching factor (``default`` if that is missing
    too) until one holds all of ``shape``.
    """
    ones = (1,) * len(shape)
    if windows is not None:
        if branching is not None:
            raise ValueError("Expected 'windows' or 'branching', not both")
        if isinstance(windows, (str, bytes)) or not isinstance(windows, Sequence):
            raise TypeError(f"Expected 'windows' to be a sequence (got {type(windows).__name__})")
        out = [_sizes(window, f"windows[{i}]", len(shape)) for i, window in enumerate(windows)]
        for former, window in zip([ones, *out], out, strict=False):
            if window == former or any(w % f for w, f in zip(window, former, strict=True)):
                raise ValueError(
                    f"Expected 'windows' to grow by whole multiples "
                    f"(got {_plain(window)} after {_plain(former)})"
                )
        return out

    factor = _sizes(default if branching is None else branching, "branching", len(shape))
    if factor == ones:
        raise ValueError(f"Expected 'branching' to be at least 2 (got {_plain(factor)})")
    out, window = [], ones
    while any(b > 1 and w < n for b, w, n in zip(factor, window, shape, strict=True)):
        window = tuple(w * b for b, w in zip(factor, window, strict=True))
        out.append(window)
    if out and all(w >= n for w, n in zip(out[-1], shape, strict=True)):
        out.pop()  # that is the root
    return out


def _sizes(value: int | Sequence[int], name: str, dims: int) -> tuple[int, ...]:
    sizes = (value,) * dims if isinstance(value, int) else value
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence):
        raise TypeError(f"Expected '{name}' to be an integer (got {type(value).__name__})")
    if len(sizes) != dims:
        raise ValueError(
            f"Expected '{name}' to have a size for each of the {dims} axes (got {len(sizes)})"
        )
    for size in sizes:
        check_integer(size, name, 1)
    return tuple(sizes)


def _plain(sizes: tuple[int, ...]) -> str:
    return str(sizes[0] if len(sizes) == 1 else sizes)
