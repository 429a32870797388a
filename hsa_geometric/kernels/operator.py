"""From checked arguments to a backend, and to autograd and ``torch.compile``.

A backend of plain tensor code has ``attend(call)``, which PyTorch differentiates. One with kernels
has ``forward(call, save)``, ``backward(call, saved, grad, grad_evidence)`` and
``saved_like(call)``: empty tensors like those that ``forward`` saves. Its derivatives of second and
higher order are those of ``scatter``.

Called as usual, that is one ``autograd.Function``. To a compiler it is one operator forward and one
backward, which take the tree as tensors: a graph serves every tree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..lists import InteractionLists
from ..tree import TreeIndex
from .call import NUM_LEARNED, Call, accumulator

TREE = NUM_LEARNED + 2  # the place of the tree in a call
LISTS = 5  # tensors of lists beside those of their trees
BACKENDS = ("reference", "scatter", "cpu", "triton")
Result = tuple[Tensor, Tensor]


def attention(call: Call, backend: str) -> Result:
    """Output ``[N, H, Dv]`` in the dtype of ``v``, and log evidence ``[trees, H]``."""
    learned: tuple[Any, ...] = call[
        :NUM_LEARNED
    ]  # torch 2.10 cannot compile the property of that name
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in learned)
    if torch.compiler.is_compiling():
        out, evidence, _ = torch.ops.hsa_geometric.attention(*flat(call), backend, save)
        return out, evidence
    module = SHAPES if has_no_numbers(call.q) else load(backend)
    if hasattr(module, "attend"):
        return attend_by(module, call)
    if not save:
        return module.forward(call, False)[:2]
    return Attention.apply(module, call[NUM_LEARNED:], *call.learned)


def attend_by(module: Any, call: Call) -> Result:
    """What a module of plain tensor code gives, which PyTorch differentiates."""
    out: Result = exactly(partial(_attend, module, call[NUM_LEARNED:]), *call.learned)
    return out


def load(backend: str) -> Any:
    """The module of a backend, imported at its first use."""
    return _LOADED.get(backend) or _LOADED.setdefault(
        backend, import_module(f".{backend}", __package__)
    )


_LOADED: dict[str, Any] = {}


def has_no_numbers(x: Tensor) -> bool:
    """Whether only the shapes of results are asked for."""
    return x.is_meta or isinstance(x, FakeTensor)


def empty_results(call: Call) -> Result:
    """Results without numbers."""
    shape = call.tree.num_trees, call.q.shape[1]
    dtype = accumulator(call.q.dtype)
    return call.v.new_empty(call.q.shape[0], *call.v.shape[1:]), call.q.new_empty(
        shape, dtype=dtype
    )


def empty_grads(call: Call) -> list[Tensor | None]:
    """Gradients without numbers."""
    return [None if x is None else x.new_empty(x.shape) for x in call.learned]


# The backend where nothing is computed.
SHAPES = SimpleNamespace(
    forward=lambda call, save: (*empty_results(call), []),
    backward=lambda call, saved, grad, grad_evidence: empty_grads(call),
)


def differentiate(
    module: Any, call: Call, grad: Tensor, grad_evidence: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the arguments by plain tensor code; differentiable if grad mode is on."""
    function = partial(_attend, module, call[NUM_LEARNED:])
    return exactly(partial(gradient, function, NUM_LEARNED), *call.learned, grad, grad_evidence)


def _attend(module: Any, rest: tuple[Any, ...], *learned: Tensor | None) -> Result:
    return module.attend(Call._make([*learned, *rest]))


