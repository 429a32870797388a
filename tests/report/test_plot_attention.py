import builtins

import matplotlib
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from hsa_geometric import TreeIndex
from hsa_geometric.builders import from_grid, from_parent, from_points, from_text
from hsa_geometric.functional import attention_blocks as blocks_of
from hsa_geometric.functional.layout import layout
from hsa_geometric.interactions import between
from hsa_geometric.report import attention_blocks, plot_attention
from hsa_geometric.report._block_matrix import block_matrix
from hsa_geometric.testing import attention_inputs, random_lists, zoo

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TEXT = "Trees are old. They <b> grow!\n\nLeaves are thin."


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def blocks_for(h, heads=2, seed=0):
    torch.manual_seed(seed)
    return attention_blocks(h, *torch.randn(2, h.num_nodes, heads, 3).double())


def matrix_in_tree_order(blocks, head):
    theta = blocks.to_dense()[head]
    rows, columns = (
        layout(tree).start[tree.leaf_ids].argsort() for tree in (blocks.query_tree, blocks.key_tree)
    )
    return theta[rows][:, columns]


@pytest.mark.parametrize("name", ["ragged", "shuffled_forest", "chain", "one_node"])
def test_a_matrix_of_enough_pixels_is_the_dense_one(name):
    tree = TreeIndex.from_parent(zoo(name))
    x = attention_inputs(tree)
    for lists in (None, random_lists(tree, seed=3)):
        blocks = blocks_of(x["q"], x["k"], tree, lists=lists)
        image = block_matrix(blocks, blocks.weight[1], 100)
        torch.testing.assert_close(image, matrix_in_tree_order(blocks, 1), rtol=0, atol=1e-10)


def test_pixels_hold_the_mean_of_what_they_cover():
    h = from_points(torch.rand(60, 2), branching=3)
    blocks = blocks_for(h)
    dense = matrix_in_tree_order(blocks, 0)
    image = block_matrix(blocks, blocks.weight[0], 20)
    torch.testing.assert_close(image, dense.view(20, 3, 20, 3).mean((1, 3)), rtol=0, atol=1e-12)
    # A number of pixels that does not divide the leaves: each leaf is seven pixels' eighths.
    fine = dense.repeat_interleave(7, 0).repeat_interleave(7, 1)
    image = block_matrix(blocks, blocks.weight[0], 7)
    torch.testing.assert_close(image, fine.view(7, 60, 7, 60).mean((1, 3)), rtol=0, atol=1e-12)


def test_the_matrix_is_drawn_with_the_borders_of_its_blocks():
    blocks = blocks_of(*torch.zeros(2, 4, 1, 2), torch.tensor([4, 4, 5, 5, 6, 6, 6]))
    h = from_parent([4, 4, 5, 5, 6, 6, 6])
    picture = plot_attention(h, blocks, title="all")
    assert picture.weight.shape == (4, 4) and picture.ax.get_title() == "all"
    borders = picture.ax.collections[0].get_paths()
    assert len(borders) == 10
    # The block of node 4 towards node 5: rows 0 and 1, columns 2 and 3.
    number = blocks.block_ids.t().tolist().index([4, 5])
    assert sorted(map(tuple, borders[number].vertices[:4])) == [(2, 0), (2, 2), (4, 0), (4, 2)]


def test_what_is_drawn_is_the_row_or_the_column():
    h = from_points(torch.rand(30, 2), branching=3)
    blocks = blocks_for(h)
    theta = blocks.to_dense()
    for options, expected in (
        ({"leaf": 3}, theta.mean(0)[3]),
        ({"leaf": 3, "head": 1}, theta[1, 3]),
        ({"leaf": [3, 5]}, theta.mean(0)[[3, 5]].mean(0)),
        ({"leaf": 3, "to": True}, theta.mean(0)[:, 3]),
        ({"leaf": [3, 5], "to": True}, theta.mean(0)[:, [3, 5]].sum(1)),
    ):
        picture = plot_attention(h, blocks, **options)
        torch.testing.assert_close(picture.weight, expected)
    own = torch.rand(30)
    torch.testing.assert_close(plot_attention(h, own).weight, own.double())


def test_points_show_their_weights_and_the_leaf_is_marked():
    h = from_points(torch.rand(30, 2), branching=3)
    picture = plot_attention(h, blocks_for(h), 4)
    dots, ring = picture.ax.collections
    order = picture.weight.argsort()
    np.testing.assert_allclose(dots.get_offsets(), h.pos[order].numpy())
    lowest = dots.norm.vmin
    np.testing.assert_allclose(dots.get_array(), picture.weight[order].clamp(min=lowest))
    np.testing.assert_allclose(ring.get_offsets(), h.pos[4:5].numpy())
    h.pos = torch.rand(30, 3)
    assert plot_attention(h, blocks_for(h), 4).ax.name == "3d"


