"""Backend ``'scatter'``: the algorithm in plain differentiable PyTorch, for any device.

No derivative is written by hand, so those of any order and in forward mode are right, and what
``torch.func`` and ``vmap`` can do with PyTorch's operators they can do here.

=============  ==================================================================================
``attention``  the steps of DESIGN.md one after another: begin here
``sweeps``     sums over subtrees (up) and over ancestors (down), level by level
``siblings``   softmax within families
``lists``      the same where other pairs of nodes meet
``nodes``      masses, positions, temperatures and biases
``tiles``      families as padded tiles
``recursion``  log evidence upward, what is kept inside downward
``entmax``     1.5-entmax within families instead
``weights``    the weights of single blocks, to look at
``operator``   the sweeps as one operator, for torch.compile
=============  ==================================================================================
"""

from .attention import attend
from .operator import sweep

__all__ = ["LISTS", "attend", "sweep"]

LISTS = True  # knows of pairs of nodes other than siblings
