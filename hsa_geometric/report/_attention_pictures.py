"""Leaves in the colour of a number: in space, as a surface, a molecule, a text, an image."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from hsa_geometric.builders._extra import extra
from hsa_geometric.builders.molecules._rdkit import import_chem
from hsa_geometric.builders.molecules.from_molecule import check_mol, mol_of
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.report.plot import equal_axes, positions, pyplot

MOST_TOKENS = 5_000  # that are drawn
COLUMNS = 84  # characters of a line of text
NOTHING, SPACE, PARAGRAPH = range(3)  # before a word
ADVANCE = 0.602  # width of a character of DejaVu Sans Mono, in its size


def new_axes(ax: Any, size: tuple[float, float], **options: Any) -> Any:
    """The caller's axes, or new ones of so many inches."""
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=size, layout="constrained", subplot_kw=options)[1]


def norm_of(weight: Tensor, log: bool) -> Any:
    """From 0 to the largest, or four orders of magnitude up to the largest."""
    from matplotlib.colors import LogNorm, Normalize

    most = float(weight.max())
    some = weight[weight > 0]
    if not log or most <= 0:
        return Normalize(0, most if most > 0 else 1)
    return LogNorm(min(max(float(some.min()), 1e-4 * most), 0.999 * most), most)


def draw_points(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], ax: Any, norm: Any, cmap: Any
) -> Any:
    """A dot for each leaf, the heaviest on top."""
    points = positions(h)
    ax = new_axes(ax, (6, 5), **({"projection": "3d"} if len(points) == 3 else {}))
    order = weight.argsort()
    size = max(1.0, min(30.0, 60_000 / h.num_nodes))
    marker = "o" if h.num_nodes <= 100_000 else "s"  # squares are drawn faster
    many = {"marker": marker, "s": size, "linewidths": 0, "rasterized": True}
    shown = weight[order].clamp(min=norm.vmin)
    dots = ax.scatter(*points[:, order.numpy()], c=shown.numpy(), norm=norm, cmap=cmap, **many)
    _mark(ax, points, marked)
    equal_axes(ax, points)
    return ax, dots


def draw_surface(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], ax: Any, norm: Any, cmap: Any
) -> Any:
    """Triangles, each in the mean colour of its corners."""
    points, face = positions(h), _faces(h)
    if len(points) == 2:
        ax = new_axes(ax, (6, 5))
        shown = weight.clamp(min=norm.vmin).numpy()
        drawn = ax.tripcolor(
            *points, face.t().numpy(), shown, norm=norm, cmap=cmap, shading="gouraud"
        )
    else:
        ax = new_axes(ax, (6, 5), projection="3d", computed_zorder=False)
        drawn = ax.plot_trisurf(
            *points[:2], points[2], triangles=face.t().numpy(), edgecolors=(1, 1, 1, 0.3),
            linewidth=0.2 if face.shape[1] <= 20_000 else 0,
        )  # fmt: skip
        drawn.set(array=weight[face].mean(0).clamp(min=norm.vmin).numpy(), norm=norm, cmap=cmap)
        if len(marked):  # seen from its side
            x, y, z = points[:, marked].mean(1) - points.mean(1)
            height = math.degrees(math.atan2(z, math.hypot(x, y)))
            ax.view_init(height, math.degrees(math.atan2(y, x)) + 20)
    _mark(ax, points, marked)
    equal_axes(ax, points)
    return ax, drawn


def draw_surface_pyvista(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], plotter: Any, norm: Any, cmap: Any
) -> Any:
    """The same on a plotter of PyVista."""
    points, face = positions(h), _faces(h)
    with extra("meshes", "backend='pyvista' needs PyVista"):
        import pyvista
    from matplotlib.colors import LogNorm

    if len(points) == 2:
        points = torch.nn.functional.pad(torch.from_numpy(points), (0, 0, 0, 1)).numpy()
    ours = plotter is None
    plotter = pyvista.Plotter(off_screen=True) if ours else plotter
    mesh = pyvista.PolyData.from_regular_faces(points.T, face.t().numpy())
    mesh["attention"] = weight.clamp(min=norm.vmin).numpy()
    plotter.add_mesh(
        mesh, scalars="attention", cmap=cmap, clim=(norm.vmin, norm.vmax),
        log_scale=isinstance(norm, LogNorm), smooth_shading=True,
    )  # fmt: skip
    if len(marked):
        plotter.add_points(
            points.T[marked], color="red", point_size=14, render_points_as_spheres=True
        )
        if ours:  # seen from its side
            plotter.view_vector(points[:, marked].mean(1) - points.mean(1), (0, 0, 1))
    return plotter


