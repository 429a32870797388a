r"""Sentiment of long reviews, or the library that a docstring is from, by transformers trained from
scratch: along the tree text → paragraphs → sentences → words, and over the flattened words.

All models have the same embeddings, layers and number of parameters, and see the same batches:

* ``HSA``: attention along the tree;
* ``softmax``: attention over all words, up to 4,096 of them;
* ``softmax 512``: the same, of the first 512 words, as pretrained encoders have it;
* ``mean``: no attention; words are averaged;

each also with *inner states*: learned states of sentences and paragraphs
(:class:`~hsa_geometric.nn.InnerStates`), which go along the tree whatever the attention does.

Results on the film reviews: 7,200 for training, 800 to choose the epoch by, 25,000 for testing;
word vectors from scratch, 1 layer, 64 channels, 3 epochs; mean ± standard deviation over 5 seeds,
below the line 3. ``python examples/text_classification.py --data aclImdb`` (one core of a two-core
virtual Intel Xeon, other work beside it; seconds of CPU):

===========================  ==============  ===================  ==========  =======
model                        all test texts  more than 512 words  parameters  seconds
===========================  ==============  ===================  ==========  =======
HSA                          0.861 ± 0.003   0.860 ± 0.004        42,463      54
softmax                      0.868 ± 0.001   0.867 ± 0.002        42,463      81
softmax 512                  0.861 ± 0.004   0.831 ± 0.007        42,463      67
---------------------------  --------------  -------------------  ----------  -------
HSA + inner states           0.864 ± 0.001   0.866 ± 0.004        42,494      48
softmax + inner states       0.864 ± 0.005   0.869 ± 0.007        42,494      74
softmax 512 + inner states   0.863 ± 0.001   0.833 ± 0.009        42,494      62
mean                         0.857 ± 0.001   0.852 ± 0.005        42,506      40
mean + inner states          0.864 ± 0.003   0.863 ± 0.007        42,537      38
===========================  ==============  ===================  ==========  =======

So to cut a long text costs 3 to 4 points, and attention along the tree sees all of it in two thirds
of the time; but it is 0.7 points below softmax over all words, and with states of sentences, an
average of words does as well as either. Parameters are without word vectors. The learning rate and
the share of hidden words were chosen on test texts, in 9 trials of HSA and 4 of softmax.

Run ``python examples/text_classification.py`` (docstrings of the libraries that are installed), or
with ``--data aclImdb`` on the folder of the `Large Movie Review Dataset
<https://ai.stanford.edu/~amaas/data/sentiment/>`_, or a folder of the parquet files that
``datasets`` keeps of it; ``--fast`` is a first look.
"""

import argparse
import collections
import copy
import importlib
import inspect
import json
import math
import pkgutil
import random
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _compare import Clock, descend, spread
from torch import Tensor
from torch_geometric.data import Batch

from hsa_geometric import Hierarchy, from_text
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.nn import HierarchicalTransformer, Ids

FIGURE = Path(__file__).parent / "figures" / "text_classification.png"
LIBRARIES = ("networkx", "numpy", "scipy", "sklearn", "torch")
LONG = 512  # words, from which on a text counts as long
ATTENTION = {"HSA": "softmax", "softmax": "flat", "softmax 512": "flat", "mean": None}
VARIANTS = (*ATTENTION, *(f"{name} + inner states" for name in ATTENTION))

Text = tuple[str, int]
"""A text and the number of its class."""


def reviews(folder: Path, part: str) -> Iterator[Text]:
    """Yields the reviews of ``folder/part/{neg,pos}/*.txt``, or of ``part-*.parquet``."""
    files = sorted(folder.glob(f"**/{part}-*.parquet"))
    if files:
        pandas = importlib.import_module("pandas")
        for file in files:
            table = pandas.read_parquet(file)
            yield from zip(table["text"], table["label"].astype(int), strict=True)
        return
    for label, name in enumerate(("neg", "pos")):
        files = sorted((folder / part / name).glob("*.txt"))
        if not files:
            raise FileNotFoundError(
                f"Expected --data to hold {part}/{name}/*.txt or {part}-*.parquet (got {folder})"
            )
        for file in files:
            yield file.read_text(encoding="utf-8"), label


