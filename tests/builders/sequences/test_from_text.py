import re
import sys

import numpy as np
import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uniseg.graphemecluster import grapheme_cluster_boundaries
from uniseg.sentencebreak import sentence_boundaries
from uniseg.wordbreak import word_boundaries

from hsa_geometric.builders.sequences import from_text
from hsa_geometric.builders.sequences._unicode import begins, pattern
from hsa_geometric.functional import aggregate

TEXT = """THE SMALL BOOK

PREFACE
   Trees are old. They have leaves! Do they?
   Yes, i.e. they do.

1. Of Leaves

Leaves are "thin." So they
say.

They fall.\f
The end
"""


def units(text, h, kind):
    """The texts of the nodes of one kind, in the order of the text."""
    spans = h.tree_span[h.tree_kind == kind].tolist()
    return [text[start:end] for start, end in sorted(spans)]


def test_sections_paragraphs_and_sentences_by_hand():
    h = from_text(TEXT, collapse=False)
    assert [unit.split("\n")[0] for unit in units(TEXT, h, 1)] == [
        "THE SMALL BOOK",
        "PREFACE",
        "1. Of Leaves",
        "The end",
    ]
    assert [unit[:9] for unit in units(TEXT, h, 2)] == [
        *("THE SMALL", "PREFACE\n ", "1. Of Lea", "Leaves ar", "They fall", "The end")
    ]
    assert units(TEXT, h, 3) == [
        "THE SMALL BOOK",
        "PREFACE\n   Trees are old.",
        "They have leaves!",
        "Do they?",
        "Yes, i.e. they do.",
        "1.",
        "Of Leaves",
        'Leaves are "thin."',
        "So they\nsay.",
        "They fall.",
        "The end",
    ]
    assert units(TEXT, h, 4)[:5] == ["THE", "SMALL", "BOOK", "PREFACE", "Trees"]
    assert units(TEXT, h, 0) == [TEXT.strip()]


def test_nodes_with_one_child_are_left_out():
    text = "One two. Three four.\n\nFive six."
    h = from_text(text)
    # Sentences 9 10 11 of three tokens; the second paragraph is its sentence; paragraph 12; root.
    assert h.parent.tolist() == [9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 13, 13]
    assert h.tree_kind.tolist() == [4] * 9 + [3, 3, 3, 2, 0]
    assert h.tree_span[9:].tolist() == [[0, 8], [9, 20], [22, 31], [0, 20], [0, 31]]


def test_a_text_of_one_word_is_a_root_with_one_leaf():
    h = from_text("  word\n")
    assert h.parent.tolist() == [1, 1]
    assert h.offset.tolist() == [[2, 6]] and h.tree_span.tolist() == [[2, 6], [2, 6]]


pieces = st.sampled_from(
    [
        "word",
        "Two words",
        ".",
        "! ",
        "? A",
        "\n",
        "\n\n",
        " ",
        "\f",
        "TITLE\n",
        "\n\nNAME\n  x",
        "é。",
    ]
)
levels = st.lists(
    st.sampled_from(["section", "paragraph", "line", "sentence", "word", ("own", r"^[A-Z]")]),
    max_size=4,
)


@given(st.lists(pieces, min_size=1, max_size=25).map("".join), levels, st.booleans())
@settings(max_examples=100, deadline=None)
def test_leaves_are_the_words_and_spans_are_their_hull(text, levels, collapse):
    if not text.strip():
        text += "x"
    h = from_text(text, levels=levels, collapse=collapse)
    assert h.validate() and h.num_trees == 1
    words = [text[start:end] for start, end in h.offset.tolist()]
    assert "".join(words) == "".join(text.split())
    below = aggregate(torch.eye(len(words)), h.tree) > 0
    sets = set()
    for node, row in enumerate(below):
        tokens = row.nonzero().view(-1)
        first, last = int(tokens[0]), int(tokens[-1])
        assert len(tokens) == last - first + 1  # neighbours
        span = [int(h.offset[first, 0]), int(h.offset[last, 1])]
        assert h.tree_span[node].tolist() == span
        sets.add((first, last))
    if collapse and len(words) > 1:
        assert len(sets) == h.num_tree_nodes


