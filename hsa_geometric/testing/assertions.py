"""What layers and operators over trees should satisfy; each raises an AssertionError that says how
they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from ..functional import hierarchical_attention
from ..functional.layout import root_of
from ..tree import TreeIndex


def _prefix(claim: str) -> Callable[[str], str]:
    """The claim that failed, before what assert_close says of the numbers."""
    return lambda detail: f"{claim}: {detail}"


def _gradients(y: Tensor, inputs: list[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Gradients, zero where an input plays no part, as a query in a tree of one node."""
    grads = torch.autograd.grad(y, inputs, cotangent, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs, strict=True)]


def tree_of_leaf(tree: TreeIndex) -> Tensor:
    """``[N]`` number of the tree that each leaf row belongs to; trees in ascending id of roots.

    Example:
        >>> tree_of_leaf(TreeIndex.from_parent(torch.tensor([1, 1, 4, 4, 4])))
        tensor([0, 1, 1])
    """
    return tree.position[root_of(tree)][tree.leaf_ids]


def assert_rows_sum_to_one(
    theta: Tensor, tree: TreeIndex, *, mass: Tensor | None = None, self_loop: bool = True
) -> None:
    """Every leaf spends its whole attention inside its own tree, none of it negative.

    A leaf that has nothing to look at (the only one of positive mass in its tree, without
    :obj:`self_loop`) has a row of zeros; so may a leaf of mass 0, whose row must only be finite.

    Args:
        theta: ``[H, N, N]`` attention matrices, as of
            :func:`~hsa_geometric.functional.attention_matrix`.
        tree: the tree.
        mass: ``[N]`` mass of each leaf, if there is one.
        self_loop: whether leaves see themselves.

    Example:
        >>> from hsa_geometric.functional import attention_matrix
        >>> tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
        >>> assert_rows_sum_to_one(attention_matrix(*torch.randn(2, 3, 1, 4), tree), tree)
    """
    assert theta.isfinite().all(), "Expected attention weights to be finite"
    assert (theta >= 0).all(), f"Expected no negative attention weight (got {theta.min()})"
    number = tree_of_leaf(tree)
    same = number.unsqueeze(0) == number.unsqueeze(1)
    seen = same if mass is None else same & (mass > 0)
    blind = seen.logical_not()
    if not self_loop:
        blind = blind | torch.eye(len(number), dtype=torch.bool, device=blind.device)
    stray = theta[:, blind]
    assert not stray.any(), f"Expected no attention to unseen leaves (got {stray.max()})"
    expected = (~blind).any(1).to(theta).expand(theta.shape[:2])
    total = theta.sum(-1)
    if mass is not None:  # a padding row is anything between nothing and everything
        total = torch.where(mass > 0, total, expected)
    assert_close(total, expected, msg=_prefix("Rows of theta do not sum to one"))


def assert_block_constant(theta: Tensor, tree: TreeIndex, *, mass: Tensor | None = None) -> None:
    """All leaves below a node share one weight, per mass, to all leaves below a sibling.

    Args:
        theta: ``[H, N, N]`` attention matrices.
        tree: the tree.
        mass: ``[N]`` mass of each leaf, if there is one.
    """
    parent = tree.parent.tolist()
    below: dict[int, list[int]] = {}
    for row, node in enumerate(tree.leaf_ids.tolist()):
        below.setdefault(node, []).append(row)
        while parent[node] != node:
            node = parent[node]
            below.setdefault(node, []).append(row)
    weight = torch.ones(tree.num_leaves) if mass is None else mass
    weight = weight.to(theta)
    for a, up in enumerate(parent):
        for b, other in enumerate(parent):
            if a == b or up != other or up == a or other == b:
                continue
            columns = [j for j in below[b] if weight[j] > 0]
            rows = [i for i in below[a] if weight[i] > 0]
            block = theta[:, rows][:, :, columns] / weight[columns]
            if block.numel():
                assert_close(
                    block,
                    block[:, :1, :1].expand_as(block),
                    msg=_prefix(f"Block of siblings {a} and {b} is not constant"),
                )


