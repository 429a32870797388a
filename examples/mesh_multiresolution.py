"""A multi-resolution surrogate of linear elasticity: train on a coarse level, continue on the mesh.

A bracket with two holes is clamped on the left and loaded by random forces; scikit-fem gives the
displacement (plane elasticity). Its vertices are the leaves of a tree (:func:`from_mesh`), and
:func:`coarsen` makes of any level of it a smaller graph with pooled loads and displacements. The
model, message passing along mesh edges beside attention on the tree, has weights that do not depend
on the resolution, and vertex areas as masses. So it learns cheaply on a coarse level first, as
multi-hierarchical surrogates of crash simulation do, and continues on the mesh. It is compared with
the same model trained on the mesh alone for the same wall time.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from tqdm import tqdm

from hsa_geometric import Hierarchy, coarsen, from_mesh
from hsa_geometric.functional import clusters_at, hierarchical_attention, lift

try:
    import matplotlib
    import skfem
    from scipy.sparse.linalg import splu
    from skfem.models.elasticity import lame_parameters, linear_elasticity
except ImportError as error:
    raise ImportError(
        "This example needs scikit-fem, SciPy and matplotlib: pip install 'hsa_geometric[examples]'"
    ) from error

PICTURE = Path(__file__).parent / "figures" / "mesh_multiresolution.png"
HOLES = ((1.0, 0.5, 0.22), (3.2, 0.5, 0.22))  # x, y, radius
LENGTH, HEIGHT = 4.0, 1.0
OCTAVES = 3


@dataclass
class Problem:
    """Load cases on the mesh.

    Shapes: ``pos`` ``[N, 2]``, ``triangles`` ``[F, 3]``, ``fixed`` ``[N, 1]`` (1 where clamped),
    ``load`` and ``shift`` (displacement) ``[cases, N, 2]``.
    """

    pos: Tensor
    triangles: Tensor
    fixed: Tensor
    load: Tensor
    shift: Tensor


def bracket(refinements: int) -> Any:
    """A plate with two holes, finer around them; the vertices of their rims lie on circles."""
    mesh = skfem.MeshTri.init_tensor(np.linspace(0, LENGTH, 33), np.linspace(0, HEIGHT, 9))

    def distance(x: np.ndarray) -> np.ndarray:
        return np.min([np.hypot(x[0] - a, x[1] - b) - r for a, b, r in HOLES], axis=0)

    for _ in range(refinements):
        middle = mesh.p[:, mesh.t].mean(1)
        mesh = mesh.refined(np.flatnonzero(np.abs(distance(middle)) < 0.25))
        mesh = mesh.refined(np.flatnonzero(np.abs(distance(mesh.p[:, mesh.t].mean(1))) < 0.1))
    mesh = mesh.remove_elements(np.flatnonzero(distance(mesh.p[:, mesh.t].mean(1)) < 0))
    points = mesh.p.copy()
    rim = mesh.boundary_nodes()
    for a, b, r in HOLES:
        offset = points[:, rim] - [[a], [b]]
        length = np.hypot(*offset)
        near = np.abs(length - r) < 0.6 * r
        points[:, rim[near]] = [[a], [b]] + r * offset[:, near] / length[near]
    a, b, c = points[:, mesh.t].transpose(
        1, 0, 2
    )  # corners; what was pressed flat against a rim goes
    area = ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]) / 2
    used = mesh.t[:, np.abs(area) > 0.1 * np.median(np.abs(area))]
    kept, renamed = np.unique(used, return_inverse=True)
    return skfem.MeshTri(points[:, kept], renamed.reshape(used.shape))


def simulate(cases: int, refinements: int, seed: int) -> Problem:
    """Solve plane elasticity under three random forces, spread over a little area, in each case."""
    mesh = bracket(refinements)
    basis = skfem.Basis(mesh, skfem.ElementVector(skfem.ElementTriP1()))
    stiffness = linear_elasticity(*lame_parameters(1.0, 0.3)).assemble(basis)
    weight = skfem.BilinearForm(lambda u, v, w: u[0] * v[0] + u[1] * v[1]).assemble(basis)
    fixed = np.isclose(mesh.p[0], 0)
    free = basis.complement_dofs(basis.nodal_dofs[:, fixed].ravel())
    solver = splu(stiffness[free][:, free].tocsc())

    rng = np.random.default_rng(seed)
    centre = mesh.p.T[rng.integers(mesh.p.shape[1], size=(cases, 3))]
    force = rng.normal(size=(cases, 3, 2))
    square = ((mesh.p.T[None, :, None] - centre[:, None]) ** 2).sum(-1)
    load = np.einsum("cnk,ckd->cnd", np.exp(-square / (2 * 0.15**2)), force)
    shift = np.zeros((cases, basis.N))
    flat = np.zeros((cases, basis.N))
    flat[:, basis.nodal_dofs] = load.transpose(0, 2, 1)
    shift[:, free] = solver.solve((weight @ flat.T)[free]).T
    shift = shift[:, basis.nodal_dofs].transpose(0, 2, 1)
    size = np.sqrt((load**2).mean((1, 2), keepdims=True))  # the problem is linear
    load, shift = load / size, shift / size
    return Problem(
        pos=torch.tensor(mesh.p.T.copy()),
        triangles=torch.tensor(mesh.t.T.copy()),
        fixed=torch.tensor(fixed).float().unsqueeze(1),
        load=torch.tensor(load).float(),
        shift=torch.tensor(shift / shift.std()).float(),
    )


def levels(problem: Problem, depths: tuple[int, ...]) -> dict[int, Hierarchy]:
    """The mesh (level -1) and coarser graphs of it, with loads, displacements and features."""
    fields = {
        "load": problem.load.transpose(0, 1).contiguous(),
        "shift": problem.shift.transpose(0, 1).contiguous(),
    }
    fine = from_mesh((problem.pos, problem.triangles), branching=6, fixed=problem.fixed, **fields)
    found = {}
    for depth in depths:
        h = fine if depth == -1 else coarsen(fine, depth)
        source, target = h.edge_index
        step = h.pos[source] - h.pos[target]
        length = step.norm(dim=1, keepdim=True)
        # Steps relative to their own and the mean length, so that they are alike on all levels.
        attr = torch.cat([step, length], dim=1) / (length + length.mean())
        waves = [h.pos / LENGTH * math.pi * 2**o for o in range(OCTAVES)]
        place = torch.cat(
            [h.pos / LENGTH, *(f(w) for w in waves for f in (torch.sin, torch.cos))], 1
        )
        found[depth] = Hierarchy(
            parent=h.parent,
            pos=h.pos.float(),
            mass=h.mass.float(),
            edge_index=h.edge_index,
            edge_attr=attr.float(),
            place=torch.cat([place.float(), h.fixed.float()], dim=1),
            load=h.load.float(),
            shift=h.shift.float(),
        )
    return found


class EdgeConv(MessagePassing):
    """Mean over neighbours of their features, gated by the edge."""

    def __init__(self, channels: int) -> None:
        super().__init__(aggr="mean", node_dim=0)
        self.gate = nn.Sequential(nn.Linear(3, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Features ``[N, cases, channels]``."""
        return self.propagate(edge_index, x=x, gate=self.gate(edge_attr).unsqueeze(1))

    def message(self, x_j: Tensor, gate: Tensor) -> Tensor:
        """A neighbour's features, gated."""
        return x_j * gate


