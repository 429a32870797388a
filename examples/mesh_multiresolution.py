r"""Training a surrogate of an elastic body on coarse levels of its mesh first, then on the mesh.

The body is a trussed bracket, clamped at two bolt holes and loaded by random patches of force.
scikit-fem meshes it (refined where its stresses vary), and solves plane-stress linear elasticity

.. math::
    -\nabla \cdot \sigma(u) = f, \qquad
    \sigma(u) = \lambda \, \mathrm{tr}(\epsilon(u)) \, I + 2 \mu \, \epsilon(u)

with quadratic elements; a network is given :math:`f` and predicts the displacements :math:`u`. Its
weights do not depend on the resolution, so that it can begin on a coarse level, where a step costs
a fraction, and go on with finer ones, as in `"Multi-Hierarchical Surrogate Learning for Structural
Dynamical Crash Simulations" <https://arxiv.org/abs/2402.09234>`_. A level is one of the hierarchy:
:func:`~hsa_geometric.data.coarsen` averages places, loads and displacements over the clusters and
joins the edges between them; clusters weigh the area of their vertices. Compared at equal time:

* ``multi``: trained on two coarse levels, the coarser one first, and then on the vertices;
* ``fine``: the same network, trained on the vertices alone.

The displacement is linear in the load, and so is the network: queries and keys of its attention,
filters of its message passing and all gates come from the geometry, the values from the loads.

Run ``python examples/mesh_multiresolution.py`` (minutes on one core) or add ``--fast`` (under a
minute).
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

import numpy as np
import torch
from _progress import progress_bar
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from hsa_geometric import Hierarchy
from hsa_geometric.builders import from_mesh
from hsa_geometric.data import coarsen
from hsa_geometric.functional import clusters_at, hierarchical_attention, lift

# The body: joints with their radii, members between them, and the holes in some of the joints.
JOINTS = np.array([[0, 0], [0, 1.3], [1.3, 0.12], [1.15, 1.22], [2.5, 0.95], [3.4, 0.55]])
RADII = np.array([0.2, 0.2, 0.15, 0.15, 0.15, 0.22])
MEMBERS = np.array([[0, 2], [1, 3], [1, 2], [2, 3], [3, 4], [2, 4], [4, 5]])
MEMBER_RADIUS, FILLET = 0.09, 0.05
HOLES = {0: 0.1, 1: 0.1, 5: 0.11}
CLAMPED = (0, 1)  # the joints whose holes are held by bolts
POISSON_RATIO = 0.3  # Young's modulus is 1: the network predicts in units of typical displacements

LEVELS = (-3, -2, -1)  # of the hierarchy, in the order of training
SHARES = {-3: 0.25, -2: 0.5, -1: 0.25}  # of the time, for `multi`
RATES = {-3: 6e-3, -2: 4e-3, -1: 1e-3}
FINE_RATE = 4e-3  # of `fine`
BATCH_SIZES = {-3: 8, -2: 8, -1: 4}  # load cases a step
FIGURE = Path(__file__).parent / "figures" / "mesh_multiresolution.png"


def _require(name: str) -> Any:
    """Imports an optional package, or says which extra brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This example needs '{name}': pip install \"hsa_geometric[examples]\""
        ) from error


# The body and the truth ###########################################################################


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


def onto_outline(pos: np.ndarray) -> np.ndarray:
    """Moves points that are near the outline onto it, by one step of Newton's method."""
    here, shift = distance(pos), 1e-5 * np.eye(2)
    slope = np.stack([distance(pos + axis) - here for axis in shift], axis=1) / 1e-5
    return pos - (here / (slope**2).sum(axis=1))[:, None] * slope


