"""How near each replaced layer of a model is to softmax attention, and what it saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..builders._progress import counting
from ..builders.from_parent import from_parent
from ..functional.attention import hierarchical_attention
from ..interactions.siblings import siblings
from ..report._peak import peak
from ..report._table import number, table
from ..report.fidelity import call_of, exact_rows
from ._attend import Site
from ._setting import Seen, Setting
from .replace_attention import sites_of


@dataclass(frozen=True, eq=False)
class Row:
    """Figures of one layer, meaned over tokens.

    Attributes:
        index: number of the layer.
        kl, variation: ``[H]`` divergence in nats and total variation; NaN where not asked for and
            without self-loop.
        cosine: ``[H]`` between the outputs of a head.
        error: of all heads' outputs together, relative to their size, in squares.
        logits, full: for each head, ours and those of softmax.
        flops, full_flops: of all heads, forward.
        seconds, full_seconds: ours, and of PyTorch's fused softmax attention on the same rows.
        memory, full_memory: bytes at the peak of each, its output among them; NaN where not asked
            for, and on the CPU of systems other than Linux.
    """

    index: int
    kl: Tensor
    variation: Tensor
    cosine: Tensor
    error: float
    logits: float
    full: float
    flops: float
    full_flops: float
    seconds: float
    full_seconds: float
    memory: float
    full_memory: float


@dataclass(frozen=True, eq=False)
class FidelityReport:
    """What :func:`fidelity_report` found. Print it, or :meth:`plot` it."""

    rows: list[Row]

    def __str__(self) -> str:
        head = ["layer", "KL, nats", "largest of a head", "total variation", "cosine", "error",
                "logits, %", "FLOPs, %", "time / softmax", "memory, MB",
                "of softmax"]  # fmt: skip
        lines = [head]
        for r in self.rows:
            numbers = [
                float(r.kl.mean()), float(r.kl.max()), float(r.variation.mean()),
                float(r.cosine.mean()), r.error, 100 * r.logits / r.full,
                100 * r.flops / r.full_flops, r.seconds / r.full_seconds,
                r.memory / 1e6, r.full_memory / 1e6,
            ]  # fmt: skip
            lines.append([str(r.index), *map(number, numbers)])
        return table(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the divergence of each head in each layer; returns matplotlib's axes."""
        from ..report.plot import pyplot

        if not self.rows:
            raise ValueError("Expected a report of some layers to plot (got none)")
        ax = pyplot().subplots(layout="constrained")[1] if ax is None else ax
        shown = ax.imshow(torch.stack([r.kl for r in self.rows]).numpy(), aspect="auto", vmin=0)
        ax.set(xlabel="head", ylabel="layer", title="KL to softmax attention, nats")
        ax.set_yticks(range(len(self.rows)), [str(r.index) for r in self.rows])
        ax.figure.colorbar(shown, ax=ax)
        return ax


@torch.no_grad()
def fidelity_report(
    model: nn.Module, batches: Iterable[Any], *, exact: bool = True, progress: bool = False
) -> FidelityReport:
    r"""Compare each replaced layer with softmax attention on the queries and keys of the model.

    The model attends with softmax meanwhile, so that a layer is not blamed for those before it. A
    head's FLOPs are :math:`2 (D + D_v)` a logit, of which softmax attention has :math:`N^2` for
    a sequence of :math:`N`; ours have :math:`4 (2 D + D_v)` for each tree node more, for the means
    and what goes back to the leaves.

    Args:
        model: with replaced layers.
        batches: what the model is called with: mappings of keywords, tuples, or tensors.
        exact: also find divergences and total variation, in :math:`O(N^2)` time, and memory.
        progress: whether to show a progress bar.

    Returns:
        :class:`FidelityReport`: print it; ``rows`` has the numbers and ``plot()`` draws them.

    Raises:
        TypeError: if :obj:`model` is none.
        ValueError: if there are no batches.

    Example:
        >>> from hsa_geometric.adapters import replace_attention
        >>> layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> model = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
        >>> report = fidelity_report(replace_attention(model, hierarchy=4), [torch.randn(1, 16, 8)])
        >>> print(report.rows[0].logits, report.rows[0].full)
        76.0 256.0
    """
    found: dict[int, list[Row]] = {}

    def record(site: Site, seen: Seen) -> None:
        assert site.setting is not None
        row = row_of(site.index, seen, site.setting, site.name, exact, memory=exact)
        found.setdefault(site.index, []).append(row)

    run(model, batches, record, progress, "fidelity")
    return FidelityReport([_mean(found[index]) for index in sorted(found)])


