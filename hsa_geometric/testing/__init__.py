"""Trees and assertions for tests of layers that work on trees: shipped, so that yours can use them.

==============  ==================================================================================
``zoo``         a handful of small named trees that between them hold every shape known to break
                tree code, and the functions that build them
``strategies``  random forests for `hypothesis <https://hypothesis.works>`_, which only they import
``inputs``      random arguments for an attention over a given tree
``lists``       random interaction lists
``assertions``  what every layer over trees should satisfy, whatever it computes
==============  ==================================================================================

Nothing in the package imports this one.

Example:
    A layer of one's own sees no other tree of the batch::

        @pytest.mark.parametrize("name", ZOO)
        def test_my_layer_is_isolated(name):
            tree = TreeIndex.from_parent(zoo(name))
            x = torch.randn(tree.num_leaves, 16)
            assert_isolated(lambda x: my_layer(x, tree), tree, x)
"""

from .assertions import (
    assert_adjoint,
    assert_backends_agree,
    assert_block_constant,
    assert_isolated,
    assert_rows_sum_to_one,
    tree_of_leaf,
)
from .inputs import attention_inputs
from .lists import random_lists
from .strategies import forests
from .zoo import (
    ZOO,
    balanced,
    caterpillar,
    chain,
    collapse_chains,
    forest,
    random_parent,
    renumber,
    shuffled,
    star,
    zoo,
)

__all__ = [
    "ZOO",
    "assert_adjoint",
    "assert_backends_agree",
    "assert_block_constant",
    "assert_isolated",
    "assert_rows_sum_to_one",
    "attention_inputs",
    "balanced",
    "caterpillar",
    "chain",
    "collapse_chains",
    "forest",
    "forests",
    "random_lists",
    "random_parent",
    "renumber",
    "shuffled",
    "star",
    "tree_of_leaf",
    "zoo",
]
