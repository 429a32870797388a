import math
import re

import dendropy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from hsa_geometric.builders import from_networkx, from_parent, to_networkx
from hsa_geometric.builders.newick import from_newick, to_newick
from hsa_geometric.testing import ZOO, forests, zoo


def names(h):
    return [attrs["name"] for attrs in h.tree_names.attrs]


def test_by_hand():
    h = from_newick("((A:0.5,'b c')D:2,[left out] E:1e-1):3;\n", x=torch.rand(3, 2))
    assert h.parent.tolist() == [3, 3, 4, 4, 4]
    assert names(h) == ["A", "b c", "E", "D", ""]
    expected = torch.tensor([0.5, torch.nan, 0.1, 2, 3])
    torch.testing.assert_close(h.tree_length, expected, equal_nan=True)
    assert to_newick(h) == "((A:0.5,'b c')D:2.0,E:0.1):3.0;"


@pytest.mark.parametrize(
    ("text", "parent", "labels"),
    [
        ("'';", [0], [""]),
        ("A;", [0], ["A"]),
        ("(,);", [2, 2, 2], ["", "", ""]),
        ("((a));", [1, 2, 2], ["a", "", ""]),
        ("(a,b)c;", [2, 2, 2], ["a", "b", "c"]),
        ("a;(b,c);\nd;", [0, 4, 4, 3, 4], ["a", "b", "c", "d", ""]),
        ("(a,(b,c),((d)));", [7, 4, 4, 5, 7, 6, 7, 7], ["a", "b", "c", "d", "", "", "", ""]),
        (
            " ( 'it''s' ,\t''\n, x_y|z.1 ) [&&NHX:S=(a,b);] ;\n",
            [3] * 4,
            ["it's", "", "x_y|z.1", ""],
        ),
        ("('(,);:[x]''',b[c'd]);", [2, 2, 2], ["(,);:[x]'", "b", ""]),
        ("(ä,'🌲 b')é;", [2, 2, 2], ["ä", "🌲 b", "é"]),
    ],
)
def test_texts_by_hand(text, parent, labels):
    h = from_newick(text)
    assert h.parent.tolist() == parent and names(h) == labels
    assert h.tree_length.isnan().all() and h.tree_length.shape == h.parent.shape
    again = from_newick(to_newick(h))
    assert again.parent.tolist() == parent and names(again) == labels


LABELS = st.one_of(
    st.sampled_from(["", "a", "it's", "a b", "(", "x:1", "[c]", "'", "''", "\n", ";", "_"]),
    st.text(max_size=4),
)


@given(forests(), st.data())
@settings(max_examples=80, deadline=None)
def test_there_and_back_keeps_tree_names_and_lengths(parent, data):
    size = parent.numel()
    labels = data.draw(st.lists(LABELS, min_size=size, max_size=size))
    floats = st.floats(width=32, allow_infinity=False)
    length = torch.tensor(data.draw(st.lists(floats, min_size=size, max_size=size)))
    G = to_networkx(from_parent(parent, tree_length=length))
    for node, label in enumerate(labels):
        G.nodes[node]["name"] = label
    text = to_newick(from_networkx(G))
    h = from_newick(text)
    assert h.validate() and h.num_tree_nodes == size
    assert h.num_trees == from_parent(parent).num_trees
    assert sorted(names(h)) == sorted(labels)
    assert torch.equal(h.tree.leaf_ids, torch.arange(h.num_nodes))
    assert to_newick(h) == text
    again = from_newick(text.replace(",", " , ").replace("\n", "\n\n")) if "'" not in text else h
    assert torch.equal(again.parent, h.parent) and again.tree_names == h.tree_names
    found, expected = h.tree_length.sort().values, length.sort().values
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def recursive_newick(parent, rows, node):
    """What a plain recursive writer makes of the tree, siblings by their least leaf."""
    below = [c for c, p in enumerate(parent) if p == node and c != node]
    if not below:
        return rows[node], str(node)
    texts = sorted(recursive_newick(parent, rows, c) for c in below)
    return texts[0][0], "(" + ",".join(text for _, text in texts) + ")"


@given(forests())
@settings(max_examples=60, deadline=None)
def test_the_text_is_that_of_a_plain_recursive_writer(parent):
    h = from_parent(parent)
    rows = {leaf: row for row, leaf in enumerate(h.tree.leaf_ids.tolist())}
    roots = [a for a, p in enumerate(parent.tolist()) if a == p]
    texts = sorted(recursive_newick(parent.tolist(), rows, r) for r in roots)
    assert to_newick(h) == "\n".join(f"{text};" for _, text in texts)