class Block(nn.Module):
    """Attention on the tree and message passing; what they do depends on the geometry alone."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.lin_query = nn.Linear(channels, channels)
        self.lin_key = nn.Linear(channels, channels)
        self.lin_value = nn.Linear(channels, channels, bias=False)
        self.gates = nn.Linear(channels, 2 * channels)
        self.lin_distant = nn.Linear(channels, channels, bias=False)
        self.edges = EdgeConv(channels)
        self.lin_local = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, place: Tensor, data: Hierarchy) -> Tensor:
        """Features ``[N, cases, channels]``, linear in ``x``."""
        nodes, cases, channels = x.shape
        width = channels // self.heads
        q, k = (lin(place).view(nodes, self.heads, width) for lin in (self.lin_query, self.lin_key))
        v = self.lin_value(x).view(nodes, cases, self.heads, width).transpose(1, 2).flatten(2)
        out = hierarchical_attention(q, k, v, data.tree, mass=data.mass)
        out = out.view(nodes, self.heads, cases, width).transpose(1, 2).flatten(2)
        distant, local = self.gates(place).unsqueeze(1).chunk(2, dim=-1)
        x = x + self.lin_distant(out * distant)
        return x + self.lin_local(self.edges(x, data.edge_index, data.edge_attr) * local)


class Surrogate(nn.Module):
    """Linear in the load, as elasticity is; its weights do not depend on the resolution.

    Queries, keys and gates come from the geometry, so all load cases share one attention.
    """

    def __init__(self, places: int, channels: int = 32, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.place = nn.Sequential(
            nn.Linear(places, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
        )
        self.load = nn.Linear(2, channels, bias=False)
        self.gates = nn.Linear(channels, 2 * channels)
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(layers))
        self.read = nn.Linear(channels, 2, bias=False)

    def forward(self, load: Tensor, data: Hierarchy) -> Tensor:
        """Displacement ``[N, cases, 2]`` under ``load`` ``[N, cases, 2]``."""
        place = self.place(data.place)
        first, last = self.gates(place).unsqueeze(1).chunk(2, dim=-1)
        x = self.load(load) * first
        for block in self.blocks:
            x = block(x, place, data)
        return self.read(x * last)


def relative_error(out: Tensor, true: Tensor, data: Hierarchy) -> Tensor:
    """Relative L2 error ``[cases]`` of ``[N, cases, 2]``, integrated over the area."""
    mass = data.mass.view(-1, 1, 1)
    square = [(mass * y**2).sum((0, 2)) for y in (out - true, true)]
    return (square[0] / square[1]).sqrt()


def train(
    model: Surrogate,
    data: Hierarchy,
    *,
    seconds: float,
    cases: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: bool,
) -> int:
    """Train on one level for a time; returns the steps taken."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4)
    start, steps, part = time.perf_counter(), 0, 0.0
    with tqdm(total=round(seconds), unit="s", leave=False, disable=not progress) as bar:
        while part < 1:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (steps + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * part))
            # The problem is linear: a mixture of two cases is a case.
            i, j = torch.randint(cases, (2, batch_size), generator=generator)
            mix = torch.randn(2, batch_size, 1, generator=generator)
            load, true = (
                mix[0] * data[n][:, i] + mix[1] * data[n][:, j] for n in ("load", "shift")
            )
            loss = relative_error(model(load, data), true, data).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1
            part = (time.perf_counter() - start) / seconds
            bar.update(min(round(seconds), round(part * seconds)) - bar.n)
    return steps


