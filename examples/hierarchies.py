"""From what you have to a hierarchy: one line and one picture for every kind of source.

The README's table has what you have, the lines you write and the picture. The lines are read from
there and run; :data:`SOURCES` holds for each picture what they are given, and how it is drawn.

Run ``python examples/hierarchies.py`` (ten seconds).
"""

import argparse
import math
import random
import re
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import torch
from _compare import needs
from _draw import draw_molecule, draw_surface
from torch import Tensor

from hsa_geometric import Hierarchy, builders
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.functional import aggregate, clusters_at, lift, pool
from hsa_geometric.functional.layout import layout, over_paths
from hsa_geometric.report import plot_hierarchy

FOLDER = Path(__file__).parent / "figures" / "hierarchies"
README = Path(__file__).parents[1] / "README.md"
SIZE, DPI = (3.0, 2.0), 200  # inches, and pixels an inch
PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE8866", "#44BB99")
INK = "#333333"
BONDS = {"bondLineWidth": 3, "highlightBondWidthMultiplier": 10, "highlightRadius": 0.42}
WHITE = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
Inputs = dict[str, Any]


class Source(NamedTuple):
    """How one row of the README's table becomes a picture.

    Attributes:
        inputs: makes the variables of the lines of code.
        draw: draws what the first line makes of them, on axes without a frame.
    """

    inputs: Callable[[], Inputs]
    draw: Callable[[Any, Hierarchy, Inputs], None]


def lines_of_code() -> dict[str, list[str]]:
    """What one writes, as the README's table says it, by the name of the picture beside it."""
    rows = re.findall(r"\n\|.*\| (`.*) \| <img .*/(\w+)\.png", README.read_text(encoding="utf-8"))
    return {name: re.findall("`(.+?)`", code) for code, name in rows}


def build(name: str, inputs: Inputs) -> dict[str, Hierarchy]:
    """Runs the lines of code of one row."""
    names = {name: getattr(builders, name) for name in builders.__all__}
    return {line: eval(line, {**names, **inputs}) for line in lines_of_code()[name]}


def colors(clusters: Tensor, parts: Tensor | None = None) -> Tensor:
    """RGB ``[N, 3]``: a hue for each cluster and, within it, a shade for each part."""
    from matplotlib.colors import to_rgb

    hue = torch.tensor([to_rgb(name) for name in PALETTE])[clusters % len(PALETTE)]
    if parts is None:
        return hue
    pair, which = torch.stack([clusters, parts], dim=1).unique(dim=0, return_inverse=True)
    first = torch.searchsorted(pair[:, 0].contiguous(), clusters)
    number = pair[:, 0].bincount()[clusters]
    return tint(hue, (0.6 * (which - first) / (number - 1).clamp(min=1)).unsqueeze(1))


def shades(h: Hierarchy, level: int, finer: int | None = None) -> Any:
    """Colours of the leaves by their clusters at one level, shaded by those at a finer one."""
    parts = None if finer is None else clusters_at(h.tree, finer).cluster
    return colors(clusters_at(h.tree, level).cluster, parts).numpy()


def tint(rgb: Any, light: Any = 0.9) -> Any:
    """Colours nearer to white."""
    return rgb + (1 - rgb) * light


def nodes(h: Hierarchy) -> tuple[Tensor, Tensor]:
    """Where each node stands over the leaves ``[T]``, and its colour by the root's children."""
    place = layout(h.tree)
    first = place.start[h.tree.leaf_ids].argsort()[place.start]  # row of the first leaf below
    return place.start + (place.leaves - 1) / 2, torch.from_numpy(shades(h, 1))[first]


def draw_edges(axes: Any, pos: Tensor, edges: Tensor, cluster: Tensor, rgb: Any, size: Any) -> None:
    """A graph: the edges within clusters in their colour, those between them in grey."""
    from matplotlib.collections import LineCollection

    row, col = edges
    inside = cluster[row] == cluster[col]
    segment = torch.stack([pos[row], pos[col]], dim=1)
    axes.add_collection(LineCollection(segment[~inside].numpy(), colors="0.8", linewidths=0.5))
    look = {"colors": rgb[row[inside]], "linewidths": 1.6}
    axes.add_collection(LineCollection(segment[inside].numpy(), **look))
    axes.scatter(*pos.t(), s=size, c=rgb, edgecolors="white", linewidths=0.4, zorder=3)


