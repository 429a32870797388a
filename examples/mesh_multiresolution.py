r"""Training a surrogate of an elastic body on coarse levels of its mesh first, then on the mesh.

The body is a trussed bracket, clamped at two bolt holes and loaded by random patches of force.
scikit-fem refines its mesh where stresses vary, and solves plane-stress linear elasticity

.. math::
    -\nabla \cdot \sigma(u) = f, \qquad
    \sigma(u) = \lambda \, \mathrm{tr}(\epsilon(u)) \, I + 2 \mu \, \epsilon(u)

with quadratic elements; a network is given :math:`f` and predicts the displacements :math:`u`. Its
weights do not depend on the resolution: it can begin on a coarse level, where a step costs a
fraction, and go on with finer ones, as in `"Multi-Hierarchical Surrogate Learning for Structural
Dynamical Crash Simulations" <https://arxiv.org/abs/2402.09234>`_. A level is one of the hierarchy:
:func:`~hsa_geometric.data.coarsen` averages places, loads and displacements over the clusters and
joins the edges between them; clusters weigh the area of their vertices. Compared at equal time:

* ``coarse to fine``: trained on two coarse levels, the coarser one first, and then on the vertices;
* ``vertices alone``: the same network, trained on the vertices alone.

The displacement is linear in the load, and so is the network: queries and keys of its attention,
filters of its message passing and all gates come from the geometry, the values from the loads.

Run ``python examples/mesh_multiresolution.py`` (minutes on one core), with ``--fast`` in one.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _compare import compare, descend, needs, spread, warm_cosine
from torch import Tensor, nn
from torch_geometric.nn import MLP
from torch_geometric.utils import scatter

from hsa_geometric import Hierarchy, coarsen, from_mesh
from hsa_geometric.functional import clusters_at, hierarchical_attention

# The body: joints with their radii, members between them, and the holes in some of the joints.
JOINTS = np.array([[0, 0], [0, 1.3], [1.3, 0.12], [1.15, 1.22], [2.5, 0.95], [3.4, 0.55]])
RADII = np.array([0.2, 0.2, 0.15, 0.15, 0.15, 0.22])
MEMBERS = np.array([[0, 2], [1, 3], [1, 2], [2, 3], [3, 4], [2, 4], [4, 5]])
MEMBER_RADIUS, FILLET, POISSON_RATIO = 0.09, 0.05, 0.3  # Young's modulus is 1
HOLES = {0: 0.1, 1: 0.1, 5: 0.11}
CLAMPED = (0, 1)  # the joints whose holes are held by bolts

MULTI, FINE = "coarse to fine", "vertices alone"
# For each level in the order of training its share of the time, learning rate, load cases a step.
PLANS = {
    MULTI: {-3: (0.25, 6e-3, 8), -2: (0.5, 4e-3, 8), -1: (0.25, 1e-3, 4)},
    FINE: {-1: (1.0, 4e-3, 4)},
}
LEVELS = tuple(PLANS[MULTI])
FIGURE = Path(__file__).parent / "figures" / "mesh_multiresolution.png"


def distance(pos: np.ndarray) -> np.ndarray:
    """Signed distance (roughly) of the points ``[P, 2]`` from the outline, negative inside."""
    start, end = JOINTS[MEMBERS].swapaxes(0, 1)
    along = ((pos[:, None] - start) * (end - start)).sum(2) / ((end - start) ** 2).sum(1)
    nearest = start + along.clip(0, 1)[:, :, None] * (end - start)
    members = np.linalg.norm(pos[:, None] - nearest, axis=2) - MEMBER_RADIUS
    to_joint = np.linalg.norm(pos[:, None] - JOINTS, axis=2)
    parts = np.concatenate([members, to_joint - RADII], axis=1)
    body = -FILLET * np.log(np.exp(-parts / FILLET).sum(axis=1))  # a union with fillets
    return np.max([body, *(radius - to_joint[:, j] for j, radius in HOLES.items())], axis=0)


def onto_outline(mesh: Any) -> Any:
    """Moves the outer vertices of a mesh onto the outline, by one step of Newton's method."""
    pos, outer = mesh.p.T.copy(), mesh.boundary_nodes()
    here, shift = distance(pos[outer]), 1e-5 * np.eye(2)
    slope = np.stack([distance(pos[outer] + axis) - here for axis in shift], axis=1) / 1e-5
    pos[outer] -= (here / (slope**2).sum(axis=1))[:, None] * slope
    return type(mesh)(pos.T.copy(), mesh.t)


