"""What is worked out once, found by a number and a device for as long as somebody needs it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import unset_fake_temporarily


class Found(dict[Hashable, Any]):
    """Results by name; plain dicts cannot be referred to weakly."""


_FOUND: WeakValueDictionary[tuple[int, torch.device], Found] = WeakValueDictionary()


def found_by(key: int, device: torch.device) -> Found:
    """The results of all who ask with this key and device; freed with the last who holds them."""
    return _FOUND.setdefault((key, device), Found())


@contextmanager
def plainly() -> Iterator[None]:
    """Tensors made here are plain ones, whatever PyTorch is doing around it."""
    outside = temporarily_clear_interpreter_stack(), unset_fake_temporarily()
    with outside[0], outside[1], torch.inference_mode(False), torch.no_grad():
        yield
