r"""Learning the solution operator of a diffusion problem on real surfaces.

On a triangle mesh (PyVista's airplane, made of seven unconnected shells, or its ant) heat is
brought in at a rate :math:`f`, spreads along the surface and is lost everywhere:

.. math::
    -\Delta u + c \, u = f \qquad\text{discretised as}\qquad (K + c M) \, u = M f

with the cotangent stiffness matrix :math:`K` and the lumped mass matrix :math:`M` (the vertex
areas). A network is given :math:`f`, smooth waves or a few hot spots, and predicts :math:`u`.
Heat travels much further than the few edges that message passing sees. Compared at equal numbers
of parameters, on sources that no model has seen:

* ``mp``: message passing alone, trained for at least as many seconds as ``hsa``;
* ``flat``: message passing, alternating with attention on a star tree: softmax attention;
* ``hsa``: message passing, alternating with attention along surface → shells → pieces → vertices.

Attention weighs every vertex by its area. So the trained model is then applied, unchanged, to finer
meshes of the same surface, with and without these areas, beside ``counts``: the same model
trained with all vertices weighing the same.

Run ``python examples/mesh.py`` (minutes on two cores) or add ``--fast`` (under a minute).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _progress import progress_bar
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GINEConv

from hsa_geometric import Hierarchy
from hsa_geometric.nn import HierarchicalAttentionConv

MODELS = {  # in the order of training: message passing alone gets the seconds that `hsa` took
    "hsa": "message passing + HSA",
    "mp": "message passing alone",
    "flat": "message passing + flat softmax",
    "counts": "message passing + HSA, trained without areas",
}
SCREENING = 4.0  # c: heat travels 1 / sqrt(c), here half of the cube that holds the surface
BATCH_SIZE, LEARNING_RATE = 2, 3e-3
VIEWS = {  # which axes point to the right, back and up; elevation and azimuth in degrees
    "airplane": ([0, 1, 2], 42, 215),
    "ant": ([2, 0, 1], 50, 30),
    "nut": ([0, 1, 2], 30, -60),
}
FIGURE = Path(__file__).parent / "figures" / "mesh.png"


def _require(name: str) -> Any:
    """Imports an optional package, or says which extra brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This example needs '{name}': pip install \"hsa_geometric[examples]\""
        ) from error


# The surface and the truth ########################################################################


@dataclass(frozen=True)
class Surface:
    """A triangle mesh with its finite elements; :obj:`solve` maps ``f`` to ``u``, ``[B, N]`` both.

    Shapes: ``pos`` ``[N, 3]``, ``face`` ``[F, 3]``, ``area`` ``[N]`` (it adds up to the surface's
    area), ``shell`` ``[N]`` the connected component of each vertex; ``system`` is sparse
    :math:`K + c M`. Everything is in float64.
    """

    pos: Tensor
    face: Tensor
    area: Tensor
    shell: Tensor
    system: Any
    solve: Callable[[Tensor], Tensor]

    @property
    def edge_index(self) -> Tensor:
        """``[2, E]``: every edge once in each direction."""
        edge = torch.cat([self.face[:, [0, 1]], self.face[:, [1, 2]], self.face[:, [2, 0]]])
        return torch.cat([edge, edge.flip(1)]).unique(dim=0).t().contiguous()


def read_mesh(name: str) -> tuple[Tensor, Tensor]:
    """Returns ``pos`` ``[N, 3]``, scaled into the cube from -1 to 1, and ``face`` ``[F, 3]``."""
    pyvista, examples = _require("pyvista"), _require("pyvista.examples")
    files = {"airplane": examples.planefile, "ant": examples.antfile, "nut": examples.nutfile}
    mesh = pyvista.read(files[name]).triangulate().clean()
    pos = torch.tensor(mesh.points, dtype=torch.float64)
    face = torch.tensor(mesh.faces).long().view(-1, 4)[:, 1:]
    low, high = pos.aminmax(dim=0)
    return (2 * pos - low - high) / (high - low).max(), face