def run(model: nn.Module, batches: Iterable[Any], record: Any, progress: bool, desc: str) -> None:
    """Call the model on all batches, its replaced modules telling what they attend with."""
    batches = list(batches)
    if not batches:
        raise ValueError("Expected 'batches' to hold at least one (got none)")
    with recording(model, record), counting(progress, len(batches), desc, " batches") as step:
        for batch in batches:
            call(model, batch)
            step(1)


@contextmanager
def recording(model: nn.Module, record: Any) -> Iterator[None]:
    """Within it replaced modules tell their rows, and attend as before the replacement."""
    sites = [site for site in sites_of(model).values() if site.setting is not None]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for site in sites:
        site.record = record
    try:
        yield
    finally:
        for site in sites:
            site.record = None
        for module, training in modes:
            module.training = training


def call(model: nn.Module, batch: Any) -> Any:
    """The model's output."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def row_of(
    index: int, seen: Seen, setting: Setting, name: str, exact: bool, memory: bool = False
) -> Row:
    """Figures of one call of a module along a setting."""
    tree, lists = setting.structure(seen, name)
    q, k, v, heads = seen.q, seen.k, seen.v, seen.q.shape[1]
    calls: tuple[Callable[[], Any], ...] = (
        lambda: hierarchical_attention(
            q, k, v, tree, lists=lists, scale=seen.scale, self_loop=setting.self_loop
        ),
        lambda: softmax_of(seen),
    )
    outputs, seconds = [], []
    for run in calls:
        start = time.perf_counter()
        out = run()
        seconds.append(time.perf_counter() - start)
        outputs.append(out.double())
    bytes_ = [_peak(run, q.device.type) if memory else torch.nan for run in calls]
    ours, softmax = outputs
    cosine = F.cosine_similarity(ours, softmax, dim=-1).mean(0)
    error = float((ours - softmax).square().sum() / softmax.square().sum())
    used = siblings(tree) if lists is None else lists
    kl = variation = torch.full_like(cosine, torch.nan)
    if exact and setting.self_loop:
        wanted = call_of(from_parent(tree.parent), q.float(), k.float(), used, None, seen.scale)
        rows = exact_rows(wanted, used, torch.arange(q.shape[0], device=q.device))
        kl, variation = (x.mean(0).cpu() for x in rows)
    full = float(seen.lengths.double().square().sum())
    width = 2 * (q.shape[-1] + v.shape[-1])
    nodes = 4 * (2 * q.shape[-1] + v.shape[-1]) * tree.num_nodes
    return Row(
        index, kl, variation, cosine, error, float(used.num_logits), full,
        heads * (width * used.num_logits + nodes), heads * width * full, *seconds, *bytes_,
    )  # fmt: skip


def _peak(call: Callable[[], Any], device: str) -> float:
    try:
        return peak(call, device)
    except OSError:  # no Linux
        return torch.nan


def softmax_of(seen: Seen) -> Tensor:
    """Softmax attention ``[N, H, D]`` within each sequence."""
    out, start = [], 0
    for length in seen.lengths.tolist():
        q, k, v = (
            x[start : start + length].transpose(0, 1)[None] for x in (seen.q, seen.k, seen.v)
        )
        out.append(F.scaled_dot_product_attention(q, k, v, scale=seen.scale)[0].transpose(0, 1))
        start += length
    return torch.cat(out)


def _mean(rows: list[Row]) -> Row:
    """Of several batches, which count alike; counts and seconds are sums, memory the largest."""
    columns = {f.name: [getattr(r, f.name) for r in rows] for f in fields(Row)}
    for name in ("index", "memory", "full_memory"):
        columns[name] = [max(columns[name])]
    means = ("kl", "variation", "cosine", "error")
    return Row(**{n: sum(x) / len(x) if n in means else sum(x) for n, x in columns.items()})
