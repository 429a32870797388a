"""Encoders of Hugging Face's transformers, through its interfaces for attention and masks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..builders._extra import extra
from ._attend import Patch, Site, attend, gather, keep_of

PREFIX = "hsa_"
ORIGINALS = ("sdpa", "eager")


def is_attention(module: nn.Module) -> bool:
    """Whether its forward asks transformers' interface for an attention function."""
    if not type(module).__module__.startswith("transformers."):
        return False
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def refusal(module: nn.Module) -> str | None:
    """Why its attention cannot be replaced."""
    if getattr(module, "is_causal", False) or getattr(module, "is_decoder", False):
        return "causal attention"
    if getattr(module, "sliding_window", None) is not None:
        return "attention within a sliding window"
    if hasattr(module, "relative_attention_bias") or hasattr(module, "has_relative_attention_bias"):
        return "a bias of relative positions"
    if "Cross" in type(module).__name__ or getattr(module, "is_cross_attention", False):
        return "cross-attention"
    return None


def _masks() -> Any:
    with extra("transformers", "Adapters of Hugging Face models need transformers of version 5"):
        from transformers import masking_utils
    return masking_utils


def install(model: nn.Module, sites: dict[nn.Module, Site]) -> None:
    """Have all attention modules of the model ask us, replaced or not."""
    masks = _masks()
    from transformers import AttentionInterface

    configs = _configs(model)
    for config in configs:
        name = config._attn_implementation
        if name is None or name.startswith(PREFIX):
            continue
        if name not in ORIGINALS:
            raise ValueError(
                f"Expected a model with attn_implementation among {list(ORIGINALS)} (got '{name}')"
            )
        AttentionInterface.register(PREFIX + name, partial(_attention, name))
        masks.AttentionMaskInterface.register(PREFIX + name, partial(_mask, name))
    for config in configs:
        name = config._attn_implementation
        if name is not None and not name.startswith(PREFIX):
            config._attn_implementation = PREFIX + name


def listen(model: nn.Module, told: dict[str, Tensor]) -> None:
    """Note the ids of the tokens whenever they are embedded."""
    find = getattr(model, "get_input_embeddings", None)
    try:
        table = None if find is None else find()
    except NotImplementedError:
        table = None
    if isinstance(table, nn.Embedding) and not any(
        isinstance(hook, Patch) for hook in table._forward_pre_hooks.values()
    ):
        table.register_forward_pre_hook(Patch(_remember, told))


def _remember(told: dict[str, Tensor], module: nn.Module, args: tuple[Tensor, ...]) -> None:
    if args:
        told["ids"] = args[0].detach()


def uninstall(model: nn.Module) -> None:
    """Have everything as it was."""
    for config in _configs(model):
        name = config._attn_implementation
        if name is not None and name.startswith(PREFIX):
            config._attn_implementation = name.removeprefix(PREFIX)
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, Patch):
                del module._forward_pre_hooks[key]


def _configs(model: nn.Module) -> list[Any]:
    """Configurations of all parts of the model, each once."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(c): c for c in found if hasattr(c, "_attn_implementation")}.values())


def _mask(original: str, **options: Any) -> Tensor | None:
    """The padding itself, ``[B, N]``, if the mask is of nothing else."""
    masks = _masks()
    if options["mask_function"] is not masks.bidirectional_mask_function:
        found: Tensor | None = masks.AttentionMaskInterface._global_mapping[original](**options)
        return found
    padding: Tensor | None = options["attention_mask"]
    return None if padding is None or bool(padding.all()) else padding.bool()


def _attention(
    original: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What the interface calls for every attention module of the model."""
    site = module.__dict__.get("hsa")
    batch, _, length, width = query.shape
    scale = width**-0.5 if scaling is None else float(scaling)
    if site is not None and site.setting is not None:
        _check_options(module, site, options)
        keep = keep_of(attention_mask, site, batch, length)
        if site.record is None:
            out = attend(query, key, value, keep, scale, site, dropout, module.training)
            return out, None
        site.record(site, gather(query, key, value, keep, scale, site))
    if attention_mask is not None and attention_mask.dim() == 2:
        attention_mask = attention_mask[:, None, None, :]
        if original == "eager":
            low = torch.zeros_like(attention_mask, dtype=query.dtype)
            attention_mask = low.masked_fill(~attention_mask, torch.finfo(query.dtype).min)
        else:
            attention_mask = attention_mask.expand(batch, 1, length, -1)
    found: tuple[Tensor, Tensor | None] = _original(original, module)(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
    )
    return found


def _original(name: str, module: nn.Module) -> Callable[..., Any]:
    from transformers import AttentionInterface

    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Callable[..., Any] = AttentionInterface().get_interface(name, eager)
    return function


def _check_options(module: nn.Module, site: Site, options: dict[str, Any]) -> None:
    if options.get("output_attentions") or getattr(module.config, "output_attentions", False):
        raise site.fail(
            "output_attentions=False, as no matrix is formed",
            "True; functional.attention_matrix makes one",
        )
    if options.get("is_causal") or getattr(module, "is_causal", False):
        raise site.fail("attention that is not causal", "is_causal=True")
    for name in ("position_bias", "head_mask", "cu_seq_lens_q", "s_aux", "softcap"):
        if options.get(name) is not None:
            raise site.fail(f"no '{name}'", "one, which attention along a tree cannot honour")