def mesh_body(width: float = 0.05) -> Any:
    """Triangles of about one size between points on the outline and a grid inside."""
    from contourpy import contour_generator
    from scipy.spatial import Delaunay
    from skfem import MeshTri

    low, high = JOINTS.min(0) - 0.3, JOINTS.max(0) + 0.3
    x, y = np.meshgrid(*(np.arange(*ends, width / 4) for ends in zip(low, high, strict=True)))
    z = distance(np.stack([x, y], axis=2).reshape(-1, 2)).reshape(x.shape)
    points = []
    for line in contour_generator(x, y, z).lines(0.0):
        place = np.append(0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum())
        place *= round(place[-1] / width) / place[-1]
        points += [np.stack([np.interp(np.arange(place[-1]), place, c) for c in line.T], axis=1)]
    x, y = np.meshgrid(np.arange(low[0], high[0], width), np.arange(low[1], high[1], 0.87 * width))
    x[1::2] += width / 2
    grid = np.stack([x, y], axis=2).reshape(-1, 2)
    pos = np.concatenate([grid[distance(grid) < -0.6 * width], *points])
    face = Delaunay(pos).simplices
    face = face[distance(pos[face].mean(axis=1)) < -0.1 * width]
    mesh = MeshTri(pos.T.copy(), face.T.copy()).remove_unused_nodes()
    return onto_outline(mesh.smoothed())


class Body(NamedTuple):
    """A body with its finite elements.

    Attributes:
        mesh: of scikit-fem, with ``N`` vertices and ``F`` triangles.
        h: its tree, in float64; ``clamped`` ``[N, 1]`` is 1 at vertices that cannot move.
        solve: maps ``f`` to ``u``, both ``[N, B, 2]``.
        roughness: maps ``f`` to ``[F]``: how much the strain varies within each triangle.
    """

    mesh: Any
    h: Hierarchy
    solve: Callable[[Tensor], Tensor]
    roughness: Callable[[Tensor], np.ndarray]


def assemble(mesh: Any) -> Body:
    """Quadratic elements on a mesh; forces are linear between its vertices."""
    import skfem
    from scipy.sparse.linalg import splu
    from skfem.helpers import dot, sym_grad
    from skfem.models.elasticity import linear_elasticity, plane_stress

    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=4)
    linear = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP1()), intorder=4)
    stiffness = linear_elasticity(*plane_stress(1.0, POISSON_RATIO)).assemble(basis)
    work = skfem.BilinearForm(lambda f, v, _: dot(f, v)).assemble(linear, basis)

    centers = mesh.p[:, mesh.facets].mean(axis=1).T
    off = [np.linalg.norm(centers - JOINTS[j], axis=1) - HOLES[j] for j in CLAMPED]
    rim = np.intersect1d(mesh.boundary_facets(), np.nonzero(np.abs(off).min(axis=0) < 0.02))
    free = basis.complement_dofs(basis.get_dofs(rim))
    factors = splu(stiffness[free][:, free].tocsc())

    def degrees_of_freedom(f: Tensor) -> np.ndarray:
        force, u = np.zeros((linear.N, f.shape[1])), np.zeros((basis.N, f.shape[1]))
        force[linear.nodal_dofs] = f.double().permute(2, 0, 1).numpy()
        u[free] = factors.solve((work @ force)[free])
        return u

    def solve(f: Tensor) -> Tensor:
        return torch.from_numpy(degrees_of_freedom(f)[basis.nodal_dofs]).permute(1, 2, 0).clone()

    def roughness(f: Tensor) -> np.ndarray:
        total = np.zeros(mesh.nelements)
        for u in degrees_of_freedom(f).T:
            strain = sym_grad(basis.interpolate(u / np.linalg.norm(u)))
            total += strain.var(axis=3).sum(axis=(0, 1)) * basis.dx.sum(axis=1)
        return total

    clamped = torch.zeros(mesh.nvertices, 1, dtype=torch.float64)
    clamped[np.unique(mesh.facets[:, rim])] = 1
    h = from_mesh((mesh.p.T.copy(), mesh.t.T.astype(np.int64)), clamped=clamped)
    return Body(mesh, h, solve, roughness)


