"""A text: sections, paragraphs, sentences, tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from hsa_geometric.builders.sequences._tokens import (
    anchors,
    as_offsets,
    tree_of_tokens,
    units_from,
)
from hsa_geometric.builders.sequences._unicode import PATTERNS, begins, pattern
from hsa_geometric.data.hierarchy import Hierarchy

Level: TypeAlias = "str | tuple[str, str | re.Pattern[str]]"


def from_text(
    text: str,
    *,
    levels: Sequence[Level] = ("section", "paragraph", "sentence"),
    tokens: Any = None,
    collapse: bool = True,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy over the tokens of a text.

    Tokens are tree nodes ``0 .. N-1``; then come the units of each level from fine to coarse, in
    the order of the text, and at last the root. The hierarchy carries

    * ``offset`` ``[N, 2]``: the first character of each token and the one behind its last,
    * ``tree_span`` ``[T, 2]``: the same of each tree node, from its first token to its last,
    * ``tree_kind`` ``[T]``: ``0`` for the root, ``k`` for a unit of the ``k``-th of the
      :obj:`levels`, counted from 1, and ``len(levels) + 1`` for a token.

    Args:
        text: the text.
        levels: names of levels from coarse to fine, or pairs of a name and a regular expression of
            your own (``^`` and ``$`` match at lines), such as ``("chapter", r"^CHAPTER \d+")``: a
            unit begins where a match begins, or at the next visible character.

            * ``'section'``: a form feed; or a line between blank lines that is all in capitals, or
              a number and a title (``2.1 Methods``). Capitals in the first column also head an
              indented text, as in man pages.
            * ``'paragraph'``: a blank line.
            * ``'line'``: a line.
            * ``'sentence'``: what `Unicode <https://unicode.org/reports/tr29/>`_ takes for one, in
              any script, but for three things: the end of a line is a space unless a blank line
              follows, ``…`` is a full stop, and an opening bracket belongs to what follows it.
              Rules, not language: "Dr. Who" is taken for the end of a sentence, ``i.e. this`` is
              not.
            * ``'word'``: a word, a number or a single sign, by the same rules (``can't``, ``3.14``,
              an emoji with all its parts); groups the pieces of words. Unicode leaves the words of
              scripts without spaces to dictionaries: Chinese characters, hiragana and the grapheme
              clusters of Thai, Lao, Khmer and Burmese stand alone, katakana stays together. Where
              words are wanted, give :obj:`tokens`, as a segmenter for the language finds them.

            Where a coarser unit begins, a finer one begins too.
        tokens: ``[N, 2]`` tensor, array or list of character offsets, as tokenizers of Hugging Face
            return with ``return_offsets_mapping=True``. A token belongs where its first visible
            character does. One without characters, as special tokens and padding have with
            ``(0, 0)``, hangs directly below the root. (default: words, as level ``'word'`` has
            them; white space and what else cannot be seen, as a byte-order mark, is in none)
        collapse: leave out nodes with a single child, which add nothing to the attention; the unit
            of the finest level stays. A unit that holds the whole text is its root. With
            :obj:`False` all are kept.
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`.

    A grapheme cluster (what a reader takes for one character) is never divided.

    Raises:
        ImportError: if regex is not installed (``pip install 'hsa_geometric[text]'``).
        TypeError: if :obj:`text` is no string, or a level or a token is of the wrong type.
        ValueError: naming the argument: a blank text, no tokens, offsets outside of the text, an
            unknown level, a pattern that is no regular expression.

    Cost: one scan of the text and one sort of the tokens for each level.

    Example:
        >>> text = "Trees are old. They have leaves!\n\nLeaves are thin."
        >>> h = from_text(text)
        >>> h
        Hierarchy(leaves=12, nodes=17, depth=3, tree_kind=[17], offset=[12, 2], tree_span=[17, 2])
        >>> [text[start:end] for start, end in h.tree_span[12:15].tolist()]
        ['Trees are old.', 'They have leaves!', 'Leaves are thin.']
        >>> h.tree_kind[12:]  # a sentence, a sentence, a sentence, a paragraph of two, the root
        tensor([3, 3, 3, 2, 0])
    """
    offset = as_offsets(text, tokens)
    patterns = as_patterns(levels)
    anchor = anchors(text, offset)
    units = [units_from(begins(pattern, text), anchor) for pattern in patterns]
    kinds = torch.arange(len(patterns) + 2).flip(0)
    return tree_of_tokens(offset, units[::-1], list(kinds), collapse=collapse, leaf_data=leaf_data)


def as_patterns(levels: Sequence[Level]) -> list[re.Pattern[str]]:
    """The compiled pattern of each level; raises what :func:`from_text` says."""
    if isinstance(levels, (str, bytes)) or not isinstance(levels, Sequence):
        raise TypeError(f"Expected 'levels' to be a sequence (got {type(levels).__name__})")
    out = []
    for level in levels:
        if isinstance(level, str):
            if level not in PATTERNS:
                raise ValueError(
                    f"Expected 'levels' to be among {list(PATTERNS)} or pairs of a name and a "
                    f"regular expression (got {level!r})"
                )
            out.append(pattern(level))
            continue
        if (
            not isinstance(level, tuple)
            or len(level) != 2
            or not isinstance(level[1], (str, re.Pattern))
        ):
            raise TypeError(
                f"Expected 'levels' to hold names or pairs of a name and a regular expression "
                f"(got {level!r})"
            )
        name, own = level
        try:
            out.append(re.compile(own, re.MULTILINE) if isinstance(own, str) else own)
        except re.error as error:
            raise ValueError(
                f"Expected level {name!r} to have a regular expression (got {own!r}: {error})"
            ) from error
    return out