def draw_molecule(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], molecule: Any, ax: Any, norm: Any,
    cmap: Any,
) -> Any:  # fmt: skip
    """RDKit's drawing, with shaded atoms."""
    Chem = import_chem("plot_attention of a molecule")
    from rdkit.Chem.Draw import rdMolDraw2D

    if molecule is not None:
        check_mol(molecule, Chem)
        mol = Chem.Mol(molecule)
    elif isinstance(h.get("smiles"), str):
        mol = Chem.Mol(mol_of(h, Chem))
    else:
        raise ValueError("Expected 'smiles' in 'h', or a 'molecule' (got neither)")
    if mol.GetNumAtoms() != h.num_nodes:
        raise ValueError(
            f"Expected 'molecule' to have the {h.num_nodes} atoms of 'h' (got {mol.GetNumAtoms()})"
        )
    plt = pyplot()
    scale = plt.cm.ScalarMappable(norm, cmap)
    for atom in marked:
        mol.GetAtomWithIdx(atom).SetProp("atomNote", "*")
    shades = {i: tuple(scale.to_rgba(w)[:3]) for i, w in enumerate(weight.tolist())}
    canvas = rdMolDraw2D.MolDraw2DCairo(1000, 800)
    style: Any = canvas.drawOptions()
    style.useBWAtomPalette()
    style.annotationFontScale = 1.0
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas, mol, highlightAtoms=list(shades), highlightAtomColors=shades, highlightBonds=[]
    )
    canvas.FinishDrawing()
    ax = new_axes(ax, (6, 5))
    ax.imshow(plt.imread(BytesIO(canvas.GetDrawingText())))
    return ax, scale


def draw_image(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], ax: Any, norm: Any, cmap: Any
) -> Any:
    """A pixel for each cell of a grid."""
    place = grid_of(h)
    if place is None:
        raise ValueError(
            "Expected 'pos' in 'h' to hold rows and columns of all cells of an image, as from_grid "
            "makes them (got none, or others)"
        )
    size = (place.amax(0) + 1).tolist()
    image = torch.empty(size, dtype=weight.dtype)
    image[place[:, 0], place[:, 1]] = weight
    ax = new_axes(ax, (6, 5))
    drawn = ax.imshow(image.clamp(min=norm.vmin).numpy(), norm=norm, cmap=cmap)
    _mark(ax, place.flip(1).T.numpy(), marked)
    return ax, drawn


def grid_of(h: Hierarchy) -> Tensor | None:
    """``[N, 2]`` row and column of each leaf, if they are all cells of a grid."""
    pos = h.get("pos")
    if not isinstance(pos, Tensor) or pos.dim() != 2 or pos.shape[1] != 2:
        return None
    pos = pos.detach().cpu()
    place = pos.long()
    if not bool((place == pos).all()) or int(place.amin()) < 0:
        return None
    height, width = (place.amax(0) + 1).tolist()
    if height * width != pos.shape[0]:
        return None
    every = (place[:, 0] * width + place[:, 1]).unique().numel() == pos.shape[0]
    return place if every else None


