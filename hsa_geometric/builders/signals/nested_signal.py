"""Documents, web pages, captioned images: nested lists and dicts of values of several types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.signals._leaves import LeafType
from hsa_geometric.builders.signals._read import read
from hsa_geometric.builders.signals._write import Writer
from hsa_geometric.builders.signals.graph_leaves import GraphLeaves
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.data.rows import FOLLOWERS
from hsa_geometric.functional.options import check_integer

DOMAINS = ("set", "sequence", "grid", "key", "graph", "points")


class NestedSignal:
    r"""Nested lists and dicts of strings, tensors, images, graphs and numbers as a hierarchy, and
    back.

    Section 2 of `the paper <https://arxiv.org/abs/2509.15448>`_ calls it a nested signal: members
    of a family stand on a domain, and are signals again, or leaves of some type. The types are
    declared here; a signal may be composed of them in any way.

    ==================================  ============  ==============================================
    what holds others                   domain        position of its members
    ==================================  ============  ==============================================
    :class:`dict`                       ``key``       id of the key
    :class:`list`, :class:`tuple`       ``sequence``  rank
    :class:`set`, :class:`frozenset`,   ``set``       0
    :class:`~hsa_geometric.Unordered`
    a string, a tensor of rows          ``sequence``  rank
    an image                            ``grid``      row and column
    a graph; a graph with ``pos``       ``graph``;    0;
                                        ``points``    coordinates
    ==================================  ============  ==============================================

    A number is itself a leaf; any other value is a node, with its leaves below it. The hierarchy
    carries

    * ``leaf_type`` ``[N]``: the type of each leaf, an index into :obj:`types`;
    * ``x_name`` for **every** type, ``[N_t, width]`` or ids ``[N_t]``: the rows of the leaves of
      this type, in the order of the leaves;
    * ``tree_kind`` ``[T]``: the domain on which each node stands among its siblings, an index into
      :obj:`domains` (0 of the root, which has none);
    * ``tree_pos`` ``[T, P]``: its position there, further columns 0;
    * ``edge_index`` and ``edge_attr``, if a type of graphs has them;
    * ``tree_items``: names of keys, strings, and whatever else :meth:`to_nested` needs.

    All hierarchies of one :class:`NestedSignal` have the same keys, so that they batch. Leaves are
    in reading order. ``subgraph``, ``subtree``, ``permute_leaves`` and batching keep the rows of
    each type with their leaves; ``coarsen``, which would need means over several types, refuses.

    Args:
        types: a :class:`TextLeaves`, :class:`TensorLeaves`, :class:`ImageLeaves`,
            :class:`GraphLeaves`, :class:`NumberLeaves` or other leaf type by name. A value is of
            the type that takes it; where several would, :class:`~hsa_geometric.Typed` says which.
        keys: the keys there may be, whose ids are their places here; or a number of buckets into
            which names of keys are hashed, the same way everywhere. (default: :obj:`256`)
        domains: names of the domains, whose numbers are their places here.

    Raises:
        TypeError, ValueError: if a type has a name that is no string or cannot be part of a key, or
            is no leaf type; if it needs a domain that is not there; if graph types differ in
            :obj:`edge_width`.

    Example:
        >>> from hsa_geometric import ImageLeaves, NumberLeaves, TextLeaves
        >>> signal = NestedSignal({
        ...     "word": TextLeaves({"a": 1, "red": 2, "square": 3}, unknown=0),
        ...     "patch": ImageLeaves(channels=3, size=2),
        ...     "number": NumberLeaves(),
        ... })
        >>> page = {"figures": [{"image": torch.rand(3, 4, 4), "caption": "a red square"}], "id": 7}
        >>> h = signal.to_hierarchy(page, y=1.0)
        >>> h.num_nodes, h.num_tree_nodes, h.x_word, h.x_patch.shape, h.x_number
        (8, 13, tensor([1, 2, 3]), torch.Size([4, 12]), tensor([[7.]]))
        >>> [signal.domains[kind] for kind in h.tree_kind[:8:3]]
        ['grid', 'grid', 'sequence']
        >>> again = signal.to_nested(h)
        >>> again["id"], again["figures"][0]["caption"]
        (7, 'a red square')
        >>> torch.equal(again["figures"][0]["image"], page["figures"][0]["image"])
        True
    """

    def __init__(
        self,
        types: Mapping[str, LeafType],
        *,
        keys: Sequence[str] | int = 256,
        domains: Sequence[str] = DOMAINS,
    ):
        if not isinstance(types, Mapping) or not types:
            raise TypeError(f"Expected 'types' to map names to types of leaves (got {types!r})")
        self.types, self.keys, self.domains = dict(types), keys, tuple(domains)
        if len(set(self.domains)) < len(self.domains) or "set" not in self.domains:
            raise ValueError(
                f"Expected 'domains' to be different, and 'set' among them (got {self.domains})"
            )
        for name, leaf in self.types.items():
            if not isinstance(name, str) or not name or f"x_{name}".endswith(FOLLOWERS):
                raise ValueError(
                    f"Expected names of types to be strings that do not end like '_batch' and "
                    f"'_ptr' (got {name!r})"
                )
            if not isinstance(leaf, LeafType):
                raise TypeError(
                    f"Expected type '{name}' to be a type of leaves, such as NumberLeaves() (got "
                    f"{type(leaf).__name__})"
                )
            if leaf.domain not in self.domains:
                raise ValueError(
                    f"Expected 'domains' to have '{leaf.domain}', for type '{name}' (got "
                    f"{list(self.domains)})"
                )
        graphs = [t for t in self.types.values() if isinstance(t, GraphLeaves) and t.edges]
        widths = {leaf.edge_width for leaf in graphs}
        if len(widths) > 1:
            raise ValueError(f"Expected graphs to have one 'edge_width' (got {widths})")
        self._has_edges = bool(graphs)
        self._edge_width = widths.pop() if graphs else None
        if isinstance(keys, int):
            check_integer(keys, "keys", 1)
            self._ids: Any = keys
            return
        self._ids = {key: i for i, key in enumerate(keys)}
        if isinstance(keys, str) or len(self._ids) < len(keys):
            raise ValueError(f"Expected 'keys' to be a list of different names (got {keys!r})")

    def to_hierarchy(self, signal: Any, **data: Any) -> Hierarchy:
        r"""The hierarchy of one signal.

        Args:
            signal: a list, dict or set of signals, or a value of one of the types; tensors on the
                CPU (move the hierarchy afterwards).
            **data: more for the hierarchy to carry, such as ``y``; as for
                :func:`~hsa_geometric.builders.from_parent`.

        Raises:
            TypeError: naming the place, such as ``signal['figures'][2]['caption']``: a value that
                no type is for, or a key that is no string.
            ValueError: naming the place: an empty list, dict or value; a value that holds itself; a
                value of a wrong width; an unknown type, key or word; and what builders raise.

        Cost: a few Python steps for each item of the signal and each word of a text; none for each
        leaf of another tensor. No recursion, so any depth.
        """
        writer = Writer(self.types, self.domains, self._ids)
        writer.read(signal)
        parent, own = writer.tree()
        if self._has_edges:
            none = torch.empty(2, 0, dtype=torch.int64)
            data["edge_index"] = torch.cat([none, *writer.edges()], dim=1)
        if self._edge_width is not None:
            attrs = [new.edge_attr for new in writer.leaves if new.edge_attr is not None]
            data["edge_attr"] = torch.cat([torch.empty(0, self._edge_width), *attrs])
        h = from_parent(parent, **own, **data)
        record = dict(h._store._recorded()) | {"leaf_type": "leaf"}
        for number, (name, leaf) in enumerate(self.types.items()):
            h[f"x_{name}"] = leaf.stack(writer.rows(name))
            record[f"x_{name}"] = f"type {number}"
        h._store._set_recorded(record)
        h.validate()
        return h

    def to_nested(self, h: Hierarchy) -> Any:
        r"""The signal of a hierarchy; the inverse of :meth:`to_hierarchy`.

        Tensors, images and graphs are made of the rows as they are now; strings and numbers are
        those that were given. Of a ``subtree`` it is the part of the signal.

        Args:
            h: a hierarchy from :meth:`to_hierarchy`, or a sample of a batch of such.

        Raises:
            TypeError: if it is no hierarchy.
            ValueError: if it is a batch, or of other types, or lacks some leaves of a value or the
                node of a list or dict.

        Cost: a few Python steps for each item of the signal.
        """
        if not isinstance(h, Hierarchy):
            raise TypeError(f"Expected 'h' to be a Hierarchy (got {type(h).__name__})")
        items = h.get("tree_items")
        if items is None or isinstance(items, list):
            got = "a batch; take those of its 'to_data_list()'" if items else "no 'tree_items'"
            raise ValueError(f"Expected 'h' to be a hierarchy of a signal (got {got})")
        if items.types != tuple(self.types):
            raise ValueError(
                f"Expected 'h' to be of the types {list(self.types)} (got {list(items.types)})"
            )
        h.validate()
        return read(h, items, self.types)

    def __repr__(self) -> str:
        options = [repr(self.types)]
        options += [f"keys={self.keys!r}"] * (self.keys != 256)
        options += [f"domains={self.domains!r}"] * (self.domains != DOMAINS)
        return f"{type(self).__name__}({', '.join(options)})"
