"""The door for graphs: one function, one method for each way to group nodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from hsa_geometric.builders._attach import attach
from hsa_geometric.builders._forest import join
from hsa_geometric.builders._ids import Ids
from hsa_geometric.builders._progress import counting
from hsa_geometric.builders.from_parent import from_parent
from hsa_geometric.builders.graph._graph import Weights, read_graph
from hsa_geometric.builders.graph.agglomerative import agglomerative
from hsa_geometric.builders.graph.communities import communities
from hsa_geometric.builders.graph.components import components
from hsa_geometric.builders.graph.matching import matching
from hsa_geometric.builders.graph.metis import metis
from hsa_geometric.builders.graph.spectral import spectral
from hsa_geometric.data.hierarchy import Hierarchy
from hsa_geometric.functional.options import check_choice

# Each turns a Graph into a forest, nodes first, in which each component is a tree, and tells how
# many nodes are done. What it takes by keyword are its options.
METHODS: dict[str, Callable[..., Tensor]] = {
    "matching": matching,
    "metis": metis,
    "components": components,
    "communities": communities,
    "agglomerative": agglomerative,
    "spectral": spectral,
}


def check_options(method: str, options: Iterable[str]) -> None:
    """A method that there is, and options that it takes."""
    check_choice(method, "method", METHODS)
    parameters = inspect.signature(METHODS[method]).parameters.values()
    taken = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in taken:
            raise ValueError(
                f"Expected an option that method={method!r} takes, of {taken} (got '{name}')"
            )


def from_graph(
    graph: Any,
    *,
    method: str = "matching",
    edge_weight: Weights | None = None,
    num_nodes: int | None = None,
    batch: Ids | None = None,
    seed: int | None = None,
    two_hop: bool | None = None,
    branching: int | None = None,
    leaf_size: int | None = None,
    algorithm: str | None = None,
    resolution: float | None = None,
    linkage: str | None = None,
    features: str | None = None,
    progress: bool = False,
    **leaf_data: Any,
) -> Hierarchy:
    r"""Build a hierarchy over the nodes of a graph: node ``i`` is leaf ``i``.

    ================  =============================================================  ==============
    ``method``        what it builds                                                 options
    ================  =============================================================  ==============
    `matching`_       pairs of pairs: neighbours of the greatest mean edge weight    ``seed``,
                      join, level by level, on the graph's device                    ``two_hop``
    `metis`_          parts of parts by METIS, ``branching`` at a time, down to      ``branching``,
                      families of ``leaf_size`` nodes                                ``leaf_size``,
                                                                                     ``seed``
    ``components``    the connected components, and nothing below                    none
    `communities`_    the nested levels of Louvain, or one level of greedy           ``algorithm``,
                      modularity, below the connected components                     ``resolution``,
                                                                                     ``seed``
    `agglomerative`_  a binary tree: neighbours of similar features join             ``linkage``,
                                                                                     ``features``
    `spectral`_       halves of halves at the median of the Fiedler vector, down to  ``leaf_size``
                      families of ``leaf_size`` nodes
    ================  =============================================================  ==============

    .. _matching: https://doi.org/10.1137/S1064827595287997
    .. _metis: https://github.com/KarypisLab/METIS
    .. _communities: https://arxiv.org/abs/0803.0476
    .. _agglomerative: https://scikit-learn.org/stable/modules/clustering.html
    .. _spectral: https://doi.org/10.1137/0611030

    Whatever the method, the connected components of a sample hang side by side from its root,
    isolated nodes as leaves; a connected sample's root is its component. There are no one-child
    nodes, except that in a batch a sample of one node keeps its root. So a graph without edges is a
    star, and one node is a single leaf. Samples of a batch do not influence one another.

    Edges count in both directions, wherever they point; parallel ones add up; self loops and edges
    of weight 0 do not count.

    * ``matching``: of two clusters :math:`A, B` joined by edges of total weight :math:`w_{AB}` the
      similarity is :math:`w_{AB} / (|A| |B|)`, as in average linkage. All clusters propose to the
      most similar neighbour at once and mutual proposals join, until no two neighbours are both
      free. Those left over whose best neighbour is the same (the rays of a star) are paired, and
      the last of an odd number joins that neighbour's pair; so a level at least halves each
      component, and depth is logarithmic. Such pairs are neighbours of a neighbour: without
      ``two_hop`` all left-overs join their best neighbour's pair, every cluster is connected,
      and a star stays a star. After 16 rounds on a level chance decides instead of weight.
    * ``metis``, ``spectral``: a part that fell apart is cut where its components end, as near to
      its middle as that allows. Weights of METIS are rounded to a thousandth of the largest.
    * ``agglomerative``: edges say who may join, whatever their weight.
    * ``communities``: Louvain is networkx's, on weights with a little chance in their tenth digit:
      where two communities are equally good for a node, it might else not end.

    Args:
        graph: a :class:`torch_geometric.data.Data`, an ``edge_index`` of shape ``[2, E]``, or a
            networkx graph (nodes in its order of iteration; edges weigh their ``weight``, or 1
            without). The hierarchy takes over all attributes of a Data (a tree it had is
            replaced), and the edges, and weights if any, of the others.
        method: one of the table's.
        edge_weight: ``[E]`` weight of each edge, finite and not negative. It shapes the tree and is
            not stored. (default: the Data's ``edge_weight``, or else its ``edge_attr`` if that is
            one number an edge, or else 1)
        num_nodes: number of nodes. (default: the Data's; the rows of ``batch``, ``x``, ``pos``,
            ``z`` or ``mass``; or one more than the highest id in ``edge_index``)
        batch: ``[N]`` sample of each node, ids ``0 .. B-1``; tree ``b`` is sample ``b``.
            (default: the Data's, or one sample)
        seed: of chance where it decides; the same seed gives the same tree. (default: 0)
        two_hop: whether neighbours of a neighbour may be paired. (default: True)
        branching: parts a part is cut into, at least 2. (default: 8)
        leaf_size: parts of at most that many nodes, at least 2, become families, and so do those of
            at most :obj:`branching`, or two for ``spectral``. (default: :obj:`branching`; 8 for
            ``spectral``)
        algorithm: ``'louvain'`` or ``'greedy_modularity'``. Where two communities are equally good
            for a node, chance decides by :obj:`seed`, in the last digits of the weights: networkx's
            Louvain could go on for ever there. (default: ``'louvain'``)
        resolution: above 1 for more communities, below for fewer. (default: 1.0)
        linkage: ``'ward'``, ``'average'``, ``'complete'`` or ``'single'``. (default: ``'ward'``)
        features: name of the attribute to compare nodes by. (default: ``x``, or else ``pos``)
        progress: whether a bar on stderr counts the nodes that are done: found their pair or
            family, or for ``communities`` all those of a sample at a time, and for
            ``agglomerative`` of a component, whose library says nothing before. (default: off)
        **leaf_data: as for :func:`~hsa_geometric.builders.from_parent`; replaces what the Data has
            under the same name.

    Raises:
        TypeError: if :obj:`graph` is none of these, or edges or options are of the wrong type.
        ValueError: naming the argument: an empty graph, ids out of range, a negative or NaN
            weight, an edge between two samples, an unknown method or an option that it does not
            take; and what :func:`~hsa_geometric.builders.from_parent` raises.
        ImportError: naming the extra, if a method's library is missing: SciPy for all but
            ``matching``, besides pymetis and scikit-learn.

    Cost: ``matching`` sorts the edges of each level, no Python for single nodes or edges, and is
    linear but for that. ``metis`` and ``spectral`` call their library once a part, and are linear
    but for the number of levels; the more small parts, the more of the time goes into slicing the
    graph. ``agglomerative`` takes what scikit-learn takes for each component, more than linear (a
    heap in Python), and ``communities`` what networkx takes for each sample: some Python steps an
    edge and pass, and where there are no communities to find, as in random graphs, hundreds of
    passes. Seconds on random graphs of four edges a node, one thread, and how that compares to
    what the library needs of it (``python -m benchmarks.builders --threads 1 --sizes --atoms
    --graph-nodes --random-nodes 25000 50000``):

    =================  ============  ============  ========================
    method             25,000 nodes  50,000 nodes  relative to its library
    =================  ============  ============  ========================
    ``matching``       0.4           0.7           has none
    ``metis``          0.7           3.2           1.5 to 2.2 ×
    ``spectral``       8             20            1.3 to 1.5 ×
    ``agglomerative``  16            48            1.0 ×
    ``communities``    28            208           1.0 ×
    =================  ============  ============  ========================

    Example:
        >>> import torch
        >>> edge_index = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])  # a path
        >>> h = from_graph(edge_index, edge_weight=[2.0, 1.0, 2.0, 1.0, 2.0])
        >>> h
        Hierarchy(leaves=6, nodes=10, depth=2, edge_index=[2, 5])
        >>> from hsa_geometric.functional import clusters_at
        >>> clusters_at(h.tree, -2).cluster
        tensor([0, 0, 1, 1, 2, 2])
    """
    options = {
        "seed": seed,
        "two_hop": two_hop,
        "branching": branching,
        "leaf_size": leaf_size,
        "algorithm": algorithm,
        "resolution": resolution,
        "linkage": linkage,
        "features": features,
    }
    options = {name: value for name, value in options.items() if value is not None}
    check_options(method, options)

    read, data = read_graph(graph, edge_weight, num_nodes, batch, leaf_data)
    with counting(progress, read.num_nodes, f"from_graph: {method}", "node") as step:
        forest = METHODS[method](read, step, **options)
    parent = join(forest, read.sample)
    if batch is not None:
        leaf_data["batch"] = read.sample
    return attach(data, from_parent(parent, **leaf_data), leaf_data)