def mesh_body(width: float = 0.05, rounds: int = 100) -> Any:
    """Triangles of about one size, as a :class:`skfem.MeshTri`.

    The algorithm of `"A Simple Mesh Generator in MATLAB"
    <https://persson.berkeley.edu/distmesh/>`_: Delaunay triangulations whose edges push their ends
    apart until all have the same length, while the outermost vertices stay on the outline.
    """
    delaunay = _require("scipy.spatial").Delaunay
    low, high = JOINTS.min(0) - 0.3, JOINTS.max(0) + 0.3
    row = np.arange(low[1], high[1], width * math.sqrt(3) / 2)
    pos = np.stack(np.meshgrid(np.arange(low[0], high[0], width), row), axis=2)
    pos[1::2, :, 0] += width / 2
    pos = pos[distance(pos.reshape(-1, 2)).reshape(pos.shape[:2]) < 0]
    for step in range(rounds + 1):
        face = delaunay(pos).simplices
        face = face[distance(pos[face].mean(axis=1)) < -0.1 * width]
        if step == rounds:
            break
        edge = np.sort(face[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2))
        edge, count = np.unique(edge, axis=0, return_counts=True)
        vector = pos[edge[:, 0]] - pos[edge[:, 1]]
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        push = (1.2 * np.sqrt((length**2).mean()) / length - 1).clip(0) * vector
        np.add.at(pos, edge.T, 0.2 * np.stack([push, -push]))
        outer = distance(pos) > 0
        outer[edge[count == 1]] = True
        pos[outer] = onto_outline(pos[outer])
    used, face = np.unique(face, return_inverse=True)
    return _require("skfem").MeshTri(pos[used].T.copy(), face.reshape(-1, 3).T.copy())


@dataclass(frozen=True)
class Body:
    """A triangle mesh with its finite elements; :obj:`solve` maps ``f`` to ``u``, ``[N, B, 2]``.

    Shapes: ``pos`` ``[N, 2]``, ``face`` ``[3, F]``, ``area`` of each vertex ``[N]``, ``clamped``
    ``[N, 1]`` 1 at vertices that cannot move; ``stiffness`` is sparse. All in float64.
    ``roughness`` maps ``f`` to ``[F]``: how much the strain varies within each triangle.
    """

    mesh: Any
    pos: Tensor
    face: Tensor
    area: Tensor
    clamped: Tensor
    stiffness: Any
    solve: Callable[[Tensor], Tensor]
    roughness: Callable[[Tensor], np.ndarray]


def assemble(mesh: Any) -> Body:
    """Quadratic elements on a mesh; forces are linear between its vertices."""
    skfem, helpers = _require("skfem"), _require("skfem.helpers")
    elasticity = _require("skfem.models.elasticity")
    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP2()), intorder=4)
    linear = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP1()), intorder=4)
    weak_form = elasticity.linear_elasticity(*elasticity.plane_stress(1.0, POISSON_RATIO))
    stiffness = weak_form.assemble(basis)
    work = skfem.BilinearForm(lambda f, v, _: helpers.dot(f, v)).assemble(linear, basis)

    def at_rim(x: np.ndarray) -> np.ndarray:
        rims = [np.hypot(*(x.T - JOINTS[j]).T) - HOLES[j] for j in CLAMPED]
        return np.abs(rims).min(axis=0) < 0.02

    rim = mesh.facets_satisfying(at_rim, boundaries_only=True)
    free = basis.complement_dofs(basis.get_dofs(rim))
    factors = _require("scipy.sparse.linalg").splu(stiffness[free][:, free].tocsc())

    def degrees_of_freedom(f: Tensor) -> np.ndarray:
        force = np.zeros((linear.N, f.shape[1]))
        force[linear.nodal_dofs] = f.double().permute(2, 0, 1).numpy()
        u = np.zeros((basis.N, f.shape[1]))
        u[free] = factors.solve((work @ force)[free])
        return u

    def solve(f: Tensor) -> Tensor:
        u = degrees_of_freedom(f)[basis.nodal_dofs]
        return torch.from_numpy(u).permute(1, 2, 0).contiguous()

    def roughness(f: Tensor) -> np.ndarray:
        total = np.zeros(mesh.nelements)
        for u in degrees_of_freedom(f).T:
            strain = helpers.sym_grad(basis.interpolate(u / np.linalg.norm(u)))
            mean = (strain * basis.dx).sum(axis=3) / basis.dx.sum(axis=1)
            total += (((strain - mean[..., None]) ** 2).sum(axis=(0, 1)) * basis.dx).sum(axis=1)
        return total

    pos, face = (torch.from_numpy(x.copy()) for x in (mesh.p.T, mesh.t.astype(np.int64)))
    side = pos[face[1:]] - pos[face[0]]
    size = torch.linalg.det(side.transpose(0, 1)).abs() / 2
    area = face.flatten().bincount((size / 3).repeat(3), minlength=len(pos))
    clamped = torch.zeros(len(pos), 1, dtype=torch.float64)
    clamped[np.unique(mesh.facets[:, rim])] = 1
    return Body(mesh, pos, face, area, clamped, stiffness, solve, roughness)