def write(axes: Any, text: str, columns: int, indent: int = 0) -> str:
    """Text in letters as wide as one unit of the axes; returns it."""
    lines = text.split("\n")
    axes.set(xlim=(-indent, columns - indent), ylim=(len(lines) + 0.1, -0.1))
    size = 72 * 0.96 * SIZE[0] / columns / 0.602
    for y, line in enumerate(lines):
        look = {"family": "DejaVu Sans Mono", "fontsize": size, "va": "center_baseline"}
        axes.text(0, y + 0.5, line, weight="bold" if line.startswith("#") else "normal", **look)
    return text


def rectangle(axes: Any, x: float, y: float, width: float, height: float, **look: Any) -> None:
    """A box."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, **look))


def galaxy() -> Inputs:
    """Three spiral arms."""
    generator = torch.Generator().manual_seed(0)
    radius = torch.rand(2400, generator=generator).sqrt()
    angle = 2 * math.pi * (torch.arange(2400) % 3) / 3 + 4.2 * radius
    pos = radius.unsqueeze(1) * torch.stack([1.45 * angle.cos(), angle.sin()], dim=1)
    return {"pos": pos + 0.055 * torch.randn(2400, 2, generator=generator)}


def _points(axes: Any, h: Hierarchy, given: Inputs) -> None:
    axes.set_aspect("equal")
    axes.scatter(*h.pos.t(), s=2.4, c=shades(h, 1, 2), linewidths=0)


def eight() -> Inputs:
    """Points along a figure of eight."""
    generator = torch.Generator().manual_seed(1)
    t = 2 * math.pi * torch.rand(700, generator=generator)
    curve = torch.stack([1.5 * t.sin(), 0.95 * (2 * t).sin()], dim=1)
    return {"pos": curve + 0.03 * torch.randn(700, 2, generator=generator)}


def _voxels(axes: Any, h: Hierarchy, given: Inputs) -> None:
    low = h.pos.amin(dim=0)
    for up in range(4):
        size = 0.1 * 2**up
        look = {"linewidth": 0.5 + 0.3 * up, "edgecolor": "0.7", "facecolor": (0, 0, 0, 0.03)}
        for corner in ((h.pos - low) / size).floor().unique(dim=0):
            rectangle(axes, *(low + corner * size).tolist(), size, size, **look)
    axes.set_aspect("equal")
    axes.scatter(*h.pos.t(), s=5, c=shades(h, 2, 3), linewidths=0, zorder=3)


def airplane() -> Inputs:
    """The file of a surface mesh."""
    import pyvista
    from pyvista import examples

    return {"pyvista": pyvista, "path": examples.planefile}


def _mesh(axes: Any, h: Hierarchy, given: Inputs) -> None:
    axes = axes.figure.add_axes((-0.1, -0.12, 1.2, 1.24), projection="3d")
    draw_surface(axes, h.pos, h.face, shades(h, 1, 2)[h.face[0]], (42, 215), "white", 1.5)


def landscape() -> Inputs:
    """Elevations in the Appalachians, which come with matplotlib: pixels ``[H * W, 1]``."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("jacksboro_fault_dem.npz") as file:
        x = torch.from_numpy(file["elevation"][40:296, :384]).float()
    return {"x": x.reshape(-1, 1), "H": 256, "W": 384}


