"""Attention of one replaced module over a padded batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.attention import hierarchical_attention
from ._setting import Seen, Setting


class Patch(partial[Any]):
    """What is put in place of a module's method or beside it, and found again by its type."""


@dataclass(eq=False)
class Site:
    """One attention module of a model, replaced or not.

    Attributes:
        name: of the module within the model.
        index: its number among the attention modules.
        setting: what it attends along; None where it is as it was.
        told: ids of the tokens in hand, under ``'ids'``; shared by the sites of a model.
        record: given the rows of each call, which then attends as the original does.
        saved: attributes to set back, of which modules.
    """

    name: str
    index: int
    setting: Setting | None = None
    told: dict[str, Tensor] = field(default_factory=dict)
    record: Callable[[Site, Seen], None] | None = None
    saved: list[tuple[nn.Module, str, Any]] = field(default_factory=list)

    def fail(self, expected: str, got: str) -> ValueError:
        """An error that names the module."""
        return ValueError(f"Expected {expected} in {self.name} (got {got})")


def keep_of(mask: Tensor | None, site: Site, batch: int, length: int) -> Tensor | None:
    """``[B, N]`` which tokens are real; None if all.

    The mask is broadcast to ``[B, H, N, N]`` or ``[B, N]``: booleans, true where a key is seen, or
    numbers that are added to logits.
    """
    if mask is None:
        return None
    if mask.is_floating_point():
        low = mask <= torch.finfo(mask.dtype).min / 4
        if not bool((low | (mask == 0)).all()):
            raise site.fail(
                "the mask to be of padding: 0, or minus infinity at keys that nobody sees",
                "other numbers, such as a bias of positions",
            )
        mask = ~low
    mask = mask.bool()
    if mask.dim() == 4:
        row = mask[:, :1, :1]
        if not bool((mask == row).all()):
            raise site.fail(
                "a padding mask, alike for all queries", "one that differs: causal, local or packed"
            )
        mask = row[:, 0, 0]
    mask = mask.expand(batch, length)
    return None if bool(mask.all()) else mask


def gather(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, scale: float, site: Site) -> Seen:
    """The real tokens of ``[B, H, N, D]``, one sequence behind the other."""
    if q.shape != k.shape or v.shape[:3] != q.shape[:3]:
        raise site.fail(
            "queries, keys and values of the same tokens",
            f"shapes {list(q.shape)}, {list(k.shape)} and {list(v.shape)}: cross-attention, a "
            f"cache or fewer heads of keys",
        )
    batch, _, length, _ = q.shape
    ids = site.told.get("ids")
    if ids is not None and ids.shape != (batch, length):
        ids = None
    if keep is None:
        q, k, v = (x.transpose(1, 2).reshape(batch * length, *x.shape[1::2]) for x in (q, k, v))
        ids = None if ids is None else ids.flatten()
        return Seen(q, k, v, scale, torch.full((batch,), length), ids)
    q, k, v = (x.transpose(1, 2)[keep] for x in (q, k, v))
    lengths = keep.sum(1).cpu()
    return Seen(q, k, v, scale, lengths[lengths > 0], None if ids is None else ids[keep])


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    scale: float,
    site: Site,
    dropout_p: float,
    training: bool,
) -> Tensor:
    """``[B, N, H, D]``; rows of padding are 0."""
    if dropout_p > 0 and not training:
        raise site.fail("no dropout in eval()", f"{dropout_p}")
    seen = gather(q, k, v, keep, scale, site)
    batch, heads, length, _ = q.shape
    shape = batch, length, heads, v.shape[-1]
    out = along(seen, site, dropout_p, training)
    if keep is None:
        return out.view(shape)
    return out.new_zeros(shape).masked_scatter(keep.view(batch, length, 1, 1), out)


def along(seen: Seen, site: Site, dropout_p: float, training: bool) -> Tensor:
    """``[N, H, D]``: attention of the rows along their trees."""
    assert site.setting is not None
    if seen.q.shape[0] == 0:
        return seen.v
    tree, lists = site.setting.structure(seen, site.name)
    out = hierarchical_attention(
        seen.q, seen.k, seen.v, tree, lists=lists, scale=seen.scale,
        self_loop=site.setting.self_loop, dropout_p=dropout_p, training=training,
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out
