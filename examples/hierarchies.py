"""From what you have to a hierarchy: one line and one picture for every kind of source.

:data:`SOURCES` holds, for each of them, what you have, the lines you write and a picture of what
comes out. The table in the README is :func:`readme_table`, and what it shows is what runs here.

Run ``python examples/hierarchies.py`` (ten seconds); ``--readme`` prints the README's table.
"""

from __future__ import annotations

import argparse
import math
import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from _progress import progress_bar
from torch import Tensor

from hsa_geometric import Hierarchy, builders, coarsen
from hsa_geometric.functional import aggregate, clusters_at, lift, pool
from hsa_geometric.report import plot_hierarchy

FOLDER = Path(__file__).parent / "figures" / "hierarchies"
SIZE, DPI = (3.0, 2.0), 200  # inches, and pixels an inch
WIDTH = 240  # pixels in the README
PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE8866", "#44BB99")
INK = "#333333"
NEEDS = ("matplotlib", "scipy", "sklearn", "pymetis", "pyvista", "rdkit", "markdown_it")


def _require(name: str) -> Any:
    """Imports an optional package, or says which extra brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This example needs '{name}': pip install \"hsa_geometric[examples]\""
        ) from error


@dataclass(frozen=True)
class Source:
    """One row of the table.

    Attributes:
        has: what you have, naming the variables of the code.
        code: expressions, each of which makes a hierarchy; the picture shows the first.
        shows: what the picture shows.
        inputs: makes the variables.
        draw: draws a hierarchy, made from these inputs, on an empty figure.
    """

    has: str
    code: tuple[str, ...]
    shows: str
    inputs: Callable[[], dict[str, Any]]
    draw: Callable[[Any, Hierarchy, dict[str, Any]], None]

    def build(self, inputs: dict[str, Any]) -> list[Hierarchy]:
        """Runs the lines of code."""
        names = {name: getattr(builders, name) for name in builders.__all__}
        return [eval(line, {**names, **inputs}) for line in self.code]


# Colours and axes #################################################################################


def colors(clusters: Tensor, parts: Tensor | None = None) -> Tensor:
    """RGB ``[N, 3]``: a hue for each cluster and, within it, a shade for each part."""
    rgb = _require("matplotlib.colors").to_rgb
    hue = torch.tensor([rgb(name) for name in PALETTE])[clusters % len(PALETTE)]
    if parts is None:
        return hue
    pair, which = torch.stack([clusters, parts], dim=1).unique(dim=0, return_inverse=True)
    first = torch.searchsorted(pair[:, 0].contiguous(), clusters)
    number = pair[:, 0].bincount()[clusters]
    light = 0.6 * (which - first) / (number - 1).clamp(min=1)
    return hue + (1 - hue) * light.unsqueeze(1)


def shades(h: Hierarchy, level: int, finer: int | None = None) -> Any:
    """Colours of the leaves by their clusters at one level, shaded by those at a finer one."""
    parts = None if finer is None else clusters_at(h.tree, finer).cluster
    return colors(clusters_at(h.tree, level).cluster, parts).numpy()


def tint(color: Any, light: float = 0.9) -> Any:
    """A colour nearer to white."""
    rgb = torch.as_tensor(_require("matplotlib.colors").to_rgb(color))
    return (rgb + (1 - rgb) * light).tolist()


def canvas(figure: Any, equal: bool = False, **options: Any) -> Any:
    """Axes without frame that fill the figure."""
    axes = figure.add_axes((0.02, 0.03, 0.96, 0.94), **options)
    axes.set_axis_off()
    if equal:
        axes.set_aspect("equal")
    return axes


# Points in space ##################################################################################


def galaxy() -> dict[str, Any]:
    """Three spiral arms."""
    generator = torch.Generator().manual_seed(0)
    number = 2400
    arm = torch.arange(number) % 3
    radius = torch.rand(number, generator=generator).sqrt()
    angle = 2 * math.pi * arm / 3 + 4.2 * radius
    pos = radius.unsqueeze(1) * torch.stack([1.45 * angle.cos(), angle.sin()], dim=1)
    return {"pos": pos + 0.055 * torch.randn(number, 2, generator=generator)}


def draw_points(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The points, in quarters and sixteenths."""
    canvas(figure, equal=True).scatter(*h.pos.t(), s=2.4, c=shades(h, 1, 2), linewidths=0)


def eight() -> dict[str, Any]:
    """Points along a figure of eight."""
    generator = torch.Generator().manual_seed(1)
    t = 2 * math.pi * torch.rand(700, generator=generator)
    curve = torch.stack([1.5 * t.sin(), 0.95 * (2 * t).sin()], dim=1)
    return {"pos": curve + 0.03 * torch.randn(700, 2, generator=generator)}


