"""Which tree is good? Figures and pictures of a hierarchy.

=====================  ============================================================================
``hierarchy_report``   shape, cost, dilution and, given q and k, the evidence gap to softmax
``best_hierarchy``     several hierarchies over the same leaves, ranked by their evidence
``dilution``           how many leaves share a weight, and how far away they are
``evidence_gap``       how far hierarchical attention is from softmax attention
``fidelity``           the same along interaction lists, and which blocks are to blame
``choose_lists``       the cheapest lists that are near enough to softmax
``plot_hierarchy``     a picture of the tree
``plot_levels``        the leaves in space, coloured by their clusters at several levels
``attention_blocks``   attention as sparse blocks, and rows, columns and products of them
``attention_rollout``  what a leaf attends to through several layers
``attention_levels``   share, entropy and distance of attention at each level
``plot_attention``     attention of a leaf on points, surfaces, molecules, texts and images
=====================  ============================================================================
"""

from hsa_geometric.report.attention_blocks import attention_blocks
from hsa_geometric.report.attention_levels import AttentionLevels, attention_levels
from hsa_geometric.report.attention_rollout import attention_rollout
from hsa_geometric.report.best_hierarchy import Ranking, best_hierarchy
from hsa_geometric.report.choose_lists import Choice, choose_lists
from hsa_geometric.report.dilution import Dilution, dilution
from hsa_geometric.report.evidence_gap import EvidenceGap, evidence_gap
from hsa_geometric.report.fidelity import Fidelity, fidelity
from hsa_geometric.report.hierarchy_report import HierarchyReport, hierarchy_report
from hsa_geometric.report.plot import plot_hierarchy, plot_levels
from hsa_geometric.report.plot_attention import AttentionPicture, plot_attention

__all__ = [
    "AttentionLevels",
    "AttentionPicture",
    "Choice",
    "Dilution",
    "EvidenceGap",
    "Fidelity",
    "HierarchyReport",
    "Ranking",
    "attention_blocks",
    "attention_levels",
    "attention_rollout",
    "best_hierarchy",
    "choose_lists",
    "dilution",
    "evidence_gap",
    "fidelity",
    "hierarchy_report",
    "plot_attention",
    "plot_hierarchy",
    "plot_levels",
]
