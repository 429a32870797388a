"""Leaves of several types, of different widths, to one width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset

from ...functional.options import check_integer, check_integers


class Ids(NamedTuple):
    """Input that is ids (words, atoms), each with a learned vector, instead of channels.

    Attributes:
        num: how many ids there are.
    """

    num: int


class TypedInput(torch.nn.Module):
    r"""An input map for each type of leaf (appendix F of `the paper
    <https://arxiv.org/abs/2509.15448>`_).

    .. math::
        \mathbf{x}_i = \mathbf{W}_{t(i)} \, \mathbf{x}^{(t)}_i + \mathbf{b}_{t(i)}

    or a row of a table, where the type is of ids. The types are known at construction; what a
    sample is composed of is not.

    Args:
        in_channels: of each type its width, or :class:`Ids`. A type's number, in
            :obj:`leaf_type`, is its place here.
        out_channels: the common width.

    Shapes:
        - **input:** for each type :math:`t`, :math:`(N_t, F_t)`, or integers :math:`(N_t)`, rows
          in the order of the leaves; leaf_type :math:`(N)`
        - **output:** :math:`(N, \mathrm{out\_channels})`

    Example:
        >>> import torch
        >>> lin = TypedInput({"word": Ids(100), "patch": 12}, 8)
        >>> x = {"word": torch.tensor([5, 7]), "patch": torch.randn(1, 12)}
        >>> lin(x, torch.tensor([0, 1, 0])).shape
        torch.Size([3, 8])
    """

    def __init__(self, in_channels: Mapping[str, int | Ids], out_channels: int):
        super().__init__()
        if not isinstance(in_channels, Mapping) or not in_channels:
            raise TypeError(f"Expected 'in_channels' to map types to widths (got {in_channels!r})")
        self.types = tuple(in_channels)
        self.in_channels = dict(in_channels)
        self.out_channels = out_channels
        self.maps = torch.nn.ModuleList(
            [input_map(width, out_channels) for width in in_channels.values()]
        )

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        reset(self.maps)

    def forward(self, x: Mapping[str, Tensor], leaf_type: Tensor) -> Tensor:
        """Run the layer.

        Args:
            x: rows of each type; a type without leaves may be missing.
            leaf_type: number of the type of each leaf.

        Raises:
            TypeError, ValueError: for leaves of an undeclared type, a wrong width, or another
                number of rows than there are leaves of the type; naming the type.
        """
        self._check(x, leaf_type)
        parts = [
            (number, apply_input(module, x[name], f"x[{name!r}]"))
            for number, (name, module) in enumerate(zip(self.types, self.maps, strict=True))
            if name in x and x[name].shape[0]
        ]
        like: Any = parts[0][1] if parts else self.maps[0].weight
        out = like.new_zeros(leaf_type.shape[0], self.out_channels)
        for number, rows in parts:
            where = (leaf_type == number).nonzero().view(-1)
            if where.numel() != rows.shape[0]:
                raise ValueError(
                    f"Expected x[{self.types[number]!r}] to have one row for each of the "
                    f"{where.numel()} leaves of this type (got {rows.shape[0]} rows)"
                )
            out = out.index_copy(0, where, rows)
        return out

    def _check(self, x: Any, leaf_type: Any) -> None:
        if not isinstance(x, Mapping):
            raise TypeError(f"Expected 'x' to map types to tensors (got {type(x).__name__})")
        for name in x:
            if name not in self.types:
                raise ValueError(f"Expected types among {list(self.types)} in 'x' (got {name!r})")
        if not isinstance(leaf_type, Tensor) or leaf_type.dim() != 1:
            raise TypeError(f"Expected 'leaf_type' to be a tensor [N] (got {leaf_type!r})")
        check_integers(leaf_type, "leaf_type")
        if torch.compiler.is_compiling():
            return
        counts = torch.bincount(leaf_type.clamp(min=-1) + 1, minlength=len(self.types) + 1)
        if counts[0] or counts.numel() > len(self.types) + 1:
            leaf = int(((leaf_type < 0) | (leaf_type >= len(self.types))).nonzero()[0])
            raise ValueError(
                f"Expected 'leaf_type' to hold numbers of the types {list(self.types)} "
                f"(got leaf_type[{leaf}] = {int(leaf_type[leaf])})"
            )
        for number, name in enumerate(self.types):
            rows = x[name].shape[0] if name in x else 0
            if rows != int(counts[number + 1]):
                raise ValueError(
                    f"Expected x[{name!r}] to have one row for each of the "
                    f"{int(counts[number + 1])} leaves of this type (got {rows} rows)"
                )

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.in_channels}, {self.out_channels})"


def input_map(in_channels: int | Ids, out_channels: int) -> torch.nn.Module:
    """A linear map of channels, or a table of ids."""
    if isinstance(in_channels, Ids):
        check_integer(in_channels.num, "Ids.num", 1)
        table = torch.nn.Embedding(in_channels.num, out_channels)
        torch.nn.init.normal_(table.weight, std=out_channels**-0.5)
        return table
    check_integer(in_channels, "in_channels", -1)
    if in_channels == 0:
        raise ValueError("Expected 'in_channels' to be positive, or -1 (got 0)")
    return Linear(in_channels, out_channels)


def apply_input(module: torch.nn.Module, x: Tensor, name: str) -> Tensor:
    """The map of an input, checked."""
    if isinstance(module, torch.nn.Embedding):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"Expected {name} to hold integers, which are ids (got {x.dtype})")
        if x.dim() != 1:
            raise ValueError(f"Expected {name} to be ids [N] (got shape {list(x.shape)})")
        num = module.num_embeddings
        if not torch.compiler.is_compiling() and x.numel():
            low, high = map(int, x.aminmax())
            if low < 0 or high >= num:
                raise ValueError(
                    f"Expected {name} to hold ids in [0, {num - 1}] (got {low} to {high})"
                )
    else:
        width = module.in_channels
        if not x.is_floating_point() or x.dim() != 2 or (width != -1 and x.shape[1] != width):
            wide = "F" if width == -1 else width
            raise ValueError(
                f"Expected {name} to hold floating-point numbers of shape [N, {wide}] "
                f"(got {x.dtype} of shape {list(x.shape)})"
            )
    out: Tensor = module(x)
    return out
