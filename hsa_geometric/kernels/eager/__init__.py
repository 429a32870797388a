"""Backend ``'torch'``: the algorithm as a handful of custom operators written in tensor code.

Each operator takes the tree as a list of tensors, hides its loop over levels or family sizes from
``torch.compile``, and has a backward made of the same operators, so that gradients of any order
and compiled graphs that do not depend on the tree come for free.

=============  ==================================================================================
``sweeps``     :func:`~sweeps.up` and :func:`~sweeps.down`, adjoint to each other
``siblings``   attention within all families at once
``evidence``   the scalar recursion for the log evidence f
``attention``  the three put together
=============  ==================================================================================
"""

from .attention import hierarchical_attention
from .sweeps import aggregate, distribute

__all__ = ["aggregate", "distribute", "hierarchical_attention"]