def assert_backends_agree(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tree: TreeIndex,
    *,
    backend: str = "auto",
    rtol: float = 1e-10,
    atol: float = 1e-10,
    seed: int = 0,
    **options: Any,
) -> None:
    """A backend gives what the dense reference gives: output, evidence and every gradient.

    Args:
        q: queries, as all arguments are for
            :func:`~hsa_geometric.functional.hierarchical_attention`.
        k: keys.
        v: values.
        tree: the tree.
        backend: the backend to test.
        rtol: relative tolerance; the default is one for float64.
        atol: absolute tolerance.
        seed: of the random cotangents.
        options: further arguments; gradients are compared for ``pos_q``, ``pos_k``,
            ``temperature`` and ``bias`` too.

    Example:
        >>> tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
        >>> q, k, v = torch.randn(3, 3, 2, 4, dtype=torch.float64)
        >>> assert_backends_agree(q, k, v, tree, self_loop=False)
    """
    inputs: dict[str, Tensor] = {"q": q, "k": k, "v": v}
    for name in ("pos_q", "pos_k", "temperature", "bias"):
        if isinstance(options.get(name), Tensor):
            inputs[name] = options.pop(name)
    results = []
    for which in ("reference", backend):
        leaves = {n: x.detach().clone().requires_grad_() for n, x in inputs.items()}
        arguments: dict[str, Any] = {**leaves, **options}
        out, evidence = hierarchical_attention(
            tree=tree, backend=which, return_evidence=True, **arguments
        )
        generator = torch.Generator().manual_seed(seed)
        draw = [torch.randn(y.shape, generator=generator).to(y) for y in (out, evidence)]
        # A tree that sees nothing has evidence -inf, which has no gradient.
        loss = (out * draw[0]).sum() + (evidence * draw[1])[evidence.isfinite()].sum()
        result = {"output": out, "evidence": evidence}
        for name, grad in zip(leaves, _gradients(loss, [*leaves.values()]), strict=True):
            result[f"gradient of {name}"] = grad
        results.append(result)
    expected, actual = results
    for name, x in actual.items():
        assert_close(
            x,
            expected[name],
            rtol=rtol,
            atol=atol,
            msg=_prefix(f"Backend '{backend}' differs in its {name}"),
        )


def assert_isolated(
    function: Callable[..., Tensor], tree: TreeIndex, *inputs: Tensor, seed: int = 0
) -> None:
    """No tree of a batch notices what the others hold, to the last bit.

    Replaces the rows of one tree after the other and demands that outputs and gradients of all
    other trees are bit-equal. So a function that draws random numbers must fix its seed.

    Args:
        function: takes :obj:`inputs` and returns one row for each leaf.
        tree: the tree, of at least two trees to say anything.
        inputs: tensors with one row for each leaf.
        seed: of the replacing rows and the cotangent.

    Example:
        >>> from hsa_geometric.functional import hierarchical_attention
        >>> tree = TreeIndex.from_parent(torch.tensor([2, 2, 2, 5, 5, 5]))
        >>> x = torch.randn(4, 1, 8)
        >>> assert_isolated(lambda x: hierarchical_attention(x, x, x, tree), tree, x)
    """
    generator = torch.Generator(inputs[0].device).manual_seed(seed)
    number = tree_of_leaf(tree)

    def run(inputs: list[Tensor], cotangent: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        inputs = [x.detach().clone().requires_grad_() for x in inputs]
        out = function(*inputs)
        if cotangent is None:
            cotangent = torch.randn(out.shape, generator=generator, device=out.device).to(out)
        return cotangent, [out.detach(), *_gradients(out, inputs, cotangent)]

    cotangent, before = run(list(inputs), None)
    names = ["output", *(f"gradient of input {i}" for i in range(len(inputs)))]
    for changed in range(tree.num_trees):
        mine = number == changed
        replaced = []
        for x in inputs:
            x = x.detach().clone()
            other = torch.randn(x.shape, generator=generator, device=x.device).to(x)
            x[mine] = 2.0 + 3.0 * other[mine]
            replaced.append(x)
        other = cotangent.clone()
        other[mine] += 1.0
        _, after = run(replaced, other)
        for name, x, y in zip(names, before, after, strict=True):
            assert torch.equal(x[~mine], y[~mine]), (
                f"Changing tree {changed} changed the {name} of another tree "
                f"by {(x[~mine] - y[~mine]).abs().max()}"
            )


def assert_adjoint(
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    rtol: float = 1e-10,
    atol: float = 1e-10,
) -> None:
    """⟨forward(x), y⟩ = ⟨x, backward(y)⟩, and autograd's backward of each is the other.

    Example:
        >>> from hsa_geometric.functional import aggregate, distribute
        >>> tree = TreeIndex.from_parent(torch.tensor([3, 3, 4, 4, 4]))
        >>> x = torch.randn(3, 2, dtype=torch.float64)
        >>> y = torch.randn(5, 2, dtype=torch.float64)
        >>> assert_adjoint(lambda x: aggregate(x, tree), lambda y: distribute(y, tree), x, y)
    """
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    ax, by = forward(x), backward(y)
    assert_close((ax * y).sum(), (x * by).sum(), rtol=rtol, atol=atol)
    (grad_x,) = torch.autograd.grad(ax, x, y.detach())
    (grad_y,) = torch.autograd.grad(by, y, x.detach())
    assert_close(grad_x, by, rtol=rtol, atol=atol)
    assert_close(grad_y, ax, rtol=rtol, atol=atol)
