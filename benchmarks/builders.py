"""Building hierarchies, each against what its library needs alone.

``python -m benchmarks.builders`` prints tables: points against SciPy's k-d tree, molecules against
RDKit's reading and PyG's features, and with ``--graph-nodes`` graphs of four edges a node. The
calls of one row take turns. With ``--random-nodes`` each method of ``from_graph`` runs once on
random graphs, of four edges a node too, against what its library spends of that time. With
``--big`` points are read from a memory-mapped file, each method in a process of its own, for its
peak of memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from inspect import isgenerator
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from unittest.mock import patch

import numpy as np
import torch

from hsa_geometric.builders.graph import from_graph
from hsa_geometric.builders.molecules import atom_groups, from_smiles
from hsa_geometric.builders.points import from_points
from hsa_geometric.builders.voxels import from_voxels
from hsa_geometric.data import Hierarchy
from hsa_geometric.report._peak import status

from .measure import interleaved, machine, machine_line
from .report import markdown

AIM = 5  # from_points of a million points, against cKDTree
REPEATS = 3
CUTS = ("kd", "pca", "ball", "voxels")
LIBRARY = {  # where each method of from_graph leaves the work to its library
    "matching": [],
    "metis": ["pymetis.part_graph"],
    "spectral": ["numpy.linalg.eigh"]
    + [f"scipy.sparse.linalg.{name}" for name in ("eigsh", "lobpcg", "spilu")],
    "communities": ["networkx.algorithms.community.louvain_partitions"],
    "agglomerative": ["sklearn.cluster.AgglomerativeClustering.fit"],
}


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


def big(num_points: int, methods: Sequence[str], threads: int = 1) -> str:
    """One row for each method: peaks relative to the file of points, and CPU seconds."""
    rows = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pos.npy"
        pos = np.lib.format.open_memmap(path, "w+", np.float32, (num_points, 3))
        random = np.random.default_rng(0)
        for at in range(0, num_points, 2**20):
            pos[at : at + 2**20] = random.random((min(2**20, num_points - at), 3), np.float32)
        size = pos.nbytes
        del pos
        for method in methods:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                found = fresh.submit(big_one, str(path), method, threads).result()
            built, indexed, seconds = found
            rows.append([method, f"{built / size:.2f}", f"{indexed / size:.2f}", f"{seconds:.0f}"])
    return markdown(["method", "peak", "peak, with the index", "CPU seconds"], rows)


def big_one(path: str, method: str, threads: int) -> tuple[int, int, float]:
    """Bytes at the peak beyond what was there before, without and with the index; CPU seconds."""
    torch.set_num_threads(threads)

    def build(pos: np.ndarray) -> Hierarchy:
        if method == "voxels":
            levels = max((len(pos) - 1).bit_length() // 3, 1)
            return from_voxels(pos, levels=levels, progress=True)
        return from_points(pos, method=method, progress=True)

    pos = np.load(path, mmap_mode="r")
    build(np.array(pos[:1000]))  # loads what is needed
    before, start = status("VmHWM"), process_time()
    h = build(pos)
    built, seconds = status("VmHWM"), process_time() - start
    assert h.tree.num_leaves == len(pos)
    return built - before, status("VmHWM") - before, seconds


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


def random_graph(num_nodes: int, method: str) -> tuple[float, float]:
    """Seconds of one call on a random graph, and those of them within the method's library."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.randint(num_nodes, (2, 4 * num_nodes), generator=generator)
    x = torch.rand(num_nodes, 3, generator=generator)
    from_graph(edge_index[:, :0], num_nodes=1, method=method, x=x[:1])  # imports
    spent: list[float] = []

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            start = perf_counter()
            try:
                found = function(*args, **options)
                return list(found) if isgenerator(found) else found
            finally:
                spent.append(perf_counter() - start)

        return call

    with ExitStack() as patches:
        for name in LIBRARY[method]:
            patches.enter_context(patch(name, timed(resolve_name(name))))
        start = perf_counter()
        from_graph(edge_index, num_nodes=num_nodes, method=method, x=x)
        return perf_counter() - start, sum(spent)


def random_table(sizes: Sequence[int], methods: Sequence[str]) -> str:
    """One row for each number of nodes: seconds, and the ratio to what the library spends."""
    rows = []
    for num_nodes in sizes:
        row = [f"{num_nodes:,}"]
        for method in methods:
            total, inside = random_graph(num_nodes, method)
            row.append(f"{total:.1f} ({total / inside:.1f}×)" if inside else f"{total:.1f}")
        rows.append(row)
    return markdown(["nodes", *methods], rows)


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
    p.add_argument("--sizes", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    p.add_argument("--atoms", nargs="*", type=int, default=[100, 1_000, 10_000])
    p.add_argument("--graph-nodes", nargs="*", type=int, default=[1_500, 3_000, 6_000])
    p.add_argument("--random-nodes", nargs="*", type=int, default=[])
    p.add_argument("--big", nargs="*", type=int, default=[], metavar="POINTS")
    p.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS), help="of --big")
    p.add_argument("--methods", nargs="+", choices=LIBRARY, default=list(LIBRARY))
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(f"Machine: {machine_line(machine(args.threads))}; float32, 3 dimensions\n")
    for num_points in args.big:
        print(f"{num_points:,} points, memory relative to their {12 * num_points:,} bytes:\n")
        print(big(num_points, args.cuts, args.threads))
    if args.sizes:
        print("Milliseconds, and the time relative to cKDTree (one thread) of the same points:\n")
        print(table(args.sizes))
        print(f"\nAim: from_points of 1,000,000 points in at most {AIM}× cKDTree.")
    if args.atoms:
        print("\nMolecules, milliseconds; the first column is what the libraries need alone:\n")
        print(seconds_table("atoms", molecules, args.atoms))
    if args.graph_nodes:
        print("\nGraphs, milliseconds; 'Louvain' is what networkx needs alone:\n")
        print(seconds_table("nodes", graphs, args.graph_nodes))
    if args.random_nodes:
        print("\nRandom graphs, seconds; in brackets relative to what the library needs of it:\n")
        print(random_table(args.random_nodes, args.methods))


if __name__ == "__main__":
    main()
