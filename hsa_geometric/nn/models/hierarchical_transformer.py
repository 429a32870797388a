"""A transformer that knows the hierarchy of its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn.dense.linear import Linear
from torch_geometric.nn.inits import reset

from ...functional.checks import as_tree, check_mass, check_rows
from ...functional.options import check_integer
from ...tree import TreeIndex
from ..encoding import DomainEncoding, FamilyEncoding, Ids, TypedInput
from ..encoding.inputs import apply_input, input_map
from ..pool.readout import HierarchyReadout, flat_tree
from ._merged import Level, merged
from .hierarchical_transformer_layer import HierarchicalTransformerLayer


class HierarchicalTransformer(torch.nn.Module):
    r"""The hierarchical transformer of `"Hierarchical Self-Attention"
    <https://arxiv.org/abs/2509.15448>`_ (appendix F): typed inputs, layers of attention along the
    tree with positions within each family, and a readout of each tree.

    The input is a :class:`~hsa_geometric.Hierarchy` (or a batch of them), or tensors. With a star
    tree this is the usual transformer encoder.

    Args:
        in_channels: width of the leaves' features, or -1 to derive it from the first input;
            :class:`~hsa_geometric.nn.Ids` for word ids and the like; or of each type of leaf
            one of these, for several modalities. A type's rows are then ``x_<type>`` of the
            hierarchy, and its number in ``leaf_type`` is its place here.
        hidden_channels: size of the rows inside, a multiple of :obj:`heads`.
        out_channels: size of the output, or :obj:`None` for no map at the end.
        num_layers: number of layers.
        heads: number of attention heads. (default: :obj:`4`)
        readout: ``'mean'``, ``'attention'``, ``'root'`` (the state of the root) or ``'leaf'``, as
            for :class:`~hsa_geometric.nn.HierarchyReadout`: one row for each tree; or
            :obj:`None`, one for each leaf. (default: ``'mean'``)
        domains: what families stand on, as for :class:`~hsa_geometric.nn.FamilyEncoding`: a
            domain for all, or one for each kind in ``tree_kind``. Positions are projected anew for
            each layer and head. (default: :obj:`None`, none)
        pos_channels: size of the projected positions for each head. (default: :obj:`8`)
        pool: ``{layer: level}``: before this layer (counted from 0) the leaves are merged into
            their ancestors at this level, as for
            :func:`~hsa_geometric.functional.clusters_at`; later layers are cheaper, and know no
            types of leaves. (default: none)
        attention, states, conv, mlp_channels: as for
            :class:`~hsa_geometric.nn.HierarchicalTransformerLayer`; :obj:`conv` may be the name of
            a layer in :mod:`torch_geometric.nn`.
        num_levels, dropout, drop_path, layer_scale, norm_first, act: likewise; :obj:`drop_path`
            grows from 0 in the first layer to its value in the last.
        checkpointing: keep only the input of each layer for backward and compute the rest again:
            less memory, a third more time. (default: :obj:`False`)
        attn_kwargs: more arguments of every
            :class:`~hsa_geometric.nn.HierarchicalAttentionConv`.

    Shapes:
        - **input:** see :meth:`forward`
        - **output:** :math:`(\mathrm{trees}, F_{out})`, or :math:`(N, F_{out})` without readout;
          with :obj:`return_states` also :math:`(I, F)`, one row for each inner node in ascending id

    Example:
        >>> import torch
        >>> from hsa_geometric.builders import from_nested
        >>> h = from_nested([["a", "b"], ["c", ["d", "e"]]], x=torch.randn(5, 16))
        >>> model = HierarchicalTransformer(16, 32, 2, 3, domains="sequence", states="mean")
        >>> model(h).shape
        torch.Size([1, 2])
        >>> words = HierarchicalTransformer(Ids(100), 32, None, 3, readout=None)
        >>> words(torch.tensor([5, 7, 5]), torch.tensor([3, 3, 4, 4, 4])).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        in_channels: int | Ids | Mapping[str, int | Ids],
        hidden_channels: int,
        out_channels: int | None,
        num_layers: int,
        heads: int = 4,
        *,
        readout: str | None = "mean",
        domains: str | DomainEncoding | Sequence[str | DomainEncoding] | None = None,
        pos_channels: int = 8,
        pool: Mapping[int, int] | None = None,
        attention: str | None = "softmax",
        states: str | None = None,
        conv: str | Callable[[int, int], torch.nn.Module] | None = None,
        mlp_channels: int | None = None,
        num_levels: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        norm_first: bool = True,
        act: str | Callable[[Tensor], Tensor] = "gelu",
        checkpointing: bool = False,
        attn_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__()
        self._config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if num_layers < 1:
            raise ValueError(f"Expected 'num_layers' to be positive (got {num_layers})")
        if readout == "root" and states is None:
            raise ValueError("Expected 'states' for readout='root' (got None)")
        pool = dict(pool or {})
        check_integer(pos_channels, "pos_channels", 1)
        for layer, level in pool.items():
            if not isinstance(level, int):
                raise TypeError(f"Expected 'pool' to name levels that are integers (got {level!r})")
            if not 0 <= layer < num_layers:
                raise ValueError(
                    f"Expected 'pool' to name layers in [0, {num_layers - 1}] (got {layer})"
                )
        self.pool = pool
        self.checkpointing = checkpointing
        self.hidden_channels = hidden_channels
        self.has_states = states is not None
        self.flat = attention == "flat"
        if self.flat and pool:
            raise ValueError("Expected no 'pool' with attention='flat' (got some)")

        self.types = tuple(in_channels) if isinstance(in_channels, Mapping) else None
        self.lin_in: torch.nn.Module
        if isinstance(in_channels, Mapping):
            self.lin_in = TypedInput(in_channels, hidden_channels)
        else:
            self.lin_in = input_map(in_channels, hidden_channels)
        self.encoding = None if domains is None else FamilyEncoding(domains)

        first_pool = min(pool, default=num_layers)
        self.layers = torch.nn.ModuleList()
        for number in range(num_layers):
            options = dict(attn_kwargs or {})
            if self.encoding is not None and self.encoding.out_channels:
                options["pos_dim"] = self.encoding.out_channels
                options["pos_channels"] = pos_channels
            if self.types is not None and len(self.types) > 1 and number < first_pool:
                options["num_types"] = len(self.types)
            self.layers.append(
                HierarchicalTransformerLayer(
                    hidden_channels,
                    heads,
                    attention=attention,
                    states=states,
                    conv=_conv(conv),
                    mlp_channels=mlp_channels,
                    num_levels=num_levels,
                    dropout=dropout,
                    drop_path=drop_path * number / max(num_layers - 1, 1),
                    layer_scale=layer_scale,
                    norm_first=norm_first,
                    act=act,
                    attn_kwargs=options,
                )
            )
        self.norm = torch.nn.LayerNorm(hidden_channels) if norm_first else None
        several = heads if readout == "attention" else 1
        self.readout = (
            None if readout is None else HierarchyReadout(readout, hidden_channels, several)
        )
        self.lin_out = None if out_channels is None else Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        for module in self.children():
            reset(module)

    def forward(
        self,
        x: Any,
        tree: TreeIndex | Tensor | None = None,
        *,
        leaf_type: Tensor | None = None,
        tree_kind: Tensor | None = None,
        tree_pos: Tensor | None = None,
        pos: Tensor | None = None,
        mass: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_attr: Tensor | None = None,
        leaf: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        r"""Run the model.

        Args:
            x: a :class:`~hsa_geometric.Hierarchy`, from which all the rest is taken where it is
                not given; or features ``[N, F]`` of the leaves, ids ``[N]``, or of each type its
                rows.
            tree: a :class:`~hsa_geometric.TreeIndex` or a parent vector, beside tensors.
            leaf_type: ``[N]`` number of the type of each leaf, if there are types.
            tree_kind: ``[T]`` kind of each node, if :obj:`domains` is a sequence.
            tree_pos: ``[T, P]`` position of each node within its family, for domains that need one.
            pos: ``[N, d]`` coordinates of the leaves, from which domains may take positions.
            mass: ``[N]`` weight of each leaf; 0 marks padding.
            edge_index: ``[2, E]`` edges between leaves, for :obj:`conv` and the domain ``'graph'``.
            edge_attr: their features or weights, for a :obj:`conv` that takes them.
            leaf: ``[trees]`` row of the chosen leaf of each tree, for ``readout='leaf'``.
            return_states: also return the states of the inner nodes.

        Raises:
            TypeError, ValueError: naming the argument that is missing or does not fit.
        """
        if tree is None:
            given = {
                "leaf_type": leaf_type, "tree_kind": tree_kind, "tree_pos": tree_pos, "pos": pos,
                "mass": mass, "edge_index": edge_index, "edge_attr": edge_attr,
            }  # fmt: skip
            return self.forward(
                *self._inputs(x), leaf=leaf, return_states=return_states,
                **self._options(x) | {k: v for k, v in given.items() if v is not None},
            )  # fmt: skip
        tree = as_tree(tree)
        if return_states and not self.has_states:
            raise ValueError("Expected 'states' in a model that is to return them (got None)")
        check_mass(mass, tree)
        self._check_used(tree_kind=tree_kind, tree_pos=tree_pos, pos=pos)
        if edge_attr is not None and self.layers[0].conv is None:
            raise ValueError("Expected no 'edge_attr' in a model without 'conv' (got a tensor)")
        x = self._embed(x, leaf_type, mass)
        check_rows(x, "x", tree)
        place = None
        if self.encoding is not None and self.encoding.out_channels:
            over = tree
            if self.flat:
                over, node = flat_tree(tree), torch.cat([tree.leaf_ids, tree.order[tree.root]])
                tree_kind = None if tree_kind is None else tree_kind[node]
                tree_pos = None  # within families that there are none of here
            place = self.encoding(
                over, tree_kind=tree_kind, tree_pos=tree_pos, pos=pos, mass=mass,
                edge_index=edge_index,
            ).to(x.dtype)  # fmt: skip
        if self.layers[0].conv is None:
            edge_index = edge_attr = None
        several = self.types is not None and len(self.types) > 1
        level = Level(tree, None, mass, place, leaf_type if several else None, edge_index,
                      edge_attr)  # fmt: skip
        states = None
        for number, layer in enumerate(self.layers):
            if number in self.pool:
                x, states, level = merged(x, states, level, tree, self.pool[number])
            x, states = self._run(layer, x, states, level)
        if self.norm is not None:
            x = self.norm(x)
        out = x
        if self.readout is not None:
            out = self.readout(x, level.tree, states, mass=level.mass, leaf=leaf)
        elif leaf is not None:
            raise ValueError("Expected no 'leaf' in a model without readout (got a tensor)")
        if self.lin_out is not None:
            out = self.lin_out(out)
        return (out, states) if return_states else out

    def _run(self, layer: Any, x: Tensor, states: Tensor | None, level: Level) -> Any:
        options: dict[str, Any] = {
            "mass": level.mass, "tree_pos": level.place, "leaf_type": level.leaf_type,
            "edge_index": level.edge_index, "edge_attr": level.edge_attr,
        }  # fmt: skip
        if self.checkpointing and torch.is_grad_enabled():
            out = checkpoint(layer, x, level.tree, states, use_reentrant=False, **options)
        else:
            out = layer(x, level.tree, states, **options)
        return out if self.has_states else (out, None)

    def _check_used(self, **given: Tensor | None) -> None:
        for name, value in given.items():
            if value is not None and self.encoding is None:
                raise ValueError(
                    f"Expected no '{name}' in a model without 'domains' (got a tensor)"
                )

    def _embed(self, x: Any, leaf_type: Tensor | None, mass: Tensor | None) -> Tensor:
        if self.types is None:
            if leaf_type is not None:
                raise ValueError("Expected no 'leaf_type' in a model of one type (got a tensor)")
            if not isinstance(x, Tensor):
                raise TypeError(f"Expected 'x' to be a tensor (got {type(x).__name__})")
            if mass is not None:
                x = _without_padding(x, mass)
            return apply_input(self.lin_in, x, "'x'")
        if leaf_type is None:
            raise ValueError(f"Expected 'leaf_type', for the types {list(self.types)} (got None)")
        if mass is not None and isinstance(x, Mapping) and isinstance(leaf_type, Tensor):
            masses = {name: mass[leaf_type == i] for i, name in enumerate(self.types)}
            x = {k: _without_padding(v, masses[k]) if k in masses else v for k, v in x.items()}
        out: Tensor = self.lin_in(x, leaf_type)
        return out

    def _inputs(self, data: Any) -> tuple[Any, TreeIndex]:
        """Features and tree of a hierarchy."""
        if not isinstance(getattr(data, "tree", None), TreeIndex):
            raise TypeError(
                f"Expected 'x' to be a Hierarchy, or 'tree' beside it (got {type(data).__name__})"
            )
        if self.types is None:
            if data.get("x") is None:
                raise ValueError("Expected the hierarchy to have 'x' (got None)")
            return data.x, data.tree
        rows = {name: data.get(f"x_{name}") for name in self.types}
        return {name: value for name, value in rows.items() if value is not None}, data.tree

    def _options(self, data: Any) -> dict[str, Tensor]:
        """What this model can use of a hierarchy's data."""
        wanted = ["mass"]
        if self.types is not None:
            wanted.append("leaf_type")
        if self.encoding is not None:
            wanted += ["tree_kind"] * (self.encoding.kinds is not None) + ["tree_pos", "pos"]
        if self.layers[0].conv is not None or self.encoding is not None:
            wanted.append("edge_index")
        if self.layers[0].conv_takes:
            wanted.append("edge_attr")
        return {name: value for name in wanted if (value := data.get(name)) is not None}

    def to_config(self) -> dict[str, Any]:
        """The arguments that make the model again, of plain types that JSON takes.

        Raises:
            ValueError: if :obj:`conv`, :obj:`act` or a domain is no name.
        """
        config = dict(self._config)
        for name in ("conv", "act"):
            value = config[name]
            called = getattr(value, "__name__", "")
            if isinstance(value, type) and getattr(torch_geometric.nn, called, None) is value:
                config[name] = called
            elif not (value is None or isinstance(value, str)):
                raise ValueError(f"Expected '{name}' to be a name, to be written (got {value!r})")
        domains = config["domains"]
        if not (domains is None or isinstance(domains, str)):
            entries = [] if isinstance(domains, DomainEncoding) else domains
            if not entries or not all(isinstance(domain, str) for domain in entries):
                raise ValueError(f"Expected 'domains' to be names, to be written (got {domains!r})")
            config["domains"] = list(domains)
        config["in_channels"] = _written(config["in_channels"])
        config["pool"] = sorted((config["pool"] or {}).items())
        config["attn_kwargs"] = dict(config["attn_kwargs"] or {})
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> HierarchicalTransformer:
        """The model of what :meth:`to_config` returned, with new weights.

        Args:
            config: what :meth:`to_config` returned.
            **options: arguments to have instead.
        """
        options = {**config, **options}
        options["in_channels"] = _read(options["in_channels"])
        options["pool"] = dict(options.get("pool") or {})
        return cls(**options)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self._config['in_channels']}, {self.hidden_channels}, "
            f"{self._config['out_channels']}, num_layers={len(self.layers)})"
        )


def _without_padding(x: Tensor, mass: Tensor) -> Tensor:
    """Features with 0 where the mass is, whatever padding holds; what does not fit stays."""
    if not x.is_floating_point() or x.dim() != 2 or x.shape[0] != mass.shape[0]:
        return x
    return x.masked_fill((mass == 0)[:, None], 0.0)


def _conv(conv: Any) -> Any:
    if not isinstance(conv, str):
        return conv
    found = getattr(torch_geometric.nn, conv, None)
    if found is None:
        raise ValueError(f"Expected 'conv' to be a layer of torch_geometric.nn (got {conv!r})")
    return found


def _written(in_channels: Any) -> Any:
    if isinstance(in_channels, Ids):
        return {"ids": in_channels.num}
    if isinstance(in_channels, Mapping):
        return [[name, _written(value)] for name, value in in_channels.items()]
    return in_channels


def _read(in_channels: Any) -> Any:
    if isinstance(in_channels, list):
        return {name: _read(value) for name, value in in_channels}
    if isinstance(in_channels, dict) and set(in_channels) == {"ids"}:
        return Ids(in_channels["ids"])
    return in_channels
