"""Attention of a model replaced by hierarchical attention, and set back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ..functional.checks import as_tree
from ..functional.options import check_integer
from . import _graphs, _multihead, _transformers
from ._attend import Patch, Site
from ._setting import Setting

M = TypeVar("M", bound=nn.Module)
KINDS: tuple[Any, ...] = (_transformers, _multihead, _graphs)


def replace_attention(
    model: M,
    *,
    layers: Sequence[int] | None = None,
    hierarchy: Any = 8,
    lists: Any = None,
    sinks: Sequence[int] | None = None,
    special_ids: Sequence[int] = (),
    self_loop: bool = True,
) -> M:
    r"""Have a trained model attend along trees, from `"Hierarchical Self-Attention: Generalizing
    Neural Attention Mechanics to Multi-Scale Problems" <https://arxiv.org/abs/2509.15448>`_.

    The model is changed in place, keeps its weights and its ``state_dict``, and is trained and
    saved as before. Supported are encoders of Hugging Face's transformers that go through its
    attention interface (BERT, RoBERTa, DistilBERT, ModernBERT, ViT, …; attention ``'sdpa'`` or
    ``'eager'``) and :class:`torch.nn.MultiheadAttention`, alone, in
    :class:`torch.nn.TransformerEncoder` and in PyG's
    :class:`~torch_geometric.nn.conv.GPSConv`, and PyG's
    :class:`~torch_geometric.nn.conv.TransformerConv` where its edges join all nodes of each graph
    (self-loops too, no attributes); they are still read at each call.

    Each sequence of a batch has a tree of its own over its real tokens; padding is left out, and
    its rows of attention are 0, wherever it stands. Rotary embeddings turn queries and keys before,
    so that blocks have the means of what is turned; other position terms are refused. Until
    :func:`restore_attention`, ``config._attn_implementation`` has the prefix ``'hsa_'``, which is
    not saved: what :meth:`from_pretrained` loads is the model with softmax.

    Called again it changes the settings of the layers it names, and leaves the others.

    Args:
        model: an encoder; its modules of attention are counted in their order.
        layers: numbers of those to replace. (default: all that can be, the others staying as they
            are, such as ModernBERT's with sliding windows)
        hierarchy: one of

            * sizes of windows from fine to coarse, such as ``(16, 128)``;
            * an integer ``b``: windows of ``b``, ``b**2``, … tokens, short of the longest sequence;
            * ``'star'``: no windows, which is softmax attention;
            * ``'grid'``: a quadtree over a square of patches;
            * a tree: a :class:`~hsa_geometric.TreeIndex`, a parent vector or a
              :class:`~hsa_geometric.Hierarchy`'s ``tree``, for each sequence or for the batch,
              such as :func:`~hsa_geometric.adapters.text_tree`;
            * a function from lengths ``[B]`` to such a tree.
        lists: an angle, at which near nodes meet, see
            :func:`~hsa_geometric.interactions.near`: the smaller, the nearer to softmax; or a
            function ``(tree, q, k)`` to interaction lists, such as
            :func:`~hsa_geometric.interactions.heaviest`. (default: siblings meet)
        sinks: places of tokens that every token sees one by one and that see every token so, from
            the beginning or, negative, from the end of each sequence; in a tree of your own they
            hang directly below the root. (default: ``(0, -1)`` for models of text, which are [CLS]
            and [SEP], ``(0,)`` for ``'grid'``, none for trees of your own and models without text)
        special_ids: ids of tokens that are sinks wherever they stand, such as
            ``tokenizer.all_special_ids``. They are read where tokens are embedded, so the model
            must be given ``input_ids``.
        self_loop: whether a token attends to itself; the paper leaves it out.

    Returns:
        The model.

    Raises:
        ImportError: without transformers, for a model of its.
        TypeError: if an option has the wrong type.
        ValueError: naming the module: if the model has no attention that can be replaced (causal, a
            bias of relative positions, a sliding window, cross-attention, keys of its own), if a
            layer is out of range, or an option has a wrong value. When the model is called: if a
            tree has other leaves than a sequence tokens, or sinks within a block; if a mask is not
            of padding alone, or edges do not join all nodes; if weights are asked for.

    Cost: see :func:`~hsa_geometric.functional.hierarchical_attention`; trees and lists of the last
    64 shapes of batches are kept.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 2).eval()
        >>> x, padding = torch.randn(2, 20, 32), torch.arange(20) >= torch.tensor([[20], [13]])
        >>> softmax = model(x, src_key_padding_mask=padding)
        >>> model = replace_attention(model, hierarchy=(4, 8), lists=1.0)
        >>> model(x, src_key_padding_mask=padding).shape
        torch.Size([2, 20, 32])
        >>> model = restore_attention(model)
        >>> torch.equal(model(x, src_key_padding_mask=padding), softmax)
        True
    """
    found = sites_of(model)
    refused = {module: _kind(module).refusal(module) for module in found}
    if layers is None:
        chosen = [module for module in found if refused[module] is None]
        if not chosen:
            why = [f"{site.name} has {refused[m]}" for m, site in found.items()][:1]
            raise ValueError(
                f"Expected 'model' to have attention that can be replaced "
                f"(got {type(model).__name__}: {(why or ['none that is known'])[0]})"
            )
    else:
        modules, chosen = list(found), []
        for layer in layers:
            check_integer(layer, "layers")
            if not 0 <= layer < len(modules):
                raise ValueError(
                    f"Expected 'layers' to be in [0, {len(modules) - 1}] for the attention of "
                    f"{type(model).__name__} (got {layer})"
                )
            chosen.append(modules[layer])
            if refused[chosen[-1]] is not None:
                raise ValueError(
                    f"Expected attention that can be replaced in {found[chosen[-1]].name} "
                    f"(got {refused[chosen[-1]]})"
                )
    if isinstance(hierarchy, Sequence) and not isinstance(hierarchy, str):
        hierarchy = tuple(hierarchy)
    elif isinstance(hierarchy, Tensor):
        hierarchy = as_tree(hierarchy)
    settings = {}
    for module in chosen:
        places = _default_sinks(module, hierarchy) if sinks is None else tuple(sinks)
        settings[module] = Setting(hierarchy, lists, places, tuple(special_ids), self_loop)
    for module, setting in settings.items():
        found[module].setting = setting
    for kind in KINDS:
        if mine := {module: site for module, site in found.items() if kind.is_attention(module)}:
            kind.install(model, mine)
    for module, site in found.items():
        module.hsa = site  # type: ignore[assignment]
    if special_ids:
        _transformers.listen(model, next(iter(found.values())).told)
    return model


def restore_attention(model: M) -> M:
    """Set back what :func:`replace_attention` changed: outputs are equal bit for bit.

    A model that was not replaced is left as it is.

    Args:
        model: the model, or a copy of it.

    Returns:
        The model.

    Example:
        >>> import torch
        >>> layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> layer = restore_attention(replace_attention(layer))
        >>> layer(*[torch.randn(1, 5, 8)] * 3)[1].shape
        torch.Size([1, 5, 5])
    """
    _transformers.uninstall(model)
    for module in model.modules():
        site = module.__dict__.pop("hsa", None)
        for layer, name, old in [] if site is None else site.saved:
            setattr(layer, name, old)
        for name in [name for name, value in vars(module).items() if isinstance(value, Patch)]:
            delattr(module, name)
    return model


def sites_of(model: nn.Module) -> dict[nn.Module, Site]:
    """The modules of attention in their order; new sites where nothing is replaced yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"Expected 'model' to be a torch module (got {type(model).__name__})")
    found: dict[nn.Module, Site] = {}
    told: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if _kind(module) is not None:
            site = module.__dict__.get("hsa")
            if site is None:
                site = Site(f"'{name or type(model).__name__}'", len(found), told=told)
            told, found[module] = site.told, site
    return found


def _kind(module: nn.Module) -> Any:
    """The part that knows this kind of attention; None for any other module."""
    return next((kind for kind in KINDS if kind.is_attention(module)), None)


def _default_sinks(module: nn.Module, hierarchy: Any) -> tuple[int, ...]:
    if not _transformers.is_attention(module) or not isinstance(hierarchy, (str, int, tuple)):
        return ()
    if hierarchy == "grid":
        return (0,)
    return (0, -1) if hasattr(module.config, "vocab_size") and hierarchy != "star" else ()
