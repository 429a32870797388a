"""Where the units of a text begin, by Unicode's text segmentation (UAX #29).

Words and grapheme clusters are those of the library regex. It knows the properties of characters
for sentences too, but not the rules, which stand here. All patterns take linear time.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from hsa_geometric.builders._extra import extra

_ENDS = r"\n\r\x85\u2028\u2029"  # characters that end a line
_END = rf"(?>\r\n|[{_ENDS}])"
_BLANK = rf"[^\S{_ENDS}]"
_PARAGRAPH = rf"(?: {_END} {_BLANK}* {_END} | \f | \u2029 )"

# A unit begins at the first visible character from the begin of a match on, so it makes no
# difference whether the white space between two units is part of the match.
_CAPITALS = rf"(?=\p{{Lu}}) (?=[^\p{{Ll}}{_ENDS}]*\p{{Lu}}{{2}}) [^\p{{Ll}}{_ENDS}]*"
_NUMBERED = rf"\d+(?:\.\d+)*[.)]? {_BLANK}+ [\p{{Lu}}\p{{Lt}}\p{{Lo}}] [^{_ENDS}]*"
_SECTION = rf"""
    \f
    | (?: \A (?:{_BLANK}*{_END})* | {_END}{_BLANK}*{_END} )  # at the beginning or after a blank
      (?= {_CAPITALS} {_END}{_BLANK}+\S         # line, before capitals above an indented line,
        | {_BLANK}* (?: {_CAPITALS} | {_NUMBERED} )      # or before a title above a blank one
          (?: \Z | {_END}{_BLANK}*(?:{_END}|\Z) )
      )
"""

# SB1 to SB998 of UAX #29 for the places of breaks, with three changes: a line end is a space
# unless the next line is blank, for texts have lines that are broken by width; `…` is a full stop;
# and an opening bracket belongs to what follows it.
_MARKS = r"[\p{SB=EX}\p{SB=FO}]*+"  # SB5: what follows a character and counts as part of it
_STOP = r"[\p{SB=AT}…]"
_CLOSE = rf"(?: (?!\p{{Ps}}) \p{{SB=CL}} {_MARKS} )*+"
_SPACES = rf"(?: [\p{{SB=SP}}{_ENDS}] {_MARKS} )*+"
_NEITHER = rf"(?! {_PARAGRAPH} | [\p{{SB=LE}}\p{{SB=UP}}\p{{SB=LO}}\p{{SB=ST}}\p{{SB=AT}}…] )"
_SENTENCE = rf"""
    {_PARAGRAPH}                                                       # SB3, SB4
    | (?: \p{{SB=ST}} {_MARKS}
        | {_STOP} {_MARKS}
          (?! \p{{SB=NU}}                                              # SB6
            | (?<= [\p{{SB=UP}}\p{{SB=LO}}] {_MARKS} {_STOP} {_MARKS} ) \p{{SB=UP}}      # SB7
            | {_CLOSE} {_SPACES} (?: {_NEITHER} (?s:.) )*+ \p{{SB=LO}} )                 # SB8
      )
      {_CLOSE} {_SPACES}                                               # SB9, SB10
      (?! [\p{{SB=SC}}\p{{SB=ST}}\p{{SB=AT}}…] )                       # SB8a
      \K                                                               # SB11
"""

# A word as WB1 to WB999 have it, but never a part of a grapheme cluster. Flags (two regional
# indicators) are taken in pairs: to look for the boundary would count all of a row each time.
_FLAG = rf"(?: \p{{RI}}{{2}} {_MARKS} (?! (?<=\u200D) \p{{ExtPict}} ) )"
_WORD = rf"(?: {_FLAG} | \X+?\b )"

PATTERNS = {
    "section": _SECTION,
    "paragraph": _PARAGRAPH,
    "line": _END,
    "sentence": _SENTENCE,
    "word": _WORD,
}


@functools.cache
def pattern(level: str) -> re.Pattern[str]:
    """The pattern of one of the :data:`PATTERNS`; each match begins a unit."""
    regex = _regex()
    compiled: re.Pattern[str] = regex.compile(PATTERNS[level], regex.VERBOSE | regex.WORD)
    return compiled


def begins(pattern: re.Pattern[str], text: str) -> list[int]:
    """Where the matches begin; a byte-order mark is no part of the text, and so hides no ``^``."""
    mark = text.startswith("\ufeff")
    return [match.start() + mark for match in pattern.finditer(text[mark:])]


def words(text: str) -> list[tuple[int, int]]:
    """First character of each word that can be seen, and the one behind its last."""
    found = [m.span() for m in pattern("word").finditer(text) if not m[0].isspace()]
    regex = _regex()
    if regex.search(r"\p{Default_Ignorable_Code_Point}", text) is None:
        return found
    unseen = regex.compile(r"[\s\p{Default_Ignorable_Code_Point}]*")
    return [span for span in found if unseen.fullmatch(text, *span) is None]


def _regex() -> Any:
    with extra("text", "Words and sentences of a text need regex"):
        import regex
    return regex
