"""Builders of interaction lists: which nodes of a tree, or of two, meet.

=============  ==================================================================================
``siblings``   siblings meet: what attention without lists does
``near``       nodes that are large for their distance
``along``      leaves that an edge joins
``causal``     leaves and what lies before them
``heaviest``   nodes whose attention is large and uneven
``between``    the first levels of two trees
=============  ==================================================================================
"""

from .along import along
from .between import between
from .causal import causal
from .heaviest import heaviest
from .near import near
from .siblings import siblings

__all__ = ["along", "between", "causal", "heaviest", "near", "siblings"]
