"""Tables of merges at the door: one row for each merge, as clustering libraries return them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from torch import Tensor

from hsa_geometric.builders._ids import first

Matrix: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[Sequence[float]] | Any"


def as_matrix(value: Matrix, name: str, columns: int) -> Tensor:
    """A table of numbers with so many columns; what is no tensor is copied.

    Fields of a NumPy record array are columns, and what has ``to_numpy`` is taken by it.
    """
    if isinstance(value, Tensor):
        matrix = value.detach()
    else:
        try:
            array = np.array(value.to_numpy() if hasattr(value, "to_numpy") else value)
            array = structured_to_unstructured(array) if array.dtype.names else array
            matrix = torch.from_numpy(array.reshape(-1, columns) if array.shape == (0,) else array)
        except (TypeError, ValueError) as error:  # ragged, or objects
            raise TypeError(
                f"Expected '{name}' to be a matrix of numbers (got {type(value).__name__}: {error})"
            ) from error
    if matrix.is_complex() or matrix.dtype == torch.bool:
        raise TypeError(f"Expected '{name}' to hold real numbers (got {matrix.dtype})")
    if matrix.dim() != 2 or matrix.shape[1] != columns:
        raise ValueError(
            f"Expected '{name}' to have {columns} columns and a row for each merge "
            f"(got shape {list(matrix.shape)})"
        )
    return matrix


def parent_of_merges(merges: Tensor, num_leaves: int, name: str) -> Tensor:
    """Parent vector of ``num_leaves`` leaves and then one node for each row of ``merges [M, 2]``.

    Nodes that nothing merges are roots.
    """
    ids = merges.long()
    formed = num_leaves + torch.arange(ids.shape[0], device=ids.device)
    fractional = merges != ids
    if fractional.any():
        row, column = fractional.nonzero()[0].tolist()
        raise ValueError(
            f"Expected '{name}' to join integer ids "
            f"(got {name}[{row}, {column}] = {merges[row, column].item()})"
        )
    outside = (ids < 0) | (ids >= formed.view(-1, 1))
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        raise ValueError(
            f"Expected row {row} of '{name}' to join leaves and merges of earlier rows, ids in "
            f"[0, {num_leaves + row - 1}] (got {name}[{row}, {column}] = {int(ids[row, column])})"
        )
    parent = torch.arange(num_leaves + ids.shape[0], device=ids.device)
    if (node := first(torch.bincount(ids.view(-1)) > 1)) is not None:
        rows = (ids == node).nonzero()[:2, 0].tolist()
        raise ValueError(
            f"Expected '{name}' to merge each node once "
            f"(got node {node} in row {rows[0]} and in row {rows[1]})"
        )
    parent[ids] = formed.view(-1, 1).expand_as(ids)
    return parent
