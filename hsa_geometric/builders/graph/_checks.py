"""Checks of the options of the methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def check_int(name: str, value: Any, *, least: int) -> None:
    """An integer that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be an integer (got {type(value).__name__})")
    if value < least:
        raise ValueError(f"Expected '{name}' to be at least {least} (got {value})")


def check_bool(name: str, value: Any) -> None:
    """A truth value."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be True or False (got {type(value).__name__})")


def check_positive(name: str, value: Any) -> None:
    """A positive number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be a number (got {type(value).__name__})")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"Expected '{name}' to be positive and finite (got {value})")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """One of the names."""
    if value not in choices:
        raise ValueError(f"Expected '{name}' to be one of {list(choices)} (got {value!r})")
