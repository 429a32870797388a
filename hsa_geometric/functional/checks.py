"""Argument checks at the door: each error names the argument, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..shard import TreeShard
from ..tree import TreeIndex


def as_tree(
    tree: TreeIndex | Tensor, x: Tensor | None = None, *, sharded: bool = False
) -> TreeIndex:
    """A :class:`TreeIndex`, built here if a parent vector came.

    With :obj:`x`, one row for each leaf, a compiler knows how many leaves there are, and beside a
    FakeTensor the index is one of such. What knows of shards says so; else they are refused.
    """
    rows = x.shape[0] if isinstance(x, Tensor) and x.dim() > 0 else None
    if isinstance(tree, Tensor):
        tree = TreeIndex.from_parent(tree, num_leaves=rows)
    if isinstance(tree, TreeShard) and not sharded:
        raise TypeError("Expected a whole 'tree' (got the shard of one of several processes)")
    if isinstance(tree, TreeIndex):
        if isinstance(x, FakeTensor) and not isinstance(tree.up, FakeTensor):
            return TreeIndex(*map(x.fake_mode.from_tensor, tree.tensors))
        return tree
    if isinstance(getattr(tree, "tree", None), TreeIndex):
        raise TypeError(
            f"Expected 'tree' to be a TreeIndex or a parent vector "
            f"(got {type(tree).__name__}; pass its '.tree')"
        )
    raise TypeError(
        f"Expected 'tree' to be a TreeIndex or a parent vector (got {type(tree).__name__})"
    )


def check_tensor(x: Tensor, name: str, dim: int | None = None, like: Tensor | None = None) -> None:
    """A floating-point tensor of :obj:`dim` dimensions on the device of :obj:`like`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"Expected '{name}' to be a tensor (got {type(x).__name__})")
    if not x.is_floating_point():
        raise TypeError(f"Expected '{name}' to hold floating-point numbers (got {x.dtype})")
    if dim is not None and x.dim() != dim:
        raise ValueError(f"Expected '{name}' to have {dim} dimensions (got {x.dim()} dimensions)")
    if like is not None and x.device != like.device:
        raise ValueError(f"Expected '{name}' to be on {like.device} (got {x.device})")


def check_channels(x: Tensor, name: str, channels: int | None) -> None:
    """So many columns, if they are known (not -1)."""
    # (`in` does not compare the sizes that torch.compile(dynamic=True) traces)
    if channels != -1 and channels != x.shape[1]:
        raise ValueError(f"Expected '{name}' to have {channels} channels (got {x.shape[1]})")


def check_rows(x: Tensor, name: str, tree: TreeIndex) -> None:
    """One row a leaf, on the tree's device."""
    if x.dim() == 0 or x.shape[0] != tree.num_leaves:
        rows = x.shape[0] if x.dim() else 0
        raise ValueError(
            f"Expected '{name}' to have one row for each of the {tree.num_leaves} leaves "
            f"(got {rows} rows)"
        )
    check_device(x, name, tree)


def check_nodes(x: Tensor, name: str, tree: TreeIndex) -> None:
    """One row a tree node, on the tree's device."""
    if x.dim() == 0 or x.shape[0] != tree.num_nodes:
        rows = x.shape[0] if x.dim() else 0
        raise ValueError(
            f"Expected '{name}' to have one row for each of the {tree.num_nodes} tree nodes "
            f"(got {rows} rows)"
        )
    check_device(x, name, tree)


def check_device(x: Tensor, name: str, tree: TreeIndex) -> None:
    """Tensors are never moved silently."""
    if x.device != tree.device:
        raise ValueError(
            f"Expected '{name}' and 'tree' on one device "
            f"(got {x.device} and {tree.device}; move the tree with 'tree.to(...)')"
        )


def fit(q: Tensor, k: Tensor, v: Tensor, tree: TreeIndex | Tensor) -> bool:
    """Whether these are what they mostly are, which is soon seen: all checks would pass."""
    if torch.compiler.is_compiling() or type(tree) is not TreeIndex:
        return False
    if not (type(q) is type(k) is type(v) is Tensor):
        return False
    shape, device, dtype = q.shape, q.device, q.dtype
    return (
        len(shape) == 3
        and k.shape == v.shape == shape
        and shape[0] == tree.num_leaves
        and 0 not in shape[1:]
        and dtype.is_floating_point
        and k.dtype == v.dtype == dtype
        and k.device == v.device == tree.device == device
    )


def check_queries(q: Tensor, k: Tensor, tree: TreeIndex) -> None:
    """``q`` and ``k`` of one shape ``[N, H, D]``."""
    check_tensor(q, "q", 3)
    check_tensor(k, "k", 3, like=q)
    check_rows(q, "q", tree)
    if q.shape[1] != k.shape[1]:
        raise ValueError(
            f"Expected 'k' to have as many heads as 'q' (got {k.shape[1]} and {q.shape[1]})"
        )
    if q.shape != k.shape:
        raise ValueError(
            f"Expected 'k' to have the shape of 'q' (got {list(k.shape)} and {list(q.shape)})"
        )
    if 0 in q.shape[1:]:
        raise ValueError(f"Expected 'q' to have heads and channels (got shape {list(q.shape)})")
    check_dtype(k, "k", q)