@torch.no_grad()
def test(model: Surrogate, data: Hierarchy, cases: Tensor) -> float:
    """Mean relative error over some cases."""
    out = model(data.load[:, cases], data)
    return float(relative_error(out, data.shift[:, cases], data).mean())


def main(
    *,
    seconds: float = 30.0,
    share: float = 0.5,
    level: int = -2,
    seeds: int = 3,
    cases: int = 512,
    test_cases: int = 48,
    refinements: int = 1,
    channels: int = 32,
    lr: float = 5e-3,
    batch_size: int = 8,
    first_test: int = 48,
    picture: Path | None = PICTURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Train both ways and print the table.

    Args:
        seconds: wall time of each training.
        share: part of it that the multi-resolution model spends on the coarse level.
        level: the coarse level; -2 is what is one above the vertices.
        seeds: trainings of each.
        cases: load cases to train on.
        test_cases: held-out ones.
        refinements: of the mesh around its holes.
        channels: width of the model.
        lr: highest learning rate; on the mesh after the coarse level, half of it.
        batch_size: load cases a step.
        first_test: where the held-out cases begin behind the training cases; the settings were
            chosen on others.
        picture: where to save it.
        progress: whether to show progress bars.

    Returns:
        Errors ``[seeds]`` by training and level, steps, seconds a step, sizes.
    """
    problem = simulate(cases + first_test + test_cases, refinements, seed=0)
    data = levels(problem, (-1, level))
    held_out = cases + first_test + torch.arange(test_cases)
    fine, coarse = data[-1], data[level]
    # The least error of anything that is constant on each cluster.
    up = lift(coarse.shift.flatten(1), fine.tree, level).view_as(fine.shift)
    floor = relative_error(up[:, held_out], fine.shift[:, held_out], fine)
    result: dict[str, Any] = {
        "vertices": fine.num_nodes,
        "clusters": coarse.num_nodes,
        "clusters as they are": float(floor.mean()),
        "error": {
            "coarse, on its level": [],
            "coarse, on the mesh": [],
            "then mesh": [],
            "mesh alone": [],
        },
        "steps": {"coarse": [], "then mesh": [], "mesh alone": []},
    }
    how = {"cases": cases, "batch_size": batch_size, "progress": progress}
    models = {}
    for seed in tqdm(range(seeds), desc="seeds", disable=not progress):
        torch.manual_seed(seed)
        model = Surrogate(fine.place.shape[1], channels)
        alone = Surrogate(fine.place.shape[1], channels)
        alone.load_state_dict(model.state_dict())
        error, steps = result["error"], result["steps"]
        steps["coarse"].append(
            train(model, coarse, seconds=share * seconds, lr=lr, seed=seed, **how)
        )
        error["coarse, on its level"].append(test(model, coarse, held_out))
        error["coarse, on the mesh"].append(test(model, fine, held_out))
        steps["then mesh"].append(
            train(model, fine, seconds=(1 - share) * seconds, lr=lr / 2, seed=seed + 99, **how)
        )
        error["then mesh"].append(test(model, fine, held_out))
        steps["mesh alone"].append(train(alone, fine, seconds=seconds, lr=lr, seed=seed, **how))
        error["mesh alone"].append(test(alone, fine, held_out))
        models = {"coarse, then mesh": model, "mesh alone": alone}
    result["parameters"] = sum(p.numel() for p in model.parameters())
    _report(result, seconds, share)
    if picture is not None:
        _draw(problem, data, level, models, int(held_out[0]), picture)
        print(f"\nPicture: {picture}", file=sys.stderr)
    return result


def _report(result: dict[str, Any], seconds: float, share: float) -> None:
    vertices, clusters = result["vertices"], result["clusters"]
    print(f"{vertices} vertices, {clusters} clusters, {result['parameters']} parameters.\n")
    print("| trained on | seconds | steps | seconds a step | tested on | relative L2 error |")
    print("|:--|--:|--:|--:|:--|--:|")
    spent = {"coarse": share * seconds, "then mesh": (1 - share) * seconds, "mesh alone": seconds}
    tests = [
        ("coarse", "coarse level", "coarse level", "coarse, on its level"),
        ("coarse", "coarse level", "mesh", "coarse, on the mesh"),
        ("then mesh", "… and then the mesh", "mesh", "then mesh"),
        ("mesh alone", "mesh alone", "mesh", "mesh alone"),
    ]
    for key, what, where, name in tests:
        error, steps = np.array(result["error"][name]), np.mean(result["steps"][key])
        print(
            f"| {what} | {spent[key]:.0f} | {steps:.0f} | {spent[key] / steps:.3f} | {where} | "
            f"{error.mean():.3f} ± {error.std(ddof=1) if len(error) > 1 else 0:.3f} |"
        )
    print(f"\nThe best that is constant on each cluster: {result['clusters as they are']:.3f}.")


def _draw(
    problem: Problem,
    data: dict[int, Hierarchy],
    level: int,
    models: dict[str, Surrogate],
    case: int,
    path: Path,
) -> None:
    """The levels, and one held-out case: truth, predictions, errors."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fine, coarse = data[-1], data[level]
    triangles = problem.triangles.numpy()
    figure, axes = plt.subplots(3, 2, figsize=(11, 7.6), layout="constrained")
    cluster = clusters_at(fine.tree, level).cluster
    shades = torch.randperm(int(cluster.max()) + 1, generator=torch.Generator().manual_seed(0))
    axis = axes[0, 0]
    x, y = problem.pos.T.numpy()
    axis.triplot(x, y, triangles, color="0.8", linewidth=0.3)
    axis.scatter(x, y, c=shades[cluster], cmap="tab20", s=7, linewidths=0)
    axis.set_title(f"the mesh: {fine.num_nodes} vertices, by cluster")
    axis = axes[0, 1]
    ends = coarse.pos[coarse.edge_index].numpy()  # [2, E, 2]
    axis.plot(ends[:, :, 0], ends[:, :, 1], color="0.75", linewidth=0.5, zorder=0)
    size = 60 * (coarse.mass / coarse.mass.max()).numpy()
    axis.scatter(*coarse.pos.T.numpy(), c=shades, cmap="tab20", s=size, linewidths=0)
    axis.set_title(f"the coarse level: {coarse.num_nodes} clusters")

    true, force = fine.shift[:, case], fine.load[:, case]
    with torch.no_grad():
        shown = {n: model(force.unsqueeze(1), fine).squeeze(1) for n, model in models.items()}
    scale = 0.45 / float(true.norm(dim=1).max())
    most = float(true.norm(dim=1).max())

    def paint(axis, moved: Tensor, colour: Tensor, top: float, title: str) -> None:
        at = fine.pos + scale * moved
        drawn = axis.tripcolor(
            *at.T.numpy(), triangles, colour.numpy(), shading="gouraud", vmin=0, vmax=top,
            cmap="viridis",
        )  # fmt: skip
        axis.triplot(x, y, triangles, color="0.8", linewidth=0.15, zorder=0)
        axis.set_title(title)
        figure.colorbar(drawn, ax=axis, shrink=0.8)

    paint(axes[1, 0], true, true.norm(dim=1), most, "displacement: scikit-fem (enlarged)")
    strong = force.norm(dim=1) > 0.3 * force.norm(dim=1).max()
    every = strong.nonzero().view(-1)[::12]
    at = (fine.pos + scale * true)[every]
    axes[1, 0].quiver(*at.T.numpy(), *force[every].T.numpy(), color="red", width=0.003, scale=60)
    for axis, (name, out) in zip((axes[1, 1], axes[2, 0]), shown.items(), strict=True):
        error = float(relative_error(out.unsqueeze(1), true.unsqueeze(1), fine))
        paint(axis, out, out.norm(dim=1), most, f"{name}: error {error:.2f}")
    names = list(shown)
    gap = (shown[names[0]] - true).norm(dim=1)
    paint(axes[2, 1], true, gap, most, f"where '{names[0]}' is off")
    for axis in axes.flat:
        axis.set_aspect("equal")
        axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="wall time of each training")
    parser.add_argument("--share", type=float, default=0.5, help="of it on the coarse level")
    parser.add_argument("--level", type=int, default=-2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--first-test", type=int, default=48, help="0: other held-out cases")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    torch.set_num_threads(1)  # threads that wait for each other measure the machine's other work
    main(**vars(parser.parse_args()))
