"""Draws attention of single leaves: on points, a surface, a molecule, a text, an image, as blocks.

``python docs/figures/attention.py`` writes the pictures. Nothing is trained: queries and keys are
random features of places, of atoms and of words, so that what is alike attends to each other.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from hsa_geometric import from_grid, from_mesh, from_points, from_smiles, from_text
from hsa_geometric.report import attention_blocks, plot_attention

FIGURES = Path(__file__).parent
TEXT = """A tree has leaves. The leaves of a tree attend to each other, and all leaves of a branch \
share one weight towards another branch.

Words are leaves too. A word attends to the words of its sentence one by one, to other sentences \
as a whole, and to other paragraphs of the text as a whole.

So a text of many words costs little: a word has as many weights as there are words in its \
sentence, sentences in its paragraph and paragraphs in the text."""


def near(pos: Tensor, *, sharp: float = 1.2, length: float = 0.3) -> Tensor:
    """``[N, 1, 64]`` features whose dot product falls with the distance."""
    wave = pos @ torch.randn(pos.shape[1], 32) / length
    return sharp * torch.cat([wave.cos(), wave.sin()], dim=1).unsqueeze(1)


def alike(names: list) -> Tensor:
    """``[N, 1, 32]`` features, the same for what has the same name."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    features = torch.randn(len(number), 32)
    return 0.6 * features[[number[name] for name in names]].unsqueeze(1)


def surface() -> tuple[Tensor, Tensor]:
    """Vertices and triangles of a torus."""
    u, v = torch.meshgrid(torch.arange(64), torch.arange(28), indexing="ij")
    a, b = u.flatten() * 2 * torch.pi / 64, v.flatten() * 2 * torch.pi / 28
    ring = 1 + 0.4 * b.cos()
    pos = torch.stack([ring * a.cos(), ring * a.sin(), 0.4 * b.sin()], 1)
    corner = [((u + i) % 64 * 28 + (v + j) % 28).flatten() for i, j in [(0, 0), (1, 0), (1, 1)]]
    other = [((u + i) % 64 * 28 + (v + j) % 28).flatten() for i, j in [(0, 0), (1, 1), (0, 1)]]
    return pos, torch.cat([torch.stack(corner, 1), torch.stack(other, 1)])


def main(folder: Path = FIGURES) -> list[Path]:
    """Writes the pictures and returns their paths."""
    torch.manual_seed(0)
    pos = torch.rand(4_000, 2)
    points = from_points(pos, branching=4)
    few = from_points(torch.rand(64, 2), branching=4)
    mesh = from_mesh(surface())
    molecule = from_smiles("CC(=O)Nc1ccc(cc1)S(=O)(=O)N2CCOCC2")
    text = from_text(TEXT)
    words = [TEXT[a:b].lower() for a, b in text.offset.tolist()]
    grid = from_grid((48, 64))
    atoms = [tuple(row) for row in molecule.x[:, :5].tolist()]
    cases = {
        "matrix": (few, near(few.pos), None, {}),
        "points": (points, near(pos), 1234, {}),
        "surface": (mesh, near(mesh.pos, length=0.6), 900, {}),
        "molecule": (molecule, alike(atoms), 5, {}),
        "text": (text, alike(words), words.index("leaves", 9), {"text": TEXT}),
        "image": (grid, near(grid.pos, length=12), 48 * 20 + 21, {}),
    }
    paths = []
    for name, (h, x, leaf, options) in cases.items():
        picture = plot_attention(h, attention_blocks(h, x, x), leaf, **options)
        paths.append(folder / f"attention_{name}.png")
        picture.ax.figure.savefig(paths[-1], dpi=80, bbox_inches="tight")
        plt.close("all")
    return paths


if __name__ == "__main__":
    print(*main(), sep="\n")