def gradient(
    function: Callable[..., Any], count: int, *args: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of the first ``count`` arguments, for those of the results, which are the others.

    With a graph of their own if grad mode is on.
    """
    again, device = torch.is_grad_enabled(), next(x.device.type for x in args if x is not None)

    def node(x: Tensor | None) -> Tensor | None:
        # One of its own for each argument, for one may depend on another.
        if x is None:
            return None
        return x.view_as(x) if again and x.requires_grad else x.detach().requires_grad_()

    with torch.enable_grad(), torch.autocast(device, enabled=False):
        xs = [node(x) for x in args[:count]]
        pairs = zip(function(*xs), args[count:], strict=True)
        results = [(y, g.to(y.dtype)) for y, g in pairs if y is not None and g is not None]
        results = [(y, g) for y, g in results if y.requires_grad]
        options = {"create_graph": again, "allow_unused": True, "materialize_grads": True}
        ys, grads = zip(*results, strict=True)
        given = [x for x in xs if x is not None]
        found = iter(torch.autograd.grad(ys, given, grads, **options))
    return tuple(None if x is None else next(found) for x in xs)


def exactly(function: Callable[..., Any], *xs: Tensor | None) -> Any:
    """``function(*xs)``; where autocast is on, it has no part in derivatives of any order."""
    device = next(x.device.type for x in xs if x is not None)
    if torch.is_grad_enabled() and torch.is_autocast_enabled(device) and not in_transform():
        return Exactly.apply(function, *xs)
    with torch.autocast(device, enabled=False):
        return function(*xs)


def in_transform() -> bool:
    """Whether this runs inside a transform of ``torch.func``."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_batched(*xs: Tensor) -> bool:
    """Whether a tensor stands for several, as with ``is_grads_batched``."""
    return any(map(torch._C._functorch.is_legacy_batchedtensor, xs))


class Exactly(torch.autograd.Function):
    """See :func:`exactly`: PyTorch runs a backward under the autocast of who calls it."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], *xs: Tensor | None) -> Any:
        """The function's results."""
        ctx.function = function
        ctx.save_for_backward(*xs)
        with torch.autocast(next(x.device.type for x in xs if x is not None), enabled=False):
            return function(*xs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients, exactly as well."""
        xs = ctx.saved_tensors
        return None, *exactly(partial(gradient, ctx.function, len(xs)), *xs, *grads)


class Attention(torch.autograd.Function):
    """A backend with kernels; the tree is kept as it is."""

    @staticmethod
    def forward(ctx: Any, module: Any, rest: tuple[Any, ...], *learned: Tensor | None) -> Result:
        """Also what backward needs."""
        out, evidence, saved = module.forward(Call._make([*learned, *rest]), True)
        mass, seed, *ctx.rest = rest
        ctx.module = module
        ctx.save_for_backward(*learned, mass, seed, *saved)
        return out, evidence

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_evidence: Tensor) -> tuple[Tensor | None, ...]:
        """By the kernels, or by ``scatter`` where the gradients are differentiated in turn."""
        tensors = ctx.saved_tensors
        call, saved = Call._make([*tensors[:TREE], *ctx.rest]), tensors[TREE:]
        again = torch.is_grad_enabled() or in_transform() or is_batched(grad, grad_evidence)
        if again and ctx.module is not SHAPES:
            return None, None, *differentiate(load("scatter"), call, grad, grad_evidence)
        return None, None, *ctx.module.backward(call, saved, grad, grad_evidence)


# --- what a compiler sees ------------------------------------------------------------------------

ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? pos_q, Tensor? pos_k, Tensor? temperature, Tensor? bias,"
    "Tensor? mass, Tensor? seed, Tensor[] tree, float scale, bool self_loop, float dropout_p,"
    "Tensor? key_mass, Tensor[] lists, str backend"
)

torch.library.define(
    "hsa_geometric::attention", f"({ARGUMENTS}, bool save) -> (Tensor, Tensor, Tensor[])"
)
torch.library.define(
    "hsa_geometric::attention_backward",
    f"(Tensor grad, Tensor grad_evidence, Tensor[] saved, {ARGUMENTS}) -> Tensor[]",
)
torch.library.define("hsa_geometric::tree_index", "(Tensor parent, SymInt? num_leaves) -> Tensor[]")


def flat(call: Call) -> list[Any]:
    """The arguments of the operators."""
    lists = call.lists
    met = [] if lists is None else lists.tensors
    if lists is not None and not lists.of_one_tree:
        met = [*met, *lists.key_tree.tensors]
    return [*call[:TREE], call.tree.tensors, *call[TREE + 1 : -1], met]


def unflat(args: tuple[Any, ...]) -> Call:
    """What :func:`flat` was given."""
    tree, met, lists = TreeIndex(*args[TREE]), args[-1], None
    if met:
        other = TreeIndex(*met[LISTS:]) if met[LISTS:] else tree
        lists = InteractionLists(tree, other, *met[:LISTS])
    return Call._make([*args[:TREE], tree, *args[TREE + 1 : -1], lists])


@torch.library.impl("hsa_geometric::attention", "default")
@_disable_dynamo
def _attention(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *rest, backend, save = args
    call, module = unflat(tuple(rest)), load(backend)
    if not hasattr(module, "attend"):
        out, evidence, saved = module.forward(call, save)
        return out, evidence, list(saved)
    with torch.no_grad():
        out, evidence = exactly(partial(_attend, module, call[NUM_LEARNED:]), *call.learned)
    return out.contiguous(), evidence.contiguous(), []


def _autograd_keys() -> tuple[Any, Any]:
    """PyTorch's switches as they are, but with autograd, which is off below some modes."""
    included, excluded = (
        torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set(),
    )  # fmt: skip
    for name in ("AutogradFunctionality", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    return included, excluded


@torch.library.impl("hsa_geometric::attention_backward", "default")
@_disable_dynamo
def _backward(grad: Tensor, grad_evidence: Tensor, saved: list[Tensor], *args: Any) -> list[Tensor]:
    *rest, backend = args
    call, module = unflat(tuple(rest)), load(backend)
    if hasattr(module, "attend"):
        with torch.no_grad(), torch._C._ForceDispatchKeyGuard(*_autograd_keys()):
            grads = differentiate(module, call, grad, grad_evidence)
    else:
        grads = module.backward(call, saved, grad, grad_evidence)
    # in the layout that the fake operator promises
    return [x.contiguous() for x in grads if x is not None]


@torch.library.register_fake("hsa_geometric::attention")
def _(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    *rest, backend, save = args
    call = unflat(tuple(rest))
    like = getattr(load(backend), "saved_like", None)
    return *empty_results(call), like(call) if like and save else []


@torch.library.register_fake("hsa_geometric::attention_backward")
def _(grad: Tensor, grad_evidence: Tensor, saved: list[Tensor], *args: Any) -> list[Tensor]:
    return [x for x in empty_grads(unflat(args[:-1])) if x is not None]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    tensors, tree, (*options, key_mass, lists, backend, _) = (
        inputs[:TREE], inputs[TREE], inputs[TREE + 1 :],
    )  # fmt: skip
    ctx.options, ctx.backend, ctx.sizes = options, backend, [len(tree), len(lists)]
    ctx.save_for_backward(*tensors, key_mass, *tree, *lists, *output[2])


def _autograd(ctx: Any, grad: Tensor, grad_evidence: Tensor, _: Any) -> tuple[Any, ...]:
    *tensors, key_mass = ctx.saved_tensors[: TREE + 1]
    trees, lists = ctx.sizes
    rest = list(ctx.saved_tensors[TREE + 1 :])
    tree, met, saved = rest[:trees], rest[trees : trees + lists], rest[trees + lists :]
    found = iter(
        torch.ops.hsa_geometric.attention_backward(
            grad, grad_evidence, saved, *tensors, tree, *ctx.options, key_mass, met, ctx.backend
        )
    )
    grads = [None if x is None else next(found) for x in tensors[:NUM_LEARNED]]
    return (*grads, None, None, [None] * trees, *[None] * 4, [None] * lists, None, None)


torch.library.register_autograd("hsa_geometric::attention", _autograd, setup_context=_setup)


# What has been worked out about trees that only a graph's tensors know of, by their keys.
_FOUND = WeakTensorKeyDictionary()


def handed_out(tree: TreeIndex) -> list[Tensor]:
    """An index as an operator returns it; what is known of it lives as long as its key."""
    _FOUND[tree.key] = tree._found
    return tree.tensors


def sizes_of_index(parent: Tensor, nodes: Any, trees: Any, depth: Any, leaves: Any) -> list[Tensor]:
    """Empty tensors like those of an index of such sizes."""
    inner = nodes - leaves
    sizes = [nodes] * 4 + [trees, depth, leaves, nodes, inner, inner + 1]
    tensors = [parent.new_empty((n,), dtype=torch.long) for n in sizes]
    return [*tensors, torch.empty((), dtype=torch.long, device="cpu")]


@torch.library.impl("hsa_geometric::tree_index", "default")
@_disable_dynamo
def _tree_index(parent: Tensor, num_leaves: int | None) -> list[Tensor]:
    tree = TreeIndex.from_parent(parent)
    if num_leaves not in (None, tree.num_leaves):
        raise ValueError(
            f"Expected one row for each of the {tree.num_leaves} leaves (got {num_leaves} rows)"
        )
    return handed_out(tree)


@torch.library.register_fake("hsa_geometric::tree_index")
def _(parent: Tensor, num_leaves: int | None) -> list[Tensor]:
    size = torch.library.get_ctx().new_dynamic_size
    roots, levels = size(), size()
    leaves = size() if num_leaves is None else num_leaves
    return sizes_of_index(parent, parent.shape[0], roots, levels, leaves)