def _image(axes: Any, h: Hierarchy, given: Inputs) -> None:
    height, width, strips = given["H"], given["W"], (3, 4, 5, h.depth)
    for number, level in enumerate(strips):
        mean = lift(pool(h.x, h.tree, level), h.tree, level).view(height, width)
        left, right = (width * i // len(strips) for i in (number, number + 1))
        look = {"cmap": "gist_earth", "vmin": 0.9 * h.x.min(), "vmax": 1.1 * h.x.max()}
        axes.imshow(mean[:, left:right].numpy(), extent=(left, right, height, 0), **look)
        if (side := 512 >> level) >= 16:
            axes.vlines(range(left - left % side, right, side), 0, height, color="w", linewidth=0.4)
            axes.hlines(range(0, height, side), left, right, color="w", linewidth=0.4)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")


def triangulation() -> Inputs:
    """A PyG graph: the Delaunay triangulation of random points, without long edges."""
    from torch_geometric import transforms
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(4)
    angle, radius = torch.rand(2, 260, generator=generator)
    turn = 2 * math.pi * angle
    pos = radius.sqrt().unsqueeze(1) * torch.stack([1.5 * turn.cos(), turn.sin()], dim=1)
    data = transforms.FaceToEdge()(transforms.Delaunay()(Data(pos=pos)))
    row, col = data.edge_index
    data.edge_index = data.edge_index[:, (pos[row] - pos[col]).norm(dim=1) < 0.4]
    return {"data": data}


def karate() -> Inputs:
    """Zachary's karate club, and places of its members."""
    G = nx.karate_club_graph()
    place = nx.kamada_kawai_layout(G)
    return {"G": G, "pos": torch.tensor([[1.5 * place[i][0], place[i][1]] for i in G]).float()}


def pooled() -> Inputs:
    """What two pooling layers return for the graph of a ladder."""
    from torch_geometric import nn

    G = nx.circular_ladder_graph(14)
    edge_index = torch.tensor(list(G.to_directed().edges)).t().contiguous()
    turn = 2 * math.pi * torch.arange(28) / 14
    radius = torch.where(torch.arange(28) < 14, 1.0, 0.62)
    with torch.random.fork_rng([]):
        torch.manual_seed(17)
        x, batch = torch.randn(28, 8), torch.zeros(28, dtype=torch.long)
        first = nn.EdgePooling(8)(x, edge_index, batch)
        second = nn.TopKPooling(8, ratio=4)(first[0], first[1], batch=first[2])
    pos = radius.unsqueeze(1) * torch.stack([turn.cos(), turn.sin()], dim=1)
    return {"outputs": [first, second], "edge_index": edge_index, "pos": pos}


def _graph(
    axes: Any, h: Hierarchy, given: Inputs, level: int, finer: int | None, size: float
) -> None:
    axes.set_aspect("equal")
    pos, cluster = given.get("pos", h.pos), clusters_at(h.tree, finer or level).cluster
    draw_edges(axes, pos, h.edge_index, cluster, shades(h, level, finer), size)


def _smiles(axes: Any, h: Hierarchy, given: Inputs) -> None:
    from rdkit import Chem

    group = clusters_at(h.tree, 1).cluster
    draw_molecule(axes, Chem.MolFromSmiles(h.smiles), tint(colors(group), 0.35), group, **BONDS)


def atorvastatin() -> Inputs:
    """An RDKit molecule."""
    from rdkit import Chem

    smiles = "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O"
    return {"mol": Chem.MolFromSmiles(smiles)}


def _molecule(axes: Any, h: Hierarchy, given: Inputs) -> None:
    hue, inner = clusters_at(h.tree, 1).cluster, clusters_at(h.tree, 2)
    kind = -h.tree_kind[inner.node[inner.cluster]]
    draw_molecule(axes, given["mol"], tint(colors(hue, kind), 0.35), hue, **BONDS)


TEXT = """\
A tree grows from a seed. The seed
needs water, and warm soil. Roots
come first!

Leaves turn light into sugar. At
night they rest. In autumn they
fall.

Bark keeps the trunk alive. Without
it, sap dries up and the tree is
lost."""


def _text(axes: Any, h: Hierarchy, given: Inputs) -> None:
    text = write(axes, given["text"], 36)
    for (first, end), color in zip(h.offset.tolist(), tint(shades(h, 1, 2), 0.3), strict=True):
        left, top = first - text.rfind("\n", 0, first) - 1, text.count("\n", 0, first)
        rectangle(axes, left - 0.1, top + 0.04, end - first + 0.2, 0.92, facecolor=color)


MARKDOWN = """\
# Trees
Old and tall.
## Leaves
Thin. Green. They drink light.
- needles
- fronds
## Roots
They hold the tree.
# Rivers
Water that runs. It ends at sea."""


def _markdown(axes: Any, h: Hierarchy, given: Inputs) -> None:
    text, tree = write(axes, given["text"], 38, indent=4), h.tree
    for node in tree.order.tolist():
        begin, end = h.tree_span[node].tolist()
        if text[begin - 1 : begin] not in ("", "\n") or text[end : end + 1] not in ("", "\n"):
            continue  # words, and sentences that share a line
        top, height = text.count("\n", 0, begin), text.count("\n", begin, end) + 1
        level, rgb = int(tree.level[node]), colors(tree.level[node])
        look = {"facecolor": tint(rgb).tolist(), "edgecolor": rgb.tolist(), "linewidth": 0.8}
        side = (37.4 - 1.6 * level, height - 0.1 * level)
        rectangle(axes, 0.8 * level - 3.7, top + 0.05 * level, *side, **look)


def _tokens(axes: Any, h: Hierarchy, given: Inputs) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    hues = [PALETTE[i] for i in (0, 4, 7, 3, 6, 1)]
    plot_hierarchy(h, ax=axes, cmap=LinearSegmentedColormap.from_list("rainbow", hues))
    for i, token in enumerate(given["tokens"]):
        axes.text(i + 0.5, -h.depth - 0.5, token, fontsize=7.5, **WHITE)


def _parent(axes: Any, h: Hierarchy, given: Inputs) -> None:
    (x, rgb), y = nodes(h), -h.tree.level
    axes.plot(torch.stack([x, x[h.parent]]), torch.stack([y, y[h.parent]]), color="0.75", zorder=1)
    axes.scatter(x, y, s=230, c=rgb.numpy(), zorder=2, edgecolors="white")
    for i, place in enumerate(zip(x, y - 0.01, strict=True)):
        axes.text(*place, str(i), fontsize=10, **WHITE)
    axes.margins(0.1, 0.16)


def taxonomy() -> Inputs:
    """A networkx tree: every node is a child of a random one before it."""
    draw, G = random.Random(7), nx.Graph()
    G.add_edges_from((draw.randrange(node), node) for node in range(1, 130))
    return {"G": G}


def _networkx(axes: Any, h: Hierarchy, given: Inputs) -> None:
    x, rgb = nodes(h)
    angle, radius = 2 * math.pi * x / h.num_nodes, h.tree.level.sqrt()
    pos = radius.unsqueeze(1) * torch.stack([1.45 * angle.cos(), angle.sin()], dim=1)
    one = torch.arange(len(pos))
    draw_edges(axes, pos, torch.stack([one, h.parent]), one * 0, rgb.numpy(), 12)
    axes.set_aspect("equal")


def blobs() -> Inputs:
    """Points in clusters, and clusters of clusters."""
    generator = torch.Generator().manual_seed(0)
    c1 = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    angle = torch.tensor([0.3, 2.4, 4.5, 1.0, 4.1, 0.6, 2.2, 3.7, 5.3])
    apart = torch.tensor([1.0, 0.75, 1.15])[c1].unsqueeze(1)
    center = torch.tensor([[-3.0, 0.9], [-0.2, -1.1], [3.0, 0.4]])[c1]
    center = center + apart * torch.stack([angle.cos(), angle.sin()], dim=1)
    c0 = torch.arange(9).repeat_interleave(9)
    x = center[c0] + 0.2 * torch.randn(81, 2, generator=generator)
    return {"c0": c0, "c1": c1, "x": x}


def _clusters(axes: Any, h: Hierarchy, given: Inputs) -> None:
    hue, out = shades(h, 1), {"linewidths": 0, "clip_on": False}
    # Discs around the points of a cluster, one behind the other: a hull of it.
    for size, light in ((900, 0.85), (260, 0.6), (9, 0.0)):
        axes.scatter(*h.x.t(), s=size, c=tint(hue, light), **out)
    axes.set_aspect("equal")
    axes.margins(0.12)


def dendrogram() -> Inputs:
    """A linkage of SciPy, a clustering of scikit-learn, and a condensed tree of HDBSCAN."""
    from scipy.cluster.hierarchy import linkage
    from sklearn.cluster import AgglomerativeClustering

    points = blobs()["x"][::2].numpy()
    # Rows of parent, child, lambda and size: two clusters, and leaf 4, which is noise.
    tree = [[5, 6, 0.5, 2], [5, 7, 0.5, 2], [5, 4, 0.2, 1]]
    tree += [[6, 0, 9.0, 1], [6, 1, 9.0, 1], [7, 2, 8.0, 1], [7, 3, 8.0, 1]]
    model = AgglomerativeClustering(n_clusters=3).fit(points)
    return {"Z": linkage(points, "average"), "model": model, "tree": tree}


def _linkage(axes: Any, h: Hierarchy, given: Inputs) -> None:
    from scipy.cluster import hierarchy

    Z, size = given["Z"], 10 * h.num_nodes
    cuts = {k: (Z[-k, 2] + Z[-k + 1, 2]) / 2 for k in (3, 9)}
    hierarchy.set_link_color_palette(list(PALETTE))
    hierarchy.dendrogram(Z, ax=axes, color_threshold=cuts[9], above_threshold_color=INK)
    for number, cut in cuts.items():
        axes.hlines(cut, 0, size, color="0.6", linestyle="dashed", linewidth=0.9, zorder=0)
        axes.text(size + 15, cut, f"{number} clusters", va="center", fontsize=8)
    axes.set(xlim=(0, 1.34 * size))


NEWICK = (
    "(gibbon:20,(orangutan:16,(gorilla:9,(human:7,(chimpanzee:2,bonobo:2)Pan:5):2)Homininae:7):4);"
)


def _newick(axes: Any, h: Hierarchy, given: Inputs) -> None:
    y, above = -nodes(h)[0], h.parent
    x = over_paths(h.tree_length.nan_to_num(), h.tree)
    axes.hlines(y, x[above], x, color=INK, linewidth=1.6)
    axes.vlines(x[above], y[above], y, color=INK, linewidth=1.6)
    axes.scatter(x[: h.num_nodes], y[: h.num_nodes], s=26, c=shades(h, 2), zorder=3)
    for node, attrs in enumerate(h.tree_names.attrs):
        if node < h.num_nodes:
            axes.text(x[node] + 0.7, y[node], attrs["name"], va="center", fontsize=10, color=INK)
        elif attrs["name"]:
            look = {"ha": "right", "fontsize": 8, "color": "0.5", "style": "italic"}
            axes.text(x[node] - 0.3, y[node] + 0.12, attrs["name"], **look)
    axes.set(xlim=(-0.5, 31), ylim=(-h.num_nodes + 0.5, 0.5))


MEAL = """{"name": "meal", "children": [
  {"name": "salad", "children": [{"name": "kale", "mass": 3}, {"name": "nuts", "mass": 2}]},
  {"name": "pasta", "children": [
    {"name": "dough", "children": [{"name": "flour", "mass": 4}, {"name": "eggs", "mass": 3}]},
    {"name": "sauce", "mass": 4}]},
  {"name": "fruit", "children": [{"name": "figs", "mass": 2}, {"name": "plums", "mass": 3}]}]}"""


def _json(axes: Any, h: Hierarchy, given: Inputs) -> None:
    mass, (place, hue), tree = aggregate(h.mass.float(), h.tree), nodes(h), h.tree

    def box(node: int, x: float, y: float, width: float, height: float, level: int = 0) -> None:
        leaf, name = node < h.num_nodes, h.tree_names.attrs[node]["name"]
        rgb = tint(hue[node], 0.0 if leaf else 0.95 - 0.2 * level).tolist() if level else "0.93"
        rectangle(axes, x, y, width, height, facecolor=rgb, edgecolor="white", linewidth=1.5)
        if leaf:
            axes.text(x + width / 2, y + height / 2, name, fontsize=9, **WHITE)
            return
        axes.text(x + 0.12, y + 0.3, name, va="center", fontsize=7, color=INK)
        x, y, width, height = x + 0.08, y + 0.6, width - 0.16, height - 0.68
        children = ((h.parent == node) & (tree.level == level + 1)).nonzero().view(-1)
        for child in children[place[children].argsort()].tolist():
            share = float(mass[child] / mass[node])
            wide, high = (width, height * share) if level % 2 else (width * share, height)
            box(child, x, y, wide, high, level + 1)
            x, y = (x, y + high) if level % 2 else (x + wide, y)

    box(int(tree.order[0]), 0.0, 0.0, 15.0, 10.0)
    axes.set(xlim=(0, 15), ylim=(10, 0))


SENTENCE = ("the", "dog", "chased", "a", "very", "old", "cat")
HEAD = [1, 2, -1, 6, 5, 6, 2]


def _syntax(axes: Any, h: Hierarchy, given: Inputs) -> None:
    rgb = shades(h, 1)
    for row, level in enumerate(range(h.depth, -1, -1)):
        cluster = clusters_at(h.tree, level).cluster
        for number in cluster.unique():
            words = (cluster == number).nonzero()
            first, last = int(words[0]), int(words[-1])
            color = tint(rgb[first], 0.25 * row) if level else "0.75"
            y, height = (-0.3 * row - 0.3, 0.22) if row else (-0.3, 0.9)
            rectangle(axes, first + 0.03, y, last - first + 0.94, height, color=color)
    for word, head in enumerate(HEAD):
        axes.text(word + 0.5, 0.15, SENTENCE[word], fontsize=7, **WHITE)
        if head >= 0:
            bend = "arc3,rad=0.8" if word < head else "arc3,rad=-0.8"
            look = {"arrowstyle": "-|>", "mutation_scale": 7, "connectionstyle": bend, "color": INK}
            ends = {"xy": (word + 0.5, 0.62), "xytext": (head + 0.5, 0.62)}
            axes.annotate("", **ends, arrowprops={**look, "shrinkA": 1, "shrinkB": 1})
    axes.set(xlim=(0, len(HEAD)), ylim=(-1.3, 2.4))


SOURCES = {  # by the names of the pictures
    "points": Source(galaxy, _points),
    "voxels": Source(eight, _voxels),
    "mesh": Source(airplane, _mesh),
    "image": Source(landscape, _image),
    "graph": Source(triangulation, partial(_graph, level=-6, finer=-4, size=9)),
    "communities": Source(karate, partial(_graph, level=1, finer=None, size=34)),
    "pooling": Source(pooled, partial(_graph, level=1, finer=2, size=60)),
    "smiles": Source(lambda: {"smiles": "CCN(CC)CCNC(=O)c1ccc(N)cc1"}, _smiles),
    "molecule": Source(atorvastatin, _molecule),
    "text": Source(lambda: {"text": TEXT}, _text),
    "markdown": Source(lambda: {"text": MARKDOWN}, _markdown),
    "tokens": Source(lambda: {"tokens": list("AUGGCUUACGAUCCGUUAGCAUGGUAA")}, _tokens),
    "parent": Source(lambda: {"parent": [5, 5, 6, 6, 6, 7, 7, 7], "x": torch.eye(5)}, _parent),
    "networkx": Source(taxonomy, _networkx),
    "clusters": Source(blobs, _clusters),
    "linkage": Source(dendrogram, _linkage),
    "newick": Source(lambda: {"text": NEWICK}, _newick),
    "json": Source(lambda: {"text": MEAL}, _json),
    "syntax": Source(lambda: {"head": HEAD, "x": torch.eye(len(HEAD))}, _syntax),
}


def draw(row: Source, h: Hierarchy, inputs: Inputs, path: Path) -> None:
    """Saves the picture of one source."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=SIZE, dpi=DPI)
    axes = figure.add_axes((0.02, 0.03, 0.96, 0.94))
    axes.set_axis_off()
    row.draw(axes, h, inputs)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=DPI)
    # 128 colours are enough for such pictures, and make their files smaller.
    picture = Image.open(pixels).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def main(
    names: tuple[str, ...] | None = None, folder: Path | str = FOLDER, progress: bool = True
) -> dict[str, Hierarchy]:
    """Builds every hierarchy, saves its picture, and returns what each line of code made.

    Args:
        names: which of :data:`SOURCES`. (default: all)
        folder: where the pictures go.
        progress: show a progress bar.
    """
    if unknown := sorted(set(names or ()) - set(SOURCES)):
        raise ValueError(f"Expected names out of {list(SOURCES)} (got {unknown})")
    needs("matplotlib", "scipy", "sklearn", "pymetis", "pyvista", "rdkit", "markdown_it")
    folder, found = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in progress_bar(names or SOURCES, unit="picture", disable=not progress):
        inputs = SOURCES[name].inputs()
        built = build(name, inputs)
        draw(SOURCES[name], next(iter(built.values())), inputs, folder / f"{name}.png")
        found |= built
    print(*(f"{line}: {h}" for line, h in found.items()), f"pictures: {folder}", sep="\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which sources (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to save the pictures")
    args = parser.parse_args()
    main(tuple(args.names) or None, args.folder)
