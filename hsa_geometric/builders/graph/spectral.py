"""Spectral bisection: halves of halves at the median of the Fiedler vector."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import Labels, cut_down
from hsa_geometric.functional.options import check_integer

DENSE = 64  # up to here LAPACK is the fastest


def spectral(graph: Graph, *, leaf_size: int = 8) -> Tensor:
    """Forest of recursive spectral bisections."""
    check_integer(leaf_size, "leaf_size", 2)
    return cut_down(graph, _split, branching=2, leaf_size=leaf_size)


def _split(adjacency: Any) -> Labels:
    vector = _fiedler(adjacency)
    # Mirror images in the vector differ by rounding only; let the order of nodes decide there.
    vector = np.round(vector / np.abs(vector).max(), 9)
    label = np.zeros(vector.size, dtype=np.int64)
    label[np.argsort(vector, kind="stable")[vector.size // 2 :]] = 1
    return label


def _fiedler(adjacency: Any) -> Any:
    """Eigenvector of the second smallest eigenvalue of the Laplacian of a connected graph."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = adjacency.shape[0]
    if size <= DENSE:
        return np.linalg.eigh(laplacian(adjacency).toarray())[1][:, 1]
    matrix = laplacian(adjacency).tocsc()
    top = 2.0 * matrix.diagonal().max()  # no eigenvalue is larger

    def flipped(x: Any) -> Any:  # largest where the Laplacian is smallest, the constant aside
        x = x.reshape(-1)
        return top * (x - x.mean()) - matrix @ x

    start = np.cos(np.arange(size) * np.sqrt(2.0))  # fixed, so that results repeat
    try:
        operator = LinearOperator((size, size), matvec=flipped, dtype=np.float64)
        return eigsh(operator, k=1, which="LA", v0=start, maxiter=30, tol=1e-7)[1][:, 0]
    except ArpackNoConvergence:
        # Slow where the second eigenvalue is small: there the graph has small separators, and so
        # a sparse factorisation.
        start -= start.mean()
        values, vectors = eigsh(matrix, k=2, sigma=-1e-9 * top, v0=start, tol=1e-5)
        return vectors[:, values.argmax()]
