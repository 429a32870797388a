r"""Learning the solution operator of a diffusion problem on real surfaces.

On a triangle mesh (PyVista's airplane of 7 unconnected shells, or its ant of 15) heat is brought in
at a rate :math:`f`, spreads along the surface and is lost everywhere:

.. math::
    -\Delta u + c \, u = f \qquad\text{discretised as}\qquad (K + c M) \, u = M f

with the cotangent stiffness matrix :math:`K` and the lumped mass matrix :math:`M` (the vertex
areas). A network is given :math:`f`, smooth waves or a few hot spots, and predicts :math:`u`.
Heat travels much further than the few edges that message passing sees. Compared at equal numbers
of parameters, on sources that no model has seen:

* ``HSA``: in each layer message passing, and beside it attention along the tree of
  :func:`~hsa_geometric.builders.from_mesh`, surface → shells → pieces → vertices;
* ``message passing`` alone in twice as many layers, trained for at least as many seconds;
* ``flat softmax``: message passing, and attention between all vertices;
* ``without areas``: as ``HSA``, trained with all vertices weighing the same.

Else attention weighs every vertex by its area. So trained models are then applied, unchanged, to
finer meshes of the same surface, the first one also with the areas withheld from it.

Run ``python examples/mesh.py`` (minutes on one core) or add ``--fast`` (under a minute).
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _compare import compare, descend, needs, of_equal_size, spread, warm_cosine
from _draw import draw_surface
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.nn import MLP, GINEConv
from torch_geometric.utils import get_mesh_laplacian

from hsa_geometric import Hierarchy, from_mesh
from hsa_geometric.nn import HierarchicalTransformer

HSA, PASSING, FLAT, COUNTS = "HSA", "message passing", "flat softmax", "without areas"
VARIANTS = {  # attention of each and its layers, in the order of training
    HSA: ("softmax", 3),
    PASSING: (None, 6),
    FLAT: ("flat", 3),
    COUNTS: ("softmax", 3),
}
MESHES = ("original", "all split", "part split")
SCREENING = 4.0  # c: heat travels 1 / sqrt(c), here half of the cube that holds the surface
BATCH_SIZE, LEARNING_RATE = 2, 3e-3
VIEWS = {  # the file, which axes point to the right, back and up, elevation and azimuth in degrees
    "airplane": ("planefile", [0, 1, 2], (42, 215)),
    "ant": ("antfile", [2, 0, 1], (50, 30)),
    "nut": ("nutfile", [0, 1, 2], (30, -60)),
}
FIGURE = Path(__file__).parent / "figures" / "mesh.png"


class Surface(NamedTuple):
    """A mesh in float64, and the truth: :obj:`solve` maps ``f`` to ``u``, both ``[B, N]``."""

    h: Hierarchy
    solve: Callable[[Tensor], Tensor]


def read_mesh(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns points ``[N, 3]``, in the cube from -1 to 1, and triangles ``[F, 3]``."""
    import pyvista
    from pyvista import examples

    mesh = pyvista.read(getattr(examples, VIEWS[name][0])).triangulate().clean()
    pos = mesh.points.astype(float)
    low, high = pos.min(axis=0), pos.max(axis=0)
    return (2 * pos - low - high) / (high - low).max(), mesh.regular_faces


def assemble(pos: np.ndarray, face: np.ndarray) -> Surface:
    """The tree, and the factorised system of one mesh."""
    from scipy.sparse import coo_array, diags_array
    from scipy.sparse.linalg import splu

    h = from_mesh((pos, face))
    near, weight = get_mesh_laplacian(h.pos, h.face)
    size = (h.num_nodes, h.num_nodes)
    system = diags_array(SCREENING * h.mass.numpy()) - coo_array((weight, near), size)
    factors = splu(system.tocsc())
    return Surface(h, lambda f: torch.from_numpy(factors.solve((f * h.mass).t().numpy())).t())


def surfaces_of(name: str) -> dict[str, Surface]:
    """The surface, with each triangle split into four, and with those of the largest shell so."""
    from trimesh.graph import connected_component_labels
    from trimesh.remesh import subdivide

    pos, face = read_mesh(name)
    shell = connected_component_labels(face[:, [0, 1, 1, 2]].reshape(-1, 2))
    largest = np.flatnonzero(shell[face[:, 0]] == np.bincount(shell).argmax())
    meshes = ((pos, face), subdivide(pos, face), subdivide(pos, face, largest))
    return dict(zip(MESHES, (assemble(*mesh) for mesh in meshes), strict=True))


