"""Strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hsa_geometric.builders.sequences.from_text import Level, as_patterns, from_text
from hsa_geometric.builders.signals._leaves import LeafType, Leaves, family, ranks


@dataclass(frozen=True)
class TextLeaves(LeafType):
    r"""A string: each word is a leaf, whose row is the word's id.

    Args:
        vocabulary: ids of words; or a function that takes the list of words of a text and returns
            their ids.
        unknown: id of words that are not in it. (default: they are refused)
        levels: what stands between the text and its words, coarse to fine, as for
            :func:`~hsa_geometric.builders.from_text` (which needs ``hsa_geometric[text]``), such as
            ``("paragraph", "sentence")``. (default: nothing)
        pattern: regular expression of a word. (default: letters and digits in a row, or one sign)

    Raises:
        TypeError, ValueError: if an option is wrong.

    Example:
        >>> TextLeaves({"a": 1, "tree": 2}, unknown=0).encode("A tree, a tree!").rows
        tensor([0, 2, 0, 1, 2, 0])
    """

    vocabulary: Mapping[str, int] | Callable[[list[str]], Sequence[int]]
    unknown: int | None = None
    levels: Sequence[Level] = ()
    pattern: str = r"\w+|[^\w\s]"

    dtype = torch.int64
    domain = "sequence"
    columns = 1
    takes_type = str
    expects = "a string"

    def __post_init__(self) -> None:
        if not callable(self.vocabulary) and not isinstance(self.vocabulary, Mapping):
            raise TypeError(
                f"Expected 'vocabulary' to be a mapping or a function (got "
                f"{type(self.vocabulary).__name__})"
            )
        if self.levels:
            as_patterns(self.levels)
        if re.compile(self.pattern).fullmatch(""):
            raise ValueError(f"Expected 'pattern' to match no empty word (got {self.pattern!r})")

    def encode(self, value: str) -> Leaves:
        """A leaf for each word."""
        found = list(re.finditer(self.pattern, value))
        if not found:
            raise ValueError(f"Expected a string with words (got {value[:20]!r})")
        n = len(found)
        parent = family(n)
        if self.levels:
            parent = from_text(value, levels=self.levels, tokens=[m.span() for m in found]).parent
        place = ranks(parent, torch.arange(n)).float()[:, None]
        return Leaves(self._ids([match.group() for match in found]), parent, place, kept=value)

    def decode(self, leaves: Leaves) -> str:
        """The string as it was."""
        text: str = leaves.kept
        return text

    def _ids(self, words: list[str]) -> torch.Tensor:
        if isinstance(self.vocabulary, Mapping):
            ids = list(map(self.vocabulary.get, words))
        else:
            ids = list(self.vocabulary(words))
        if len(ids) != len(words):
            raise ValueError(f"Expected an id for each of {len(words)} words (got {len(ids)})")
        if None in ids:
            if self.unknown is None:
                word = words[ids.index(None)]
                raise ValueError(
                    f"Expected words of the vocabulary (got {word!r}); give ids to all others by "
                    f"unknown=..."
                )
            ids = [self.unknown if i is None else i for i in ids]
        out = torch.tensor(ids)
        if out.dtype != torch.int64 or out.dim() != 1 or int(out.min()) < 0:
            raise ValueError(f"Expected ids of words to be integers from 0 on (got {ids[:4]}, …)")
        return out
