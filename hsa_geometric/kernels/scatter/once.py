"""STAND-IN until TreeIndex has ``once``: to be deleted, and ``once(tree, ...)`` written ``tree.once(...)``."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

_FOUND: WeakKeyDictionary = WeakKeyDictionary()


def once(tree, name, make):
    """``make()``, or what it gave the last time."""
    if hasattr(tree, "once"):
        return tree.once(name, make)
    found = _FOUND.setdefault(tree, {})
    if name not in found:
        with torch.inference_mode(False):
            found[name] = make()
    return found[name]