def refine(pos: Tensor, face: Tensor, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Splits each triangle (of mask :obj:`which` ``[F]``) into four at the midpoints of its edges.

    The surface stays the same. Triangles with a common edge must be split or kept together.
    """
    keep, face = (face[:0], face) if which is None else (face[~which], face[which])
    edge = torch.cat([face[:, [0, 1]], face[:, [1, 2]], face[:, [2, 0]]]).sort(dim=1).values
    edge, middle = edge.unique(dim=0, return_inverse=True)
    (a, b, c), (ab, bc, ca) = face.t(), middle.view(3, -1) + pos.size(0)
    corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    new = torch.cat([torch.stack(corner, dim=1) for corner in corners])
    return torch.cat([pos, pos[edge].mean(dim=1)]), torch.cat([keep, new])


def assemble(pos: Tensor, face: Tensor, screening: float = SCREENING) -> Surface:
    """Cotangent Laplacian, vertex areas and the factorised system of one mesh."""
    sparse, graph = _require("scipy.sparse"), _require("scipy.sparse.csgraph")
    num_nodes, (i, j, k) = pos.size(0), face.t()
    twice = torch.linalg.cross(pos[j] - pos[i], pos[k] - pos[i]).norm(dim=1)  # twice the area
    area = face.flatten().bincount((twice / 6).repeat_interleave(3), minlength=num_nodes)
    weights = 0.0
    for a, b, c in ((i, j, k), (j, k, i), (k, i, j)):  # edge a-b, seen from the corner c
        half_cot = ((pos[a] - pos[c]) * (pos[b] - pos[c])).sum(dim=1) / twice / 2
        weights += sparse.coo_array((half_cot, (a, b)), shape=(num_nodes, num_nodes)).tocsr()
    weights = weights + weights.T
    system = sparse.diags_array(weights.sum(axis=1) + screening * area.numpy()) - weights
    factors = _require("scipy.sparse.linalg").splu(system.tocsc())
    near = sparse.coo_array(
        (twice.repeat(2), (torch.cat([i, j]), torch.cat([j, k]))), weights.shape
    )
    shell = torch.from_numpy(graph.connected_components(near, directed=False)[1]).long()

    def solve(f: Tensor) -> Tensor:
        return torch.from_numpy(factors.solve((area * f).t().numpy())).t()

    return Surface(pos, face, area, shell, system, solve)


def random_sources(num: int, surface: Surface, generator: torch.Generator) -> Callable:
    """Draws functions of position; calling the result gives their values ``[num, N]`` on any mesh.

    The first half are sums of eight plane waves, the others four hot or cold spots on
    :obj:`surface`. They have a root mean square of 1 there.
    """

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    waves = num // 2
    direction, phase = 3 * normal(waves, 3, 8), 2 * math.pi * normal(waves, 1, 8)
    height = normal(waves, 1, 8)
    spot = torch.randint(surface.pos.size(0), (num - waves, 4), generator=generator)
    center, charge = surface.pos[spot], normal(num - waves, 1, 4)
    width = 2.5 * (surface.area.sum() / surface.area.numel()).sqrt()

    def evaluate(pos: Tensor) -> Tensor:
        smooth = (height * (pos @ direction + phase).cos()).sum(dim=2)
        points = (charge * (-0.5 * (torch.cdist(pos, center) / width) ** 2).exp()).sum(dim=2)
        return torch.cat([smooth, points])

    scale = mean_square(evaluate(surface.pos), surface.area).rsqrt().unsqueeze(1)
    return lambda other: scale * evaluate(other.pos)


def mean_square(x: Tensor, area: Tensor) -> Tensor:
    """The area-weighted mean of :math:`x^2` over the last dimension."""
    return (x**2 * area).sum(dim=-1) / area.sum()


def relative_error(out: Tensor, u: Tensor, area: Tensor) -> Tensor:
    """The relative :math:`L_2` error of each sample, shape ``[B]``."""
    return (mean_square(out - u, area) / mean_square(u, area)).sqrt()


# The hierarchy ####################################################################################


def bisect(surface: Surface, leaf_size: int = 8, branching: int = 8) -> Tensor:
    """Returns the parents ``[T]`` of the tree surface → shells → pieces → … → vertices.

    A piece of more than :obj:`leaf_size` vertices is halved across its longest principal axis,
    ``log2(branching)`` times from one level to the next. All pieces of a level are cut at once.
    """
    num_nodes = root = surface.area.numel()
    piece = surface.shell
    node = root + 1 + piece  # the tree node that each vertex is in
    num_tree_nodes = root + 2 + int(piece.max())
    parents = [torch.full((num_tree_nodes - num_nodes,), root)]
    cut = torch.arange(num_nodes)  # the vertices of pieces that are still too large
    while (cut := cut[piece.bincount()[piece] > leaf_size]).numel() > 0:
        piece = node[cut].unique(return_inverse=True)[1]
        for _ in range(int(math.log2(branching))):
            piece = _halve(surface.pos[cut], piece, leaf_size)
        num_new = int(piece.max()) + 1
        parents.append(torch.empty(num_new, dtype=torch.long).scatter_(0, piece, node[cut]))
        node[cut] = num_tree_nodes + piece
        num_tree_nodes += num_new
    return torch.cat([node, *parents])


def _halve(pos: Tensor, piece: Tensor, leaf_size: int) -> Tensor:
    """Halves every piece of more than :obj:`leaf_size` vertices and numbers the pieces anew."""
    size = piece.bincount()
    mean = torch.zeros(size.numel(), 3, dtype=pos.dtype).index_add_(0, piece, pos)
    offset = pos - (mean / size.unsqueeze(1))[piece]
    outer = offset.unsqueeze(2) * offset.unsqueeze(1)
    spread = torch.zeros(size.numel(), 3, 3, dtype=pos.dtype).index_add_(0, piece, outer)
    axis = torch.linalg.eigh(spread).eigenvectors[:, :, -1]
    order = (offset * axis[piece]).sum(dim=1).argsort()
    order = order[piece[order].argsort(stable=True)]  # by piece, then along its axis
    rank = torch.empty_like(piece)
    rank[order] = torch.arange(piece.numel()) - (size.cumsum(0) - size)[piece[order]]
    second = (size[piece] > leaf_size) & (2 * rank >= size[piece])
    return (2 * piece + second).unique(return_inverse=True)[1]


def build_hierarchy(surface: Surface, flat: bool = False, areas: bool = True) -> Hierarchy:
    """The surface as PyG data: mesh edges, the tree (a star if :obj:`flat`), areas as masses."""
    num_nodes, (row, col) = surface.area.numel(), surface.edge_index
    pos = surface.pos.float()
    waves = torch.cat([pos * math.pi * 2**octave for octave in range(4)], dim=1)
    step = pos[row] - pos[col]
    length = step.norm(dim=1, keepdim=True)
    return Hierarchy(
        x=torch.cat([pos, waves.sin(), waves.cos()], dim=1),
        edge_index=surface.edge_index,
        edge_attr=torch.cat([step, length], dim=1) / length.mean(),
        mass=surface.area.float() if areas else torch.ones(num_nodes),
        parent=torch.full((num_nodes + 1,), num_nodes) if flat else bisect(surface),
    )


# The models #######################################################################################


class MessagePassing(GINEConv):
    """Mean over the mesh edges of a vertex, followed by an MLP."""

    def __init__(self, channels: int) -> None:
        hidden = 2 * channels
        mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))
        super().__init__(mlp, edge_dim=4, train_eps=True, aggr="mean")

    def forward(self, x: Tensor, batch: Hierarchy) -> Tensor:
        """Shapes: ``x`` ``[N, channels]``; returns the same."""
        return super().forward(x, batch.edge_index, batch.edge_attr)


class Attention(nn.Module):
    """Attention along the tree and a linear map of its heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.conv = HierarchicalAttentionConv(channels, channels // heads, heads=heads)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, batch: Hierarchy) -> Tensor:
        """Shapes: ``x`` ``[N, channels]``; returns the same."""
        return self.out(self.conv(x, batch.tree, mass=batch.mass))


class Operator(nn.Module):
    """Maps sources to solutions; ``attention=False`` has message passing in place of attention."""

    def __init__(self, attention: bool, channels: int = 64, layers: int = 3, heads: int = 2):
        super().__init__()
        self.embed = nn.Linear(1 + 27, channels)  # the source and `x` of build_hierarchy
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            mix = Attention(channels, heads) if attention else MessagePassing(channels)
            self.blocks.extend([MessagePassing(channels), mix])
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in self.blocks)
        self.readout = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 1))

    def forward(self, f: Tensor, batch: Hierarchy) -> Tensor:
        """Shapes: ``f`` ``[B, N]`` on a batch of ``B`` copies of the surface; returns the same."""
        x = self.embed(torch.cat([f.reshape(-1, 1), batch.x], dim=1))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x), batch)
        return self.readout(x).view_as(f)


