import pytest
import torch
from hypothesis import given, settings
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
        (";", [0], [""]),
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
    assert "tree_length" not in h
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
    floats = st.floats(width=32, allow_nan=True)
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
    if not length.isnan().all():
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
        ("(a,b)", r"end with ';' \(got '\(a,b\)' at character 0\)"),
        ("(a,b);\n c", r"end with ';' \(got 'c' at character 8\)"),
        ("(a,b);(c", r"end with ';' \(got '\(c' at character 6\)"),
        ("((a,b);", r"a '\)' before this ';' \(at character 6"),
        ("(a,b));", r"a '\(' before this '\)' \(at character 5"),
        ("a,b;", r"';' between trees, not this ',' \(at character 1"),
        ("(a)(b);", r"',' before this '\(' \(at character 3"),
        ("(a,b(c));", r"labels to follow their brackets \(got 'b' before the '\(' at character 4"),
        ("(a,b c);", r"label 'name:length' \(got 'b c' at character 3"),
        ("(a,b:);", r"label 'name:length' \(got 'b:' at character 3"),
        ("(a,b:x);", r"label 'name:length' \(got 'b:x' at character 3"),
        ("(a:1:2,b);", r"label 'name:length' \(got 'a:1:2' at character 1"),
        ("('a'b);", r"label 'name:length' \(got \"'a'b\" at character 1"),
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
