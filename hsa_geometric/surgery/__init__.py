"""New hierarchies from old ones: tree surgery. Inputs are never changed.

===================  ==============================================================================
``collapse_chains``  inner nodes with a single child vanish; attention stays the same
``cut``              the tree above a cut is kept; below it leaves hang from their cluster directly
``rebalance``        families are split and paths shortened until the tree is within bounds
``subtree``          the part below one node, as a sample of its own
``merge``            several samples become one tree below a new root
``permute_leaves``   the leaves in another order; the tree follows
===================  ==============================================================================
"""

from hsa_geometric.surgery.collapse_chains import collapse_chains
from hsa_geometric.surgery.cut import cut
from hsa_geometric.surgery.merge import merge
from hsa_geometric.surgery.permute_leaves import permute_leaves
from hsa_geometric.surgery.rebalance import rebalance
from hsa_geometric.surgery.subtree import subtree

__all__ = ["collapse_chains", "cut", "merge", "permute_leaves", "rebalance", "subtree"]