# Training #########################################################################################


def train(
    kind: str, surface: Surface, steps: int, seed: int = 0, min_seconds: float = 0.0
) -> tuple[Operator, dict[str, float]]:
    """Trains one of :data:`MODELS` on fresh sources, for at least :obj:`min_seconds`.

    The learning rate follows a cosine over steps or seconds, whichever last longer, so that every
    model comes to the end of its schedule.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Operator(attention=kind != "mp")
    data = build_hierarchy(surface, flat=kind == "flat", areas=kind != "counts")
    batch = Batch.from_data_list([data] * BATCH_SIZE)  # its tree is built once, at first use
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    unit, area = solution_unit(surface), surface.area.float()
    start, step, progress = time.perf_counter(), 0, 0.0
    bar = progress_bar(total=1000, desc=f"{kind}, seed {seed}", leave=False)
    while progress < 1:
        cosine = 0.5 + 0.5 * math.cos(math.pi * progress)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 20) * cosine
        f = random_sources(BATCH_SIZE, surface, generator)(surface)
        u = surface.solve(f) / unit
        loss = relative_error(model(f.float(), batch), u.float(), area).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds = time.perf_counter() - start
        progress = min(step / steps, seconds / min_seconds if min_seconds else 1.0, 1.0)
        bar.set_postfix(error=f"{loss.item():.3f}", refresh=False)
        bar.update(int(1000 * progress) - bar.n)
    bar.close()
    return model, {
        f"{kind}/parameters": sum(p.numel() for p in model.parameters()),
        f"{kind}/steps": step,
        f"{kind}/seconds": seconds,
        f"{kind}/seconds_per_step": seconds / step,
    }


def solution_unit(surface: Surface) -> float:
    """The root mean square of typical solutions: the unit in which the networks predict."""
    f = random_sources(64, surface, torch.Generator().manual_seed(1))(surface)
    return float(mean_square(surface.solve(f), surface.area).mean().sqrt())


@torch.no_grad()
def predict(model: Operator, data: Hierarchy, f: Tensor) -> Tensor:
    """Applies a model to sources ``f`` ``[B, N]`` on one surface."""
    model.eval()
    parts = f.float().split(BATCH_SIZE)
    out = [model(part, Batch.from_data_list([data] * part.size(0))) for part in parts]
    return torch.cat(out).double()


# The experiment ###################################################################################


def run(name: str, steps: int, seeds: int, num_test: int) -> tuple[dict[str, float], dict]:
    """Trains and tests all models on one mesh; returns the numbers and what the picture shows."""
    pos, face = read_mesh(name)
    coarse = assemble(pos, face)
    largest = coarse.shell[face[:, 0]] == coarse.shell.bincount().argmax()
    surfaces = {
        "original": coarse,
        "all split": assemble(*refine(pos, face)),
        "part split": assemble(*refine(pos, face, largest)),
    }
    source = random_sources(num_test, coarse, torch.Generator().manual_seed(20))
    unit = solution_unit(coarse)
    picture = {"surface": coarse, "f": source(coarse)[-1], "u": coarse.solve(source(coarse))[-1]}
    values: dict[str, list[float]] = {}  # one value a seed
    for seed in range(seeds):
        for kind in MODELS:
            wait = values["hsa/seconds"][-1] if kind == "mp" else 0.0
            model, found = train(kind, coarse, steps, seed, min_seconds=wait)
            tests = {kind: kind != "counts"} | ({"withheld": False} if kind == "hsa" else {})
            for test, areas in tests.items():
                for where, surface in surfaces.items():
                    if kind == "flat" and where != "original":
                        continue  # costs the square of the number of vertices
                    data = build_hierarchy(surface, flat=kind == "flat", areas=areas)
                    out, truth = (
                        predict(model, data, source(surface)),
                        surface.solve(source(surface)),
                    )
                    error = relative_error(unit * out, truth, surface.area).mean()
                    found[f"{test}/error, {where}"] = error.item()
                    if where == "original":
                        picture[test] = unit * out[-1]
            for key, value in found.items():
                values.setdefault(key, []).append(float(value))
    numbers = {f"vertices, {where}": float(s.area.numel()) for where, s in surfaces.items()}
    for key, series in values.items():
        numbers[key] = sum(series) / seeds
        numbers[f"{key}, std"] = float(torch.tensor(series).std(correction=int(seeds > 1)))
    return {f"{name}/{key}": value for key, value in numbers.items()}, picture


def tables(name: str, numbers: dict[str, float]) -> str:
    """The two markdown tables of one mesh: mean ± standard deviation over the seeds."""

    def spread(key: str) -> str:
        return f"{numbers[f'{name}/{key}']:.3f} ± {numbers[f'{name}/{key}, std']:.3f}"

    columns = ("parameters", "steps", "seconds")
    lines = [f"| {name} | {' | '.join(columns)} | seconds per step | relative L2 error |"]
    lines.append("|:--|--:|--:|--:|--:|--:|")
    for kind in ("mp", "flat", "hsa"):
        cells = [f"{numbers[f'{name}/{kind}/{column}']:.0f}" for column in columns]
        cells += [spread(f"{kind}/seconds_per_step"), spread(f"{kind}/error, original")]
        lines.append(f"| {MODELS[kind]} | {' | '.join(cells)} |")
    lines += [
        f"\n| {name}, triangles | vertices | message passing alone | HSA | HSA, areas withheld "
        "| HSA, trained without areas |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for where in ("original", "all split", "part split"):
        cells = [spread(f"{test}/error, {where}") for test in ("mp", "hsa", "withheld", "counts")]
        count = numbers[f"{name}/vertices, {where}"]
        lines.append(f"| {where} | {count:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(pictures: dict[str, dict], path: Path) -> None:
    """One row a mesh: source, truth, prediction and errors, the last four in one colour scale."""
    pyplot, art3d = _require("matplotlib.pyplot"), _require("mpl_toolkits.mplot3d.art3d")
    light = _require("matplotlib.colors").LightSource(azdeg=200, altdeg=60)
    figure = pyplot.figure(figsize=(15, 2.9 * len(pictures)))
    titles = ("source $f$", "true solution $u$", "predicted, HSA", "HSA", "message passing alone")
    for row, (name, shown) in enumerate(pictures.items()):
        surface, u, (order, elevation, azimuth) = shown["surface"], shown["u"], VIEWS[name]
        pos = surface.pos[:, order]
        up, turn = math.radians(elevation), math.radians(azimuth)
        viewer = [math.cos(up) * math.cos(turn), math.cos(up) * math.sin(turn), math.sin(up)]
        i, j, k = pos[surface.face].unbind(1)
        normal = torch.linalg.cross(j - i, k - i)
        face = surface.face[normal @ normal.new_tensor(viewer) > 0]  # the triangles that we see
        box = torch.stack(pos.aminmax(dim=0), dim=1).tolist()
        for col, value in enumerate(
            (shown["f"], u, shown["hsa"], shown["hsa"] - u, shown["mp"] - u)
        ):
            scale = (value if col == 0 else u).abs().max()
            color = pyplot.colormaps["RdBu_r"]((0.5 + 0.5 * value[face].mean(1) / scale).numpy())
            skin = art3d.Poly3DCollection(
                pos[face].numpy(),
                facecolors=color,
                edgecolors=color,
                linewidths=0.3,
                shade=True,
                lightsource=light,
            )
            axes = figure.add_subplot(len(pictures), 5, 5 * row + col + 1, projection="3d")
            axes.add_collection3d(skin)
            axes.set(**dict(zip(("xlim", "ylim", "zlim"), box, strict=True)))
            axes.set_box_aspect([high - low for low, high in box], zoom=1.4)
            axes.view_init(elevation, azimuth)
            axes.set_axis_off()
            error = f": error {100 * relative_error(value + u, u, surface.area):.0f} %"
            axes.set_title(titles[col] + (error if col > 2 else ""), fontsize=11, y=0.98)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.95, wspace=0, hspace=0.05)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(
    meshes: tuple[str, ...] = ("airplane", "ant"),
    steps: int = 200,
    seeds: int = 3,
    num_test: int = 32,
    out: Path | str = FIGURE,
) -> dict[str, float]:
    """Trains and tests on each mesh, prints the tables, saves the picture, returns the numbers.

    Args:
        meshes: any of ``'airplane'``, ``'ant'`` and ``'nut'``.
        steps: training steps of each model; message passing alone takes more.
        seeds: how often every model is trained.
        num_test: held-out sources, half of them smooth.
        out: where the picture goes.
    """
    numbers: dict[str, float] = {}
    pictures = {}
    for name in meshes:
        found, pictures[name] = run(name, steps, seeds, num_test)
        numbers |= found
        print(f"\n{tables(name, numbers)}\n")
    draw(pictures, Path(out))
    print(f"Picture: {out}")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="one seed, fewer steps: a minute")
    parser.add_argument("--meshes", nargs="+", choices=VIEWS, default=["airplane", "ant"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--out", type=Path, default=FIGURE)
    args = parser.parse_args()
    main(
        meshes=tuple(args.meshes),
        steps=args.steps or (30 if args.fast else 200),
        seeds=args.seeds or (1 if args.fast else 3),
        num_test=8 if args.fast else 32,
        out=args.out,
    )