def surface():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]])
    face = torch.tensor([[0, 0], [1, 2], [2, 3]])
    return from_parent([4, 4, 5, 5, 6, 6, 6], pos=square, face=face)


def test_a_triangle_has_the_mean_of_its_corners():
    h = surface()
    weight = torch.tensor([1.0, 2.0, 3.0, 6.0])
    picture = plot_attention(h, weight, 1)
    drawn = picture.ax.collections[0]
    assert drawn.get_array().tolist() == pytest.approx([2, 10 / 3])
    picture.ax.figure.canvas.draw()
    h.pos = h.pos[:, :2]
    flat = plot_attention(h, weight, 1).ax.collections[0]
    assert flat.get_array().tolist() == weight.tolist()


def test_pyvista_draws_the_surface_where_asked():
    import pyvista

    h = surface()
    plotter = pyvista.Plotter(off_screen=True)
    picture = plot_attention(
        h, torch.tensor([1.0, 2, 3, 6]), 1, backend="pyvista", ax=plotter, title="x"
    )
    assert picture.ax is plotter
    (mesh,) = [x for x in plotter.meshes if "attention" in x.point_data]
    assert mesh["attention"].tolist() == [1, 2, 3, 6]
    plotter.close()


def test_an_image_has_a_pixel_for_each_cell():
    h = from_grid((3, 4))
    picture = plot_attention(h, blocks_for(h), 5)
    image = picture.ax.images[0]
    lowest = image.norm.vmin
    np.testing.assert_allclose(image.get_array(), picture.weight.view(3, 4).clamp(min=lowest))
    assert picture.ax.collections[0].get_offsets().tolist() == [[1, 1]]  # column, row


def test_words_are_shaded_paragraph_by_paragraph():
    h = from_text(TEXT)
    weight = torch.rand(h.num_nodes)
    picture = plot_attention(h, weight, 2, text=TEXT)
    words = [text.get_text() for text in picture.ax.texts]
    assert words == [TEXT[a:b] for a, b in h.offset.tolist()]
    ground = picture.ax.collections[0]
    np.testing.assert_allclose(ground.get_array(), weight.numpy())
    tops = [path.vertices[0, 1] for path in ground.get_paths()]
    left = [path.vertices[0, 0] for path in ground.get_paths()]
    first = words.index("Leaves")
    assert len(set(tops[:first])) == 1 and len(set(tops[first:])) == 1
    assert tops[first] > tops[0] and left[0] == left[first] == 0
    right = [path.vertices[1, 0] for path in ground.get_paths()]
    assert right[words.index("old")] == left[words.index(".")]  # no space between


def test_html_has_every_word_escaped():
    h = from_text(TEXT)
    html = plot_attention(h, torch.rand(h.num_nodes), 0, text=TEXT, kind="html").ax
    assert html.count("<span") == h.num_nodes and html.count("<p>") == 2
    assert "&lt;" in html and "<b>" not in html
    assert html.count("outline") == 1


def test_a_molecule_is_drawn_with_and_without_smiles():
    from rdkit import Chem

    from hsa_geometric.builders import from_molecule, from_smiles

    h = from_smiles("CC(=O)NC")
    picture = plot_attention(h, blocks_for(h), 3)
    assert picture.ax.images[0].get_array().shape[:2] == (800, 1000)
    shade = picture.ax.images[0].get_array()[..., :3]
    assert len(np.unique(shade.reshape(-1, 3), axis=0)) > 10
    mol = Chem.MolFromSmiles("CCO")
    before = Chem.MolToMolBlock(mol)
    other = from_molecule(mol)
    plot_attention(other, torch.rand(3), 0, kind="molecule", molecule=mol)
    assert Chem.MolToMolBlock(mol) == before and not mol.GetAtomWithIdx(0).HasProp("atomNote")
    with_h = from_smiles("CO", with_hydrogen=True)
    plot_attention(with_h, torch.rand(with_h.num_nodes))
    with pytest.raises(ValueError, match=r"'molecule' to have the 5 atoms of 'h' \(got 3\)"):
        plot_attention(h, blocks_for(h), 0, molecule=mol)


def test_cross_attention_is_drawn_on_the_keys():
    key = from_points(torch.rand(6, 2), branching=2)
    tree = TreeIndex.from_parent(zoo("star"))
    lists = between(tree, key.tree)
    q, k = torch.randn(7, 1, 2), torch.randn(6, 1, 2)
    blocks = blocks_of(q, k, tree, lists=lists, key_tree=key.tree)
    picture = plot_attention(key, blocks, 6)
    torch.testing.assert_close(picture.weight.float(), blocks.attention_from(6)[0])
    assert len(picture.ax.collections) == 1  # the query is none of the points