@pytest.mark.parametrize("name", ZOO)
def test_a_tree_read_from_its_own_text_is_the_same_text(name):
    text = to_newick(from_parent(zoo(name)))
    assert to_newick(from_newick(text)) == text


def test_very_deep_texts_need_no_recursion():
    depth = 20_000
    text = "(" * depth + "a" + ",b)" * depth + ";"
    h = from_newick(text)
    assert (h.depth, h.num_nodes) == (depth, depth + 1)
    assert to_newick(h) == text


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_lengths_are_written_with_the_digits_of_their_precision(dtype):
    length = torch.tensor([1 / 3, 0.1, torch.nan], dtype=dtype)
    h = from_newick(to_newick(from_parent([2, 2, 2], tree_length=length)))
    torch.testing.assert_close(h.tree_length.to(dtype), length, equal_nan=True, rtol=1e-7, atol=0)


def test_names_of_other_doors_are_written():
    G = to_networkx(from_newick("(a,b)c;"))
    assert [G.nodes[i]["name"] for i in G] == ["a", "b", "c"]
    assert to_newick(from_networkx(G)) == "(a,b)c;"
    for i, node in enumerate(G):
        G.nodes[node]["name"] = 10 + i  # numbers become tensors
    assert to_newick(from_networkx(G)) == "(10,11)12;"
    import networkx as nx

    assert to_newick(from_networkx(nx.DiGraph([("r", "a"), ("r", "b c")]))) == "(a,'b c')r;"
    assert to_newick(from_networkx(nx.DiGraph([(0, 1), (0, 2)]))) == "(1,2);"
    assert to_newick(from_parent([3, 3, 4, 4, 4])) == "((0,1),2);"
    assert to_newick(from_newick("(a,b)c;"), name="label") == "(0,1);"


def test_samples_of_a_batch_are_read_and_written_as_they_are():
    one, two = from_newick("((a:1,b:2):3,c:4);"), from_newick("(d:5,e:6):7;")
    batch = next(iter(DataLoader([one, two], batch_size=2)))
    assert isinstance(batch, Batch) and batch.num_trees == 2 and batch.tree_length.shape == (8,)
    assert to_newick(batch) == to_newick(one) + "\n" + to_newick(two)
    assert to_newick(batch.get_example(1)) == to_newick(two)


def test_removed_nodes_take_their_names_along():
    h = from_newick("(((a,b)c)d,e)f;")
    assert to_newick(h.collapse_chains()) == "((a,b)c,e)f;"
    assert to_newick(h.subgraph(torch.tensor([0, 2]))) == "(((a)c)d,e)f;"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"end with ';' \(got '' at character 0\)"),
        (" \n", r"end with ';' \(got '' at character 2\)"),
        ("(a,b", r"end with ';' \(got '\(a,b' at character 0\)"),
        ("a", r"end with ';' \(got 'a' at character 0\)"),
        (";", r"a tree before each ';' \(got none at character 0 of 'text'; .* is \"'';\"\)"),
        ("(a,b); ;c;", r"a tree before each ';' \(got none at character 7"),
        ("(a,b);\n c", r"end with ';' \(got 'c' at character 8\)"),
        ("(a,b);(c", r"end with ';' \(got '\(c' at character 6\)"),
        ("((a,b);", r"a '\)' before this ';' or the end \(at character 6"),
        ("((a,b)", r"a '\)' before this ';' or the end \(at character 6"),
        ("(a,b));", r"a '\(' before this '\)' \(at character 5"),
        ("a,b;", r"';' between trees, not this ',' \(at character 1"),
        ("(a)(b);", r"',' before this '\(' \(at character 3"),
        ("(a,b(c));", r"labels to follow their brackets \(got 'b' before the '\(' at character 4"),
        ("(a,b c);", r"label 'name:length' \(got 'b c' at character 3"),
        ("(a,b:);", r"label 'name:length' \(got 'b:' at character 3"),
        ("(a,b{c});", r"label 'name:length' \(got 'b\{c\}' at character 3; .* braces"),
        ("(a,b:1{-1});", r"label 'name:length' \(got 'b:1\{-1\}' at character 3"),
        ("(a:1:2,b);", r"label 'name:length' \(got 'a:1:2' at character 1"),
        ("('a'b);", r"label 'name:length' \(got \"'a'b\" at character 1"),
        ('(a"b,c);', "a quote without its partner at character 2; a name with quotes"),
        (
            "(5'-a,3'-b);",
            r"label 'name:length' \(got \"5'-a,3'-b\" at character 1; .* needs quotes",
        ),
        ("(a[[b],c);", "a comment without its partner at character 2"),
        ("(a,'b);", "a quote without its partner at character 3"),
        ("(O'Brien,b);", "a quote without its partner at character 2"),
        ("(a[b,c);", "a comment without its partner at character 2"),
        ("(a],c);", "a comment without its partner at character 2"),
        ("(" + "z" * 99 + " z,c);", r"\(got 'zzzzzzzzzzzzzzzzzzzzzzzzzzz...' at character 1;"),
    ],
)
def test_what_is_no_newick_is_named_with_its_place(text, match):
    with pytest.raises(ValueError, match=match):
        from_newick(text)


