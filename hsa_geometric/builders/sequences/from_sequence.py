"""A sequence, cut into windows or at given boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsa_geometric.builders._ids import Ids, as_ids, first
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.sequences._nest import nest, refine
from hsa_geometric.builders.sequences._windows import as_windows
from hsa_geometric.data.hierarchy import Hierarchy


def from_sequence(
    length: int | Ids,
    *,
    windows: Sequence[int] | None = None,
    branching: int | None = None,
    boundaries: Iterable[Any] | None = None,
    collapse: bool = True,
    device: torch.device | str | None = None,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy over a sequence of tokens, or over a batch of sequences.

    Tokens are tree nodes ``0 .. N-1`` in their order; then come the windows of each level from fine
    to coarse, and at last the roots, one for each sequence. Give one of :obj:`windows`,
    :obj:`branching` and :obj:`boundaries`.

    Args:
        length: number of tokens; or a vector ``[B]`` of them for :obj:`B` sequences one behind the
            other, each of which becomes a tree of its own (tree ``b`` is sequence ``b``), with
            ``h.batch``.
        windows: sizes of the windows in tokens from fine to coarse, each a whole multiple of the
            one before: ``(4, 16)`` makes windows of 4, and groups 4 of these. The last window of a
            sequence may be shorter. Windows count from the beginning of each sequence.
        branching: windows of ``branching``, ``branching**2``, … tokens, until one holds the
            longest sequence. (default: ``8``, if nothing else is given)
        boundaries: levels of your own from fine to coarse, such as sentences and paragraphs. Each
            is a vector ``[N]``, either of booleans, true where a unit begins, or of integers, the
            number of the unit of each token, ascending within a sequence. Where a coarser unit
            begins, a finer one begins too.
        collapse: leave out nodes with a single child, which add nothing to the attention, and those
            that hold a whole sequence below its root. With :obj:`False` all are kept: each token
            then lies equally deep in the tree, and level ``-2`` of
            :func:`~hsa_geometric.functional.clusters_at` is made of the finest windows.
        device: where to build. (default: the device of :obj:`length`, if that is a tensor, else of
            the first of the :obj:`boundaries`, else the CPU)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    A sequence of one token is a root with one leaf.

    Raises:
        TypeError: if :obj:`length`, a window or the branching factor is no integer, or if
            boundaries hold neither booleans nor integers.
        ValueError: naming the argument: a length below 1, windows that do not grow by whole
            multiples, boundaries of another length or that descend, or two of the ways at once.

    Cost: :math:`\mathcal{O}(N)` for each level (boundaries: one sort for each); no Python per node.

    Example:
        >>> h = from_sequence(5, windows=(2, 4), x=torch.rand(5, 8))
        >>> h
        Hierarchy(leaves=5, nodes=9, depth=3, x=[5, 8])
        >>> h.parent  # token 4 is alone in its windows, and hangs below the root
        tensor([5, 5, 6, 6, 8, 7, 7, 8, 8])
        >>> sentence = [True, False, True, False, True]
        >>> paragraph = [True, False, False, False, True]
        >>> same = from_sequence(5, boundaries=[sentence, paragraph])
        >>> torch.equal(same.parent, h.parent)
        True
        >>> from_sequence([5, 1, 12], branching=4)
        Hierarchy(leaves=18, nodes=25, trees=3, depth=2, batch=[18])
    """
    ways = {"windows": windows, "branching": branching, "boundaries": boundaries}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"Expected one of 'windows', 'branching', 'boundaries' (got {given})")
    lengths = _as_lengths(length)
    vectors = None if boundaries is None else _as_vectors(boundaries)
    if device is None:
        device = lengths.device
        if vectors and not isinstance(length, Tensor):
            device = vectors[0].device
    lengths = lengths.to(device)
    samples = torch.arange(lengths.numel(), device=lengths.device)
    batch = samples.repeat_interleave(lengths)
    start = lengths.cumsum(0) - lengths
    if vectors is not None:
        levels = [_units(v.to(device), i, batch, start) for i, v in enumerate(vectors)]
        levels = refine(levels, batch)
    else:
        token = torch.arange(batch.numel(), device=batch.device) - start[batch]
        levels = []
        for (size,) in as_windows(windows, branching, (int(lengths.max()),), default=8):
            count = (lengths + size - 1) // size
            levels.append(token // size + (count.cumsum(0) - count)[batch])

    if not isinstance(length, int):
        leaf_data["batch"] = batch
    return from_parent(nest(levels, batch, collapse=collapse).parent, **leaf_data)


def _as_lengths(length: int | Ids) -> Tensor:
    if isinstance(length, bool):
        raise TypeError("Expected 'length' to be an integer (got bool)")
    lengths = torch.tensor([length]) if isinstance(length, int) else as_ids(length, "length")
    if int(lengths.min()) < 1:
        at = int(lengths.argmin())
        where = "" if isinstance(length, int) else f"length[{at}] = "
        raise ValueError(f"Expected 'length' to be at least 1 (got {where}{int(lengths[at])})")
    return lengths


def _as_vectors(boundaries: Iterable[Any]) -> list[Tensor]:
    if isinstance(boundaries, (str, bytes, Tensor)) or not isinstance(boundaries, Iterable):
        raise TypeError(
            f"Expected 'boundaries' to be a list of vectors (got {type(boundaries).__name__})"
        )
    out = []
    for i, value in enumerate(boundaries):
        if not isinstance(value, Tensor):
            array = np.array(value)
            if array.dtype == bool:
                value = torch.from_numpy(array)
        is_mask = isinstance(value, Tensor) and value.dtype == torch.bool and value.dim() == 1
        out.append(value if is_mask else as_ids(value, f"boundaries[{i}]"))
    return out


def _units(vector: Tensor, i: int, batch: Tensor, start: Tensor) -> Tensor:
    """Number the units that begin at a mark, or keep their given numbers."""
    if vector.numel() != batch.numel():
        raise ValueError(
            f"Expected 'boundaries[{i}]' to have one entry for each of the {batch.numel()} tokens "
            f"(got {vector.numel()})"
        )
    if vector.dtype == torch.bool:
        return vector.long().cumsum(0)
    step = torch.zeros_like(vector)
    step[1:] = vector.diff()
    step[start] = 0  # each sequence may count from the beginning
    if (at := first(step < 0)) is not None:
        raise ValueError(
            f"Expected 'boundaries[{i}]' to number the units in ascending order "
            f"(got {int(vector[at])} after {int(vector[at - 1])} at token {at}); "
            f"marks of where units begin must be boolean"
        )
    return step.ne(0).cumsum(0)