def random_sources(num: int, surface: Surface, generator: torch.Generator) -> Callable:
    """Draws functions of position; calling the result gives their values ``[num, N]`` on any mesh.

    The first half are sums of eight plane waves, the others four hot or cold spots on
    :obj:`surface`. They have a root mean square of 1 there.
    """

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    waves, h = num // 2, surface.h
    direction, phase = 3 * normal(waves, 3, 8), 2 * math.pi * normal(waves, 1, 8)
    height = normal(waves, 1, 8)
    spot = torch.randint(h.num_nodes, (num - waves, 4), generator=generator)
    center, charge = h.pos[spot], normal(num - waves, 1, 4)
    width = 2.5 * (h.mass.sum() / h.num_nodes).sqrt()

    def evaluate(pos: Tensor) -> Tensor:
        smooth = (height * (pos @ direction + phase).cos()).sum(dim=2)
        points = (charge * (-0.5 * (torch.cdist(pos, center) / width) ** 2).exp()).sum(dim=2)
        return torch.cat([smooth, points])

    scale = norm(evaluate(h.pos), h.mass).unsqueeze(1)
    return lambda other: evaluate(other.h.pos) / scale


def norm(x: Tensor, area: Tensor) -> Tensor:
    """The root mean square over the surface, in the last dimension."""
    return ((x**2 * area).sum(dim=-1) / area.sum()).sqrt()


def relative_error(out: Tensor, u: Tensor, area: Tensor) -> Tensor:
    """The relative :math:`L_2` error of each sample, shape ``[B]``."""
    return norm(out - u, area) / norm(u, area)


def given_to_model(surface: Surface, areas: bool, copies: int) -> Batch:
    """The surface, with features of places and edges, as a batch of copies."""
    h, (row, col) = surface.h.clone(), surface.h.edge_index
    pos = h.pos.float()
    waves = torch.cat([pos * math.pi * 2**octave for octave in range(4)], dim=1)
    step = pos[row] - pos[col]
    length = step.norm(dim=1, keepdim=True)
    h.x = torch.cat([pos, waves.sin(), waves.cos()], dim=1)
    h.edge_attr = torch.cat([step, length], dim=1) / length.mean()
    h.mass = h.mass.float() if areas else torch.ones(h.num_nodes)
    return Batch.from_data_list([h] * copies)  # its tree is built once, at first use


class Operator(HierarchicalTransformer):
    """Maps sources to solutions."""

    def __init__(self, variant: str, mlp_channels: int, channels: int = 64):
        attention, layers = VARIANTS[variant]
        super().__init__(
            1 + 27, channels, 1, layers, heads=2, readout=None, attention=attention,
            mlp_channels=mlp_channels,
            conv=lambda i, o: GINEConv(MLP([i, 2 * i, o], norm=None), edge_dim=4, aggr="mean"),
        )  # fmt: skip

    def forward(self, f: Tensor, batch: Batch) -> Tensor:
        """Shapes: ``f`` ``[B, N]`` on a batch of ``B`` copies of the surface; returns the same."""
        x = torch.cat([f.reshape(-1, 1), batch.x], dim=1)
        given = {key: batch[key] for key in ("mass", "edge_index", "edge_attr")}
        return super().forward(x, batch.tree, **given).view_as(f)


def make_model(variant: str) -> Operator:
    """Returns the model of a variant, all of the same size."""
    model: Operator = of_equal_size(Operator, variant, HSA, 64)
    return model


@torch.no_grad()
def predict(model: Operator, surface: Surface, f: Tensor, areas: bool = True) -> Tensor:
    """Applies a model to sources ``f`` ``[B, N]`` on one surface."""
    batch = given_to_model(surface, areas, len(f))
    return model(f.float(), batch).double()


def train(
    variant: str, surface: Surface, steps: int, seed: int, min_seconds: float, bar: Any
) -> dict[str, Any]:
    """Trains a model on fresh sources, for at least :obj:`min_seconds` of CPU time.

    The learning rate follows a cosine over steps or seconds, whichever last longer, so that every
    model comes to the end of its schedule.
    """
    generator, model = torch.Generator().manual_seed(seed), make_model(variant)
    batch, area = given_to_model(surface, variant != COUNTS, BATCH_SIZE), surface.h.mass
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    start, step, done = time.process_time(), 0, 0.0
    schedule = warm_cosine(optimizer, lambda: done)
    unit = unit_of(surface)
    while done < 1:
        f = random_sources(BATCH_SIZE, surface, generator)(surface)
        loss = relative_error(model(f.float(), batch), surface.solve(f) / unit, area).mean()
        descend(loss, model, optimizer, schedule)
        step, seconds, before = step + 1, time.process_time() - start, done
        done = min(step / steps, seconds / min_seconds if min_seconds else 1.0, 1.0)
        bar.set_postfix_str(f"error {loss.item():.3f}", refresh=False)
        bar.update(int(steps * done) - int(steps * before))
    return {"model": model.eval(), "steps": step, "seconds": seconds}


def unit_of(surface: Surface) -> Tensor:
    """The root mean square of typical solutions: the unit in which the networks predict."""
    f = random_sources(64, surface, torch.Generator().manual_seed(1))(surface)
    return norm(surface.solve(f), surface.h.mass).square().mean().sqrt()


