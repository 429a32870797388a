"""What several test files use; pytest puts this folder on the path, as it has a conftest."""

import csv
import importlib.util
import sys
from pathlib import Path

import torch

from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.functional.backends import has_cpu_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Those with linear cost that run here; 'cpu' where its kernel is.
LINEAR = ["scatter", *(["cpu"] if DEVICE == "cpu" and has_cpu_kernel() else [])]
LINEAR += ["triton"] if importlib.util.find_spec("triton") else []
EXAMPLES = Path(__file__).parents[1] / "examples"


def attend(inputs, tree, cotangent=None, **options):
    """Output, evidence, and gradients of everything but the masses."""
    inputs = {n: x.detach().requires_grad_(n != "mass") for n, x in inputs.items()}
    out, evidence = hierarchical_attention(**inputs, tree=tree, return_evidence=True, **options)
    learned = {n: x for n, x in inputs.items() if n != "mass"}
    if cotangent is None:
        generator = torch.Generator().manual_seed(7)
        cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    loss = (out * cotangent.to(out)).sum() + evidence[evidence.isfinite()].sum()
    grads = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    result = {"out": out.detach(), "evidence": evidence.detach()}
    return result | {
        n: torch.zeros_like(x) if g is None else g
        for (n, x), g in zip(learned.items(), grads, strict=True)
    }


def load_module(path):
    """The module in a file that is not on the path."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_loaded", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and PyG's layers look their module up by name
    spec.loader.exec_module(module)
    return module


def load_example(name):
    return load_module(EXAMPLES / f"{name}.py")


def freesolv():
    """SMILES of the molecules of FreeSolv."""
    with (EXAMPLES / "data" / "freesolv.csv").open(newline="") as file:
        return [row["smiles"] for row in csv.DictReader(file)]


def rows_below(parent):
    """The rows of the leaves below each node, by a plain walk; a leaf is below itself."""
    parent = parent.tolist()
    inner = {p for a, p in enumerate(parent) if p != a}
    sets = [set() for _ in parent]
    for row, node in enumerate(a for a in range(len(parent)) if a not in inner):
        sets[node].add(row)
        while parent[node] != node:
            node = parent[node]
            sets[node].add(row)
    return [frozenset(s) for s in sets]


def leaf_sets(h):
    """The rows of the leaves below each inner node, by ascending id."""
    leaves = set(h.tree.leaf_ids.tolist())
    return [rows for node, rows in enumerate(rows_below(h.parent)) if node not in leaves]


def assert_same(one, other):
    """Two data objects are of one type and hold the same tensors."""
    assert type(one) is type(other)
    assert set(one.keys()) == set(other.keys())
    for key in sorted(one.keys()):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
