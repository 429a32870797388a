"""The correctness gate: no speed is worth printing of an operator that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.testing import assert_close

from hsa_geometric import TreeIndex
from hsa_geometric.functional import hierarchical_attention
from hsa_geometric.testing import ZOO, assert_backends_agree, attention_inputs, zoo

from . import shapes
from .baselines import METHODS
from .case import Case, Skipped

Result = tuple[Tensor, ...]
NAMES = ("output", "gradient of q", "gradient of k", "gradient of v")


class Verdict(NamedTuple):
    """What is wrong, and which checks of other methods could not be made; one line each."""

    wrong: list[str]
    unchecked: list[str]


def check(
    device: str = "cpu", methods: Iterable[str] = tuple(METHODS), leaves: int = 1000
) -> Verdict:
    """Check the operator, and other methods that claim to compute the same.

    * The operator against the dense oracle on all trees of the zoo, with every argument: output,
      evidence and gradients in float64.
    * Every exact one of :obj:`methods`, on the device, against the oracle on the CPU: output and
      gradients.
    * The operator against the sparse scheme on trees of :obj:`leaves` leaves, which run other code
      than small ones.
    * On a star, the operator against softmax attention.

    Another method that does not run at all is not wrong: the sweep says why it does not.
    """
    wrong: list[str] = []
    unchecked: list[str] = []
    exact = {"hsa": None} | {m: None for m in methods if METHODS[m].exact}

    def attempt(what: str, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Skipped:
            pass
        except Exception as error:
            if not what.startswith("hsa") and not isinstance(error, AssertionError):
                unchecked.append(f"{what}: {type(error).__name__}")
            else:
                wrong.append(f"{what}: {str(error).strip() or type(error).__name__}")

    for name in ZOO:
        attempt(f"hsa on '{name}', all arguments", _against_reference, name, device)
        for method in exact:
            # FlexAttention is compiled, and checked on one tree.
            if not method.startswith("flex") or name == "two_levels":
                attempt(f"{method} on '{name}'", against_oracle, method, zoo(name), device)
    for name in shapes.DEFAULT_SHAPES:
        if name != "star":
            attempt(f"hsa on '{name}'", _alike, "hsa", "sparse-levels", name, leaves, device)
    attempt("hsa on a star", _alike, "hsa", "sdpa", "star", leaves, device)
    return Verdict(wrong, unchecked)


def _against_reference(name: str, device: str) -> None:
    tree = TreeIndex.from_parent(zoo(name))
    options: dict[str, Any] = attention_inputs(
        tree, pos_channels=2, node_scalars=True, mass="random"
    )
    if device == "cpu":
        assert_backends_agree(**options, tree=tree)
        return
    expected = hierarchical_attention(**options, tree=tree, backend="reference")
    moved = {key: x.to(device) for key, x in options.items()}
    actual = hierarchical_attention(**moved, tree=tree.to(device), backend="auto")
    assert isinstance(actual, Tensor)
    assert_close(actual.cpu(), expected, rtol=1e-10, atol=1e-10)


def against_oracle(method: str, parent: Tensor, device: str = "cpu") -> None:
    """Output and gradients of a method are those of the dense oracle.

    Raises:
        AssertionError: if they are not.
    """
    case = Case(parent, heads=2, channels=16, dtype=torch.float64, device=device)
    try:
        actual = METHODS[method].prepare(case, True).both()
    except Skipped:  # FlexAttention: no gradient, and float32 only
        case = Case(parent, heads=2, channels=16, device=device)
        actual = (METHODS[method].prepare(case, False).forward(),)
    q, k, v = (x.detach().cpu().requires_grad_() for x in case.qkv)
    out = hierarchical_attention(q, k, v, parent, backend="reference")
    assert isinstance(out, Tensor)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, (q, k, v), direction, materialize_grads=True)
    _same(actual, (out.detach(), *grads)[: len(actual)])


def _alike(method: str, other: str, shape: str, leaves: int, device: str) -> None:
    results = []
    for name in (method, other):
        case = Case.of(shape, leaves, heads=2, channels=16, dtype=torch.float64, device=device)
        # SDPA has the heads first, so directions would differ: compare outputs alone.
        prepared = METHODS[name].prepare(case, other != "sdpa")
        results.append(prepared.both() if other != "sdpa" else (prepared.forward(),))
    if other == "sdpa":
        results[1] = (results[1][0].squeeze(0).transpose(0, 1),)
    _same(*results)


def _same(actual: Result, expected: Result) -> None:
    tolerance = 1e-9 if actual[0].dtype == torch.float64 else 1e-4
    for name, x, y in zip(NAMES, actual, expected, strict=False):
        assert_close(
            x.detach().cpu(),
            y.detach().cpu(),
            rtol=tolerance,
            atol=tolerance,
            msg=partial("{}: {}".format, name),
        )