def make_body(min_vertices: int) -> Body:
    """Refines the triangles with most of the roughness, until there are enough vertices."""
    body = assemble(mesh_body())
    while body.mesh.nvertices < min_vertices:
        error = body.roughness(random_loads(32, body.h, seed=0))
        order = (-error).argsort()
        share = error[order].cumsum() / error.sum()
        body = assemble(onto_outline(body.mesh.refined(order[: (share < 0.3).sum() + 1])))
    return body


def random_loads(num: int, h: Hierarchy, seed: int) -> Tensor:
    """Draws load cases: forces per area ``[N, num, 2]`` with a root mean square of 1.

    Each consists of six patches of force at random places in random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    center = h.pos[h.mass.multinomial(6 * num, replacement=True, generator=generator)]
    force = torch.randn(num, 6, 2, dtype=torch.float64, generator=generator)
    patch = (-0.5 * (torch.cdist(h.pos, center) / 0.12) ** 2).exp()
    patch = (patch / (h.mass @ patch)).view(-1, num, 6)  # each integrates to 1
    f = torch.einsum("nbk,bkd->nbd", patch, force)
    return f * (h.mass.sum().sqrt() / norm(f, h.mass)).unsqueeze(1)


def norm(x: Tensor, area: Tensor) -> Tensor:
    r"""The :math:`L_2` norm of each of the fields ``[N, B, 2]``, shape ``[B]``."""
    return torch.einsum("nbd,n->b", x**2, area.to(x.dtype)).sqrt()


def relative_error(out: Tensor, u: Tensor, area: Tensor) -> Tensor:
    r"""The relative :math:`L_2` error of each load case, shape ``[B]``."""
    return norm(out - u, area) / norm(u, area)


class Problem(NamedTuple):
    """The levels with all load cases, of which no model is trained on those held out."""

    body: Body
    levels: dict[int, Hierarchy]
    held_out: slice
    coarsening: float  # seconds of all load cases
    solving: float  # seconds of one


def pose(min_vertices: int, num_cases: int, num_test: int) -> Problem:
    """Meshes the body, solves the load cases and coarsens them."""
    body = make_body(min_vertices)
    h, loads = body.h.clone(), ((num_cases, 1), (num_test, 3))
    f = torch.cat([random_loads(num, h, seed) for num, seed in loads], dim=1)
    start = time.process_time()
    u = body.solve(f)
    solving = (time.process_time() - start) / f.shape[1]
    unit = norm(u[:, :num_cases], h.mass).median() / h.mass.sum().sqrt()
    h.load, h.displacement = f.float(), (u / unit).float()
    h.pos = h.pos - h.pos.mean(dim=0)
    h.pos = h.pos / h.pos.abs().max()
    start = time.process_time()
    levels = {level: with_features(coarsen(h, level)) for level in LEVELS[:-1]}
    coarsening = time.process_time() - start
    levels[-1] = with_features(h)
    return Problem(body, levels, slice(num_cases, None), coarsening, solving)


def with_features(data: Hierarchy) -> Hierarchy:
    """What the network is given of the geometry of a level."""
    row, col = data.edge_index
    step = data.pos[row] - data.pos[col]
    length = step.norm(dim=1, keepdim=True)
    data.edge_attr = (torch.cat([step, length], dim=1) / (length + length.mean())).float()
    waves = torch.cat([data.pos * math.pi * 2**octave for octave in range(4)], dim=1)
    data.x = torch.cat([data.pos, waves.sin(), waves.cos(), data.clamped], dim=1).float()
    data.mass = data.mass.float()
    return data


class Block(nn.Module):
    """Attention along the tree, then message passing along the edges; both linear in ``x``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = (nn.Linear(channels, channels) for _ in range(2))
        self.value = nn.Linear(channels, channels, bias=False)
        self.filter = MLP([3, channels, channels], act="gelu", norm=None)
        self.gates = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor, geometry: Tensor, data: Hierarchy) -> Tensor:
        """Shapes: ``x`` ``[N, B, channels]``, ``geometry`` ``[N, channels]``; returns ``x``'s."""
        gates = [gate(geometry).unsqueeze(1) for gate in self.gates]
        # All load cases share queries and keys, so that they are channels of one attention.
        q, k = (lin(geometry).view(len(x), self.heads, -1) for lin in (self.query, self.key))
        v = self.value(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        out = hierarchical_attention(q, k, v.flatten(2), data.tree, mass=data.mass)
        x = x + self.out[0](gates[0] * out.view(v.shape).transpose(1, 2).flatten(2))
        # Mean over the neighbours, times a filter made of the edge, as SchNet's convolution.
        row, col = data.edge_index
        message = x[row] * self.filter(data.edge_attr).unsqueeze(1)
        near = scatter(message, col, dim=0, dim_size=len(x), reduce="mean")
        return x + self.out[1](gates[1] * near)


class Operator(nn.Module):
    """Maps loads to displacements, linearly, on any level of any body."""

    def __init__(self, channels: int = 32, layers: int = 2, heads: int = 2) -> None:
        super().__init__()
        geometry = MLP([19, channels, channels], act="gelu", norm=None)
        self.geometry = nn.Sequential(geometry, nn.LayerNorm(channels))
        self.gates = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.embed = nn.Linear(2, channels, bias=False)
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(layers))
        self.readout = nn.Linear(channels, 2, bias=False)

    def forward(self, f: Tensor, data: Hierarchy) -> Tensor:
        """Shapes: ``f`` ``[N, B, 2]`` on the ``N`` nodes of one level; returns the same."""
        geometry = self.geometry(data.x)
        first, last = (gate(geometry).unsqueeze(1) for gate in self.gates)
        x = first * self.embed(f)
        for block in self.blocks:
            x = block(x, geometry, data)
        return self.readout(last * x)


