"""Building hierarchies, each against what its library needs alone.

``python -m benchmarks.builders`` prints tables: points against SciPy's k-d tree, molecules against
RDKit's reading and PyG's features, and with ``--graph-nodes`` graphs of four edges a node. The
calls of one row take turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import torch

from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.molecules import atom_groups, from_smiles
from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.voxels import from_voxels

from .measure import interleaved, machine, machine_line
from .report import markdown

AIM = 5  # from_points of a million points, against cKDTree
REPEATS = 3


def measure(num_points: int, dim: int = 3, seed: int = 0) -> dict[str, float]:
    """Median seconds of each call, on points that are uniform in a cube."""
    from scipy.spatial import cKDTree

    generator = torch.Generator().manual_seed(seed)
    pos = torch.rand(num_points, dim, generator=generator)
    levels = max((num_points - 1).bit_length() // dim, 1)  # about one point to a cell
    calls = {
        "cKDTree": lambda: cKDTree(pos.numpy()),
        "kd": lambda: from_points(pos, method="kd"),
        "pca": lambda: from_points(pos, method="pca"),
        "ball": lambda: from_points(pos, method="ball"),
        "voxels": lambda: from_voxels(pos, levels=levels),
    }
    return _medians(calls)


def table(sizes: Sequence[int]) -> str:
    """One row for each number of points: milliseconds, and the ratio to cKDTree."""
    rows = []
    for num_points in sizes:
        seconds = measure(num_points)
        base = seconds.pop("cKDTree")
        cells = [f"{1000 * s:.1f} ({s / base:.1f}×)" for s in seconds.values()]
        rows.append([f"{num_points:,}", f"{1000 * base:.1f}", *cells])
    return markdown(["points", "cKDTree", *seconds], rows)


def molecules(num_atoms: int) -> dict[str, float]:
    """Median seconds for a polymer with a ring in each monomer of 14 atoms."""
    from rdkit import Chem
    from torch_geometric.utils import from_rdmol

    smiles = "C" + "CC(c1ccccc1)COCCCC" * (num_atoms // 14)
    mol = Chem.MolFromSmiles(smiles)
    return _medians(
        {
            "RDKit + PyG": lambda: from_rdmol(Chem.MolFromSmiles(smiles)),
            "from_smiles": lambda: from_smiles(smiles),
            "scaffold": lambda: atom_groups(mol, levels=["scaffold"]),
            "brics": lambda: atom_groups(mol, levels=["brics"]),
        }
    )


def graphs(num_nodes: int) -> dict[str, float]:
    """Median seconds for each method on a graph with hubs, four edges a node."""
    import networkx as nx

    G = nx.barabasi_albert_graph(num_nodes, 4, seed=0)
    edge_index, x = torch.tensor(list(G.edges)).t(), torch.rand(num_nodes, 3)
    calls = {
        "Louvain": lambda: list(nx.community.louvain_partitions(G, seed=0)),
        "communities": lambda: from_graph(edge_index, method="communities"),
        "agglomerative": lambda: from_graph(edge_index, method="agglomerative", x=x),
        "metis": lambda: from_graph(edge_index, method="metis"),
        "spectral": lambda: from_graph(edge_index, method="spectral"),
        "matching": lambda: from_graph(edge_index),
    }
    return _medians(calls)


def _medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    timings, failed = interleaved(calls, seconds=0, least=REPEATS)
    if failed:
        raise RuntimeError(f"Some builders failed: {failed}")
    return {name: timing.median for name, timing in timings.items()}


def seconds_table(
    what: str, measured: Callable[[int], dict[str, float]], sizes: Sequence[int]
) -> str:
    """One row of milliseconds for each size."""
    rows = [(size, measured(size)) for size in sizes]
    cells = [[f"{size:,}", *(f"{1000 * s:.0f}" for s in row.values())] for size, row in rows]
    return markdown([what, *rows[0][1]], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the machine and the table."""
    p = argparse.ArgumentParser("python -m benchmarks.builders", description=__doc__)
    p.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    p.add_argument("--atoms", nargs="*", type=int, default=[100, 1_000, 10_000])
    p.add_argument("--graph-nodes", nargs="*", type=int, default=[1_500, 3_000, 6_000])
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(f"Machine: {machine_line(machine(args.threads))}; float32, 3 dimensions\n")
    print("Milliseconds, and the time relative to cKDTree (one thread) of the same points:\n")
    print(table(args.sizes))
    print(f"\nAim: from_points of 1,000,000 points in at most {AIM}× cKDTree.")
    if args.atoms:
        print("\nMolecules, milliseconds; the first column is what the libraries need alone:\n")
        print(seconds_table("atoms", molecules, args.atoms))
    if args.graph_nodes:
        print("\nGraphs, milliseconds; 'Louvain' is what networkx needs alone:\n")
        print(seconds_table("nodes", graphs, args.graph_nodes))


if __name__ == "__main__":
    main()
