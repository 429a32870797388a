"""What the transforms have in common: how they show themselves."""

from __future__ import annotations

import inspect

from torch_geometric.transforms import BaseTransform


class HierarchyTransform(BaseTransform):  # type: ignore[misc]
    """A transform that keeps each argument of its constructor under the argument's name."""

    def __repr__(self) -> str:
        """The options that are not the default ones."""
        given = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name)
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(value)
            elif value != parameter.default:
                given[name] = value
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{self.__class__.__name__}({options})"
