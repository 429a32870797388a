"""One sample with its tree, or a batch of them: :class:`Hierarchy`."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.data import size_repr

from hsa_geometric.data.alike import check_keys, common_record
from hsa_geometric.data.callers import check_transform, samples_to_batch
from hsa_geometric.data.leaves import check_no_references, count_before, keep_leaves
from hsa_geometric.data.rows import Rows, rows_by_name, type_number
from hsa_geometric.data.storage import HierarchyStorage
from hsa_geometric.data.validation import check_contents
from hsa_geometric.functional.clusters import Clusters
from hsa_geometric.tree import TreeIndex

DERIVED = ("tree", "parent_edge_index", "num_tree_nodes", "num_trees", "depth")


class Hierarchy(Data):  # type: ignore[misc]
    r"""A graph whose nodes are the leaves of a tree.

    :obj:`num_nodes`, :obj:`x`, :obj:`pos`, :obj:`edge_index`, :obj:`y` and :obj:`batch` mean what
    they mean in :class:`torch_geometric.data.Data`, so that every PyG layer works on the leaves.
    The tree above them is one flat vector :obj:`parent`, which batches by adding the number of
    tree nodes. The :obj:`k`-th leaf in ascending tree node id is row :obj:`k` of :obj:`x`: in one
    sample ids usually start with the leaves; in a batch the leaves and inner nodes alternate.

    What the rows of a key are is said

    * by its name, if it is ``tree_*``: one row per tree node; ``inner_*``: one row per inner node,
      in ascending id; ``x``, ``pos``, ``z``, ``mass`` or ``batch``: one row per leaf;
    * by the builder it was passed to, whatever its name: see
      :func:`~hsa_geometric.builders.from_parent`. That is recorded, and goes along into copies,
      batches and data sets;
    * by PyG's rules otherwise, as for ``h.name = value``: keys with ``index`` in their name, and
      ``face``, name leaves by row; what has as many rows as there are leaves (or edges) belongs to
      these.

    Of the first two nothing is changed by batching, and PyG's transforms never take them for data
    of edges. :meth:`rows_of` tells. A tensor of leaves that is replaced by one with another number
    of rows is refused at once, as are PyG's transforms that add or remove nodes.

    Args:
        x: features of the leaves.
        edge_index: edges between **leaves**, as rows of :obj:`x`.
        edge_attr: features of these edges.
        y: target, of leaves or of the whole sample.
        pos: coordinates of the leaves.
        parent: id of each tree node's parent; a root points to itself. There may be many roots.
        mass: weight of each leaf, such as the area of a mesh vertex; 0 for padding.
            (default: every leaf weighs 1)
        tree_pos: position of each tree node within its family.
        tree_kind: type of each tree node, such as its modality.
        **kwargs: more attributes.

    Shapes:
        :obj:`N` leaves, :obj:`T` tree nodes, :obj:`P` numbers to a position.
        :obj:`x` ``[N, in_channels]``, :obj:`parent` ``[T]``, :obj:`mass` ``[N]``,
        :obj:`tree_pos` ``[T, P]``, :obj:`tree_kind` ``[T]``.

    Nothing is checked here, as in PyG: call :meth:`validate`, or build with
    :func:`~hsa_geometric.builders.from_parent`, which does.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Batch
        >>> h = Hierarchy(x=torch.rand(3, 8), parent=torch.tensor([3, 3, 4, 4, 4]))
        >>> h
        Hierarchy(leaves=3, nodes=5, depth=2, x=[3, 8])
        >>> h.num_nodes, h.num_tree_nodes
        (3, 5)
        >>> batch = Batch.from_data_list([h, h])
        >>> batch.parent
        tensor([3, 3, 4, 4, 4, 8, 8, 9, 9, 9])
        >>> batch.tree
        TreeIndex(leaves=6, nodes=10, trees=2, depth=2)
    """

    parent: Tensor

    def __init__(
        self,
        x: Tensor | None = None,
        edge_index: Tensor | None = None,
        edge_attr: Tensor | None = None,
        y: Tensor | float | None = None,
        pos: Tensor | None = None,
        *,
        parent: Tensor | None = None,
        mass: Tensor | None = None,
        tree_pos: Tensor | None = None,
        tree_kind: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.__dict__["_store"] = HierarchyStorage(_parent=self)
        own: dict[str, Any] = {
            "x": x,
            "edge_index": edge_index,
            "edge_attr": edge_attr,
            "y": y,
            "pos": pos,
            "parent": parent,
            "mass": mass,
            "tree_pos": tree_pos,
            "tree_kind": tree_kind,
        }
        for key, value in (own | kwargs).items():
            if value is not None:
                setattr(self, key, value)

    # What is stored ###########################################################################

    @property
    def mass(self) -> Tensor | None:
        """``[N]`` weight of each leaf, or :obj:`None`."""
        return self._store.get("mass")

    @property
    def tree_pos(self) -> Tensor | None:
        """``[T, P]`` position of each tree node within its family, or :obj:`None`."""
        return self._store.get("tree_pos")

    @property
    def tree_kind(self) -> Tensor | None:
        """``[T]`` type of each tree node, or :obj:`None`."""
        return self._store.get("tree_kind")

    # What follows from `parent` ###############################################################

    @property
    def tree(self) -> TreeIndex:
        r"""The index every operator takes; built on first use and kept while :obj:`parent` stays.

        Raises:
            TypeError, ValueError: if :obj:`parent` is no forest.
        """
        return self._store._derive("tree", TreeIndex.from_parent)

    @property
    def parent_edge_index(self) -> Tensor:
        """``[2, T - roots]`` edges child to parent, as tree node ids."""
        child = (self.parent != _ids(self.parent)).nonzero().view(-1)
        return torch.stack([child, self.parent[child]])

    @property
    def num_tree_nodes(self) -> int:
        """Number of tree nodes :obj:`T`, leaves included."""
        return self.parent.numel()

    @property
    def num_trees(self) -> int:
        """Number of roots; in a batch of single trees the number of samples."""
        return self.tree.num_trees

    @property
    def depth(self) -> int:
        """Number of levels below the roots."""
        return self.tree.depth

    def rows_of(self, key: str) -> Rows:
        r"""What the rows of the value stored under :obj:`key` stand for.

        Args:
            key: name of an attribute that is there.

        Returns:
            ``'leaf'``, ``'tree'`` (nodes), ``'inner'`` (nodes), ``'edge'``, ``'reference'`` (it
            names leaves by row, as :obj:`edge_index` does), ``'sample'`` (a value of the whole
            sample, whatever its rows are), ``'typed'`` (leaves of one type, see
            :class:`~hsa_geometric.builders.NestedSignal`) or ``'other'`` (what PyG adds to a
            batch).

        Example:
            >>> from hsa_geometric.builders import from_parent
            >>> h = from_parent([2, 2, 2], surface_index=[5, 7], y=1.0)
            >>> h.rows_of("surface_index"), h.rows_of("y"), h.rows_of("parent")
            ('leaf', 'sample', 'tree')
        """
        return self._store._rows_of(key)

    def leaves_of_type(self, key: str) -> Tensor:
        r"""``[N]`` mask of the leaves that have a row each in a key of one type.

        Args:
            key: a key whose :meth:`rows_of` is ``'typed'``; its rows are in the order of the leaves
                whose :obj:`leaf_type` is its type.

        Raises:
            ValueError: if it is another key, or :obj:`leaf_type` is missing.
        """
        number = type_number(self._store._recorded().get(key))
        if number is None:
            raise ValueError(f"Expected 'key' to have rows of leaves of one type (got '{key}')")
        leaf_type = self._store.get("leaf_type")
        if not isinstance(leaf_type, Tensor):
            raise ValueError(f"Expected 'leaf_type', which says whose the rows of '{key}' are")
        return leaf_type == number

    # What PyG does with it ####################################################################

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if self._is_own(key):
            return 0
        return super().__cat_dim__(key, value, *args, **kwargs)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "parent":
            return value.numel()
        if key != "batch" and self._is_own(key):
            return 0
        return super().__inc__(key, value, *args, **kwargs)

    def _is_own(self, key: str) -> bool:
        return rows_by_name(key) in ("tree", "inner", "leaf") or key in self._store._recorded()

    def stores_as(self, data: Any) -> Hierarchy:
        """Know of rows what ``data`` knows, or all samples of the batch of which it is the first.

        Raises:
            TypeError: if one of them is something else than a hierarchy.
            ValueError: if their keys, or what rows of a key stand for, differ.
        """
        samples, excluded = samples_to_batch()
        check_keys(samples or [data], excluded)
        self._store._set_recorded(common_record(samples or [data], excluded))
        return self

    def __copy__(self) -> Hierarchy:
        check_transform()
        out: Hierarchy = super().__copy__()
        return out

    def __setattr__(self, key: str, value: Any) -> None:
        if key in DERIVED:
            raise AttributeError(f"Cannot set '{key}': it follows from 'parent'")
        super().__setattr__(key, value)

    # Checks ###################################################################################

    def validate(self, raise_on_error: bool = True) -> bool:
        r"""Check the tree, the row counts, the masses, and what PyG checks.

        Args:
            raise_on_error: raise at the first fault instead of warning of it.

        Returns:
            Whether all is well.

        Raises:
            TypeError: if :obj:`parent` holds no integers.
            ValueError: naming the argument and the node, if :obj:`parent` is missing, empty, out of
                range or has a cycle; if a key of any name has the wrong number of rows; if a mass
                is negative, infinite or NaN; if :obj:`edge_index` or :obj:`face` is out of range.
        """
        try:
            check_contents(self)
        except (TypeError, ValueError) as error:
            if raise_on_error:
                raise
            warnings.warn(str(error), stacklevel=2)
            return False
        return bool(super().validate(raise_on_error))

    # New hierarchies ##########################################################################

    def collapse_chains(self) -> Hierarchy:
        r"""Remove inner nodes with a single child; attention does not change.

        The child takes the removed node's place in its family, or becomes a root where the removed
        node was one. Leaves, their order and their data stay. So does the order of the trees: where
        new roots, whose ids count, would change it, roots of one leaf stay, or all roots if that
        is not enough. A kept node keeps its rows of ``tree_*`` and ``inner_*``, except that
        :obj:`tree_pos`, the position within the family, is that of the place it takes: the row of
        the top of its chain; and so is :obj:`tree_kind` where it names the domain of that position
        (:class:`~hsa_geometric.builders.NestedSignal`).

        Pointer doubling: :math:`\mathcal{O}(T \log c)` for chains of at most :math:`c` nodes, no
        loop over nodes. A batch can still be split into its samples.

        Returns:
            A new hierarchy that shares unchanged tensors with this one.

        Raises:
            TypeError, ValueError: if :obj:`parent` is no forest.

        Example:
            >>> import torch
            >>> h = Hierarchy(parent=torch.tensor([2, 3, 4, 4, 5, 5]))  # 2, 3 and 5 have one child
            >>> h.collapse_chains().parent
            tensor([2, 2, 2])
        """
        parent, ids = self.tree.parent, _ids(self.parent)
        children = torch.bincount(parent[parent != ids], minlength=ids.numel())
        keep = children != 1

        top, above = _above_chains(parent, keep)
        lone = torch.zeros_like(keep)  # roots above nothing but one leaf
        lone[top[(children == 0) & (above == ids)]] = True
        for stay in (lone, parent == ids):
            if (top[keep & (above == ids)].diff() < 0).any():  # trees would change places
                keep = keep | stay
                top, above = _above_chains(parent, keep)

        out = self._with_nodes(copy.copy(self), keep, above)
        for key in ("tree_pos", "tree_kind") if "tree_items" in self else ("tree_pos",):
            if isinstance(self.get(key), Tensor):
                out[key] = self[key][top[keep]]
        return out

    def subgraph(self, subset: Tensor) -> Hierarchy:
        r"""Keep some leaves, the edges and faces among them, and the tree nodes above them.

        Inner nodes left without leaves vanish, and trees with them. A batch can no longer be split
        into samples.

        Args:
            subset: mask ``[N]`` over the leaves, or their rows in ascending order (the order of
                the leaves is the order of their ids, so it cannot be changed here).

        Raises:
            ValueError: if :obj:`subset` has the wrong shape, is out of order or keeps no leaf; if
                there is a key that names leaves by row (``*_index``, ``adj*``) besides
                :obj:`edge_index` and :obj:`face`.
        """
        check_no_references(self)
        tree = self.tree
        mask = _leaf_mask(subset, tree.num_leaves)
        keep = torch.zeros_like(tree.parent, dtype=torch.bool)
        keep[tree.leaf_ids[mask]] = True
        jump = tree.parent
        for _ in range(tree.depth.bit_length()):  # all ancestors, in doubling strides
            keep[jump[keep]] = True
            jump = jump[jump]

        return keep_leaves(self, self._with_nodes(copy.copy(self), keep, tree.parent), mask)

    def connected_components(self) -> list[Hierarchy]:
        """Split the graph, not the tree, into connected parts, each with the tree above it."""
        label = torch.arange(self.num_nodes, device=self.parent.device)
        if isinstance(self.get("edge_index"), Tensor):
            ends = torch.cat([self.edge_index, self.edge_index.flip(0)], dim=1)
            while True:  # every node takes the lowest row that it hears of
                lower = label.scatter_reduce(0, ends[0], label[ends[1]], "amin")
                lower = lower[lower]
                if torch.equal(lower, label):
                    break
                label = lower
        return [self.subgraph(label == first) for first in label.unique()]

    def snapshot(self, start_time: float, end_time: float, attr: str = "time") -> Hierarchy:
        """Keep the leaves, with their tree, or the edges whose time is in this range."""
        if attr in self and self.is_node_attr(attr):
            return self.subgraph((self[attr] >= start_time) & (self[attr] <= end_time))
        out: Hierarchy = super().snapshot(start_time, end_time, attr)
        return out

    def up_to(self, end_time: float) -> Hierarchy:
        """Keep the leaves, with their tree, or the edges until ``end_time``."""
        if "time" not in self:
            return copy.copy(self)
        return self.snapshot(self.time.min().item(), end_time)

    def sort_by_time(self) -> Hierarchy:
        """Sort edges by time; leaves are refused, as their order is that of the tree.

        Raises:
            ValueError: if :obj:`time` has a row for each leaf, and they are not in order.
        """
        if "time" in self and self.is_node_attr("time") and not self.is_sorted_by_time():
            raise ValueError(
                "Expected 'time' to belong to edges (got a row for each leaf, whose order is that "
                "of the tree); take surgery.permute_leaves(h, h.time.argsort())"
            )
        out: Hierarchy = super().sort_by_time()
        return out

    def concat(self, data: Any) -> Hierarchy:
        """Refused: rows would be joined, and trees could not be.

        Raises:
            ValueError: always, with what joins hierarchies.
        """
        raise ValueError(
            "Expected two hierarchies to be joined with their trees; take Batch.from_data_list([a, "
            "b]) for two trees, or surgery.merge([a, b]) for one"
        )

    def to_heterogeneous(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the tree has leaves of one type.

        Raises:
            ValueError: always, with what to do.
        """
        raise ValueError(
            "Expected nodes of one type, as a tree has no place in a HeteroData; delete 'parent' "
            "and what is 'tree_*' and 'inner_*', and call Data.from_dict(h.to_dict())"
            ".to_heterogeneous(...)"
        )

    def _with_nodes(self, out: Hierarchy, keep: Tensor, parent: Tensor) -> Hierarchy:
        """Write into ``out`` the tree of the nodes in ``keep``, whose parents are kept ones."""
        inner = torch.ones_like(keep)
        inner[self.tree.leaf_ids] = False
        masks = {"tree": keep, "inner": keep[inner]}
        new_id = count_before(keep)
        slices = dict(self._store.__dict__.get("_slice_dict", {}))  # of a batch, else empty
        incs = dict(self._store.__dict__.get("_inc_dict", {}))
        samples = slices.get("parent")

        for key, value in self._store.items():
            mask = masks.get(rows_by_name(key) or "")
            if mask is None:
                continue
            if key == "parent":
                out.parent = new_id[parent[keep]].to(value.dtype)
            elif isinstance(value, Tensor):
                out[key] = value[mask]
            elif hasattr(value, "select"):
                out[key] = value.select(mask)
            elif isinstance(value, list) and samples is not None:
                parts = mask.cpu().tensor_split(samples[1:-1])
                out[key] = [v.select(m) for v, m in zip(value, parts, strict=True)]
            if isinstance(value, Tensor):
                before = count_before(mask)
                if f"{key}_batch" in self._store:
                    out[f"{key}_batch"] = self[f"{key}_batch"][mask]
                    out[f"{key}_ptr"] = before[self[f"{key}_ptr"]]
                if key in slices:
                    slices[key] = before.cpu()[slices[key]]
        if samples is not None:
            incs["parent"] = slices["parent"][:-1]
            out._slice_dict, out._inc_dict = slices, incs
        return out

    def _coarsened(self, out: Hierarchy, tree: TreeIndex, clusters: Clusters) -> None:
        """Write into ``out``, these clusters, what a subclass knows beside."""

    def __repr__(self) -> str:
        info = []
        if "parent" in self._store:
            info += [f"leaves={self.num_nodes}", f"nodes={self.num_tree_nodes}"]
            try:
                if self.num_trees > 1:
                    info.append(f"trees={self.num_trees}")
                info.append(f"depth={self.depth}")
            except (TypeError, ValueError):
                info.append("depth=invalid")
        info += [size_repr(key, value) for key, value in self._store.items() if key != "parent"]
        return f"{type(self).__name__}({', '.join(info)})"