def draw_voxels(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The occupied cells of each level, and the points."""
    axes, rectangle = canvas(figure, equal=True), _require("matplotlib.patches").Rectangle
    low = h.pos.amin(dim=0)
    for up in range(4):
        size = 0.1 * 2**up
        look = {"linewidth": 0.5 + 0.3 * up, "edgecolor": "0.7", "facecolor": (0, 0, 0, 0.03)}
        for x, y in ((h.pos - low) / size).floor().unique(dim=0).tolist():
            axes.add_patch(rectangle((low[0] + x * size, low[1] + y * size), size, size, **look))
    axes.scatter(*h.pos.t(), s=5, c=shades(h, 2, 3), linewidths=0, zorder=3)
    axes.autoscale_view()


def airplane() -> dict[str, Any]:
    """The file of a surface mesh."""
    pyvista, examples = _require("pyvista"), _require("pyvista.examples")
    return {"pyvista": pyvista, "path": examples.planefile}


def draw_mesh(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The triangles, by the shells and their pieces."""
    art3d = _require("mpl_toolkits.mplot3d.art3d")
    light = _require("matplotlib.colors").LightSource(azdeg=200, altdeg=60)
    up, turn = math.radians(42), math.radians(215)
    viewer = [math.cos(up) * math.cos(turn), math.cos(up) * math.sin(turn), math.sin(up)]
    i, j, k = h.pos[h.face].unbind(0)
    normal = torch.linalg.cross(j - i, k - i)
    seen = h.face[:, normal @ normal.new_tensor(viewer) > 0]
    skin = art3d.Poly3DCollection(
        h.pos[seen.t()].numpy(),
        facecolors=shades(h, 1, 2)[seen[0]],
        linewidths=0.1,
        edgecolors="white",
        shade=True,
        lightsource=light,
    )
    axes = figure.add_axes((-0.1, -0.12, 1.2, 1.24), projection="3d")
    axes.set_axis_off()
    axes.add_collection3d(skin)
    low, high = h.pos.aminmax(dim=0)
    box = torch.stack([low, high], dim=1).tolist()
    axes.set(**dict(zip(("xlim", "ylim", "zlim"), box, strict=True)))
    axes.set_box_aspect((high - low).tolist(), zoom=1.5)
    axes.view_init(42, 215)


def landscape() -> dict[str, Any]:
    """Mountains in the evening: pixels ``[H * W, 3]``."""
    height, width = 128, 192
    y = torch.linspace(1, 0, height).view(-1, 1).expand(height, width)
    x = torch.linspace(0, 1.5, width).expand(height, width)

    def rgb(*values: float) -> Tensor:
        return torch.tensor(values).view(3, 1, 1)

    sky = torch.lerp(rgb(0.99, 0.80, 0.55), rgb(0.25, 0.40, 0.68), y.clamp(0, 1).pow(0.8))
    sun = ((x - 1.05).square() + (y - 0.62).square()) < 0.0115
    image = torch.where(sun, rgb(1.0, 0.95, 0.75), sky)
    ridges = (
        (0.46, 0.10, 5.0, 0.4, rgb(0.62, 0.50, 0.62)),
        (0.33, 0.09, 8.0, 2.0, rgb(0.38, 0.33, 0.50)),
        (0.16, 0.07, 6.0, 4.5, rgb(0.16, 0.20, 0.30)),
    )
    for base, amplitude, frequency, phase, color in ridges:
        rough = (frequency * x + phase).sin() + 0.4 * (2.7 * frequency * x).sin()
        rough = rough + 0.15 * (9 * frequency * x + phase).sin()
        image = torch.where(y < base + amplitude * rough, color, image)
    return {"x": image.flatten(1).t(), "H": height, "W": width}


def draw_image(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The mean colours of ever finer windows, from left to right."""
    axes = canvas(figure)
    height, width = given["H"], given["W"]
    strips = (3, 4, 5, h.depth)
    for number, level in enumerate(strips):
        mean = lift(pool(h.x, h.tree, level), h.tree, level).view(height, width, 3)
        left, right = width * number // len(strips), width * (number + 1) // len(strips)
        strip = mean[:, left:right].clamp(0, 1).numpy()
        axes.imshow(strip, extent=(left, right, height, 0), interpolation="nearest")
        side = 256 >> level
        if side >= 8:
            look = {"color": "white", "linewidth": 0.4}
            axes.vlines(range(left - left % side, right, side), 0, height, **look)
            axes.hlines(range(0, height, side), left, right, **look)
    axes.set(xlim=(0, width), ylim=(height, 0))


# Graphs ###########################################################################################


def triangulation() -> dict[str, Any]:
    """A PyG graph: the Delaunay triangulation of random points."""
    generator = torch.Generator().manual_seed(4)
    angle, radius = torch.rand(2, 260, generator=generator).unbind(0)
    angle = 2 * math.pi * angle
    pos = radius.sqrt().unsqueeze(1) * torch.stack([1.5 * angle.cos(), angle.sin()], dim=1)
    corner = torch.tensor(_require("scipy.spatial").Delaunay(pos.numpy()).simplices).long()
    edge = torch.cat([corner[:, [0, 1]], corner[:, [1, 2]], corner[:, [2, 0]]])
    edge = torch.cat([edge, edge.flip(1)]).unique(dim=0)
    short = (pos[edge[:, 0]] - pos[edge[:, 1]]).norm(dim=1) < 0.4
    data = _require("torch_geometric.data").Data(edge_index=edge[short].t().contiguous(), pos=pos)
    return {"data": data}


def draw_edges(axes: Any, pos: Tensor, edge_index: Tensor, cluster: Tensor, rgb: Any) -> None:
    """The edges within clusters in their colour, those between them in grey."""
    lines = _require("matplotlib.collections").LineCollection
    row, col = edge_index
    inside = cluster[row] == cluster[col]
    segment = torch.stack([pos[row], pos[col]], dim=1)
    axes.add_collection(lines(segment[~inside].numpy(), colors="0.8", linewidths=0.5))
    axes.add_collection(lines(segment[inside].numpy(), colors=rgb[row[inside]], linewidths=1.6))


def draw_graph(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The graph, by clusters of two levels."""
    axes, rgb = canvas(figure, equal=True), shades(h, -6, -4)
    draw_edges(axes, h.pos, h.edge_index, clusters_at(h.tree, -4).cluster, rgb)
    axes.scatter(*h.pos.t(), s=9, c=rgb, linewidths=0, zorder=3)


def karate() -> dict[str, Any]:
    """Zachary's karate club."""
    return {"G": nx.karate_club_graph()}


def draw_communities(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The club, by its communities."""
    axes = canvas(figure)
    place = nx.kamada_kawai_layout(given["G"])
    pos = torch.tensor([place[node].tolist() for node in given["G"]])
    rgb = shades(h, 1)
    draw_edges(axes, pos, h.edge_index, clusters_at(h.tree, 1).cluster, rgb)
    axes.scatter(*pos.t(), s=34, c=rgb, edgecolors="white", linewidths=0.7, zorder=3)


def pooled() -> dict[str, Any]:
    """What two pooling layers return for the graph of a ladder."""
    nn = _require("torch_geometric.nn")
    G = nx.circular_ladder_graph(14)
    edge_index = torch.tensor(list(G.to_directed().edges)).t().contiguous()
    turn = 2 * math.pi * torch.arange(28) / 14
    radius = torch.where(torch.arange(28) < 14, 1.0, 0.62)
    pos = radius.unsqueeze(1) * torch.stack([turn.cos(), turn.sin()], dim=1)
    with torch.random.fork_rng([]):
        torch.manual_seed(17)
        x = torch.randn(28, 8)
        batch = torch.zeros(28, dtype=torch.long)
        first = nn.EdgePooling(8)(x, edge_index, batch)
        second = nn.TopKPooling(8, ratio=4)(first[0], first[1], batch=first[2])
    return {"outputs": [first, second], "edge_index": edge_index, "pos": pos}


def draw_pooling(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The graph, and what is left of it at each level."""
    h = h.clone()
    h.pos = given["pos"]
    top = clusters_at(h.tree, 1).cluster
    frames = {h.depth: (0.0, 0.02, 0.62, 0.96), 2: (0.6, 0.5, 0.4, 0.5), 1: (0.6, 0.0, 0.4, 0.5)}
    for level, frame in frames.items():
        axes = figure.add_axes(frame)
        axes.set_axis_off()
        axes.set_aspect("equal")
        graph, cluster = coarsen(h, level), clusters_at(h.tree, level).cluster
        of = top.new_empty(graph.num_nodes).index_copy(0, cluster, top)
        rgb = colors(of).numpy()
        draw_edges(axes, graph.pos, graph.edge_index, of, rgb)
        look = {"edgecolors": "white", "linewidths": 0.5, "zorder": 3}
        axes.scatter(*graph.pos.t(), s=22 * graph.mass.sqrt(), c=rgb, **look)
        axes.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))


# Molecules ########################################################################################


def draw_molecule(figure: Any, mol: Any, group: Tensor, rgb: Tensor) -> None:
    """A molecule, its groups highlighted with the bonds within them."""
    drawing = _require("rdkit.Chem.Draw.rdMolDraw2D")
    width, height = (round(DPI * side) for side in SIZE)
    shade = {i: tuple((0.35 + 0.65 * c).tolist()) for i, c in enumerate(rgb)}
    inside = {
        bond.GetIdx(): shade[bond.GetBeginAtomIdx()]
        for bond in mol.GetBonds()
        if group[bond.GetBeginAtomIdx()] == group[bond.GetEndAtomIdx()]
    }
    picture = drawing.MolDraw2DCairo(width, height)
    options = picture.drawOptions()
    options.useBWAtomPalette()
    options.bondLineWidth, options.padding, options.highlightBondWidthMultiplier = 3, 0.03, 10
    drawing.PrepareAndDrawMolecule(
        picture,
        mol,
        highlightAtoms=list(shade),
        highlightAtomColors=shade,
        highlightAtomRadii=dict.fromkeys(shade, 0.42),
        highlightBonds=list(inside),
        highlightBondColors=inside,
    )
    picture.FinishDrawing()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    pixels = _require("matplotlib.image").imread(BytesIO(picture.GetDrawingText()))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")


def draw_smiles(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The molecule, by the children of the root."""
    mol, group = _require("rdkit.Chem").MolFromSmiles(h.smiles), clusters_at(h.tree, 1).cluster
    draw_molecule(figure, mol, group, colors(group))


def atorvastatin() -> dict[str, Any]:
    """An RDKit molecule."""
    smiles = "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CCC(O)CC(O)CC(=O)O"
    return {"mol": _require("rdkit.Chem").MolFromSmiles(smiles)}


def draw_rdkit(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The molecule: a hue for the scaffold and for each side chain, rings darker than links."""
    hue, inner = clusters_at(h.tree, 1).cluster, clusters_at(h.tree, 2)
    kind = -h.tree_kind[inner.node[inner.cluster]]
    draw_molecule(figure, given["mol"], hue, colors(hue, kind))


# Texts and sequences ##############################################################################


def write(axes: Any, rows: dict[float, str], columns: int) -> None:
    """Text in letters as wide as one unit of the axes, whose width is to be so many columns."""
    size = 72 * 0.96 * SIZE[0] / columns / 0.602
    for y, row in rows.items():
        weight = "bold" if row.lstrip().startswith("#") else "normal"
        look = {"family": "DejaVu Sans Mono", "fontsize": size, "weight": weight, "color": "k"}
        below = {"xytext": (0, -0.34 * size), "textcoords": "offset points"}  # the baseline
        axes.annotate(row, (0, y + 0.5), va="baseline", **below, **look)


TEXT = """\
A tree grows from a seed. The seed needs water, and warm soil. Roots come first!

Leaves turn light into sugar. At night they rest. In autumn they fall.

Bark keeps the trunk alive. Without it, sap dries up and the tree is lost."""

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


def draw_text(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The words, a hue for each paragraph and a shade for each sentence."""
    axes, text, columns = canvas(figure), given["text"], 36
    rows: dict[float, str] = {}
    place: dict[int, tuple[int, float]] = {}  # of each character
    y, start = 0.0, 0
    for paragraph in text.split("\n\n"):
        for row in textwrap.wrap(paragraph, columns):
            start, rows[y] = text.index(row, start), row
            place.update({start + x: (x, y) for x in range(len(row))})
            y += 1
        y += 0.5
    write(axes, rows, columns)
    rectangle = _require("matplotlib.patches").Rectangle
    for (first, end), color in zip(h.offset.tolist(), shades(h, 1, 2), strict=True):
        left, top = place[first]
        look = {"facecolor": 0.3 + 0.7 * color, "linewidth": 0}
        axes.add_patch(rectangle((left - 0.1, top + 0.04), end - first + 0.2, 0.92, **look))
    axes.set(xlim=(0, columns), ylim=(y - 0.5, 0))


def draw_markdown(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The lines, in a box for every node that consists of lines."""
    axes, text, columns = canvas(figure), given["text"], 38
    lines, tree = text.split("\n"), h.tree
    write(axes, {float(y): f"    {line}" for y, line in enumerate(lines)}, columns)
    box = _require("matplotlib.patches").FancyBboxPatch
    for node in tree.order.tolist():
        begin, end = h.tree_span[node].tolist()
        whole = text[begin - 1 : begin] in ("", "\n") and text[end : end + 1] in ("", "\n")
        top, bottom = text.count("\n", 0, begin), text.count("\n", 0, end) + 1
        if not whole:  # words, and sentences that share a line
            continue
        level = int(tree.level[node])
        x, y, color = 0.3 + 0.8 * level, 0.05 * level, PALETTE[level % 8]
        corner, side = (x, top + y), (columns - 2 * x, bottom - top - 2 * y)
        style = "round,pad=0,rounding_size=0.25"
        look = {"facecolor": tint(color), "edgecolor": color, "linewidth": 0.8}
        axes.add_patch(box(corner, *side, boxstyle=style, mutation_aspect=0.5, **look))
    axes.set(xlim=(0, columns), ylim=(len(lines) + 0.1, -0.1))


def draw_tokens(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The tree, and the tokens in its leaves."""
    axes, colormap = canvas(figure), _require("matplotlib.colors").LinearSegmentedColormap
    rainbow = colormap.from_list("rainbow", [PALETTE[i] for i in (0, 4, 7, 3, 6, 1)])
    plot_hierarchy(h, ax=axes, cmap=rainbow)
    look = {"ha": "center", "va": "center", "fontsize": 7.5, "color": "white", "weight": "bold"}
    for i, token in enumerate(given["tokens"]):
        axes.text(i + 0.5, -h.depth - 0.5, token, **look)


# Trees that are there already #####################################################################


def branches(h: Hierarchy) -> Tensor:
    """Number ``[T]`` of the child of the root that each node is below; the root's is the last."""
    branch, root = torch.arange(h.tree.num_nodes), int(h.tree.order[0])
    while (deep := (branch != root) & (h.parent[branch] != root)).any():
        branch = torch.where(deep, h.parent[branch], branch)
    children = branch[branch != root].unique()
    return torch.where(branch == root, children.numel(), torch.searchsorted(children, branch))


def tidy(h: Hierarchy) -> tuple[Tensor, Tensor]:
    """Where to draw the nodes ``[T]`` of a tree: leaves side by side, the root at level 0."""
    tree, x = h.tree, torch.zeros(h.tree.num_nodes)
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parent.tolist()):
        if node != parent:
            children.setdefault(parent, []).append(node)
    free = iter(range(tree.num_leaves))

    def place(node: int) -> float:
        below = [place(child) for child in children.get(node, [])]
        x[node] = (below[0] + below[-1]) / 2 if below else next(free)
        return float(x[node])

    for root in tree.order[tree.root].tolist():
        place(root)
    return x, tree.level.float()


def draw_parent(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The nodes with their ids."""
    axes, (x, y) = canvas(figure), tidy(h)
    y, node = -y, torch.arange(h.tree.num_nodes)
    rgb = colors(branches(h))
    axes.plot(torch.stack([x, x[h.parent]]), torch.stack([y, y[h.parent]]), color="0.75", zorder=1)
    axes.scatter(x, y, s=230, c=rgb.numpy(), zorder=2, edgecolors="white")
    for i in node.tolist():
        look = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
        axes.text(x[i], y[i] - 0.01, str(i), fontsize=10, **look)
    axes.margins(0.1, 0.16)


def taxonomy() -> dict[str, Any]:
    """A networkx tree: every node is a child of a random one before it."""
    draw, G = random.Random(7), nx.Graph()
    G.add_edges_from((draw.randrange(node), node) for node in range(1, 130))
    return {"G": G}


def draw_networkx(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The tree around its root, by the children of the root."""
    axes, (x, level) = canvas(figure, equal=True), tidy(h)
    angle = 2 * math.pi * x / h.num_nodes
    pos = level.sqrt().unsqueeze(1) * torch.stack([1.45 * angle.cos(), angle.sin()], dim=1)
    rgb = colors(branches(h)).numpy()
    for child, parent in enumerate(h.parent.tolist()):
        axes.plot(*pos[[child, parent]].t(), color=rgb[child], linewidth=1.2, zorder=1)
    leaf = torch.zeros(len(pos)).index_fill(0, h.tree.leaf_ids, 1.0)
    axes.scatter(*pos.t(), s=4 + 10 * leaf, c=rgb, linewidths=0, zorder=2)


def blobs() -> dict[str, Any]:
    """Points in clusters, and clusters of clusters."""
    generator = torch.Generator().manual_seed(0)
    c1 = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    angle = torch.tensor([0.3, 2.4, 4.5, 1.0, 4.1, 0.6, 2.2, 3.7, 5.3])
    apart = torch.tensor([1.0, 1.0, 1.0, 0.75, 0.75, 1.15, 1.15, 1.15, 1.15]).unsqueeze(1)
    center = torch.tensor([[-3.0, 0.9], [-0.2, -1.1], [3.0, 0.4]])[c1]
    center = center + apart * torch.stack([angle.cos(), angle.sin()], dim=1)
    c0 = torch.arange(9).repeat_interleave(9)
    x = center[c0] + 0.2 * torch.randn(81, 2, generator=generator)
    return {"c0": c0, "c1": c1, "x": x}


def draw_clusters(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The rows, and a hull around each cluster."""
    axes = canvas(figure, equal=True)
    polygon = _require("matplotlib.patches").Polygon
    convex_hull = _require("scipy.spatial").ConvexHull
    turn = torch.linspace(0, 2 * math.pi, 40)
    for level, margin, alpha in ((1, 0.5, 0.14), (2, 0.22, 0.3)):
        cluster, hue = clusters_at(h.tree, level).cluster, shades(h, 1)
        for number in cluster.unique():
            points = h.x[cluster == number]
            round_off = margin * torch.stack([turn.cos(), turn.sin()], dim=1)
            points = (points.unsqueeze(1) + round_off).view(-1, 2)
            corner = points[torch.tensor(convex_hull(points.numpy()).vertices).long()]
            color = hue[int((cluster == number).nonzero()[0])]
            axes.add_patch(polygon(corner.numpy(), color=color, alpha=alpha, linewidth=0))
    axes.scatter(*h.x.t(), s=9, c=shades(h, 1), linewidths=0, zorder=3)
    axes.autoscale_view()


def dendrogram() -> dict[str, Any]:
    """A linkage of SciPy, a clustering of scikit-learn, and a condensed tree of HDBSCAN."""
    points = blobs()["x"][::2].numpy()
    model = _require("sklearn.cluster").AgglomerativeClustering(n_clusters=3).fit(points)
    Z = _require("scipy.cluster.hierarchy").linkage(points, "average")
    # Rows of parent, child, lambda and size: two clusters, and leaf 4, which is noise.
    tree = [[5, 6, 0.5, 2], [5, 7, 0.5, 2], [5, 4, 0.2, 1]]
    tree += [[6, 0, 9.0, 1], [6, 1, 9.0, 1], [7, 2, 8.0, 1], [7, 3, 8.0, 1]]
    return {"Z": Z, "model": model, "tree": tree}


def draw_linkage(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The dendrogram, and where it is cut."""
    hierarchy, Z = _require("scipy.cluster.hierarchy"), given["Z"]
    axes, cuts = canvas(figure), [(Z[-k, 2] + Z[-k + 1, 2]) / 2 for k in (3, 9)]
    found = hierarchy.dendrogram(Z, no_plot=True)
    rgb = shades(h, 1, 2)[found["leaves"]]  # leaf k of the picture stands at 10 k + 5
    for x, y in zip(found["icoord"], found["dcoord"], strict=True):
        color = INK if max(y) > cuts[0] else rgb[int((x[0] + x[3]) / 20)]
        axes.plot(x, y, color=color, linewidth=1.4)
    for cut, number in zip(cuts, (3, 9), strict=True):
        axes.hlines(cut, 0, 10 * len(rgb), color="0.6", linestyle="dashed", linewidth=0.9, zorder=0)
        axes.text(10 * len(rgb) + 15, cut, f"{number} clusters", va="center", fontsize=8)
    axes.scatter(10 * torch.arange(len(rgb)) + 5, [0] * len(rgb), s=9, c=rgb, clip_on=False)
    axes.set(xlim=(0, 13.4 * len(rgb)))


NEWICK = (
    "(gibbon:20,(orangutan:16,(gorilla:9,(human:7,(chimpanzee:2,bonobo:2)Pan:5):2)Homininae:7):4);"
)


def draw_newick(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The tree, branches as long as they say."""
    axes, (y, _) = canvas(figure), tidy(h)
    length = h.tree_length.nan_to_num()
    x = torch.zeros_like(length)
    for node in h.tree.order.tolist():  # level by level, from the root
        x[node] = x[h.parent[node]] + length[node]
    above, rgb = h.parent, shades(h, 2)
    axes.hlines(-y, x[above], x, color=INK, linewidth=1.6)
    axes.vlines(x[above], -y[above], -y, color=INK, linewidth=1.6)
    axes.scatter(x[: h.num_nodes], -y[: h.num_nodes], s=26, c=rgb, zorder=3)
    for node, attrs in enumerate(h.tree_names.attrs):
        if node < h.num_nodes:
            look = {"va": "center", "fontsize": 10, "color": INK}
            axes.text(x[node] + 0.7, -y[node] - 0.03, attrs["name"], **look)
        elif attrs["name"]:
            look = {"ha": "right", "fontsize": 8, "color": "0.5", "style": "italic"}
            axes.text(x[node] - 0.3, -y[node] + 0.12, attrs["name"], **look)
    axes.set(xlim=(-0.5, 31), ylim=(-h.num_nodes + 0.5, 0.5))


MEAL = """{"name": "meal", "children": [
  {"name": "salad", "children": [{"name": "kale", "mass": 3}, {"name": "nuts", "mass": 2}]},
  {"name": "pasta", "children": [
    {"name": "dough", "children": [{"name": "flour", "mass": 4}, {"name": "eggs", "mass": 3}]},
    {"name": "sauce", "mass": 4}]},
  {"name": "fruit", "children": [{"name": "figs", "mass": 2}, {"name": "plums", "mass": 3}]}]}"""


def draw_json(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """Boxes within boxes, as large as their masses."""
    axes, rectangle = canvas(figure), _require("matplotlib.patches").Rectangle
    mass, place = aggregate(h.mass.float(), h.tree), tidy(h)[0]
    leaf, hue = torch.arange(h.tree.num_nodes) < h.num_nodes, colors(branches(h))

    def box(node: int, x: float, y: float, width: float, height: float, level: int = 0) -> None:
        light = 0.0 if leaf[node] else 0.75 - 0.2 * (level - 1)
        color = tint(hue[node].tolist(), light) if level else "0.93"
        edge = {"edgecolor": "white", "linewidth": 1.5}
        axes.add_patch(rectangle((x, y), width, height, facecolor=color, **edge))
        name = h.tree_names.attrs[node]["name"]
        if leaf[node]:
            look = {"ha": "center", "va": "center", "color": "white", "weight": "bold"}
            axes.text(x + width / 2, y + height / 2, name, fontsize=9, **look)
            return
        axes.text(x + 0.12, y + 0.3, name, va="center", fontsize=7, color=INK)
        x, y, width, height = x + 0.08, y + 0.6, width - 0.16, height - 0.68
        children = ((h.parent == node) & (h.tree.level == level + 1)).nonzero().view(-1)
        for child in children[place[children].argsort()].tolist():
            share = float(mass[child] / mass[node])
            wide, high = (width, height * share) if level % 2 else (width * share, height)
            box(child, x, y, wide, high, level + 1)
            x, y = (x, y + high) if level % 2 else (x + wide, y)

    box(int(h.tree.order[0]), 0.0, 0.0, 15.0, 10.0)
    axes.set(xlim=(0, 15), ylim=(10, 0))


SENTENCE = ("the", "dog", "chased", "a", "very", "old", "cat")
HEAD = (1, 2, -1, 6, 5, 6, 2)


def draw_syntax(figure: Any, h: Hierarchy, given: dict[str, Any]) -> None:
    """The words, arcs from their heads, and below them the tree."""
    axes, arc = canvas(figure), _require("matplotlib.patches").FancyArrowPatch
    widths = torch.tensor([len(word) + 1.2 for word in SENTENCE])
    right = widths.cumsum(0)
    middle = right - widths / 2
    hue = shades(h, 1)
    for word, head in enumerate(HEAD):
        if head >= 0:
            ends = (float(middle[head]), 1.0), (float(middle[word]), 1.0)
            bend = 0.8 if ends[1][0] < ends[0][0] else -0.8
            look = {"arrowstyle": "-|>", "mutation_scale": 7, "color": INK, "linewidth": 0.9}
            style = f"arc3,rad={bend}"
            axes.add_patch(arc(*ends, connectionstyle=style, shrinkA=1, shrinkB=1, **look))
        look = {"ha": "center", "va": "center", "fontsize": 10, "color": "w", "weight": "bold"}
        axes.text(middle[word], 0.5, SENTENCE[word], **look)
    rectangle = _require("matplotlib.patches").Rectangle
    for level in range(h.depth + 1):
        cluster = clusters_at(h.tree, h.depth - level)
        for number in range(cluster.num_clusters):
            word = (cluster.cluster == number).nonzero().view(-1)
            left, end = float((right - widths)[word[0]]), float(right[word[-1]])
            color = INK if level == h.depth else hue[int(word[0])]
            alpha = 1.0 if level == 0 else 0.55 if level < h.depth else 0.35
            box = {"color": color, "alpha": alpha, "linewidth": 0}
            height = 0.9 if level == 0 else 0.22
            y = 0.05 if level == 0 else 0.05 - 0.3 * level
            axes.add_patch(rectangle((left + 0.1, y), end - left - 0.2, height, **box))
    axes.set(xlim=(0, float(right[-1])), ylim=(-0.95, 2.45))


# The table ########################################################################################

SOURCES = {
    "points": Source(
        "points `pos` `[N, D]`",
        ("from_points(pos, branching=4)",),
        "a galaxy in quarters of quarters",
        galaxy,
        draw_points,
    ),
    "voxels": Source(
        "points `pos`,<br>cells of a given size",
        ("from_voxels(pos, size=0.1)",),
        "points on a figure of eight, in the cells of a quadtree",
        eight,
        draw_voxels,
    ),
    "mesh": Source(
        "a mesh file `path`, or a mesh<br>of trimesh, meshio or PyG",
        ("from_mesh(pyvista.read(path))",),
        "an airplane, its shells and their pieces",
        airplane,
        draw_mesh,
    ),
    "image": Source(
        "pixels `x` of an image `H` × `W`,<br>or voxels of a volume",
        ("from_grid((H, W), x=x)",),
        "a landscape at ever finer levels of a quadtree",
        landscape,
        draw_image,
    ),
    "graph": Source(
        "a PyG graph `data`",
        ("from_graph(data)", "from_graph(data, method='metis')"),
        "a graph whose neighbours are matched level by level",
        triangulation,
        draw_graph,
    ),
    "communities": Source(
        "a networkx graph `G`",
        ("from_graph(G, method='communities')",),
        "the communities of a karate club",
        karate,
        draw_communities,
    ),
    "pooling": Source(
        "`outputs`, a list of what PyG's<br>pooling layers made of `edge_index`",
        ("from_pooling(outputs, edge_index=edge_index)",),
        "a graph and what two pooling layers make of it",
        pooled,
        draw_pooling,
    ),
    "smiles": Source(
        "a `smiles` string",
        ("from_smiles(smiles)",),
        "procainamide and its fragments",
        lambda: {"smiles": "CCN(CC)CCNC(=O)c1ccc(N)cc1"},
        draw_smiles,
    ),
    "molecule": Source(
        "an RDKit molecule `mol`",
        ("from_molecule(mol, levels=['scaffold', 'rings'])",),
        "atorvastatin: rings of its scaffold, and side chains",
        atorvastatin,
        draw_rdkit,
    ),
    "text": Source(
        "a `text`",
        ("from_text(text)",),
        "words, by sentence and paragraph",
        lambda: {"text": TEXT},
        draw_text,
    ),
    "markdown": Source(
        "Markdown `text`",
        ("from_markdown(text)",),
        "nested sections of a document",
        lambda: {"text": MARKDOWN},
        draw_markdown,
    ),
    "tokens": Source(
        "a sequence of `tokens`",
        ("from_sequence(len(tokens), windows=(3, 9))",),
        "windows over bases of RNA",
        lambda: {"tokens": list("AUGGCUUACGAUCCGUUAGCAUGGUAA")},
        draw_tokens,
    ),
    "parent": Source(
        "the `parent` of each node,<br>features `x` of the leaves",
        ("from_parent(parent, x=x)",),
        "a tree of five leaves",
        lambda: {"parent": [5, 5, 6, 6, 6, 7, 7, 7], "x": torch.eye(5)},
        draw_parent,
    ),
    "networkx": Source(
        "a networkx tree `G`<br>(back: `to_networkx`)",
        ("from_networkx(G, root=0)",),
        "a tree around its root",
        taxonomy,
        draw_networkx,
    ),
    "clusters": Source(
        "the cluster `c0` of each row of `x`,<br>the cluster `c1` of each of these",
        ("from_clusters([c0, c1], x=x)",),
        "clusters within clusters",
        blobs,
        draw_clusters,
    ),
    "linkage": Source(
        "a linkage `Z` of SciPy,<br>a `model` of scikit-learn,<br>a condensed `tree` of HDBSCAN",
        (
            "from_linkage(Z, num_clusters=[3, 9])",
            "from_children(model.children_)",
            "from_condensed_tree(tree)",
        ),
        "a dendrogram, cut twice",
        dendrogram,
        draw_linkage,
    ),
    "newick": Source(
        "a Newick `text`<br>(back: `to_newick`)",
        ("from_newick(text)",),
        "the family of the great apes",
        lambda: {"text": NEWICK},
        draw_newick,
    ),
    "json": Source(
        "nested dicts in a JSON `text`,<br>or nested lists",
        ("from_json(text)", "from_nested([['a', 'b'], 'c'])"),
        "the parts of a meal",
        lambda: {"text": MEAL},
        draw_json,
    ),
    "syntax": Source(
        "features `x` of **all** nodes:<br>the `head` of each word",
        ("from_parent(head, x=x, internal='leaf')",),
        "a sentence: heads of words, and the tree",
        lambda: {"head": list(HEAD), "x": torch.eye(len(HEAD))},
        draw_syntax,
    ),
}


def readme_table() -> str:
    """The table of the README."""
    lines = ["| You have | You write | What it looks like |", "|---|---|---|"]
    for name, source in SOURCES.items():
        code = "<br>".join(f"`{line}`" for line in source.code)
        picture = (
            f'<img src="examples/figures/hierarchies/{name}.png" '
            f'width="{WIDTH}" alt="{source.shows}">'
        )
        lines.append(f"| {source.has} | {code} | {picture} |")
    return "\n".join(lines)


def draw(source: Source, h: Hierarchy, inputs: dict[str, Any], path: Path) -> None:
    """Saves the picture of one source."""
    figure = _require("matplotlib.figure").Figure(figsize=SIZE, dpi=DPI)
    source.draw(figure, h, inputs)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=DPI)
    # 128 colours are enough for such pictures, and make their files smaller.
    _require("PIL.Image").open(pixels).convert("RGB").quantize(128, dither=0).save(
        path, optimize=True
    )


def main(
    names: tuple[str, ...] | None = None, folder: Path | str = FOLDER, progress: bool = True
) -> dict[str, dict[str, int]]:
    """Builds every hierarchy, saves its picture, prints the table and returns its numbers.

    Args:
        names: which of :data:`SOURCES`. (default: all)
        folder: where the pictures go.
        progress: show a progress bar.

    Returns:
        For each line of code ``leaves``, ``nodes``, ``depth`` and ``families``.
    """
    unknown = sorted(set(names or ()) - set(SOURCES))
    if unknown:
        raise ValueError(f"Expected names out of {list(SOURCES)} (got {unknown})")
    for name in NEEDS:
        _require(name)
    folder, numbers = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    bar = progress_bar(names or SOURCES, unit="picture", disable=not progress)
    for name in bar:
        bar.set_postfix_str(name, refresh=False)
        source = SOURCES[name]
        inputs = source.inputs()
        built = source.build(inputs)
        draw(source, built[0], inputs, folder / f"{name}.png")
        for line, h in zip(source.code, built, strict=True):
            numbers[line] = {
                "leaves": h.num_nodes,
                "nodes": h.num_tree_nodes,
                "depth": h.depth,
                "families": h.num_tree_nodes - h.num_nodes,
            }
    print("| line of code | leaves | nodes | depth | families |")
    print("|:--|--:|--:|--:|--:|")
    for line, row in numbers.items():
        print(f"| `{line}` | {' | '.join(f'{value:,}' for value in row.values())} |")
    print(f"\nPictures: {folder}")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="which sources (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to save the pictures")
    parser.add_argument("--readme", action="store_true", help="print the table of the README")
    args = parser.parse_args()
    if args.readme:
        print(readme_table())
    else:
        main(tuple(args.names) or None, args.folder)
