"""Every family on its domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.nn.inits import reset

from ...functional.checks import as_tree, check_device, check_nodes, check_rows, check_tensor
from ...functional.options import check_integers
from ...tree import TreeIndex
from .domain import DomainEncoding, Where, domain_encoding


class FamilyEncoding(torch.nn.Module):
    r"""Features of the place of each tree node within its family, each family on its own domain.

    With one domain all families stand on it; with several, :obj:`tree_kind` says of each node on
    which it stands among its siblings, so that one tree, and one batch, may mix them. The features
    of the domains stand side by side, and are 0 outside of a node's own:

    .. math::
        \Phi(A) = \big[\, 0, \dots, \phi_{d(A)}(p_A), \dots, 0 \,\big]

    so that one linear map of them, as :class:`~hsa_geometric.nn.HierarchicalAttentionConv` has for
    ``tree_pos`` (``pos_dim=encoding.out_channels``), is a projection for each domain and head, and
    members of different domains can meet.

    Args:
        domains: the domain of all nodes, or of each kind in :obj:`tree_kind`: names (``'set'``,
            ``'sequence'``, ``'ranks'``, ``'grid'``, ``'points'``, ``'key'``, ``'graph'`` and what
            :func:`register_domain` added) or :class:`DomainEncoding` modules. A name that occurs
            again is the same encoding.

    Shapes:
        - **input:** tree with :math:`N` leaves and :math:`T` nodes, tree_kind :math:`(T)`,
          tree_pos :math:`(T, P)`, pos :math:`(N, d)`, edge_index :math:`(2, E)`, mass :math:`(N)`
        - **output:** :math:`(T, \mathrm{out\_channels})` by node id

    Example:
        >>> import torch
        >>> tree = torch.tensor([3, 3, 4, 4, 4])
        >>> FamilyEncoding("sequence")(tree).shape
        torch.Size([5, 16])
        >>> mixed = FamilyEncoding(["set", "sequence"])
        >>> mixed(tree, tree_kind=torch.tensor([1, 1, 0, 0, 0]))[2:].abs().sum()
        tensor(0.)
    """

    def __init__(self, domains: str | DomainEncoding | Sequence[str | DomainEncoding]):
        super().__init__()
        alone = isinstance(domains, (str, DomainEncoding))
        entries: list[str | DomainEncoding] = [domains] if alone else list(domains)  # type: ignore[list-item, arg-type]
        if not entries:
            raise ValueError("Expected 'domains' to name at least one (got none)")
        keys = [entry if isinstance(entry, str) else id(entry) for entry in entries]
        distinct = list(dict.fromkeys(keys))
        encodings = [domain_encoding(entries[keys.index(key)]) for key in distinct]
        self.encodings = torch.nn.ModuleList(encodings)
        self.kinds = None if alone else tuple(distinct.index(key) for key in keys)
        self.widths = [encoding.out_channels for encoding in encodings]
        self.out_channels = sum(self.widths)

    def reset_parameters(self) -> None:
        """Draw all learnable parameters anew."""
        reset(self.encodings)

    def forward(
        self,
        tree: TreeIndex | Tensor,
        *,
        tree_kind: Tensor | None = None,
        tree_pos: Tensor | None = None,
        pos: Tensor | None = None,
        edge_index: Tensor | None = None,
        mass: Tensor | None = None,
    ) -> Tensor:
        r"""Run the encodings.

        Args:
            tree: a :class:`~hsa_geometric.TreeIndex`, a ``Hierarchy``'s ``.tree`` or a parent
                vector.
            tree_kind: kind of each node, an index into :obj:`domains`, if these are a sequence.
            tree_pos: position of each node within its family, where it does not follow from the
                tree; see the encodings.
            pos: coordinates of the leaves, from which ``'points'`` and ``'grid'`` take positions.
            edge_index: edges between leaves, from which ``'graph'`` takes them.
            mass: weight of each leaf, for the centres of :obj:`pos`.

        Raises:
            ValueError: naming the argument, where one that a domain needs is missing, has other
                rows than the tree, or holds an unknown kind.
        """
        tree = as_tree(tree)
        if tree_pos is not None:
            check_tensor(tree_pos, "tree_pos", 2)
            check_nodes(tree_pos, "tree_pos", tree)
        if pos is not None:
            check_tensor(pos, "pos", 2)
            check_rows(pos, "pos", tree)
        if self.kinds is None:
            if tree_kind is not None:
                raise ValueError("Expected no 'tree_kind' beside one domain for all (got a tensor)")
            out: Tensor = self.encodings[0](Where(tree, None, tree_pos, pos, mass, edge_index))
            return out
        domain = self._domains(tree, tree_kind)
        parts = []
        for number, encoding in enumerate(self.encodings):
            width = self.widths[number]
            if width == 0:
                continue
            node = (domain == number).nonzero().view(-1)
            if node.numel() == 0:  # its inputs may be missing
                parts.append(torch.zeros(tree.num_nodes, width, device=tree.device))
                continue
            rows = encoding(Where(tree, node, tree_pos, pos, mass, edge_index))
            parts.append(rows.new_zeros(tree.num_nodes, width).index_copy(0, node, rows))
        if not parts:
            return torch.zeros(tree.num_nodes, 0, device=tree.device)
        return torch.cat(parts, dim=1)

    def _domains(self, tree: TreeIndex, tree_kind: Tensor | None) -> Tensor:
        """``[T]`` number of the encoding of each node; roots, which have no siblings, have none."""
        assert self.kinds is not None
        if tree_kind is None:
            raise ValueError(
                "Expected 'tree_kind' beside several domains, to say which is whose (got None)"
            )
        if not isinstance(tree_kind, Tensor) or tree_kind.shape != (tree.num_nodes,):
            got = list(tree_kind.shape) if isinstance(tree_kind, Tensor) else tree_kind
            raise ValueError(
                f"Expected 'tree_kind' to have one entry for each of the {tree.num_nodes} tree "
                f"nodes (got {got})"
            )
        check_integers(tree_kind, "tree_kind")
        check_device(tree_kind, "tree_kind", tree)
        if not torch.compiler.is_compiling():
            outside = (tree_kind < 0) | (tree_kind >= len(self.kinds))
            if outside.any():
                node = int(outside.nonzero()[0])
                raise ValueError(
                    f"Expected 'tree_kind' to hold kinds in [0, {len(self.kinds) - 1}], for which "
                    f"there is a domain (got tree_kind[{node}] = {int(tree_kind[node])})"
                )
        number = torch.tensor(self.kinds, device=tree.device)[tree_kind.long()]
        is_root = tree.parent == torch.arange(tree.num_nodes, device=tree.device)
        return torch.where(is_root, -1, number)

    def __repr__(self) -> str:
        names = [type(encoding).__name__ for encoding in self.encodings]
        return f"{self.__class__.__name__}({', '.join(names)})"