def make_body(min_vertices: int) -> Body:
    """Refines the triangles with half of the roughness, until there are enough vertices."""
    body = assemble(mesh_body())
    while len(body.pos) < min_vertices:
        error = body.roughness(random_loads(32, body, seed=0))
        order = (-error).argsort()
        share = error[order].cumsum() / error.sum()
        mesh = body.mesh.refined(order[: (share < 0.5).sum() + 1].astype(np.int32))
        pos, outer = mesh.p.T.copy(), mesh.boundary_nodes()
        pos[outer] = onto_outline(pos[outer])
        body = assemble(type(mesh)(pos.T.copy(), mesh.t))
    return body


def random_loads(num: int, body: Body, seed: int) -> Tensor:
    """Draws load cases: forces per area ``[N, num, 2]`` with a root mean square of 1.

    Each consists of six patches of force at random places in random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    center = body.pos[body.area.multinomial(6 * num, replacement=True, generator=generator)]
    force = torch.randn(num, 6, 2, dtype=torch.float64, generator=generator)
    patch = (-0.5 * (torch.cdist(body.pos, center) / 0.12) ** 2).exp()
    patch = (patch / (body.area @ patch)).view(-1, num, 6)  # each integrates to 1
    f = torch.einsum("nbk,bkd->nbd", patch, force)
    return f * (body.area.sum() / norm(f, body.area) ** 2).sqrt().unsqueeze(1)


def norm(x: Tensor, area: Tensor) -> Tensor:
    r"""The :math:`L_2` norm of each of the fields ``[N, B, 2]``, shape ``[B]``."""
    return torch.einsum("nbd,n->b", x**2, area.to(x.dtype)).sqrt()


def relative_error(out: Tensor, u: Tensor, area: Tensor) -> Tensor:
    r"""The relative :math:`L_2` error of each load case, shape ``[B]``."""
    return norm(out - u, area) / norm(u, area)


# The levels #######################################################################################


def build_hierarchy(body: Body, f: Tensor, u: Tensor) -> Hierarchy:
    """The body → pieces → … → vertices, with the load cases ``[N, B, 2]`` as leaf data."""
    pos = body.pos - body.pos.mean(dim=0)
    data = {"load": f.float(), "displacement": u.float(), "clamped": body.clamped}
    return from_mesh((pos / pos.abs().max(), body.face.t()), **data)


def take_level(data: Hierarchy, level: int) -> Hierarchy:
    """One level as data that the network takes: all of it averages over the vertices' area."""
    data = coarsen(data, level)
    row, col = data.edge_index
    step = data.pos[row] - data.pos[col]
    length = step.norm(dim=1, keepdim=True)
    data.edge_attr = (torch.cat([step, length], dim=1) / (length + length.mean())).float()
    waves = torch.cat([data.pos * math.pi * 2**octave for octave in range(4)], dim=1)
    data.x = torch.cat([data.pos, waves.sin(), waves.cos(), data.clamped], dim=1).float()
    data.mass = data.mass.float()
    return data


# The model ########################################################################################


