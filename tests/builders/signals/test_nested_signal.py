import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.utils import from_smiles

from hsa_geometric import (
    GraphLeaves,
    ImageLeaves,
    NestedSignal,
    NumberLeaves,
    TensorLeaves,
    TextLeaves,
    Typed,
    Unordered,
    from_parent,
)
from hsa_geometric.surgery import merge, permute_leaves, subtree
from hsa_geometric.transforms import MoleculeHierarchy

SIGNAL = NestedSignal(
    {
        "word": TextLeaves({"a": 1, "b": 2}, unknown=0),
        "patch": ImageLeaves(2, size=2, branching=2),
        "vector": TensorLeaves(3),
        "token": TensorLeaves(None),
        "atom": GraphLeaves(2, edge_width=1),
        "point": GraphLeaves(None, edges=False, coordinates=3),
        "number": NumberLeaves(),
    }
)


def same(one, other):
    """Equal in value, type and order, tensors included."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, Data):
        same(dict(sorted(one.to_dict().items())), dict(sorted(other.to_dict().items())))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            same(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for x, y in zip(one, other, strict=True):
            same(x, y)
    else:
        assert one == other


def graph(n, seed):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(n, (2, seed % 4), generator=generator)
    x = torch.rand(n, 2, generator=generator)
    return Data(
        x=x, edge_index=edges, edge_attr=torch.rand(seed % 4, 1, generator=generator), name="g"
    )


def points(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return Data(x=torch.arange(n), pos=torch.randn(n, 3, generator=generator))


SIZE, SEED = st.integers(1, 3), st.integers(0, 9)
TEXTS = st.lists(st.sampled_from("abé?"), min_size=1, max_size=4).map(" ".join)
NUMBERS = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.booleans())
VALUES = st.one_of(
    TEXTS,
    NUMBERS,
    st.builds(lambda n: torch.rand(n, 3), SIZE),
    st.builds(lambda n: Typed("token", torch.arange(n)), SIZE),
    st.builds(lambda h, w: torch.rand(2, 2 * h, 2 * w), SIZE, SIZE),
    st.builds(graph, SIZE, SEED),
    st.builds(points, SIZE, SEED),
    st.frozensets(st.one_of(TEXTS, st.floats(0, 1)), min_size=1, max_size=3),
)
SIGNALS = st.recursive(
    VALUES,
    lambda below: st.one_of(
        st.lists(below, min_size=1, max_size=3),
        st.lists(below, min_size=1, max_size=3).map(tuple),
        st.lists(below, min_size=1, max_size=3).map(Unordered),
        st.dictionaries(st.text(max_size=3), below, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


def test_by_hand():
    page = {"b": [5, "a c"], "a": Unordered([torch.ones(2, 3)])}
    h = SIGNAL.to_hierarchy(page, y=1.5)
    # leaves 5 | a c | two rows; then the dict, the list, the text, the unordered list, the tensor
    assert h.parent.tolist() == [6, 7, 7, 9, 9, 5, 5, 6, 5, 8]
    domains = [SIGNAL.domains[kind] for kind in h.tree_kind]
    assert domains == ["sequence"] * 5 + ["set", "key", "sequence", "key", "set"]
    first, second = (zlib.crc32(key) % 256 for key in (b"b", b"a"))
    assert h.tree_pos[:, 0].tolist() == [0, 0, 1, 0, 1, 0, first, 1, second, 0]
    assert h.tree_pos.shape == (10, 3) and not h.tree_pos[:, 1:].any()
    assert h.leaf_type.tolist() == [6, 0, 0, 2, 2] and h.y == 1.5
    assert h.x_word.tolist() == [1, 0] and h.x_number.tolist() == [[5.0]]
    assert torch.equal(h.x_vector, torch.ones(2, 3))
    empty = {"x_patch": (0, 8), "x_token": (0,), "x_atom": (0, 2), "x_point": (0,)}
    assert {key: tuple(h[key].shape) for key in empty} == empty
    assert h.edge_index.shape == (2, 0) and h.edge_attr.shape == (0, 1)
    same(SIGNAL.to_nested(h), page)


@given(SIGNALS)
@settings(max_examples=100, deadline=None)
def test_there_and_back_is_the_same_signal(signal):
    h = SIGNAL.to_hierarchy(signal)
    assert h.validate() and h.num_trees == 1
    same(SIGNAL.to_nested(h), signal)


@given(st.lists(SIGNALS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_the_samples_one_by_one(signals):
    samples = [SIGNAL.to_hierarchy(signal) for signal in signals]
    batch = Batch.from_data_list(samples)
    assert batch.validate() and batch.num_trees == len(signals)
    for name in SIGNAL.types:
        rows = torch.cat([h[f"x_{name}"] for h in samples])
        assert torch.equal(batch[f"x_{name}"], rows) and batch.rows_of(f"x_{name}") == "typed"
    for key in ("leaf_type", "tree_kind", "tree_pos"):
        assert torch.equal(batch[key], torch.cat([h[key] for h in samples]))
    for h, one, signal in zip(batch.to_data_list(), samples, signals, strict=True):
        assert all(torch.equal(h[k], x) for k, x in one.to_dict().items() if torch.is_tensor(x))
        same(SIGNAL.to_nested(h), signal)


@given(SIGNALS, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_leaves_in_another_order_are_the_same_signal(signal, random):
    h = SIGNAL.to_hierarchy(signal)
    perm = list(range(h.num_nodes))
    random.shuffle(perm)
    out = permute_leaves(h, perm)
    assert out.validate()
    same(SIGNAL.to_nested(out), signal)


def test_molecules_texts_and_images_have_the_trees_of_their_builders():
    signal = NestedSignal(
        {
            "word": TextLeaves(lambda words: [len(word) for word in words], levels=("sentence",)),
            "patch": ImageLeaves(1, size=1, branching=2),
            "atom": GraphLeaves(9, edge_width=3, tree=MoleculeHierarchy()),
        }
    )
    molecule = from_smiles("CC(=O)Nc1ccccc1")
    molecule.x, molecule.edge_attr = molecule.x.float(), molecule.edge_attr.float()
    text = "It melts. It does not dissolve at all."
    value = {"text": text, "image": torch.rand(1, 4, 4), "molecule": molecule}
    h = signal.to_hierarchy(value)
    tops = (h.parent == h.num_nodes).nonzero().view(-1).tolist()  # the dict first
    text_part, image_part, molecule_part = (subtree(h, top) for top in tops[1:])
    assert text_part.parent.tolist() == [10] * 3 + [11] * 7 + [12] * 3
    assert text_part.tree_pos[:10, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
    assert text_part.tree_pos[10:12, 0].tolist() == [0, 1]
    assert image_part.parent.tolist()[:4] == [16, 16, 17, 17] and image_part.depth == 2
    assert image_part.tree_pos[16:20].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert molecule_part.num_nodes == 10 and molecule_part.num_edges == 20
    same(signal.to_nested(h), value)
    same(signal.to_nested(molecule_part), molecule)


def test_points_stand_at_their_coordinates():
    cloud = points(3, seed=1)
    h = SIGNAL.to_hierarchy([cloud])
    assert torch.equal(h.tree_pos[:3], cloud.pos)
    assert [SIGNAL.domains[kind] for kind in h.tree_kind] == ["points"] * 3 + ["set", "sequence"]


def test_keys_are_the_places_of_the_declared_names():
    signal = NestedSignal({"number": NumberLeaves()}, keys=["id", "price"])
    assert signal.to_hierarchy({"price": 1, "id": 2}).tree_pos[:, 0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"keys of signal\[0\] to be among .*\(got 'name'\)"):
        signal.to_hierarchy([{"name": 1}])


def test_a_part_of_the_tree_is_a_part_of_the_signal():
    h = SIGNAL.to_hierarchy({"a": ["b b", 1], "c": torch.rand(2, 3)})
    part = subtree(h, int(h.parent[2]))  # the list
    assert SIGNAL.to_nested(part) == ["b b", 1]
    assert part.x_word.tolist() == [2, 2] and part.x_vector.shape == (0, 3)
    fewer = h.subgraph(torch.tensor([2, 3, 4]))  # without the text
    assert fewer.validate() and fewer.x_word.numel() == 0
    assert list(SIGNAL.to_nested(fewer)) == ["a", "c"] and SIGNAL.to_nested(fewer)["a"] == [1]


def test_what_cannot_be_put_together_is_refused():
    h = SIGNAL.to_hierarchy({"a": [["b b"]]})
    with pytest.raises(ValueError, match=r"all 2 leaves of signal\['a'\]\[0\]\[0\] \(got 1\)"):
        SIGNAL.to_nested(h.subgraph(torch.tensor([0])))
    h = SIGNAL.to_hierarchy([1, {"a": 2}])
    with pytest.raises(ValueError, match=r"that holds signal\[1\]\['a'\] to have a node"):
        SIGNAL.to_nested(h.collapse_chains())
    h = SIGNAL.to_hierarchy([graph(2, 0), graph(2, 0)])
    h.edge_index, h.edge_attr = torch.tensor([[0], [2]]), torch.rand(1, 1)
    with pytest.raises(ValueError, match="edges within values"):
        SIGNAL.to_nested(h)
    with pytest.raises(ValueError, match=r"Expected 'h' .*\(got no 'tree_items'\)"):
        SIGNAL.to_nested(from_parent([1, 1]))
    with pytest.raises(ValueError, match=r"\(got a batch; take those of"):
        SIGNAL.to_nested(Batch.from_data_list([h, h]))
    with pytest.raises(TypeError, match=r"'h' to be a Hierarchy \(got list\)"):
        SIGNAL.to_nested([h])
    with pytest.raises(ValueError, match=r"of the types \['number'\] \(got \['word', "):
        NestedSignal({"number": NumberLeaves()}).to_nested(h)


def test_joined_signals_are_refused():
    h = SIGNAL.to_hierarchy([1])
    root = {"tree_kind": 0, "tree_pos": torch.zeros(3), "tree_items": None}
    with pytest.raises(ValueError, match="build it from the list of the signals"):
        merge([h, h], root=root)


def test_sets_are_the_same_whatever_order_they_come_in():
    one, other = (SIGNAL.to_hierarchy([set(words)]) for words in (["b", "a", 1], [1, "a", "b"]))
    assert torch.equal(one.x_word, other.x_word) and torch.equal(one.leaf_type, other.leaf_type)


def test_deep_signals_need_no_recursion():
    signal = 1.0
    for _ in range(3000):
        signal = [signal]
    h = SIGNAL.to_hierarchy(signal)
    assert h.depth == 3000
    back = SIGNAL.to_nested(h)
    for _ in range(3000):
        (back,) = back
    assert back == 1.0


def circle():
    inner = [1]
    inner.append(inner)
    return {"a": inner}


@pytest.mark.parametrize(
    ("signal", "error", "match"),
    [
        ({"a": [1, None]}, TypeError, r"signal\['a'\]\[1\] to be of .* \(got NoneType\)"),
        ({"a": [1, []]}, ValueError, r"signal\['a'\]\[1\] to hold something \(got \[\]\)"),
        ([{}], ValueError, r"signal\[0\] to hold something \(got {}\)"),
        ([[{3: 1}]], TypeError, r"keys of signal\[0\]\[0\] to be strings \(got 3\)"),
        (circle(), ValueError, r"holds itself \(got signal\['a'\]\[1\]\)"),
        (
            {"a": torch.rand(2, 4)},
            ValueError,
            r"signal\['a'\] .*'vector' \(a tensor \[n, 3\].*\(got a tensor \[2, 4\] of torch.float",
        ),
        (
            [Typed("vector", torch.rand(2, 4))],
            ValueError,
            r"signal\[0\] .*: 'vector' \(a tensor \[n, 3\] of torch.float32\) \(got a tensor \[2, ",
        ),
        ([torch.rand(0, 3)], ValueError, r"\(got a tensor \[0, 3\]"),
        ([torch.rand(2, 3, 4)], ValueError, r"'patch' \(an image \[2, H, W\]"),
        ([Typed("smiles", "C")], ValueError, r"signal\[0\] to be of a declared type.*'smiles'"),
        ([Typed("word", ["C"])], TypeError, r"signal\[0\] .*'word' \(a string\) \(got list\)"),
        ([" "], ValueError, r"signal\[0\], of type 'word': Expected a string with words"),
        ([10**400], ValueError, r"signal\[0\], of type 'number': Expected a number that a float"),
    ],
)
def test_bad_signals_are_named_with_their_place(signal, error, match):
    with pytest.raises(error, match=match):
        SIGNAL.to_hierarchy(signal)


def test_a_value_that_two_types_take_must_be_marked():
    ids = TextLeaves(lambda words: [0] * len(words))
    signal = NestedSignal({"word": ids, "smiles": ids})
    with pytest.raises(ValueError, match=r"signal\['a'\] to say .* \['word', 'smiles'\] take str"):
        signal.to_hierarchy({"a": "CCO"})
    value = {"a": Typed("smiles", "CCO")}
    h = signal.to_hierarchy(value)
    assert h.leaf_type.tolist() == [1]
    same(signal.to_nested(h), value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"types": {}}, TypeError, "'types' to map names"),
        ({"types": {"a": float}}, TypeError, r"type 'a' to be a type of leaves.*\(got type\)"),
        ({"types": {"a_batch": NumberLeaves()}}, ValueError, r"names of types .*'a_batch'"),
        ({"types": {3: NumberLeaves()}}, ValueError, r"names of types .*\(got 3\)"),
        (
            {"types": {"a": TensorLeaves(2)}, "domains": ["set"]},
            ValueError,
            r"'sequence', for type",
        ),
        ({"types": {"a": NumberLeaves()}, "domains": ["key"]}, ValueError, "'set' among them"),
        ({"types": {"a": NumberLeaves()}, "keys": 0}, ValueError, "'keys' to be at least 1"),
        ({"types": {"a": NumberLeaves()}, "keys": ["a", "a"]}, ValueError, "different names"),
        (
            {"types": {"a": GraphLeaves(1), "b": GraphLeaves(1, edge_width=2)}},
            ValueError,
            "one 'edge_width'",
        ),
    ],
)
def test_wrong_options_are_named(options, error, match):
    with pytest.raises(error, match=match):
        NestedSignal(**options)


def test_a_list_needs_the_domain_of_its_members():
    signal = NestedSignal({"number": NumberLeaves()}, domains=["set", "key"])
    assert signal.to_hierarchy({"a": {1, 2}}).tree_kind.tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match=r"'domains' to have 'sequence', .* signal\['a'\] holds"):
        signal.to_hierarchy({"a": [1]})
