"""Attention over the leaves of a tree that several processes hold.

A process needs of the others' subtrees what their siblings do: means of q, k and v, log evidence
and mass. Each climbs its own subtrees; one gather brings those numbers together; the few nodes
above are computed by every process; each then descends into its own subtrees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from ..kernels import operator
from ..kernels.call import Call, accumulator
from ..kernels.halves import Halves
from ..kernels.scatter.attention import above
from ..shard import Plan, TreeShard
from .pool import pool_rows

NODE_VALUES = ("pos_q", "pos_k", "temperature", "bias")


@_disable_dynamo
def attention(
    call: Call, shard: TreeShard, backend: str, with_evidence: bool
) -> tuple[Tensor, Tensor | None]:
    """Output ``[N, H, Dv]`` of the leaves here and, if asked for, log evidence of all trees."""
    plan, dtype = shard._plan, accumulator(call.q.dtype)
    agree(shard, call, with_evidence)
    with torch.autocast(call.q.device.type, enabled=False):
        means, f, mass, finish = _up(call, plan, shard, backend)
        heads, channels = f.shape[1], means.shape[2]
        if not plan.shared and not with_evidence:
            return finish(None, None), None

        # One message: rows of pieces, of nodes of the top, and evidence of trees that are whole.
        given = [getattr(call, name) for name in NODE_VALUES]
        node = [x[plan.owned].to(dtype).flatten(1) for x in given if x is not None]
        blocks = [torch.cat([means[plan.root].flatten(1), f[plan.root], mass[plan.root]], 1)]
        most = [plan.most_pieces]
        if node:
            blocks.append(torch.cat(node, 1))
            most.append(plan.most_nodes)
        if with_evidence:
            blocks.append(f[plan.whole])
            most.append(plan.most_trees)
        # All processes or none have a way back, also where nothing here depends on q.
        tie = Tie.apply(dtype, call.q, call.k, call.v)
        got = gather(blocks, most, tie, shard)

        f_top = f[:0]
        if plan.top is None:
            z, w = None, None
        else:
            pieces = got[0][plan.piece_slot[0], plan.piece_slot[1]]
            sizes = [heads * channels, heads, 1]
            all_means, own, all_mass = pieces.split(sizes, dim=1)
            d = call.q.shape[2]
            q, k, v = all_means.unflatten(1, (heads, channels)).split(
                [d, d, channels - 2 * d], dim=2
            )
            values: dict[str, Any] = dict.fromkeys(NODE_VALUES)
            if node:
                rows = got[1][plan.node_slot[0], plan.node_slot[1]]
                parts = iter(rows.split([x.shape[1] for x in node], dim=1))
                for name, x in zip(NODE_VALUES, given, strict=True):
                    if x is not None:
                        values[name] = next(parts).unflatten(1, x.shape[1:])
            over = call._replace(
                q=q, k=k, v=v, mass=all_mass.detach().squeeze(1), tree=plan.top, **values
            )
            z, w, f_top = above(over, own)
            z, w = z.index_select(0, plan.mine), w.index_select(0, plan.mine)
        out = finish(z, w)
        if not with_evidence:
            return out, None
        rank, at = plan.tree_slot
        is_whole = (rank >= 0).unsqueeze(1)
        elsewhere = got[-1][rank.clamp(min=0), torch.where(rank >= 0, at, 0)] if (
            plan.most_trees
        ) else f.new_zeros(1, heads)  # fmt: skip
        in_top = f_top[torch.where(rank >= 0, 0, at)] if plan.top is not None else elsewhere
        return out, torch.where(is_whole, elsewhere, in_top)


Finish = Callable[[Tensor | None, Tensor | None], Tensor]


def _up(
    call: Call, plan: Plan, shard: TreeShard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Finish]:
    """Means ``[R, H, *]``, f ``[R, H]`` and mass ``[R, 1]`` of the roots here, and the way down."""
    dtype, local = accumulator(call.q.dtype), plan.local
    if local is None:  # the way back leads through the gather, which all processes must pass
        nothing = torch.cat([x.to(dtype) for x in (call.q, call.k, call.v)], -1)
        tied = call.v
        return nothing, nothing.sum(-1), nothing.new_empty(0, 1), (
            lambda z, w: tied if z is None else (tied + z).to(tied.dtype)
        )  # fmt: skip
    values: dict[str, Any] = {
        name: None if x is None else x[plan.node]
        for name, x in zip(NODE_VALUES, (getattr(call, n) for n in NODE_VALUES), strict=True)
    }
    seed = call.seed
    if seed is not None:  # processes may be seeded alike, and must not draw alike
        seed = (seed + shard.here * 0x1E3779B97F4A7C15 % (1 << 62)) & ((1 << 62) - 1)
    inner = call._replace(tree=local, seed=seed, **values)
    if not plan.shared:
        out, f = operator.attention(inner, backend)
        means = call.q.new_empty(f.shape[0], f.shape[1], 0, dtype=dtype)
        return means, f, f.new_empty(f.shape[0], 1), lambda z, w: out

    if call.mass is None:
        mass = local.count[local.root].to(dtype)
    else:
        mass = pool_rows(call.mass.double(), plan.piece, local.num_trees, reduce="sum").to(dtype)
    mass = mass.unsqueeze(1)
    module = operator.load(backend)
    if hasattr(module, "Forward"):
        halves = Halves(module, inner)
        means, f = halves.up()

        def finish(z: Tensor | None, w: Tensor | None) -> Tensor:
            return halves.down(*_of_roots(z, w, f, plan, inner.v.shape[2]))

        return means, f, mass, finish

    out, f = operator.attention(inner, backend)
    qkv = torch.cat([x.to(dtype) for x in (call.q, call.k, call.v)], -1)
    means = pool_rows(qkv, plan.piece, local.num_trees, mass=call.mass)

    def compose(z: Tensor | None, w: Tensor | None) -> Tensor:
        z, w = _of_roots(z, w, f, plan, inner.v.shape[2])
        z, w = z.index_select(0, plan.piece), w.index_select(0, plan.piece)
        return (z + w.unsqueeze(-1) * out.to(dtype)).to(out.dtype)

    return means, f, mass, compose


def _of_roots(
    z: Tensor | None, w: Tensor | None, f: Tensor, plan: Plan, values: int
) -> tuple[Tensor, Tensor]:
    """Z ``[R, H, Dv]`` and W ``[R, H]`` of all roots here: 0 and 1 of trees that are whole."""
    every_w = (~f.detach().isneginf()).to(f.dtype)
    every_z = f.new_zeros(*f.shape, values)
    if z is None or w is None:
        return every_z, every_w
    return every_z.index_copy(0, plan.root, z), every_w.index_copy(0, plan.root, w)


def agree(shard: TreeShard, call: Call, with_evidence: bool) -> None:
    """Compare dtypes and sizes of the first call of each kind with those of all processes.

    Raises:
        ValueError: naming the processes, if they differ.
    """
    if not shard._plan.shared and not with_evidence:
        return
    given = [-1 if x is None else x.shape[-1] for x in (getattr(call, n) for n in NODE_VALUES)]
    own = (str(call.q.dtype), str(call.v.dtype), *call.q.shape[1:], call.v.shape[2], *given,
           call.scale, call.self_loop, with_evidence)  # fmt: skip
    seen = shard.once(("shard calls", shard.here), set)
    if own in seen:
        return
    names = "dtype of q, dtype of v, heads, channels of q, channels of v, pos_q, pos_k, "
    names += "temperature, bias, scale, self_loop, return_evidence"
    check_alike(own, names.split(", "), shard.group)
    seen.add(own)


def check_alike(own: Sequence[Any], names: Sequence[str], group: Any) -> None:
    """All processes give the same; those that differ from process 0 are named."""
    found: list[Any] = [None] * dist.get_world_size(group)
    with named(group):
        dist.all_gather_object(found, tuple(own), group)
    for rank, other in enumerate(found):
        for name, first, second in zip(names, found[0], other, strict=True):
            if first != second:
                raise ValueError(
                    f"Expected all processes to agree (process {rank} has {name} = {second}, "
                    f"process 0 has {first})"
                )


class named:
    """Errors of collectives say which process waited, and for how many."""

    def __init__(self, group: Any):
        self.group = group

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        if isinstance(error, RuntimeError):
            raise RuntimeError(
                f"Process {dist.get_rank(self.group)} waited in vain for the other processes of "
                f"its group of {dist.get_world_size(self.group)}: one was lost, or did not call "
                f"the same layers ({error})"
            ) from error


def gather(blocks: list[Tensor], most: list[int], tie: Tensor, shard: TreeShard) -> list[Tensor]:
    """Of each block ``[n, C]`` those of all processes, ``[processes, most, C]``, in one message."""
    flat = [
        torch.nn.functional.pad(x, (0, 0, 0, rows - x.shape[0])).flatten()
        for x, rows in zip(blocks, most, strict=True)
    ]
    got = Gather.apply(torch.cat([*flat, tie]), shard.group)
    parts = got.split([x.numel() for x in flat], dim=1)
    return [
        y.unflatten(1, (rows, x.shape[1])) for y, x, rows in zip(parts, blocks, most, strict=True)
    ]


class Tie(torch.autograd.Function):
    """No numbers, which need a gradient where one of the arguments does, and give none."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *xs: Tensor) -> Tensor:
        """Nothing."""
        return xs[0].new_empty(0, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        """A slice would make gradients of zeros, as large as the arguments."""
        return None, None, None, None


class Gather(torch.autograd.Function):
    """``[L]`` of each process to ``[processes, L]`` on all; gradients are summed back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Gather."""
        ctx.group = group
        size = dist.get_world_size(group)
        out = x.new_empty(size * x.numel())
        with named(group):
            _gather(out, x.contiguous(), group=group)
        return out.view(size, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Each process gets the sum of what all say of its own."""
        return Scatter.apply(grad, ctx.group), None


class Scatter(torch.autograd.Function):
    """The transpose of :class:`Gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Sum over processes, a row to each."""
        ctx.group = group
        out = x.new_empty(x.shape[1])
        with named(group):
            _scatter(out, x.contiguous().view(-1), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gather."""
        return Gather.apply(grad, ctx.group), None


# Names of torch 2.13, and those before it.
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
