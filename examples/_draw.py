"""What several examples draw: surfaces and molecules."""

import math
from io import BytesIO
from typing import Any

import torch
from torch import Tensor


def draw_surface(
    axes: Any,
    pos: Tensor,
    face: Tensor,
    color: Any,
    view: tuple[float, float],
    edge: Any = None,
    zoom: float = 1.4,
) -> None:
    """Draws on 3D axes the triangles that one sees.

    Args:
        axes: of matplotlib, with ``projection='3d'``.
        pos: ``[N, 3]`` places of the vertices.
        face: ``[3, F]`` vertices of the triangles.
        color: ``[F, 3]`` or ``[F, 4]`` of the triangles.
        view: elevation and azimuth of the viewer in degrees.
        edge: colour of their edges. (default: theirs)
        zoom: of the picture.
    """
    from matplotlib.colors import LightSource
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    up, turn = map(math.radians, view)
    viewer = [math.cos(up) * math.cos(turn), math.cos(up) * math.sin(turn), math.sin(up)]
    a, b, c = pos[face]
    seen = torch.linalg.cross(b - a, c - a) @ pos.new_tensor(viewer) > 0
    look = {"facecolors": color[seen], "edgecolors": color[seen], "linewidths": 0.3}
    if edge is not None:
        look |= {"edgecolors": edge, "linewidths": 0.1}
    light = LightSource(azdeg=200, altdeg=60)
    corners = pos[face.t()[seen]].numpy()
    axes.add_collection3d(Poly3DCollection(corners, shade=True, lightsource=light, **look))
    low, high = pos.aminmax(dim=0)
    box = torch.stack([low, high], dim=1).tolist()
    axes.set(**dict(zip(("xlim", "ylim", "zlim"), box, strict=True)))
    axes.set_box_aspect((high - low).tolist(), zoom=zoom)
    axes.view_init(*view)
    axes.set_axis_off()


def draw_molecule(
    axes: Any, mol: Any, color: Any, group: Tensor | None = None, **options: Any
) -> None:
    """Draws a molecule of RDKit on axes that it fills.

    Args:
        axes: of matplotlib.
        mol: the molecule.
        color: ``[N, 3]`` of the atoms.
        group: ``[N]`` of the atoms; the bonds within a group are coloured too.
        **options: of RDKit's drawing.
    """
    from matplotlib.image import imread
    from rdkit.Chem.Draw import rdMolDraw2D

    box = axes.get_window_extent()
    canvas = rdMolDraw2D.MolDraw2DCairo(round(box.width), round(box.height))
    canvas.drawOptions().useBWAtomPalette()
    for name, value in {"padding": 0.03, **options}.items():
        setattr(canvas.drawOptions(), name, value)
    atoms = {i: tuple(float(c) for c in rgb[:3]) for i, rgb in enumerate(color)}
    bonds = {}
    for bond in mol.GetBonds() if group is not None else ():
        first, last = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if group[first] == group[last]:
            bonds[bond.GetIdx()] = atoms[first]
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas, mol, highlightAtoms=list(atoms), highlightAtomColors=atoms,
        highlightBonds=list(bonds), highlightBondColors=bonds,
    )  # fmt: skip
    canvas.FinishDrawing()
    axes.imshow(imread(BytesIO(canvas.GetDrawingText())), interpolation="nearest")
    axes.set_axis_off()