def draw_text(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], text: Any, ax: Any, norm: Any, cmap: Any
) -> Any:
    """Words on shaded ground, with a gap between paragraphs."""
    words, gaps = _words(h, text)
    if len(words) > MOST_TOKENS:
        raise ValueError(
            f"Expected at most {MOST_TOKENS:,} tokens in 'h' for kind='text' (got {len(words):,}; "
            f"kind='html' takes any number)"
        )
    plt = pyplot()
    from matplotlib.collections import PolyCollection

    column, row = 0, 0.0
    lines: list[tuple[int, float]] = []  # of each word its left end and its line
    for word, gap in zip(words, gaps, strict=True):
        column += gap == SPACE and column > 0
        if gap == PARAGRAPH and lines:
            column, row = 0, row + 1.6
        elif column and column + len(word) > COLUMNS:
            column, row = 0, row + 1
        lines.append((column, row))
        column += len(word)
    left, top = torch.tensor(lines, dtype=torch.float64).T
    right = left + torch.tensor([len(word) for word in words])
    height = float(top.max()) + 1
    if ax is None:
        ax = plt.subplots(figsize=(8, 0.7 + 0.22 * height), layout="constrained")[1]
    across = max(COLUMNS, float(right.max()))
    ax.set(xlim=(-0.5, across), ylim=(height, -0.2))
    ax.figure.draw_without_rendering()  # so that the axes know their width
    inches = ax.get_window_extent().width / ax.figure.dpi
    size = 72 * inches / (across + 0.5) / ADVANCE
    corners = torch.stack([left, top, right, top, right, top + 0.9, left, top + 0.9], 1)
    ground = PolyCollection(
        list(corners.view(-1, 4, 2).numpy()), array=weight.numpy(), norm=norm, cmap=cmap
    )
    ax.add_collection(ground)
    dark = _luminance(ground.cmap(norm(weight.numpy()))) < 0.5
    for i, (word, (x, y)) in enumerate(zip(words, lines, strict=True)):
        bold = "bold" if i in marked else "normal"
        ax.text(
            x, y + 0.68, word, family="monospace", fontsize=size, color="w" if dark[i] else "k",
            weight=bold, parse_math=False,
        )  # fmt: skip
    for i in marked:
        ax.plot([left[i], right[i]], [top[i] + 0.95] * 2, color="red", linewidth=1.5)
    return ax, ground


def text_html(
    h: Hierarchy, weight: Tensor, marked: Sequence[int], text: Any, norm: Any, cmap: Any
) -> str:
    """The same as HTML."""
    from html import escape

    words, gaps = _words(h, text)
    color = pyplot().get_cmap(cmap)(norm(weight.numpy()))
    dark = _luminance(color) < 0.5
    shade = (255 * color[:, :3]).round().astype(int).tolist()
    chosen = set(marked)
    between = {NOTHING: "", SPACE: " ", PARAGRAPH: "</p>\n<p>"}
    out = ["<p>"]
    for i, (word, gap) in enumerate(zip(words, gaps, strict=True)):
        style = f"background:rgb({','.join(map(str, shade[i]))})"
        style += ";color:#fff" if dark[i] else ""
        style += ";outline:2px solid red" if i in chosen else ""
        start = between[gap] if i else ""
        out.append(f'{start}<span style="{style}">{escape(word)}</span>')
    return "".join(out) + "</p>"


def _words(h: Hierarchy, text: Any) -> tuple[list[str], list[int]]:
    """The tokens, and what stands before each: before a paragraph it is a blank line."""
    if not isinstance(text, str):
        raise TypeError(f"Expected 'text' to be a string (got {type(text).__name__})")
    offset = h.get("offset")
    if not isinstance(offset, Tensor):
        raise ValueError("Expected 'offset' in 'h', as from_text makes it (got none)")
    spans = offset.tolist()
    if max(end for _, end in spans) > len(text):
        raise ValueError("Expected 'text' to be the one of 'h' (got a shorter one)")
    ends = [0, *(end for _, end in spans[:-1])]
    blank = re.compile(r"\n\s*\n")
    before = [text[end:start] for end, (start, _) in zip(ends, spans, strict=True)]
    gaps = [PARAGRAPH if blank.search(x) else SPACE if x else NOTHING for x in before]
    return [" ".join(text[start:end].split()) for start, end in spans], gaps


def _luminance(color: Any) -> Any:
    """Of RGBA ``[N, 4]``."""
    return color[:, :3] @ [0.299, 0.587, 0.114]


def _faces(h: Hierarchy) -> Tensor:
    face = h.get("face")
    if not isinstance(face, Tensor) or face.dim() != 2 or face.shape[0] != 3 or not face.numel():
        got = "none" if face is None else list(face.shape)
        raise ValueError(f"Expected 'face' of triangles [3, F] in 'h' (got {got})")
    return face.cpu()


def _mark(ax: Any, points: Any, marked: Sequence[int]) -> None:
    if len(marked):
        at = points[:, list(marked)]
        ax.scatter(*at, s=90, facecolors="none", edgecolors="red", linewidths=1.8, zorder=10)
