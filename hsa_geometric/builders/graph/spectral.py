"""Spectral bisection: halves of halves at the median of the Fiedler vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from hsa_geometric.builders.graph._graph import Graph
from hsa_geometric.builders.graph._parts import Labels, cut_down
from hsa_geometric.functional.options import check_integer

DENSE = 64  # up to here LAPACK is the fastest
EXPANDER = 0.05  # a second eigenvalue of so many mean degrees is a graph without good cuts


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
        return np.linalg.eigh(laplacian(adjacency.toarray()))[1][:, 1]
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
        return _preconditioned(matrix, start)


def _preconditioned(matrix: Any, start: Any) -> Any:
    """The same by conjugate gradients, for Laplacians whose eigenvalues lie close or far apart.

    Where a few steps with the diagonal end at a value near the mean degree, as in graphs with hubs,
    no cut is much better than another. Elsewhere an incomplete factorisation takes over: it is
    exact on paths and trees, and its fill has a bound, which that of a full one in graphs with hubs
    has not.
    """
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import LinearOperator, spilu

    diagonal = matrix.diagonal()
    scale = diagonal.mean()

    def operator(solve: Callable[[Any], Any]) -> Any:
        return LinearOperator(matrix.shape, lambda x: solve(x.reshape(-1)), dtype=np.float64)

    vector = _lobpcg(matrix, start - start.mean(), operator(lambda x: x / diagonal), 60)
    if vector @ (matrix @ vector) > EXPANDER * scale * (vector @ vector):
        return vector
    try:
        factors = spilu(
            matrix + 1e-6 * scale * eye_array(diagonal.size, format="csc"),
            drop_tol=1e-3,
            fill_factor=5,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # a pivot vanished
        return vector
    return _lobpcg(matrix, vector, operator(factors.solve), 40)


def _lobpcg(matrix: Any, start: Any, preconditioner: Any, steps: int) -> Any:
    from scipy.sparse.linalg import lobpcg

    constant = np.ones((start.size, 1))
    with warnings.catch_warnings():  # the best vector so far will do
        warnings.simplefilter("ignore")
        _, vectors = lobpcg(
            matrix,
            start[:, None],
            M=preconditioner,
            Y=constant,
            largest=False,
            maxiter=steps,
            tol=1e-6 * matrix.diagonal().mean(),
        )
    return vectors[:, 0]