LENGTHS = ["1_0", "inf", "-inf", "nan", "１", "1１", "0x1", "1e", ".", "1e5.0", "--1", "١"]


@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_no_decimal_number_is_no_branch_length(length):
    with pytest.raises(ValueError, match=rf"decimal number .*'{re.escape(length)}' at character 7"):
        from_newick(f"(abc,d:{length})[1];")


@pytest.mark.parametrize("length", ["1", "+1.5", "-.5", "2.", "1e3", "1.5E-03", "007", "1e-400"])
def test_decimal_numbers_are_read_as_python_reads_them(length):
    assert from_newick(f"(a:{length},b);").tree_length[0] == torch.tensor(float(length))


@pytest.mark.parametrize("length", ["1e400", "-1e400", "1e39"])
def test_a_branch_length_beyond_the_precision_is_refused(length):
    with pytest.raises(ValueError, match=rf"fit in torch.float32 \(got '{length}' at character 6"):
        from_newick(f"(a,b: {length},c:1);")
    with pytest.raises(ValueError, match=r"finite, or NaN for none \(got tree_length\[1\] = -inf"):
        to_newick(from_parent([2, 2, 2], tree_length=torch.tensor([1, -torch.inf, torch.nan])))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('("A,B":1,\'C,"D\':2);', ["A,B", 'C,"D', ""]),
        ('("a ""b"" c","it\'s")"(";', ['a "b" c', "it's", "("]),
        ("\ufeff(a,b)c;", ["a", "b", "c"]),
        ("\ufeff 'a b';", ["a b"]),
        ("(a[x[y]z],[[]]b[it's (nested [\"] here)])c;", ["a", "b", "c"]),
        ("(a,b)c", ["a", "b", "c"]),
        ("(d);\n(a,b)c:2 [end]\n", ["d", "a", "b", "", "c"]),
        ("(a\u00a0b,\u3000)\x0b;", ["a\u00a0b", "\u3000", "\x0b"]),  # no blanks of the format
    ],
)
def test_what_files_of_other_programs_carry_is_read(text, labels):
    h = from_newick(text)
    assert names(h) == labels
    assert names(from_newick(to_newick(h))) == labels


def test_edge_numbers_of_jplace_are_kept_by_node():
    h = from_newick("((A:.01{0},B:.01{1})D:.01{3},C{4}):0{5};")
    assert names(h) == ["A", "B", "C", "D", ""]
    assert [attrs["edge_num"] for attrs in h.tree_names.attrs] == [0, 1, 4, 3, 5]
    expected = torch.tensor([0.01, 0.01, torch.nan, 0.01, 0])
    torch.testing.assert_close(h.tree_length, expected, equal_nan=True)


def test_files_with_trees_inside_are_refused_with_the_way_to_the_trees():
    nexus = "#NEXUS\nbegin trees;\n translate 1 A_b, 2 'C d';\n tree x = [&R] (1:2,2:3)e;\nend;\n"
    with pytest.raises(ValueError, match=r"'#NEXUS' at character 1; .* dendropy") as caught:
        from_newick("\ufeff" + nexus)
    code = str(caught.value).split("writes them: ")[1].removesuffix(")")
    h = from_newick(eval(code, {"dendropy": dendropy, "text": nexus}))
    assert names(h) == ["A_b", "C d", "e"] and h.tree_length[:2].tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"'\{' at character 0; of a jplace .*\['tree'\]"):
        from_newick('{"tree": "(A:1{0},B:1{1});", "placements": []}')


def test_every_text_gives_the_same_keys_so_that_all_batch():
    one, two, three = map(from_newick, ("(A:1,B:2);", "(A,B);", "A;"))
    for samples in ([one, two, three], [three, two, one]):
        batch = Batch.from_data_list(samples)
        expected = torch.cat([h.tree_length for h in samples])
        torch.testing.assert_close(batch.tree_length, expected, equal_nan=True)
        assert [names(batch.get_example(i)) for i in range(3)] == [names(h) for h in samples]
    assert set(one.keys()) == set(two.keys()) == set(three.keys())


