"""Trees over sequences and texts, attached to a Data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from torch_geometric.data import Data

from hsa_geometric.builders._attach import attach, attribute, check_sample, device_of
from hsa_geometric.builders.sequences import from_markdown, from_sequence, from_text
from hsa_geometric.builders.sequences._windows import as_windows
from hsa_geometric.builders.sequences.from_text import Level, as_patterns
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.transforms._base import HierarchyTransform


@dataclass(repr=False, eq=False)
class SequenceHierarchy(HierarchyTransform):
    r"""Put windows, or units of your own, above the nodes of a Data, taken as a sequence.

    Attributes are kept and :obj:`parent` is added; a tree that is there already is replaced. See
    :func:`~hsa_geometric.builders.from_sequence`.

    Args:
        windows: sizes of the windows from fine to coarse.
        branching: windows of ``branching``, ``branching**2``, … nodes. (default: ``8``, if nothing
            else is given)
        boundaries: names of attributes of the Data from fine to coarse, such as
            ``["sentence", "paragraph"]``: each says where the units of a level begin.
        collapse: leave out nodes with a single child.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, what
            :func:`~hsa_geometric.builders.from_sequence` raises, or if it is a batch, or lacks
            nodes or an attribute.

    Example:
        >>> import torch
        >>> transform = SequenceHierarchy(windows=(2, 4))
        >>> transform(Data(x=torch.rand(5, 8)))
        Hierarchy(leaves=5, nodes=9, depth=3, x=[5, 8])
    """

    _: KW_ONLY
    windows: Sequence[int] | None = None
    branching: int | None = None
    boundaries: Sequence[str] | None = None
    collapse: bool = True

    def __post_init__(self) -> None:
        as_windows(self.windows, self.branching, (1,), default=8)
        if (names := self.boundaries) is not None:
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise TypeError("Expected 'boundaries' to be a list of names of attributes")
            if self.windows is not None or self.branching is not None:
                raise ValueError("Expected one of 'windows', 'branching', 'boundaries'")

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        check_sample(data)
        options = dict(vars(self))
        if self.boundaries is not None:
            options["boundaries"] = [attribute(data, name) for name in self.boundaries]
        if not data.num_nodes:
            raise ValueError("Expected 'data' to have nodes (got none)")
        return attach(data, from_sequence(data.num_nodes, **options, device=device_of(data)))


@dataclass(repr=False, eq=False)
class TextHierarchy(HierarchyTransform):
    r"""Put sections, paragraphs and sentences above the tokens of a text.

    Attributes are kept; :obj:`parent`, :obj:`offset`, :obj:`tree_span` and :obj:`tree_kind` are
    added; a tree that is there already is replaced. See
    :func:`~hsa_geometric.builders.from_text`.

    Args:
        levels: names or patterns of levels, from coarse to fine.
        text: name of the attribute that holds the text.
        tokens: name of the attribute that holds the character offsets ``[N, 2]`` of the tokens.
            (default: the tokens are the words and signs of the text)
        collapse: leave out nodes with a single child.

    Raises:
        TypeError, ValueError: here, for wrong options; on a Data, what
            :func:`~hsa_geometric.builders.from_text` raises, or if it is a batch, lacks an
            attribute, or has rows for another number of tokens.

    Example:
        >>> import torch
        >>> transform = TextHierarchy()
        >>> transform(Data(x=torch.rand(6, 8), text="Go on. Do not.")).parent
        tensor([6, 6, 6, 7, 7, 7, 8, 8, 8])
    """

    levels: Sequence[Level] = ("section", "paragraph", "sentence")
    _: KW_ONLY
    text: str = "text"
    tokens: str | None = None
    collapse: bool = True

    def __post_init__(self) -> None:
        as_patterns(self.levels)

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        check_sample(data)
        tokens = None if self.tokens is None else attribute(data, self.tokens)
        tree = from_text(
            attribute(data, self.text), levels=self.levels, tokens=tokens, collapse=self.collapse
        )
        return attach(data, tree.to(device_of(data)))


@dataclass(repr=False, eq=False)
class MarkdownHierarchy(HierarchyTransform):
    r"""Put sections, blocks and sentences above the tokens of a Markdown text.

    Attributes are kept; :obj:`parent`, :obj:`offset`, :obj:`tree_span` and :obj:`tree_kind` are
    added; a tree that is there already is replaced. See
    :func:`~hsa_geometric.builders.from_markdown`.

    Args:
        text: name of the attribute that holds the text.
        tokens: name of the attribute that holds the character offsets ``[N, 2]`` of the tokens.
            (default: the tokens are the words and signs of the text)
        collapse: leave out nodes with a single child.

    Raises:
        TypeError, ValueError: on a Data, what :func:`~hsa_geometric.builders.from_markdown`
            raises, or if it is a batch, lacks an attribute, or has rows for another number of
            tokens.

    Example:
        >>> transform = MarkdownHierarchy()
        >>> transform(Data(text="# Go on\n\nDo not. Do not.")).parent
        tensor([11, 11, 11,  9,  9,  9, 10, 10, 10, 12, 12, 13, 13, 13])
    """

    _: KW_ONLY
    text: str = "text"
    tokens: str | None = None
    collapse: bool = True

    def forward(self, data: Data) -> Hierarchy:
        """Return a hierarchy with all that :obj:`data` has."""
        check_sample(data)
        tokens = None if self.tokens is None else attribute(data, self.tokens)
        tree = from_markdown(attribute(data, self.text), tokens=tokens, collapse=self.collapse)
        return attach(data, tree.to(device_of(data)))