def run(
    name: str, steps: int, seeds: int, num_test: int, progress: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains and tests all models on one mesh; returns the results and what the picture shows."""
    surfaces = surfaces_of(name)
    known = surfaces[MESHES[0]]
    source = random_sources(num_test, known, torch.Generator().manual_seed(20))
    cases = {where: (source(x), x.solve(source(x))) for where, x in surfaces.items()}
    shown: dict[str, Any] = {
        "h": known.h,
        "f": cases[MESHES[0]][0][-1],
        "u": cases[MESHES[0]][1][-1],
    }
    unit = unit_of(known)

    def tested(variant: str, given: dict[str, Any], bar: Any) -> dict[str, Any]:
        least = given["seconds"] if variant == PASSING else 0.0
        found = train(variant, known, steps, given["seed"], least, bar)
        given["seconds"] = found["seconds"]
        for areas in (True, False) if variant == HSA else (variant != COUNTS,):
            # Flat softmax costs the square of the number of vertices.
            for where in MESHES[:1] if variant == FLAT else MESHES:
                f, u = cases[where]
                out = unit * predict(found["model"], surfaces[where], f, areas)
                error = relative_error(out, u, surfaces[where].h.mass).mean()
                found[where if areas or variant == COUNTS else f"{where}, withheld"] = float(error)
                if where == MESHES[0] and areas:
                    shown[variant] = out[-1]
        return found

    results, runs = compare(
        VARIANTS, seeds, lambda seed: {"seed": seed}, tested, steps=steps, key=MESHES[0],
        titles=(name, "relative L2 error"), more=("steps",), progress=progress,
    )  # fmt: skip
    print(f"\n| {name} | vertices | {PASSING} | HSA | HSA, areas withheld | HSA, {COUNTS} |")
    print("|:--|--:|--:|--:|--:|--:|")
    for where, surface in surfaces.items():
        columns = {
            PASSING: (PASSING, where), HSA: (HSA, where),
            "withheld": (HSA, f"{where}, withheld"), COUNTS: (COUNTS, where),
        }  # fmt: skip
        results[where] = {"vertices": surface.h.num_nodes}
        for column, (variant, key) in columns.items():
            results[where][column] = [run[key] for run in runs[variant]]
        cells = [spread(results[where][column]) for column in columns]
        print(f"| {where} | {surface.h.num_nodes:,} | {' | '.join(cells)} |")
    return results, shown


def draw(pictures: dict[str, dict[str, Any]], path: Path) -> None:
    """One row a mesh: source, truth, prediction and errors, the last four in one colour scale."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 2.9 * len(pictures)))
    grid = {"left": 0, "right": 1, "bottom": 0, "top": 0.95, "wspace": 0, "hspace": 0.05}
    axes = figure.subplots(
        len(pictures), 5, squeeze=False, subplot_kw={"projection": "3d"}, gridspec_kw=grid
    )
    for row, (name, shown) in zip(axes, pictures.items(), strict=True):
        h, u, (_, order, view) = shown["h"], shown["u"], VIEWS[name]
        values = {"source $f$": shown["f"], "true solution $u$": u, f"predicted, {HSA}": shown[HSA]}
        for variant in (HSA, PASSING):
            error = 100 * relative_error(shown[variant], u, h.mass)
            values[f"{variant}: error {error:.0f} %"] = shown[variant] - u
        for i, (ax, (title, value)) in enumerate(zip(row, values.items(), strict=True)):
            share = value[h.face].mean(dim=0) / (value if i == 0 else u).abs().max()
            color = colormaps["RdBu_r"]((0.5 + 0.5 * share).numpy())
            draw_surface(ax, h.pos[:, order], h.face, color, view)
            ax.set_title(title, fontsize=11, y=0.98)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(
    meshes: tuple[str, ...] = ("airplane", "ant"),
    steps: int = 200,
    seeds: int = 3,
    num_test: int = 32,
    out: Path | str = FIGURE,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Trains and tests on each mesh, prints the tables, saves the picture.

    Args:
        meshes: any of ``'airplane'``, ``'ant'`` and ``'nut'``.
        steps: training steps of each model; message passing alone takes more.
        seeds: how often every model is trained.
        num_test: held-out sources, half of them smooth.
        out: where the picture goes.
        progress: show progress bars.

    Returns:
        Of each mesh what ``compare`` returns of each variant, and of each refinement the number of
        ``vertices`` and the errors.
    """
    needs("matplotlib", "pyvista", "scipy", "trimesh")
    found = {name: run(name, steps, seeds, num_test, progress) for name in meshes}
    draw({name: shown for name, (_, shown) in found.items()}, Path(out))
    print(f"\nPicture: {out}")
    return {name: results for name, (results, _) in found.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="one seed, fewer steps: a first look")
    parser.add_argument("--meshes", nargs="+", choices=VIEWS, default=["airplane", "ant"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FIGURE)
    args = parser.parse_args()
    if args.fast:
        args.steps, args.seeds = 30, 1
    main(tuple(args.meshes), args.steps, args.seeds, 8 if args.fast else 32, args.out)