def trees_of(h):
    """Nested ``(name, length, children)`` of each tree, in reading order."""
    below = {node: [] for node in range(h.num_tree_nodes)}
    order = h.tree_names.names
    roots = []
    first = {}
    for node, parent in enumerate(h.parent.tolist()):  # parents come after their children
        first[node] = min([first[child] for child in below[node]], default=node)
        (roots if parent == node else below[parent]).append(node)
    assert order == list(range(h.num_tree_nodes))
    length = h.tree_length.tolist()

    def nested(node):
        found = None if math.isnan(length[node]) else length[node]
        children = sorted(below[node], key=first.get)
        return names(h)[node], found, [nested(child) for child in children]

    return [nested(root) for root in sorted(roots, key=first.get)]


def dendropy_trees(text):
    """The same as dendropy reads them, lengths in torch's precision; None if it refuses."""
    try:
        trees = dendropy.TreeList.get(
            data=text,
            schema="newick",
            preserve_underscores=True,
            suppress_leaf_node_taxa=True,
        )
    except Exception:  # dendropy raises many
        return None

    def nested(node):
        length = node.edge_length
        length = None if length is None else torch.tensor(length).item()
        return node.label or "", length, [nested(child) for child in node.child_node_iter()]

    return [nested(tree.seed_node) for tree in trees]


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
    st.from_regex(r"[+-]?[0-9]{1,3}(\.[0-9]{0,9})?([eE][+-]?[0-9])?", fullmatch=True),
)
QUOTED = (  # dendropy takes a quoted sign for the sign
    st.text(max_size=6)
    .filter(lambda label: label not in tuple("(),;:"))
    .map(lambda label: "'" + label.replace("'", "''") + "'")
)
NAMES = st.one_of(st.just(""), st.from_regex(r"[\w.|/+#@-]{1,6}", fullmatch=True), QUOTED)
BLANKS = st.sampled_from(["", "", " ", "\n", "\t\r\n", " [a comment] ", "[&x={1,2}] "])
TAILS = st.tuples(
    BLANKS, NAMES, BLANKS, st.one_of(st.just(""), NUMBERS.map(":{}".format)), BLANKS
).map("".join)
NEWICK = st.recursive(
    TAILS,
    lambda below: st.builds(
        # dendropy leaves out a last child without name and length
        lambda children, tail: "(" + ",".join([*children, "z"]) + ")" + tail,
        st.lists(below, max_size=3),
        TAILS,
    ),
    max_leaves=8,
)


@given(NEWICK)
@settings(max_examples=100, deadline=None)
def test_arbitrary_names_and_numbers_are_read_as_dendropy_reads_them(tree):
    text = tree + ";"
    try:
        h = from_newick(text)
    except ValueError as error:
        assert "a tree before each ';'" in str(error)  # of one node without name and length
        assert "(" not in re.sub(r"\[.*?\]", "", text)
        return
    assert trees_of(h) == dendropy_trees(text)


@given(st.text("(),;:'\"[]{}ab_1.e-+ \n\u00a0\ufeff１", max_size=24))
@example("(a,b);c;;(d);")
@example("(a:1_0,b);")
@settings(max_examples=400, deadline=None)
def test_what_both_read_of_any_signs_is_equal_to_what_dendropy_reads(text):
    for whole in (text, f"({text});"):
        try:
            h = from_newick(whole)
        except ValueError:
            continue
        # dendropy knows no double quotes, sees no quote right behind a comment and no last child
        # without a label, and takes a quoted sign for the sign
        if not re.search(r"\"|\]'|,\s*(\[.*\]\s*)?\)|'[(),;:]'", whole, re.DOTALL):
            expected = dendropy_trees(whole.removeprefix("\ufeff"))
            assert expected is None or trees_of(h) == expected


def test_what_is_no_text_or_does_not_fit_is_named():
    with pytest.raises(TypeError, match=r"'text' to be a string \(got bytes\)"):
        from_newick(b"(a,b);")
    with pytest.raises(ValueError, match=r"'x' .* the 2 leaves \(got 4 rows\)"):
        from_newick("(a,b);", x=torch.rand(4, 1))
    with pytest.raises(TypeError, match=r"multiple values .*'tree_length'"):
        from_newick("(a:1,b);", tree_length=torch.rand(3))
    with pytest.raises(ValueError, match="'tree_length' to be one-dimensional"):
        to_newick(from_parent([2, 2, 2], tree_length=torch.rand(3, 1)))
    broken = from_parent([2, 2, 2])
    broken.parent = torch.tensor([1, 0, 2])
    with pytest.raises(ValueError, match="cycle above node 0"):
        to_newick(broken)
