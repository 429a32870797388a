"""Domains: what the members of a family stand on, and their encodings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ...tree import TreeIndex


class Where(NamedTuple):
    """What is known of the places of tree nodes within their families.

    Attributes:
        tree: the tree.
        node: ``[n]`` ids of the nodes asked for, or :obj:`None` for all.
        tree_pos: ``[T, P]`` positions that were given, or :obj:`None`.
        pos: ``[N, d]`` coordinates of the leaves, or :obj:`None`.
        mass: ``[N]`` weights of the leaves, or :obj:`None`.
        edge_index: ``[2, E]`` edges between leaves, or :obj:`None`.
    """

    tree: TreeIndex
    node: Tensor | None = None
    tree_pos: Tensor | None = None
    pos: Tensor | None = None
    mass: Tensor | None = None
    edge_index: Tensor | None = None

    def of(self, rows: Tensor) -> Tensor:
        """Rows by node id of the nodes asked for."""
        return rows if self.node is None else rows[self.node]

    def given(self, domain: str, columns: int, instead: str = "") -> Tensor:
        """The first columns of :obj:`tree_pos`.

        Raises:
            ValueError: if there are none.
        """
        if self.tree_pos is None:
            raise ValueError(
                f"Expected 'tree_pos'{instead} for the domain '{domain}', which needs a position "
                f"of each node within its family (got None)"
            )
        if self.tree_pos.shape[1] < columns:
            raise ValueError(
                f"Expected 'tree_pos' to have at least {columns} columns for the domain "
                f"'{domain}' (got {self.tree_pos.shape[1]})"
            )
        return self.of(self.tree_pos)[:, :columns]


class DomainEncoding(torch.nn.Module):
    r"""Base class: features of the places of siblings on one domain.

    The members of a family stand on a domain (section 2 and appendix C of `the paper
    <https://arxiv.org/abs/2509.15448>`_): a set, a sequence, a grid, named keys, a graph, points in
    space. An encoding gives each member features :math:`\phi(p_A)` of its place, which each layer
    projects to embeddings :math:`\epsilon(A)` for its heads, so that a sibling logit gains
    :math:`\epsilon(A) \cdot \epsilon(B)`. Only siblings are ever compared, so places need
    a meaning within the family alone.

    A domain of one's own says how many features it has and what they are:

    Example:
        >>> import torch
        >>> @register_domain("clock")  # hours of the day, in column 0 of tree_pos
        ... class ClockEncoding(DomainEncoding):
        ...     out_channels = 2
        ...
        ...     def forward(self, where):
        ...         angle = where.given("clock", 1) * torch.pi / 12
        ...         return torch.cat([angle.cos(), angle.sin()], dim=1)
        >>> domain_encoding("clock")
        ClockEncoding(2)
    """

    out_channels: int = 0

    def forward(self, where: Where) -> Tensor:
        """Features ``[n, out_channels]`` of the nodes asked for."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.out_channels})"


DOMAINS: dict[str, Callable[..., DomainEncoding]] = {}
"""The encoding of each domain, by its name."""

E = TypeVar("E", bound=Callable[..., DomainEncoding])


def register_domain(name: str) -> Callable[[E], E]:
    """Decorator: have ``domain_encoding(name)`` make this encoding.

    Raises:
        ValueError: if the name is taken by another one.
    """

    def register(encoding: E) -> E:
        taken = DOMAINS.get(name, encoding)
        if getattr(taken, "__qualname__", taken) != getattr(encoding, "__qualname__", encoding):
            raise ValueError(
                f"Expected the name of a new domain (got {name!r}, which {taken.__name__} has)"
            )
        DOMAINS[name] = encoding
        return encoding

    return register


def domain_encoding(name: str | DomainEncoding, **options: object) -> DomainEncoding:
    """The encoding of a domain, by its name; one that is made already stays as it is.

    Raises:
        TypeError: if it is neither.
        ValueError: if no domain has the name.
    """
    if isinstance(name, DomainEncoding):
        return name
    if not isinstance(name, str):
        raise TypeError(
            f"Expected a domain to be a name or a DomainEncoding (got {type(name).__name__})"
        )
    if name not in DOMAINS:
        raise ValueError(f"Expected a domain to be one of {sorted(DOMAINS)} (got {name!r})")
    return DOMAINS[name](**options)