# A dataset on disk names the class of its samples, which `torch.load` must trust.
torch.serialization.add_safe_globals([Hierarchy])


def _ids(parent: Tensor) -> Tensor:
    return torch.arange(parent.numel(), device=parent.device)


def _above_chains(parent: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """For each node the highest that only removed nodes join to it, and the kept one above that."""
    ids = _ids(parent)
    top = torch.where(keep[parent], ids, parent)
    while not torch.equal(top, further := top[top]):
        top = further
    above = parent[top]
    return top, torch.where(above == top, ids, above)  # the chain hung from no node: a root


def _leaf_mask(subset: Tensor, num_leaves: int) -> Tensor:
    if subset.dim() != 1:
        raise ValueError(f"Expected 'subset' to be one-dimensional (got {subset.dim()} dimensions)")
    if subset.dtype == torch.bool:
        if subset.numel() != num_leaves:
            raise ValueError(
                f"Expected 'subset' to have one entry for each of the {num_leaves} leaves "
                f"(got {subset.numel()})"
            )
        mask = subset
    else:
        outside = (subset < 0) | (subset >= num_leaves)
        if outside.any():
            raise ValueError(
                f"Expected 'subset' to hold leaf rows in [0, {num_leaves - 1}] "
                f"(got {int(subset[outside][0])})"
            )
        if (subset[1:] <= subset[:-1]).any():
            raise ValueError(
                "Expected 'subset' to be strictly ascending; leaves keep their order (take "
                "subset.sort().values, and surgery.permute_leaves afterwards)"
            )
        mask = torch.zeros(num_leaves, dtype=torch.bool, device=subset.device)
        mask[subset] = True
    if not mask.any():
        raise ValueError("Expected 'subset' to keep at least one leaf (got none)")
    return mask