def plain():
    return from_parent([4, 4, 5, 5, 6, 6, 6])


def batch():
    return Batch.from_data_list([from_grid((2, 2)), from_grid((1, 4))])


@pytest.mark.parametrize(
    ("h", "options", "error", "match"),
    [
        (plain(), {"leaf": []}, ValueError, r"'leaf' to hold at least one leaf \(got none\)"),
        (plain(), {"leaf": 4}, ValueError, r"'leaf' .* in \[0, 3\] \(got 4\)"),
        (plain(), {"leaf": [0, 9]}, ValueError, r"'leaf' .* \(got 9\)"),
        (plain(), {"leaf": 0}, ValueError, r"'pos' in 'h' \(got none\)"),
        (plain(), {"leaf": 0, "head": 2}, ValueError, r"'head' to be in \[0, 1\] \(got 2\)"),
        (plain(), {"head": -1}, ValueError, r"'head' to be in \[0, 1\]"),
        (plain(), {"kind": "points"}, ValueError, r"'leaf' beside blocks .* \(got None\)"),
        (plain(), {"leaf": 0, "kind": "mesh"}, ValueError, "'kind' to be one of"),
        (plain(), {"leaf": 0, "kind": "surface"}, ValueError, "'pos' in 'h'"),
        (plain(), {"leaf": 0, "kind": "molecule"}, ValueError, "'smiles' in 'h', or a 'molecule'"),
        (plain(), {"leaf": 0, "kind": "text"}, TypeError, "'text' to be a string"),
        (plain(), {"leaf": 0, "text": "a b c d"}, ValueError, "'offset' in 'h', as from_text"),
        (plain(), {"leaf": 0, "kind": "image"}, ValueError, "rows and columns of all cells"),
        (plain(), {"leaf": 0, "to": 1}, TypeError, "'to' to be True or False"),
        (plain(), {"leaf": 0, "backend": "vtk"}, ValueError, "'backend' to be one of"),
        (
            from_grid((2, 2)),
            {"leaf": 0, "backend": "pyvista"},
            ValueError,
            "backend='matplotlib' for kind='image'",
        ),
        (from_grid((2, 2)), {"leaf": 0, "kind": "surface"}, ValueError, "'face' of triangles"),
        (plain(), {"pixels": 0}, ValueError, "'pixels' to be at least 1"),
        (batch(), {"leaf": 0, "kind": "image"}, ValueError, r"one tree in 'h' .* \(got 2; take"),
        (None, {}, TypeError, "'h' to be a Hierarchy"),
    ],
)
def test_bad_arguments_are_named(h, options, error, match):
    blocks = blocks_for(plain() if h is None else h)
    with pytest.raises(error, match=match):
        plot_attention(h, blocks, **options)


def test_attention_over_other_leaves_is_refused():
    h = from_grid((2, 3))
    with pytest.raises(ValueError, match=r"'attention' over the 6 leaves of 'h' \(got 4\)"):
        plot_attention(h, blocks_for(plain()), 0)
    with pytest.raises(ValueError, match="'attention' to have one row for each of the 6 leaves"):
        plot_attention(h, torch.rand(4), 0)
    with pytest.raises(TypeError, match="'attention' to be AttentionBlocks or a tensor"):
        plot_attention(h, [1.0] * 6, 0)
    with pytest.raises(TypeError, match="AttentionBlocks for kind='matrix'"):
        plot_attention(h, torch.rand(6), kind="matrix")


def test_a_text_that_is_not_the_one_and_one_that_is_too_long_are_refused():
    h = from_parent([2, 2, 2], offset=torch.tensor([[0, 1], [2, 3]]))
    with pytest.raises(ValueError, match="'text' to be the one of 'h'"):
        plot_attention(h, torch.rand(2), text="a")
    long = from_parent([6000] * 6001, offset=torch.tensor([[0, 1]] * 6000))
    with pytest.raises(ValueError, match=r"at most 5,000 tokens .* \(got 6,000; kind='html'"):
        plot_attention(long, torch.rand(6000), text="a")


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("matplotlib", {}, "examples"),
        ("pyvista", {"backend": "pyvista"}, "meshes"),
        ("rdkit", {"kind": "molecule"}, "molecules"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package, options, extra, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    h = surface()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf"pip install 'hsa_geometric\[{extra}\]'"):
        plot_attention(h, torch.rand(4), 0, **options)
