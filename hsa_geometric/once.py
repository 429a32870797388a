"""What is worked out once, found by a number and a device for as long as somebody needs it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
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
    if not (
        torch._C._functorch.peek_interpreter_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch.is_inference_mode_enabled()
    ):  # mostly nothing
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            yield
        finally:
            torch._C._set_grad_enabled(before)
        return
    outside = temporarily_clear_interpreter_stack(), unset_fake_temporarily()
    with outside[0], outside[1], torch.inference_mode(False), torch.no_grad():
        yield


class Once:
    """Plain tensors on a device, of which more can be worked out once.

    A frozen dataclass that has this for its base has a field :obj:`key`, a random number, always on
    the CPU, that all its copies share.
    """

    key: Tensor

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        raise NotImplementedError

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returned at the first call with this name: the one cache of its owner.

        All copies of one :attr:`key` and device find it; it is freed with the last of them, and
        not pickled. Threads that ask at once may both make it; one result stays. While a graph is
        compiled, it becomes part of the graph.
        """
        if torch.compiler.is_compiling():
            return make()
        found = self._found
        if name not in found:
            with plainly():
                found.setdefault(name, make())
        return found[name]

    @cached_property
    def _found(self) -> Found:
        with plainly():
            return found_by(int(self.key), self.device)

    def __post_init__(self) -> None:
        if not torch.compiler.is_compiling() and type(self.key) is Tensor:
            self._found  # noqa: B018 (held for those that operators put together from its tensors)
