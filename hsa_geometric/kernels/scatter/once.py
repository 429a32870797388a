"""STAND-IN until TreeIndex has ``once`` and all its ``tensors``: to be deleted."""

from __future__ import annotations

from dataclasses import fields
from weakref import WeakKeyDictionary

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ...tree import TreeIndex

FIELDS = [f.name for f in fields(TreeIndex)]
_FOUND: WeakKeyDictionary = WeakKeyDictionary()


def once(tree, name, make):
    """``make()``, or what it gave the last time."""
    if hasattr(tree, "once"):
        return tree.once(name, make)
    found = _FOUND.setdefault(tree, {})
    if name not in found:
        with torch.inference_mode(False), temporarily_clear_interpreter_stack():
            found[name] = make()
    return found[name]


def tensors(tree):
    """``tree.tensors``."""
    return [getattr(tree, name) for name in FIELDS]