@torch.no_grad()
def predict(model: Operator, data: Hierarchy, cases: slice) -> Tensor:
    """Applies a model to load cases of a level."""
    return torch.cat([model(f, data) for f in data.load[:, cases].split(16, dim=1)], dim=1)


def mean_error(model: Operator, data: Hierarchy, cases: slice) -> float:
    """The mean relative error over load cases of a level."""
    out = predict(model, data, cases)
    return float(relative_error(out, data.displacement[:, cases], data.mass).mean())


def train_level(
    model: Operator, data: Hierarchy, num_cases: int, rate: float, num: int, seconds: float,
    generator: torch.Generator, watch: Callable[[float], None],
) -> int:  # fmt: skip
    """Trains on one level, :obj:`num` load cases a step; returns the number of steps.

    Seconds are CPU time of one thread. What is called after each step, ``watch``, costs none.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps, spent = 0, 0.0
    schedule = warm_cosine(optimizer, lambda: spent / seconds)
    while spent < seconds:
        start = time.process_time()
        # Load cases superpose, so pairs of them make as many new ones as we like.
        case = torch.randint(num_cases, (2, num), generator=generator)
        angle = 2 * math.pi * torch.rand(num, 1, generator=generator)
        f, u = (
            angle.cos() * field[:, case[0]] + angle.sin() * field[:, case[1]]
            for field in (data.load, data.displacement)
        )
        loss = relative_error(model(f, data), u, data.mass).mean()
        descend(loss, model, optimizer, schedule)
        steps += 1
        spent += time.process_time() - start
        watch(spent)
    return steps


def train(kind: str, problem: Problem, seconds: float, seed: int, bar: Any) -> dict[str, Any]:
    """Trains along a plan; returns the model, its errors after each stage, and its curve."""
    generator, model = torch.Generator().manual_seed(seed), Operator()
    levels, held_out = problem.levels, problem.held_out
    found: dict[str, Any] = {"model": model, "steps": {}, "errors": {}}
    found["curve"] = curve = [(0.0, mean_error(model, levels[-1], held_out))]
    before, end = problem.coarsening if kind == MULTI else 0.0, 0.0  # coarsening counts

    def watch(spent: float) -> None:
        if before + spent - curve[-1][0] > seconds / 12:
            curve.append((before + spent, mean_error(model, levels[-1], held_out)))
            bar.update()

    for level, (share, rate, num) in PLANS[kind].items():
        end += share * seconds
        stage = (levels[level], held_out.start, rate, num, end - before)
        found["steps"][level] = train_level(model, *stage, generator, watch)
        before = end
        errors = {other: mean_error(model, levels[other], held_out) for other in LEVELS}
        found["errors"][level] = errors
        curve.append((end, errors[-1]))
    return {**found, "error": errors[-1], "seconds": end}


def table(problem: Problem, runs: dict[str, list[dict[str, Any]]], seconds: float) -> None:
    """Prints the errors after each stage on each level, and what a step and a load case cost."""
    sizes = {level: f"{data.num_nodes:,}" for level, data in problem.levels.items()}
    names = {k: f"{size} {'vertices' if k == -1 else 'clusters'}" for k, size in sizes.items()}
    print(f"\n| trained | seconds | {' | '.join(names.values())} |\n|:--|--:|--:|--:|--:|")
    costs = []
    for kind, own in runs.items():
        end = 0.0
        for level, (share, _, _) in PLANS[kind].items():
            name, end = f"{'then on' if end else 'on'} {names[level]}", end + share * seconds
            cells = [spread([run["errors"][level][other] for run in own]) for other in LEVELS]
            print(f"| {name}{' alone' * (kind == FINE)} | {end:.0f} | {' | '.join(cells)} |")
            steps = sum(run["steps"][level] for run in own) / len(own)
            costs.append(f"{kind}, {names[level]}: {problem.levels[level].num_edges // 2:,} edges, "
                         f"{steps:.0f} steps, {share * seconds / steps:.3f} s each")  # fmt: skip
    start, model = time.process_time(), runs[MULTI][0]["model"]
    tests = predict(model, problem.levels[-1], problem.held_out).shape[1]
    ours = (time.process_time() - start) / tests
    print("", *costs, f"a load case takes {1000 * ours:.1f} ms, {1000 * problem.solving:.1f} ms by "
          f"scikit-fem with its matrix factorised; coarsening took {problem.coarsening:.2f} s",
          sep="\n")  # fmt: skip


def draw_levels(problem: Problem, path: Path) -> None:
    """The clusters of each level, and the graph between them."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure, fine = Figure(figsize=(14, 3.1), layout="constrained"), problem.levels[-1]
    for ax, (level, data) in zip(figure.subplots(1, 3), problem.levels.items(), strict=True):
        what, width = "vertices", 0.3
        if level != -1:
            what, width = "clusters", 11 / data.num_nodes**0.5
            color = clusters_at(fine.tree, level).cluster[fine.face[0]] * 0.618 % 1
            ax.tripcolor(*fine.pos.t(), fine.face.t(), facecolors=color.numpy(), cmap="Set2")
        lines = data.pos[data.edge_index.t()].numpy()
        ax.add_collection(LineCollection(lines, colors="0.15", linewidths=min(width, 1.1)))
        ax.set(aspect="equal", title=f"{data.num_nodes:,} {what}, {data.num_edges // 2:,} edges")
        ax.set_axis_off()
    figure.savefig(path, dpi=135, bbox_inches="tight")