def test_tokens_of_a_tokenizer():
    text = "Unbelievable! Go on."
    # As a fast tokenizer returns them, the space belonging to the word behind it, with [CLS],
    # [SEP] and padding.
    tokens = [(0, 0), (0, 2), (2, 12), (12, 13), (13, 16), (16, 19), (19, 20), (0, 0), (0, 0)]
    h = from_text(text, tokens=tokens, levels=("sentence", "word"))
    assert h.offset.tolist() == [list(token) for token in tokens]
    root = h.num_tree_nodes - 1
    sentences = (h.tree_kind == 1).nonzero().view(-1).tolist()
    assert [text[slice(*h.tree_span[s].tolist())] for s in sentences] == [text[:13], text[13:]]
    (word,) = (h.tree_kind == 2).nonzero().view(-1).tolist()  # the only one of two pieces
    first, second = sentences
    expected = [root, word, word, first, second, second, second, root, root]
    assert h.parent[:9].tolist() == expected
    assert h.parent[[word, first, second, root]].tolist() == [first, root, root, root]
    assert h.tree_span[root].tolist() == [0, 20]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_tokens_may_be_lists_arrays_and_tensors(kind):
    tokens = kind([[0, 2], [3, 5]])
    h = from_text("Go. On.", tokens=tokens, x=torch.rand(2, 3))
    assert h.offset.tolist() == [[0, 2], [3, 5]] and h.x.shape == (2, 3)


def test_special_tokens_alone_are_a_star_that_covers_nothing():
    h = from_text("Go on.", tokens=[(0, 0), (6, 6)])
    assert h.parent.tolist() == [2, 2, 2]
    assert h.tree_span.tolist() == [[0, 0], [6, 6], [0, 0]]


def test_a_token_of_white_space_ends_a_sentence():
    h = from_text("a. B", tokens=[(0, 2), (2, 3), (3, 4)], levels=("sentence",))
    assert h.parent.tolist() == [3, 3, 4, 4, 4]


def test_own_patterns_mark_where_units_begin():
    text = "preface\nCHAPTER 1\nOne. Two.\nCHAPTER 2\nThree. Four."
    pattern = r"^CHAPTER \d"
    h = from_text(text, levels=[("chapter", pattern), "sentence"], collapse=False)
    assert [unit[:9] for unit in units(text, h, 1)] == ["preface\nC"[:7], "CHAPTER 1", "CHAPTER 2"]
    compiled = from_text(
        text, levels=[("chapter", re.compile(pattern, re.M)), "sentence"], collapse=False
    )
    assert torch.equal(compiled.parent, h.parent)