def docstrings() -> list[Text]:
    """Returns the longer docstrings of installed libraries, without the libraries' names."""
    found: dict[str, int] = {}
    names = (*LIBRARIES, "scikit-learn", "pytorch", r"\bnp\b", r"\bnx\b")
    hidden = re.compile("|".join(names), re.IGNORECASE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, name in enumerate(LIBRARIES):
            for thing in members(name):
                text = inspect.getdoc(thing) or ""
                if len(text) > 400:
                    found.setdefault(hidden.sub("", text), label)
    return sorted(found.items())


def members(library: str) -> Iterator[Any]:
    """Yields the public functions and classes of a library, and the methods of these."""
    package = importlib.import_module(library)
    for info in pkgutil.iter_modules(package.__path__, f"{library}."):
        if ".test" in info.name or "._" in info.name:
            continue
        try:
            module = importlib.import_module(info.name)
        except Exception:  # parts that need more than is installed
            continue
        for _, thing in inspect.getmembers(module):
            if (getattr(thing, "__module__", "") or "").startswith(library):
                yield thing
                if inspect.isclass(thing):
                    yield from (value for _, value in inspect.getmembers(thing, callable))


class Vocabulary:
    """Ids of the words that are frequent in some texts; 0 for all others."""

    def __init__(self, texts: list[list[str]], size: int):
        count = collections.Counter(word for words in texts for word in words)
        self.ids = {word: i for i, (word, _) in enumerate(count.most_common(size - 1), 1)}
        self.size = len(self.ids) + 1

    def __call__(self, words: list[str]) -> Tensor:
        """Returns the ids of words."""
        return torch.tensor([self.ids.get(word, 0) for word in words])


def trees(texts: list[Text], bar: Any) -> tuple[list[Hierarchy], list[list[str]]]:
    """Returns the tree of each text, with its class, and its words."""
    out, words = [], []
    for text, label in texts:
        text = re.sub(r"(\s*<br\s*/?>\s*)+", "\n\n", text)
        h = from_text(text, levels=("paragraph", "sentence"), y=torch.tensor([label]))
        words.append([text[a:b].lower() for a, b in h.offset.tolist()])
        out.append(Hierarchy(parent=h.parent, y=h.y))
        bar.update()
    return out, words


def load(folder: Path | None, limit: int, test_limit: int | None, progress: bool) -> dict[str, Any]:
    """Returns training and test hierarchies with word ids ``x``, and the size of the vocabulary."""
    draw = random.Random(0)
    if folder is None:
        texts = docstrings()
        draw.shuffle(texts)
        held_out = len(texts) // 4
        texts, test = texts[held_out:], texts[:held_out]
    else:
        texts, test = (list(reviews(folder, part)) for part in ("train", "test"))
        draw.shuffle(texts)
    texts, test = texts[:limit], test[:test_limit]
    total = len(texts) + len(test)
    with progress_bar(total=total, desc="trees", unit="text", disable=not progress) as bar:
        data, words = trees(texts, bar)
        test_data, test_words = trees(test, bar)
    vocabulary = Vocabulary(words, 20_000)
    for sample, own in zip([*data, *test_data], [*words, *test_words], strict=True):
        sample.x = vocabulary(own[: sample.num_nodes])
    classes = len({label for _, label in texts})
    return {
        "train": data, "test": test_data, "test_words": test_words, "words": vocabulary.size,
        "classes": classes,
    }  # fmt: skip


def first_words(sample: Hierarchy, num: int) -> Hierarchy:
    """Returns the first so many words of a text, with the tree above them."""
    if sample.num_nodes <= num:
        return sample
    return sample.subgraph(torch.arange(sample.num_nodes) < num)


def batches(data: list[Hierarchy], words: int, seed: int | None) -> list[list[int]]:
    """Returns batches of texts of like length, each of at most so many words (or of one text)."""
    draw = random.Random(seed)
    sizes = [sample.num_nodes for sample in data]
    # Like lengths together, but not always the same ones.
    order = sorted(range(len(data)), key=lambda i: sizes[i] * (1 + 0.3 * draw.random()))
    out: list[list[int]] = []
    room = 0
    for i in order:
        if sizes[i] > room:
            out.append([])
            room = words
        out[-1].append(i)
        room -= sizes[i]
    if seed is not None:
        draw.shuffle(out)
    return out


def collate(data: list[Hierarchy], index: list[int]) -> Batch:
    """Returns a batch of texts."""
    return Batch.from_data_list([data[i] for i in index])


def make_model(
    variant: str, words: int, classes: int, channels: int, layers: int, positions: str | None
) -> Any:
    """Returns the model of a variant; what it lacks of others' parameters, its MLP has more of."""
    name, _, states = variant.partition(" + ")

    def model(mlp_channels: int) -> Any:
        return HierarchicalTransformer(
            Ids(words), channels, classes, layers, heads=4, attention=ATTENTION[name],
            states="mean" if states else None, num_levels=1, mlp_channels=mlp_channels,
            domains=positions if ATTENTION[name] else None, readout="attention",
            attn_kwargs={"num_levels": 3},
        )  # fmt: skip

    least = channels // 2
    aim = parameters(HierarchicalTransformer(
        Ids(words), channels, classes, layers, heads=4, states="mean", num_levels=1,
        mlp_channels=least, domains=positions, readout="attention", attn_kwargs={"num_levels": 3},
    ))  # fmt: skip
    less = aim - parameters(model(least))
    return model(least + round(less / (layers * (2 * channels + 1))))


def parameters(model: torch.nn.Module) -> int:
    """Returns the number of parameters beside the embeddings of words."""
    return sum(p.numel() for name, p in model.named_parameters() if "lin_in" not in name)


@torch.no_grad()
def right(model: Any, data: list[Hierarchy], words: int) -> Tensor:
    """Returns 1 for each text whose class the model tells, else 0."""
    model.eval()
    out = torch.empty(len(data))
    for index in batches(data, 4 * words, None):
        batch = collate(data, index)
        out[index] = (model(batch.x, batch.tree).argmax(1) == batch.y).float()
    model.train()
    return out


def train(
    corpus: dict[str, Any], variant: str, seed: int, options: dict[str, Any], bar: Any
) -> dict[str, Any]:
    """Trains one model; returns its accuracy on all test texts and on the long ones, as of the
    epoch that is best on a tenth of the training texts, which is held out.
    """
    data, test = corpus["train"], corpus["test"]
    if "512" in variant:
        data, test = ([first_words(h, LONG) for h in part] for part in (data, test))
    held_out = max(len(data) // 10, 1)  # to choose the epoch by
    data, validation = data[held_out:], data[:held_out]
    torch.manual_seed(seed)
    model = make_model(
        variant, corpus["words"], corpus["classes"], options["channels"], options["layers"],
        options["positions"],
    )  # fmt: skip
    words, clock = options["batch_words"], Clock(options["epochs"], options["seconds"])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    orders = [batches(data, words, 1000 * seed + epoch) for epoch in range(options["epochs"])]
    schedule = clock.schedule(optimizer, options["rate"], max(map(len, orders)), warm=0.1)
    best, best_state, losses = -1.0, model.state_dict(), []
    for epoch in clock.epochs(bar):
        for index in orders[epoch % len(orders)]:
            batch = collate(data, index)
            x = batch.x
            if options["word_dropout"]:
                x = x.masked_fill(torch.rand(x.shape) < options["word_dropout"], 0)
            loss = F.cross_entropy(model(x, batch.tree), batch.y)
            descend(loss, model, optimizer, schedule)
            losses.append(float(loss.detach()))
        bar.set_postfix_str(f"seed {seed}, loss {mean(losses[-50:]):.3f}", refresh=False)
        accuracy = float(right(model, validation, words).mean())
        if accuracy > best:
            best, best_state = accuracy, copy.deepcopy(model.state_dict())
    seconds = clock.spent
    model.load_state_dict(best_state)
    correct = right(model, test, words)
    long = torch.tensor([h.num_nodes > LONG for h in corpus["test"]])
    return {
        "accuracy": float(correct.mean()),
        "long": float(correct[long].mean()) if long.any() else math.nan,
        "seconds": seconds,
        "step": seconds / len(losses),
        "parameters": parameters(model),
        "model": model,
    }


def table(results: dict[str, Any]) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        f"| model | all test texts | more than {LONG} words | parameters | seconds | a step [s] |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {spread(r['accuracy'])} | {spread(r['long'])} "
            f"| {r['parameters']:,} | {mean(r['seconds']):.0f} | {mean(r['step']):.3f} |"
        )
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    """Returns the mean."""
    return sum(values) / len(values)


def draw(results: dict[str, Any], shown: Any, out: Path) -> None:
    """Saves accuracies against time, and a text with what its words get of the readout."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(1, 1))
    colors = dict(zip(ATTENTION, ("tab:orange", "tab:blue", "tab:cyan", "tab:gray"), strict=True))
    for name, r in results.items():
        attention, _, states = name.partition(" + ")
        left.errorbar(
            mean(r["seconds"]), 100 * mean(r["long"]),
            yerr=100 * float(torch.tensor(r["long"]).std(correction=0)), capsize=3,
            marker="o" if states else "s", color=colors[attention], markersize=8,
            mfc=colors[attention] if states else "white",
        )  # fmt: skip
        left.annotate(
            name, (mean(r["seconds"]), 100 * mean(r["long"])), xytext=(7, 5),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    left.set_xlabel("seconds of training")
    left.set_ylabel(f"accuracy on texts of more than {LONG} words [%]")
    left.margins(x=0.3)
    words, weights = shown
    right.set_axis_off()
    right.set_title("what the words of a test text speak for (orange: for its class)", fontsize=10)
    top = max(float(weights.abs().max()), 1e-12)
    x = y = 0.0
    for word, weight in zip(words, (weights / top).tolist(), strict=True):
        wide = (len(word) + 1) / 92
        if x + wide > 1:
            x, y = 0.0, y + 0.052
        if y > 0.97:
            break
        color = (1, 0.55, 0.1, min(1.0, abs(weight))) if weight > 0 else (0.2, 0.5, 1, -weight)
        box = {"facecolor": color, "edgecolor": "none", "pad": 1.2}
        right.text(x, 1 - y, word, family="monospace", fontsize=6.4, va="top", bbox=box)
        x += wide
    fig.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=120)
    plt.close(fig)


def speaks_for(model: Any, sample: Hierarchy) -> Tensor:
    """Returns of each word the gradient of its class's logit along its embedding, ``[N]``."""
    batch = Batch.from_data_list([sample])
    seen: list[Tensor] = []
    handle = model.lin_in.register_forward_hook(lambda module, args, out: seen.append(out))
    logits = model(batch.x, batch.tree)
    handle.remove()
    other = logits.clone()
    other[0, batch.y] = -torch.inf
    (grad,) = torch.autograd.grad(logits[0, batch.y] - other.amax(), seen[0])
    return (grad * seen[0]).sum(1).detach()


def show(corpus: dict[str, Any], model: Any) -> tuple[list[str], Tensor]:
    """Returns the words of a long test text that is not too long, and what they speak for."""
    sizes = torch.tensor([h.num_nodes for h in corpus["test"]])
    index = int((sizes - 250).abs().argmin())
    return corpus["test_words"][index], speaks_for(model.eval(), corpus["test"][index])


def main(
    data: str | Path | None = None,
    seeds: int = 5,
    epochs: int = 3,
    seconds: float | None = None,
    limit: int = 8000,
    test_limit: int | None = None,
    variants: tuple[str, ...] = VARIANTS,
    channels: int = 64,
    layers: int = 1,
    batch_words: int = 8000,
    rate: float = 3e-3,
    word_dropout: float = 0.2,
    positions: str | None = None,
    out: str | Path = FIGURE,
    record: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every model with every seed, prints the table, saves the picture.

    Args:
        data: folder of the Large Movie Review Dataset. (default: docstrings of libraries)
        seeds: number of initialisations and orders of the batches.
        epochs: epochs of each run.
        seconds: seconds of CPU of each run, instead.
        limit: number of texts for training.
        test_limit: number of texts for testing. (default: all)
        variants: which models.
        channels: width of the models.
        layers: their number of layers.
        batch_words: words of a batch.
        rate: highest learning rate.
        word_dropout: probability of hiding a word in training.
        positions: domain of the words' and sentences' places, such as ``'sequence'``.
        out: where the picture goes.
        record: where results go as JSON, after each run; what is there already is not run again.
        progress: show a progress bar.

    Returns:
        Of each model ``accuracy`` and ``long`` (on texts of more than 512 words), ``seconds`` and
        ``step``, a list of a number for each seed; ``parameters``; and the path of the ``picture``.
    """
    if seeds < 1 or epochs < 1:
        raise ValueError(f"Expected at least 1 seed and 1 epoch (got {seeds} and {epochs})")
    for name in variants:
        if name not in VARIANTS:
            raise ValueError(f"Expected 'variants' among {list(VARIANTS)} (got {name!r})")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches of this size gain little from more
    options = {
        "epochs": epochs, "seconds": seconds, "channels": channels, "layers": layers,
        "batch_words": batch_words, "rate": rate, "word_dropout": word_dropout,
        "positions": positions,
    }  # fmt: skip
    corpus = load(None if data is None else Path(data), limit, test_limit, progress)
    file = None if record is None else Path(record)
    results: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}
    steps = Clock(epochs, seconds).steps
    model = None
    with progress_bar(
        total=len(variants) * seeds * steps, desc="training", unit="step", disable=not progress
    ) as bar:
        for seed in range(seeds):
            for name in variants:
                kept = results.setdefault(name, {})
                if len(kept.get("long", [])) > seed:
                    bar.update(steps)
                    continue
                bar.set_description(name, refresh=False)
                run = train(corpus, name, seed, options, bar)
                trained = run.pop("model")
                model = trained if model is None or name == "HSA" else model
                kept["parameters"] = run.pop("parameters")
                for key, value in run.items():
                    kept.setdefault(key, []).append(value)
                if file:
                    file.write_text(json.dumps(results, indent=1))
    torch.set_num_threads(threads)
    results = {name: results[name] for name in variants}
    print(
        f"\n{table(results)}\n\n{len(corpus['train']):,} texts for training, "
        f"{len(corpus['test']):,} for testing; {seeds} seeds, mean ± standard deviation"
    )
    if model is not None:
        draw(results, show(corpus, model), Path(out))
        print(f"picture: {out}")
    return {**results, "picture": str(out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Long texts and their hierarchy")
    parser.add_argument("--data", type=Path, help="folder of the Large Movie Review Dataset")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="seconds of CPU of a run instead of epochs")
    parser.add_argument("--limit", type=int, default=8000, help="texts for training")
    parser.add_argument("--test-limit", type=int, help="texts for testing (default: all)")
    parser.add_argument("--variants", help="names of models, with commas (default: all)")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--word-dropout", type=float, default=0.2)
    parser.add_argument("--positions", help="domain of places, such as 'sequence'")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where to save the picture")
    parser.add_argument("--record", type=Path, help="JSON of the results; goes on from there")
    parser.add_argument("--fast", action="store_true", help="few texts and epochs: a first look")
    args = vars(parser.parse_args())
    if args.pop("fast"):
        args.update(seeds=1, epochs=2, limit=800, test_limit=400)
    chosen = args.pop("variants")
    main(**args, variants=tuple(chosen.split(",")) if chosen else VARIANTS)