def draw(problem: Problem, runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One held-out load case as it is and as predicted, and errors over time, all seeds."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    data, cases = problem.levels[-1], problem.held_out
    truth = data.displacement[:, cases]
    out = {kind: predict(own[0]["model"], data, cases) for kind, own in runs.items()}
    errors = {kind: relative_error(u, truth, data.mass) for kind, u in out.items()}
    case = int(errors[MULTI].argsort()[len(errors[MULTI]) // 2])  # the median one
    largest = truth[:, case].norm(dim=1).max()
    outline = problem.body.mesh.facets[:, problem.body.mesh.boundary_facets()].T
    figure = Figure(figsize=(17, 7.8), layout="constrained")
    axes = figure.subplots(2, 3)

    def moved(level: Hierarchy, u: Tensor) -> np.ndarray:
        return (level.pos + 0.16 * u / largest).numpy()

    def show(ax: Any, u: Tensor, value: Tensor, title: str, top: float, colors: str) -> Any:
        place, size = moved(data, u), (value.norm(dim=1) / largest).numpy()
        shades = {"shading": "gouraud", "cmap": colors, "vmin": 0, "vmax": top}
        shade = ax.tripcolor(*place.T, data.face.t(), size, **shades)
        for points, color in ((data.pos.numpy(), "0.65"), (place, "0.2")):
            ax.add_collection(LineCollection(points[outline], colors=color, linewidths=0.8))
        ax.set(aspect="equal", title=title)
        ax.set_axis_off()
        return shade

    coarse, u = problem.levels[LEVELS[0]], truth[:, case]
    show(axes[0, 0], u, u, "scikit-fem, and the load on it", 1.0, "viridis")
    force = coarse.load[:, cases][:, case] * coarse.mass.unsqueeze(1)  # which clusters bear
    force = (0.35 * force / force.norm(dim=1).max()).numpy()
    tail, borne = moved(coarse, coarse.displacement[:, cases][:, case]), (force**2).sum(1) > 1e-3
    look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.005, "color": "tab:red"}
    axes[0, 0].quiver(*tail[borne].T, *force[borne].T, clip_on=False, in_layout=False, **look)
    worst = max(float((x[:, case] - u).norm(dim=1).max() / largest) for x in out.values())
    for column, (kind, x) in enumerate(out.items(), start=1):
        x, error = x[:, case], 100 * errors[kind][case]
        size = show(axes[0, column], x, x, f"predicted, {kind}", 1.0, "viridis")
        wrong = show(axes[1, column], x, x - u, f"its error: {error:.1f} %", worst, "magma_r")
    figure.colorbar(size, ax=axes[0, :], shrink=0.8, label="displacement / largest")
    figure.colorbar(wrong, ax=axes[1, 1:], shrink=0.8, label="error / largest displacement")
    ax, end = axes[1, 0], runs[MULTI][0]["curve"][-1][0]
    for (kind, own), color in zip(runs.items(), ("tab:blue", "tab:orange"), strict=True):
        for i, run in enumerate(own):
            ax.plot(*np.array(run["curve"]).T, color=color, label=None if i else kind)
    start, at = 0.0, ax.get_xaxis_transform()
    for level, (share, _, _) in PLANS[MULTI].items():
        nodes, start = f"{problem.levels[level].num_nodes:,}", start + share * end
        ax.text(start - share * end / 2, 0.94, nodes, transform=at, ha="center", color="0.3")
        ax.axvline(start, color="0.7", linewidth=0.8, zorder=0)
    ax.set(yscale="log", xlim=(0, end), xlabel="seconds", ylabel="mean error on the vertices")
    ax.set_yticks((0.05, 0.1, 0.2, 0.5, 1.0), ("5 %", "10 %", "20 %", "50 %", "100 %"))
    ax.minorticks_off()
    ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.9))
    figure.savefig(path, dpi=95)


