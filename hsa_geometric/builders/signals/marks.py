"""Marks within a nested signal."""

from __future__ import annotations

from typing import Any, NamedTuple


class Typed(NamedTuple):
    """A value that says of which type it is, where several types would take it.

    Attributes:
        type: name of the type.
        value: the value.

    Example:
        >>> Typed("smiles", "CCO")
        Typed(type='smiles', value='CCO')
    """

    type: str
    value: Any


class Unordered(list):  # type: ignore[type-arg]
    """A list whose order means nothing: its members stand on the domain ``'set'``.

    Example:
        >>> Unordered([1.5, 2.5])
        Unordered([1.5, 2.5])
    """

    def __repr__(self) -> str:
        return f"Unordered({super().__repr__()})"


# What holds other values, and the domain on which these stand there.
CONTAINERS: dict[Any, str] = {
    dict: "key",
    list: "sequence",
    tuple: "sequence",
    Unordered: "set",
    set: "set",
    frozenset: "set",
}
