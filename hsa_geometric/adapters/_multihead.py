"""``nn.MultiheadAttention``, alone or within ``nn.TransformerEncoder`` or PyG's ``GPSConv``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ._attend import Patch, Site, attend, gather, keep_of


def is_attention(module: nn.Module) -> bool:
    """Whether it is one that is known here."""
    return isinstance(module, nn.MultiheadAttention)


def refusal(module: nn.Module) -> str | None:
    """Why its attention cannot be replaced."""
    assert isinstance(module, nn.MultiheadAttention)
    if module.bias_k is not None or module.add_zero_attn:
        return "keys of its own (add_bias_kv or add_zero_attn)"
    if not module._qkv_same_embed_dim:
        return "keys or values of other channels (kdim or vdim): cross-attention"
    return None


def install(model: nn.Module, sites: dict[nn.Module, Site]) -> None:
    """Replace ``forward`` of the modules, and keep the layers around them off their fast path.

    That one never calls the module, and turns padded batches into nested tensors before.
    """
    for module, site in sites.items():
        if site.setting is not None:
            module.forward = Patch(_forward, module)  # type: ignore[method-assign]
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoder):
            _set(layer, "use_nested_tensor", False, sites)
        elif isinstance(layer, nn.TransformerEncoderLayer):
            _set(layer, "activation_relu_or_gelu", 0, sites)


def _set(layer: nn.Module, name: str, value: int, sites: dict[nn.Module, Site]) -> None:
    inside = [sites[m] for m in layer.modules() if m in sites and sites[m].setting is not None]
    old = getattr(layer, name, value)
    if inside and old != value:
        inside[0].saved.append((layer, name, old))
        setattr(layer, name, value)


def _forward(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As ``nn.MultiheadAttention.forward``."""
    site: Site = module.__dict__["hsa"]
    if need_weights:
        raise site.fail(
            "need_weights=False, as no matrix is formed", "True, which is the default of torch"
        )
    if is_causal:
        raise site.fail("attention that is not causal", "is_causal=True")
    if query.is_nested:
        raise site.fail("a padded batch", "a nested tensor")
    if key is not query or value.shape != query.shape:
        raise site.fail("self-attention: 'key' and 'value' to be 'query'", "others")
    alone = query.dim() == 2
    if alone:
        query, value = query.unsqueeze(0), value.unsqueeze(0)
    elif not module.batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    batch, length, width = query.shape
    heads = module.num_heads

    def rows(x: Tensor, which: int) -> Tensor:
        part = slice(which * width, (which + 1) * width)
        bias = None if module.in_proj_bias is None else module.in_proj_bias[part]
        x = F.linear(x, module.in_proj_weight[part], bias)
        return x.view(batch, length, heads, width // heads).transpose(1, 2)

    q, k, v = rows(query, 0), rows(query, 1), rows(value, 2)
    keep = keep_of(_seen(key_padding_mask), site, batch, length)
    if attn_mask is not None:
        mask = _seen(attn_mask)
        assert mask is not None
        mask = mask.view(-1 if mask.dim() == 2 else batch, 1 if mask.dim() == 2 else heads,
                         length, length) if mask.dim() == 3 else mask[None, None]  # fmt: skip
        other = keep_of(mask, site, batch, length)
        keep = other if keep is None else keep if other is None else keep & other
    scale = (width // heads) ** -0.5
    dropout = module.dropout if module.training else 0.0
    if site.record is not None:
        site.record(site, gather(q, k, v, keep, scale, site))
        seen = None if keep is None else keep[:, None, None, :].expand(batch, 1, length, length)
        out = F.scaled_dot_product_attention(q, k, v, seen, dropout).transpose(1, 2)
    else:
        out = attend(q, k, v, keep, scale, site, dropout, module.training)
    out = module.out_proj(out.reshape(batch, length, width))
    if alone:
        return out.squeeze(0), None
    return out if module.batch_first else out.transpose(0, 1), None


def _seen(mask: Tensor | None) -> Tensor | None:
    """Of PyTorch's booleans, which are true where a key is *not* seen."""
    return ~mask if mask is not None and not mask.is_floating_point() else mask