def test_scripts_without_spaces_have_sentences():
    text = "樹老。葉薄！「好。」完"
    h = from_text(text, tokens=[(i, i + 1) for i in range(len(text))], levels=("sentence",))
    assert units(text, h, 1) == ["樹老。", "葉薄！", "「好。」"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("👨\u200d👩\u200d👧 🇩🇪🇫🇷 👍🏽", ["👨\u200d👩\u200d👧", "🇩🇪", "🇫🇷", "👍🏽"]),
        ("מש״ל שָׁלוֹם", ["מש״ל", "שָׁלוֹם"]),
        ("don’t can't 3.14 1,000 a_b.", ["don’t", "can't", "3.14", "1,000", "a_b", "."]),
        ("漢字かなカタカナ", ["漢", "字", "か", "な", "カタカナ"]),
        ("ภาษากำ", ["ภ", "า", "ษ", "า", "กำ"]),  # no dictionary, but clusters whole
        ("한국어 말", ["한국어", "말"]),
        ("\ufeffGo\u200b on\u2060", ["Go", "on\u2060"]),
    ],
)
def test_words_are_those_of_unicode(text, words):
    h = from_text(text)
    assert [text[start:end] for start, end in h.offset.tolist()] == words


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("यह है। वह है।", ["यह है।", "वह है।"]),
        ("یہ ہے۔ وہ ہے۔", ["یہ ہے۔", "وہ ہے۔"]),
        ("هل هذا؟ نعم.", ["هل هذا؟", "نعم."]),
        ("終．始。", ["終．", "始。"]),
        ("Он ушёл: «Да.» Потом вернулся.", ["Он ушёл: «Да.»", "Потом вернулся."]),
        ("»Ja.« »Nein.« Gut.", ["»Ja.«", "»Nein.«", "Gut."]),
        ("ՀՀ: Այո։ Ոչ։", ["ՀՀ: Այո։", "Ոչ։"]),
        ("အဟုတ်။ မဟုတ်။", ["အဟုတ်။", "မဟုတ်။"]),
        (
            "One of 3.14 in U.S.A. Really?! Yes… No",
            ["One of 3.14 in U.S.A.", "Really?!", "Yes…", "No"],
        ),
        ("A line\nbroken. By\r\nwidth", ["A line\nbroken.", "By\r\nwidth"]),
        ("No stop\n \nAnother\u2029third\r\n\r\nfourth", ["No stop", "Another", "third", "fourth"]),
        ("End.\n\n2 lower. x", ["End.", "2 lower. x"]),
        ("(One.) (Two.)", ["(One.)", "(Two.)"]),
    ],
)
def test_sentences_are_those_of_unicode_but_lines_may_break(text, sentences):
    assert units(text, from_text(text, levels=["sentence"], collapse=False), 1) == sentences


SIGNS = [
    *"aBé1٣ßДд漢かカกำ한ᄒ़हिन字ªⅣ_'’.·:;,!?()[]«»“”‘—-。．।؟۔\t ",
    *"\u0301\u200d\u200c\u00ad\u2060\u3000\u00a0👩👧🇩🇪👍🏽\ufe0f⃣\u0600שּ״ـ",
]


@given(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=14).map("".join))
@settings(max_examples=300, deadline=None)
def test_boundaries_are_those_of_another_implementation(text):
    whole = f"a{text}"  # something that can be seen
    clusters = set(grapheme_cluster_boundaries(whole))
    found = {m.start() for m in pattern("word").finditer(whole)} | {len(whole)}
    assert found == clusters & set(word_boundaries(whole))
    if not set(whole) & set("(["):
        found = set(begins(pattern("sentence"), whole)) | {0, len(whole)}
        assert found == set(sentence_boundaries(whole))