def check_values(v: Tensor, q: Tensor) -> None:
    """``v [N, H, Dv]`` beside ``q``."""
    check_tensor(v, "v", 3, like=q)
    if v.shape[0] != q.shape[0]:
        raise ValueError(
            f"Expected 'v' to have one row for each of the {q.shape[0]} leaves "
            f"(got {v.shape[0]} rows)"
        )
    if v.shape[1] != q.shape[1]:
        raise ValueError(
            f"Expected 'v' to have as many heads as 'q' (got {v.shape[1]} and {q.shape[1]})"
        )
    if v.shape[2] == 0:
        raise ValueError(f"Expected 'v' to have channels (got shape {list(v.shape)})")
    check_dtype(v, "v", q)


def check_dtype(x: Tensor, name: str, q: Tensor) -> None:
    """float64 is not mixed with less; half precisions and float32 are."""
    if (x.dtype == torch.float64) != (q.dtype == torch.float64):
        raise ValueError(f"Expected '{name}' to be {q.dtype} as 'q' is (got {x.dtype})")


def check_positions(
    pos_q: Tensor | None, pos_k: Tensor | None, q: Tensor, tree: TreeIndex, key_tree: TreeIndex
) -> None:
    """Both or none, each ``[T, H, P]``."""
    if (pos_q is None) != (pos_k is None):
        given, missing = ("pos_q", "pos_k") if pos_k is None else ("pos_k", "pos_q")
        raise ValueError(f"Expected '{missing}' beside '{given}' (got None)")
    if pos_q is None or pos_k is None:
        return
    for x, name, of in ((pos_q, "pos_q", tree), (pos_k, "pos_k", key_tree)):
        check_tensor(x, name, 3, like=q)
        check_nodes(x, name, of)
        if x.shape[1] != q.shape[1]:
            raise ValueError(
                f"Expected '{name}' to have as many heads as 'q' "
                f"(got {x.shape[1]} and {q.shape[1]})"
            )
    if pos_q.shape[1:] != pos_k.shape[1:]:
        raise ValueError(
            f"Expected 'pos_k' to have the shape of 'pos_q' "
            f"(got {list(pos_k.shape)} and {list(pos_q.shape)})"
        )


def check_node_scalars(x: Tensor | None, name: str, q: Tensor, tree: TreeIndex) -> None:
    """``[T, H]`` or absent."""
    if x is None:
        return
    check_tensor(x, name, 2, like=q)
    check_nodes(x, name, tree)
    if x.shape[1] != q.shape[1]:
        raise ValueError(
            f"Expected '{name}' to have as many heads as 'q' (got {x.shape[1]} and {q.shape[1]})"
        )


def check_node_arguments(
    q: Tensor,
    tree: TreeIndex,
    pos_q: Tensor | None,
    pos_k: Tensor | None,
    temperature: Tensor | None,
    bias: Tensor | None,
    key_tree: TreeIndex,
) -> None:
    """What belongs to each node, where it is given."""
    check_positions(pos_q, pos_k, q, tree, key_tree)
    check_node_scalars(temperature, "temperature", q, tree)
    check_node_scalars(bias, "bias", q, tree)


def check_mass(
    mass: Tensor | None, tree: TreeIndex, dtype: torch.dtype = torch.float32, name: str = "mass"
) -> None:
    """Finite, not negative, one for each leaf; data, so without a gradient.

    :obj:`dtype` is the precision that they are summed in.
    """
    if mass is None:
        return
    check_tensor(mass, name, 1)
    check_rows(mass, name, tree)
    if mass.requires_grad:
        raise ValueError(
            f"Expected '{name}' to be data without gradient (got requires_grad=True; detach it)"
        )
    check_mass_values(mass, dtype, name)


def check_mass_values(mass: Tensor, dtype: torch.dtype = torch.float32, name: str = "mass") -> None:
    """Masses of the CPU; elsewhere reading them would wait for the device."""
    if torch.compiler.is_compiling() or mass.device.type != "cpu" or is_traced(mass):
        return  # reading values would break the graph, or wait for the device
    if mass.numel() == 0:
        return  # of a process that holds no leaf
    low, total = float(mass.amin()), float(mass.sum(dtype=torch.float64))
    if low >= 0.0 and total <= torch.finfo(dtype).max:
        if mass.dtype != torch.float64 or dtype == torch.float64:
            return
        lost = (mass > 0) & (mass.to(dtype) == 0)
        if not lost.any():
            return
        leaf = int(lost.nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to hold numbers that {dtype} can tell from 0 "
            f"(got {name}[{leaf}] = {float(mass[leaf])}; divide all by the largest)"
        )
    bad = ~(mass.isfinite() & (mass >= 0))
    if bad.any():
        leaf = int(bad.nonzero()[0])
        raise ValueError(
            f"Expected '{name}' to be finite and not negative "
            f"(got {name}[{leaf}] = {float(mass[leaf])})"
        )
    raise ValueError(
        f"Expected '{name}' to have a sum within the range of {dtype} (got {total:.3g}; divide all "
        f"by the largest)"
    )


def is_traced(x: Tensor) -> bool:
    """Whether PyTorch is at work whose results cannot be read: torch.func, fake tensors."""
    return isinstance(x, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(x)


def check_dropout(p: float) -> None:
    """A probability."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"Expected 'dropout_p' to be in [0, 1] (got {p})")
