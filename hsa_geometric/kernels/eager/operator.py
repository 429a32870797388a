"""Custom operators on trees."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

FIELDS = ("Tensor up", "Tensor leaf", "Tensor packed", "Tensor numbers")

# What a backward returns for the tree.
NO_GRAD: list[None] = [None] * len(FIELDS)


class TreeOperator:
    """A ``torch.library.custom_op`` whose last argument is :attr:`TreeIndex.tensors`.

    To PyTorch they are four arguments: a list would be walked in Python at each call, forward and
    backward, which takes longer than to compute on a small tree. Functions that are registered
    here are given, and give back, a list.
    """

    def __init__(self, name: str, function: Callable[..., Any]):
        schema = torch.library.infer_schema(function, mutates_args=())
        head, found, tail = schema.rpartition("Tensor[] tree")
        if not found:
            raise TypeError(f"Expected the last argument of '{name}' to be a tree (got {schema})")
        self.signature = inspect.signature(function)
        self.op = torch.library.custom_op(
            name, self._joined(function), mutates_args=(), schema=head + ", ".join(FIELDS) + tail
        )
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the operator as the function is called."""
        if kwargs:
            args = self.signature.bind(*args, **kwargs).args
        return self.op(*args[:-1], *args[-1])

    @staticmethod
    def _joined(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: function(*args[:-4], list(args[-4:]))

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As of a custom operator."""
        self.op.register_fake(self._joined(function))
        return function

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., None]
    ) -> None:
        """As of a custom operator; the last gradient is :data:`NO_GRAD`."""

        def setup(ctx, inputs, output) -> None:
            setup_context(ctx, (*inputs[:-4], list(inputs[-4:])), output)

        def flat(ctx, *grads):
            *rest, tree = backward(ctx, *grads)
            return (*rest, *tree)

        self.op.register_autograd(flat, setup_context=setup)


def tree_operator(name: str) -> Callable[[Callable[..., Any]], TreeOperator]:
    """Decorator that makes a :class:`TreeOperator` of a function."""
    return lambda function: TreeOperator(name, function)
