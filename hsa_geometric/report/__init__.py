"""Which tree is good? Figures and pictures of a hierarchy.

====================  =============================================================================
``hierarchy_report``  shape, cost, dilution and, given q and k, the evidence gap to softmax
``best_hierarchy``    several hierarchies over the same leaves, ranked by their evidence
``dilution``          how many leaves share a weight, and how far away they are
``evidence_gap``      how far hierarchical attention is from softmax attention
``plot_hierarchy``    a picture of the tree
``plot_levels``       the leaves in space, coloured by their clusters at several levels
====================  =============================================================================
"""

from hsa_geometric.report.best_hierarchy import Ranking, best_hierarchy
from hsa_geometric.report.dilution import Dilution, dilution
from hsa_geometric.report.evidence_gap import EvidenceGap, evidence_gap
from hsa_geometric.report.hierarchy_report import HierarchyReport, hierarchy_report
from hsa_geometric.report.plot import plot_hierarchy, plot_levels

__all__ = [
    "Dilution",
    "EvidenceGap",
    "HierarchyReport",
    "Ranking",
    "best_hierarchy",
    "dilution",
    "evidence_gap",
    "hierarchy_report",
    "plot_hierarchy",
    "plot_levels",
]