@given(st.text(max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_leaves_of_any_text_hold_all_that_is_seen_and_divide_no_cluster(text, mark):
    text = "\ufeff" * mark + text
    unseen = regex.compile(r"[\s\x1c-\x1f\p{DI}]*")  # as str.isspace has it, and more
    if not text.strip() or unseen.fullmatch(text):
        with pytest.raises(ValueError, match="'text' to hold words"):
            from_text(text)
        return
    h = from_text(text)
    assert h.validate() and h.num_trees == 1
    offset = h.offset.tolist()
    between = [0, *(end for _, end in offset)], [*(start for start, _ in offset), len(text)]
    for start, end in zip(*between, strict=True):
        assert start <= end and unseen.fullmatch(text, start, end)
    clusters = {match.start() for match in regex.finditer(r"\X", text)} | {len(text)}
    assert {place for pair in offset for place in pair} <= clusters


def test_a_byte_order_mark_hides_no_title():
    text = "\ufeffNAME\n   tree. Old.\n\nUSE\n   it"
    own = ("own", "^[A-Z]+$")
    for level in ("section", own):
        h = from_text(text, levels=[level], collapse=False)
        assert [unit[:4].strip() for unit in units(text, h, 1)] == ["NAME", "USE"]
    assert h.offset[0].tolist() == [1, 5]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_sections_and_lines_of_other_scripts_and_line_ends(newline):
    text = newline.join(
        ["ВВЕДЕНИЕ", "  Деревья.", "", "ÜBER ÄSTE", "", "Text.", "", "2.1 Методы", "", "а", "б"]
    )
    h = from_text(text, levels=["section", "paragraph", "line"], collapse=False)
    assert [unit.split()[0] for unit in units(text, h, 1)] == ["ВВЕДЕНИЕ", "ÜBER", "2.1"]
    assert len(units(text, h, 2)) == 5
    assert units(text, h, 3)[-3:] == ["2.1 Методы", "а", "б"]


def test_long_rows_of_one_kind_are_read():
    for part in ("🇩🇪", "\u0301", "a'", "1.", ". (", "?", "\n\nA", " "):
        assert from_text("x" + part * 3000 + "y").num_trees == 1


def test_a_missing_library_names_its_extra(monkeypatch):
    pattern.cache_clear()
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(ImportError, match=r"pip install 'hsa_geometric\[text\]'"):
        from_text("Go.")


def test_capitals_over_several_lines_are_no_title():
    text = 'Terms\n\nTHE WORK COMES\nWITHOUT ANY WARRANTY.\n\n  THE WORK\n  COMES "AS IS".\n\nx'
    assert units(text, from_text(text, levels=["section"], collapse=False), 1) == [text]


def test_no_levels_are_a_star():
    assert from_text("a b", levels=()).parent.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("text", "options", "error", "match"),
    [
        (None, {}, TypeError, r"'text' to be a string \(got NoneType\)"),
        (b"Go.", {}, TypeError, r"'text' to be a string \(got bytes\)"),
        ("", {}, ValueError, r"'text' to hold words \(got ''\)"),
        (" \n", {}, ValueError, r"'text' to hold words \(got ' \\n'\)"),
        ("\ufeff \u200b", {}, ValueError, r"hold words \(got '.*', of which nothing can be seen"),
        ("Go.", {"levels": "word"}, TypeError, r"'levels' to be a sequence \(got str\)"),
        ("Go.", {"levels": ["verse"]}, ValueError, r"among \['section', .* \(got 'verse'\)"),
        ("Go.", {"levels": [("verse", "(")]}, ValueError, r"level 'verse' .* \(got '\(': "),
        ("Go.", {"levels": [("verse", 3)]}, TypeError, r"pairs of a name .* \(got \('verse', 3\)"),
        ("Go.", {"levels": [3]}, TypeError, r"'levels' to hold names .* \(got 3\)"),
        ("Go.", {"tokens": []}, ValueError, "'tokens' to hold at least one token"),
        ("Go.", {"tokens": [0, 3]}, ValueError, r"shape \[N, 2\] \(got \[2\]\)"),
        ("Go.", {"tokens": [[[0, 3]]]}, ValueError, r"\(got \[1, 1, 2\]\); one text at a time"),
        ("Go.", {"tokens": [(0, 3), (1,)]}, TypeError, "'tokens' to hold pairs of integers"),
        ("Go.", {"tokens": [(0.0, 3.0)]}, TypeError, "'tokens' to hold integers"),
        ("Go.", {"tokens": [(0, 2), (2, 4)]}, ValueError, r"3 characters .* tokens\[1\] = \[2, 4"),
        ("Go.", {"tokens": [(2, 1)]}, ValueError, r"tokens\[0\] = \[2, 1\]"),
        ("Go.", {"tokens": [(-1, 1)]}, ValueError, r"tokens\[0\] = \[-1, 1\]"),
        ("Go.", {"x": torch.rand(3, 1)}, ValueError, r"'x' .* the 2 leaves \(got 3 rows\)"),
    ],
)
def test_bad_arguments_are_named(text, options, error, match):
    with pytest.raises(error, match=match):
        from_text(text, **options)