def mlp(in_channels: int, channels: int) -> nn.Sequential:
    """One hidden layer."""
    hidden = nn.Linear(in_channels, channels)
    return nn.Sequential(hidden, nn.GELU(), nn.Linear(channels, channels))


class EdgeFilter(MessagePassing):
    """Mean over the neighbours, times a filter made of the edge, as SchNet's convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(aggr="mean", node_dim=0)
        self.filter = mlp(3, channels)

    def forward(self, x: Tensor, data: Hierarchy) -> Tensor:
        """Shapes: ``x`` ``[N, B, channels]``; returns the same."""
        weight = self.filter(data.edge_attr).unsqueeze(1)
        return self.propagate(data.edge_index, x=x, weight=weight)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        """What each edge carries."""
        return x_j * weight


class Block(nn.Module):
    """Attention along the tree, then message passing along the edges; both linear in ``x``."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = (nn.Linear(channels, channels) for _ in range(2))
        self.value = nn.Linear(channels, channels, bias=False)
        self.edges = EdgeFilter(channels)
        self.gates = nn.ModuleList(nn.Linear(channels, channels) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in range(2))

    def attend(self, x: Tensor, geometry: Tensor, data: Hierarchy) -> Tensor:
        """All load cases share queries and keys, so that they are channels of one attention."""
        num_nodes, num_cases, _ = x.shape
        q, k = (lin(geometry).view(num_nodes, self.heads, -1) for lin in (self.query, self.key))
        v = self.value(x).view(num_nodes, num_cases, self.heads, -1).transpose(1, 2)
        out = hierarchical_attention(q, k, v.flatten(2), data.tree, mass=data.mass)
        return out.view(v.shape).transpose(1, 2).reshape(x.shape)

    def forward(self, x: Tensor, geometry: Tensor, data: Hierarchy) -> Tensor:
        """Shapes: ``x`` ``[N, B, channels]``, ``geometry`` ``[N, channels]``; returns ``x``'s."""
        gates = [gate(geometry).unsqueeze(1) for gate in self.gates]
        x = x + self.out[0](gates[0] * self.attend(x, geometry, data))
        return x + self.out[1](gates[1] * self.edges(x, data))