def main(
    min_vertices: int = 3000,
    seconds: float = 60.0,
    seeds: int = 3,
    num_cases: int = 512,
    num_test: int = 64,
    out: Path | str = FIGURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains and tests both ways, prints the tables, saves the pictures.

    Args:
        min_vertices: the mesh is refined until it has as many.
        seconds: training time of each model, in CPU seconds of one thread.
        seeds: how often each model is trained.
        num_cases: load cases for training.
        num_test: held-out load cases.
        out: where the picture of displacements goes; that of the levels goes beside it.
        progress: show progress bars.

    Returns:
        Of each way what ``compare`` does, and of its runs ``errors``, after and on each level.
    """
    needs("matplotlib", "scipy", "skfem")
    if not seconds > 0:
        raise ValueError(f"Expected 'seconds' to be positive (got {seconds})")
    problem, out = pose(min_vertices, num_cases, num_test), Path(out)
    results, runs = compare(
        PLANS, seeds, lambda seed: seed,
        lambda kind, seed, bar: train(kind, problem, seconds, seed, bar),
        steps=12, key="error", titles=("training", "relative L2 error"), progress=progress,
    )  # fmt: skip
    table(problem, runs, seconds)
    out.parent.mkdir(parents=True, exist_ok=True)
    levels = out.with_stem(f"{out.stem}_levels")
    draw_levels(problem, levels)
    draw(problem, runs, out)
    print(f"pictures: {out}, {levels}")
    return {k: {**results[k], "errors": [run["errors"] for run in runs[k]]} for k in runs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="one seed, a few seconds: a first look")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training for each model")
    parser.add_argument("--seeds", type=int, default=3, help="how often each is trained")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the picture goes")
    args = parser.parse_args()
    seconds, seeds = (10.0, 1) if args.fast else (args.seconds, args.seeds)
    main(seconds=seconds, seeds=seeds, out=args.out)
