"""Checks at the door of options and ids: each error names the argument and what came."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


def check_choice(value: Any, name: str, choices: Collection[str | None]) -> None:
    """One of the names."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"Expected '{name}' to be one of {list(choices)} (got {value!r})")


def check_integer(value: Any, name: str, least: int | None = None) -> None:
    """An integer that is not too small."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be an integer (got {type(value).__name__})")
    if least is not None and value < least:
        raise ValueError(f"Expected '{name}' to be at least {least} (got {value})")


def check_integers(x: Tensor, name: str) -> None:
    """A tensor of integers."""
    if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        raise TypeError(f"Expected '{name}' to hold integers (got {x.dtype})")


def check_bool(value: Any, name: str) -> None:
    """A truth value."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be True or False (got {type(value).__name__})")


def check_positive(value: Any, name: str) -> None:
    """A positive number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"Expected '{name}' to be a number (got {type(value).__name__})")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"Expected '{name}' to be positive and finite (got {value})")