class Operator(nn.Module):
    """Maps loads to displacements, linearly, on any level of any body."""

    def __init__(self, channels: int = 32, layers: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.geometry = nn.Sequential(mlp(19, channels), nn.LayerNorm(channels))
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


# Training #########################################################################################


@torch.no_grad()
def predict(model: Operator, data: Hierarchy, cases: slice) -> Tensor:
    """Applies a model to load cases of a level."""
    return torch.cat([model(f, data) for f in data.load[:, cases].split(16, dim=1)], dim=1)


def mean_error(model: Operator, data: Hierarchy, cases: slice) -> float:
    """The mean relative error over load cases of a level."""
    out = predict(model, data, cases)
    return float(relative_error(out, data.displacement[:, cases], data.mass).mean())


def train(
    model: Operator,
    data: Hierarchy,
    num_cases: int,
    batch_size: int,
    rate: float,
    seconds: float,
    generator: torch.Generator,
    watch: Callable[[float], None],
) -> int:
    """Trains on one level with the first cases for so many seconds; returns the number of steps.

    They are seconds of CPU time of one thread: of wall time, on a core that nobody else uses. The
    learning rate rises over 20 steps and falls as a cosine over the time. :obj:`watch` is called
    after each step with the seconds spent, which it adds nothing to.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps, spent = 0, 0.0
    while spent < seconds:
        start = time.process_time()
        cosine = 0.5 + 0.5 * math.cos(math.pi * spent / seconds)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (steps + 1) / 20) * cosine
        # Load cases superpose, so pairs of them make as many new ones as we like.
        case = torch.randint(num_cases, (2, batch_size), generator=generator)
        angle = 2 * math.pi * torch.rand(batch_size, 1, generator=generator)
        f, u = (
            angle.cos() * field[:, case[0]] + angle.sin() * field[:, case[1]]
            for field in (data.load, data.displacement)
        )
        loss = relative_error(model(f, data), u, data.mass).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        spent += time.process_time() - start
        watch(spent)
    return steps


# The experiment ###################################################################################


@dataclass(frozen=True)
class Problem:
    """The levels with all load cases, those for training first; ``coarsening`` took seconds."""

    body: Body
    levels: dict[int, Hierarchy]
    num_cases: int
    coarsening: float
    numbers: dict[str, float]

    @property
    def held_out(self) -> slice:
        """The load cases that no model is trained on."""
        return slice(self.num_cases, None)


def pose(min_vertices: int, num_cases: int, num_test: int, validate: bool) -> Problem:
    """Meshes the body, solves the load cases and coarsens them."""
    body = make_body(min_vertices)
    held_out = random_loads(num_test, body, seed=2 if validate else 3)
    f = torch.cat([random_loads(num_cases, body, seed=1), held_out], dim=1)
    start = time.process_time()
    u = body.solve(f)
    numbers = {"solver/seconds per case": (time.process_time() - start) / f.size(1)}
    u = u * body.area.sum().sqrt() / norm(u[:, :num_cases], body.area).median()
    data = build_hierarchy(body, f, u)
    start = time.process_time()
    levels = {level: take_level(data, level) for level in LEVELS[:-1]}
    coarsening = time.process_time() - start
    levels[-1] = take_level(data, -1)
    for level in LEVELS:
        numbers[f"{level}/nodes"] = levels[level].num_nodes
        numbers[f"{level}/edges"] = levels[level].num_edges // 2
        # The least error of any field that is constant on each cluster.
        means = lift(levels[level].displacement[:, num_cases:], data.tree, level)
        error = relative_error(means, data.displacement[:, num_cases:], data.mass)
        numbers[f"means/error, {level}"] = float(error.mean())
    return Problem(body, levels, num_cases, coarsening, numbers)


def run(
    kind: str, problem: Problem, seconds: float, seed: int, progress: bool
) -> tuple[Operator, dict[str, float], list[tuple[float, float]]]:
    """Trains ``'multi'`` or ``'fine'``; returns it, its numbers, and its error after seconds."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Operator()
    levels, held_out = problem.levels, problem.held_out
    plan = {-1: (seconds, FINE_RATE)}
    if kind == "multi":
        plan = {level: (SHARES[level] * seconds, RATES[level]) for level in LEVELS}
    found: dict[str, float] = {}
    curve = [(0.0, mean_error(model, levels[-1], held_out))]
    before = problem.coarsening if kind == "multi" else 0.0
    wall = time.perf_counter()
    bar = progress_bar(
        total=round(seconds, 1), desc=f"{kind}, seed {seed}", leave=False, disable=not progress
    )

    def watch(spent: float) -> None:
        now = before + spent
        bar.update(min(round(now, 1), bar.total) - bar.n)
        if now - curve[-1][0] > seconds / 12:
            curve.append((now, mean_error(model, levels[-1], held_out)))

    end = 0.0
    for level, (share, rate) in plan.items():
        end += share
        stage = (problem.num_cases, BATCH_SIZES[level], rate, end - before)
        steps = train(model, levels[level], *stage, generator, watch)
        found[f"{level}/steps"] = steps
        found[f"{level}/seconds per step"] = (end - before) / steps
        before = end
        for other in LEVELS:
            error = mean_error(model, levels[other], held_out)
            found[f"after {level}/error, {other}"] = error
            if other == -1:
                curve.append((end, error))
    bar.close()
    found["wall seconds"] = time.perf_counter() - wall
    start = time.process_time()
    predict(model, levels[-1], held_out)
    num_test = levels[-1].load.size(1) - problem.num_cases
    found["seconds per case"] = (time.process_time() - start) / num_test
    return model, {f"{kind}/{key}": float(value) for key, value in found.items()}, curve


def tables(numbers: dict[str, float], seconds: float) -> str:
    """The two markdown tables: mean ± standard deviation over the seeds."""

    def spread(key: str, digits: int = 3) -> str:
        return f"{numbers[key]:.{digits}f} ± {numbers[f'{key}, std']:.{digits}f}"

    names = {level: f"{numbers[f'{level}/nodes']:,.0f} clusters" for level in LEVELS}
    names[-1] = f"{numbers['-1/nodes']:,.0f} vertices"
    lines = [
        f"| trained for {seconds:.0f} s | seconds | {' | '.join(names.values())} |",
        "|:--|--:|--:|--:|--:|",
    ]
    spent = 0.0
    for kind, levels in (("multi", LEVELS), ("fine", LEVELS[-1:])):
        for level in levels:
            spent = spent + SHARES[level] * seconds if kind == "multi" else seconds
            label = f"{'then ' if level != levels[0] else ''}on {names[level]}"
            label += " alone" if kind == "fine" else ""
            cells = [spread(f"{kind}/after {level}/error, {other}") for other in LEVELS]
            lines.append(f"| {label} | {spent:.0f} | {' | '.join(cells)} |")
    cells = [f"{numbers[f'means/error, {level}']:.3f}" for level in LEVELS]
    lines.append(f"| exact means, copied to the vertices | | {' | '.join(cells)} |")
    lines += [
        "\n| level | edges | load cases a step | seconds a step | steps, coarse to fine "
        "| steps, vertices alone |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for level in LEVELS:
        cells = [f"{numbers[f'{level}/edges']:,.0f}", f"{BATCH_SIZES[level]}"]
        cells += [spread(f"multi/{level}/seconds per step", 4)]
        cells += [f"{numbers[f'multi/{level}/steps']:.0f}"]
        cells += [f"{numbers['fine/-1/steps']:.0f}" if level == -1 else "0"]
        lines.append(f"| {names[level]} | {' | '.join(cells)} |")
    lines.append(
        f"\n{numbers['parameters']:,.0f} parameters. Seconds are CPU time of one thread "
        f"(on this machine, which others may use, {numbers['multi/wall seconds']:.0f} and "
        f"{numbers['fine/wall seconds']:.0f} s passed, tests included). Coarsening all load "
        f"cases took {numbers['coarsening']:.2f} s, which count. For one load case the network "
        f"takes {1000 * numbers['multi/seconds per case']:.1f} ms, scikit-fem with its matrix "
        f"factorised {1000 * numbers['solver/seconds per case']:.1f} ms."
    )
    return "\n".join(lines)


# The pictures #####################################################################################

TITLES = {"multi": "coarse to fine", "fine": "vertices alone"}
COLORS = {"multi": "tab:blue", "fine": "tab:orange"}


def draw_levels(problem: Problem, path: Path) -> None:
    """The clusters of each level, neighbours in different colours, and the graph between them."""
    pyplot, networkx = _require("matplotlib.pyplot"), _require("networkx")
    collections = _require("matplotlib.collections")
    fine, face = problem.levels[-1], problem.body.face.t()
    # Of each triangle, every corner owns the quadrilateral that reaches to the centre.
    corner = fine.pos[face]
    half = (corner + corner.roll(-1, dims=1)) / 2
    center = corner.mean(dim=1, keepdim=True).expand_as(corner)
    cells = torch.stack([corner, half, center, half.roll(1, dims=1)], dim=2).flatten(0, 1).numpy()
    figure, axes = pyplot.subplots(1, 3, figsize=(21, 4.6), layout="constrained")
    for ax, (level, data) in zip(axes, problem.levels.items(), strict=True):
        what, shades, width = "vertices", "0.9", 0.3
        if level != -1:
            what, width = "clusters", 1.6 if level == LEVELS[0] else 0.9
            colored = networkx.greedy_color(networkx.Graph(data.edge_index.t().tolist()), "DSATUR")
            color = np.array([colored.get(cluster, 0) for cluster in range(data.num_nodes)])
            shades = pyplot.colormaps["Set2"](color % 8)
            shades = shades[clusters_at(fine.tree, level).cluster[face].flatten()]
            ax.scatter(*data.pos.t().numpy(), s=12 * width**2, color="0.15", zorder=3)
        options = {"facecolors": shades, "edgecolors": shades, "linewidths": 0.2}
        ax.add_collection(collections.PolyCollection(cells, **options))
        lines = data.pos[data.edge_index.t()].numpy()
        ax.add_collection(collections.LineCollection(lines, colors="0.15", linewidths=width))
        ax.set_title(f"{data.num_nodes:,} {what}, {data.num_edges // 2:,} edges", fontsize=18)
        ax.set(aspect="equal")
        ax.autoscale_view()
        ax.set_axis_off()
    figure.savefig(path, dpi=90, bbox_inches="tight")
    pyplot.close(figure)


def draw(
    problem: Problem,
    models: dict[str, Operator],
    curves: dict[str, list[list[tuple[float, float]]]],
    path: Path,
) -> None:
    """One held-out load case as it is and as predicted, and errors over time, all seeds."""
    pyplot, collections = _require("matplotlib.pyplot"), _require("matplotlib.collections")
    data, pos, face = problem.levels[-1], problem.levels[-1].pos, problem.body.face.t()
    truth = data.displacement[:, problem.held_out]
    out = {kind: predict(model, data, problem.held_out) for kind, model in models.items()}
    errors = {kind: relative_error(u, truth, data.mass) for kind, u in out.items()}
    case = int(errors["multi"].argsort()[len(errors["multi"]) // 2])  # the median one
    truth, out = truth[:, case], {kind: u[:, case] for kind, u in out.items()}
    largest = truth.norm(dim=1).max()
    stretch = 0.16 / largest

    coarse = problem.levels[LEVELS[0]]  # the forces that its clusters bear
    force = coarse.load[:, problem.num_cases + case] * coarse.mass.unsqueeze(1)
    tail = coarse.pos + stretch * coarse.displacement[:, problem.num_cases + case]
    force = 0.35 * force / force.norm(dim=1).max()
    tail, force = (x[force.norm(dim=1) > 0.03] for x in (tail, force))

    places = [pos, tail + force, *(pos + stretch * u for u in (truth, *out.values()))]
    low, high = (x.tolist() for x in torch.cat(places).aminmax(dim=0))
    box = {"xlim": (low[0] - 0.03, high[0] + 0.03), "ylim": (low[1] - 0.03, high[1] + 0.03)}
    outline = problem.body.mesh.facets[:, problem.body.mesh.boundary_facets()].T
    figure, axes = pyplot.subplots(2, 3, figsize=(17, 7.8), layout="constrained")

    def show(ax: Any, u: Tensor, value: Tensor, title: str, top: float, colors: str) -> Any:
        place = (pos + stretch * u).numpy()
        options = {"shading": "gouraud", "cmap": colors, "vmin": 0, "vmax": top}
        shade = ax.tripcolor(*place.T, face, (value.norm(dim=1) / largest).numpy(), **options)
        for points, color in ((pos.numpy(), "0.65"), (place, "0.2")):
            ax.add_collection(
                collections.LineCollection(points[outline], colors=color, linewidths=0.8)
            )
        ax.set(aspect="equal", **box)
        ax.set_title(title, fontsize=14)
        ax.set_axis_off()
        return shade

    show(axes[0, 0], truth, truth, "scikit-fem, and the load on it", 1.0, "viridis")
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.005, "zorder": 3}
    axes[0, 0].quiver(*tail.t().numpy(), *force.t().numpy(), color="tab:red", **arrows)
    worst = max(float((u - truth).norm(dim=1).max() / largest) for u in out.values())
    for column, kind in enumerate(TITLES, start=1):
        u = out[kind]
        title = f"predicted, {TITLES[kind]}"
        size = show(axes[0, column], u, u, title, 1.0, "viridis")
        title = f"its error: {100 * errors[kind][case]:.1f} %"
        wrong = show(axes[1, column], u, u - truth, title, worst, "magma_r")
    figure.colorbar(size, ax=axes[0, :], shrink=0.8, label="displacement / largest")
    figure.colorbar(wrong, ax=axes[1, 1:], shrink=0.8, label="error / largest displacement")

    ax = axes[1, 0]
    for kind in TITLES:
        for number, curve in enumerate(curves[kind]):
            label = None if number else TITLES[kind]
            ax.plot(*zip(*curve, strict=True), color=COLORS[kind], label=label)
    end = curves["multi"][0][-1][0]
    start = 0.0
    for level in LEVELS:
        nodes = problem.levels[level].num_nodes
        ax.text((start + SHARES[level] / 2) * end, 1.12, f"{nodes:,}", ha="center", color="0.3")
        start += SHARES[level]
        ax.axvline(start * end, color="0.7", linewidth=0.8, zorder=0)
    ax.set(yscale="log", xlim=(0, end), ylim=(None, 1.4), xlabel="seconds of training")
    ticks = (0.05, 0.1, 0.2, 0.5, 1.0)
    ax.set_yticks(ticks, [f"{100 * tick:.0f} %" for tick in ticks])
    ax.minorticks_off()
    ax.set_ylabel("mean error on the vertices")
    ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.9))
    figure.savefig(path, dpi=95)
    pyplot.close(figure)


def main(
    min_vertices: int = 3000,
    seconds: float = 60.0,
    seeds: int = 3,
    num_cases: int = 512,
    num_test: int = 64,
    out: Path | str = FIGURE,
    *,
    validate: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """Trains and tests both ways, prints the tables, saves the pictures, returns the numbers.

    Args:
        min_vertices: the mesh is refined until it has as many.
        seconds: training time of each model, in CPU seconds of one thread.
        seeds: how often each model is trained.
        num_cases: load cases for training.
        num_test: held-out load cases.
        out: where the picture of displacements goes; that of the levels goes beside it.
        validate: take other held-out cases, those that the settings were chosen by.
        progress: show progress bars.
    """
    if seeds < 1 or not seconds > 0:
        raise ValueError(f"Expected at least 1 seed and some seconds (got {seeds} and {seconds})")
    out = Path(out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that CPU seconds are seconds
    try:
        problem = pose(min_vertices, num_cases, num_test, validate)
        values: dict[str, list[float]] = {}  # one value a seed
        models: dict[str, Operator] = {}
        curves: dict[str, list[list[tuple[float, float]]]] = {"multi": [], "fine": []}
        for seed in range(seeds):
            for kind in curves:
                model, found, curve = run(kind, problem, seconds, seed, progress)
                models.setdefault(kind, model)
                curves[kind].append(curve)
                for key, value in found.items():
                    values.setdefault(key, []).append(value)
        numbers = dict(problem.numbers)
        for key, series in values.items():
            numbers[key] = sum(series) / seeds
            numbers[f"{key}, std"] = float(torch.tensor(series).std(correction=int(seeds > 1)))
        numbers["parameters"] = sum(p.numel() for p in model.parameters())
        numbers["coarsening"] = problem.coarsening
        print(f"\n{tables(numbers, seconds)}\n")
        out.parent.mkdir(parents=True, exist_ok=True)
        levels = out.with_stem(f"{out.stem}_levels")
        draw_levels(problem, levels)
        draw(problem, models, curves, out)
    finally:
        torch.set_num_threads(threads)
    print(f"Pictures: {out}\n          {levels}")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fast", action="store_true", help="one seed, a few seconds: a first look")
    parser.add_argument("--seconds", type=float, help="of training for each model (default: 60)")
    parser.add_argument("--seeds", type=int, help="how often each is trained (default: 3)")
    parser.add_argument("--validate", action="store_true", help="held-out cases of the tuning")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the picture goes")
    args = parser.parse_args()
    main(
        seconds=args.seconds or (10.0 if args.fast else 60.0),
        seeds=args.seeds or (1 if args.fast else 3),
        out=args.out,
        validate=args.validate,
    )
