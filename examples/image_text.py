r"""Two modalities in one nested signal: an image of a digit and a caption that is partly wrong.

The 1,797 digits of scikit-learn, with noise, as patches of 2 × 2 pixels on a quadtree; and with
each a caption that this example writes, such as "round and even, holed, small", in which one word
in four is drawn from a random digit's. 600 for training. As a :class:`~hsa_geometric.NestedSignal`
a sample is

    {"image": tensor, "caption": "round and even, holed, small"}

All models have an input map for each type of leaf, the same number of parameters, and see the same
batches (as table 2 of `the paper <https://arxiv.org/abs/2509.15448>`_ has it for news):

* ``DeepSet``: no attention; patches and words are averaged;
* ``flat concatenation``: softmax attention between all patches and words;
* ``HSA``: attention along the signal, with maps for each type and positions on each domain;
* ``HSA + inner states``: with learned states of image, quarters and caption.

Patches know their row and column in all of them. Run ``python examples/image_text.py``; ``--fast``
is a first look. On the other 1,197 samples, 5 seeds, 20 epochs (a core of a virtual Intel Xeon,
other work beside it):

===================  =============  ==========  ==============  ==========================
model                accuracy       parameters  seconds of CPU  accuracy, 10 s of CPU each
===================  =============  ==========  ==============  ==========================
DeepSet              0.768 ± 0.016  71,452      4               0.784 ± 0.018
flat concatenation   0.690 ± 0.008  71,412      8               0.689 ± 0.007
HSA                  0.689 ± 0.011  71,406      8               0.686 ± 0.006
HSA + inner states   0.704 ± 0.020  71,402      9               0.693 ± 0.020
===================  =============  ==========  ==============  ==========================

So with few samples and much noise the average is best, and attention, along the signal or flat,
learns the noise; between the two there is no difference.
"""

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _compare import Clock, compare, descend, of_equal_size
from torch import Tensor
from torch_geometric.data import Batch

from hsa_geometric import Hierarchy, ImageLeaves, NestedSignal, TextLeaves
from hsa_geometric.nn import HierarchicalTransformer, Ids

FIGURE = Path(__file__).parent / "figures" / "image_text.png"
# Attention and states of each variant, as HierarchicalTransformer names them.
VARIANTS: dict[str, tuple[str | None, str | None]] = {
    "DeepSet": (None, None),
    "flat concatenation": ("flat", None),
    "HSA": ("softmax", None),
    "HSA + inner states": ("softmax", "mean"),
}
ABOUT = (  # a digit each
    "even small round holed", "odd small straight open", "even small mixed open",
    "odd small round open", "even small straight holed", "odd large mixed open",
    "even large round holed", "odd large straight open", "even large round double",
    "odd large round holed",
)  # fmt: skip
WORDS = sorted({"and", ",", *(word for about in ABOUT for word in about.split())})
CHANNELS = 5  # of the image: brightness, and where
SIGNAL = NestedSignal(
    {
        "patch": ImageLeaves(CHANNELS, size=2, branching=2),
        "word": TextLeaves({word: i for i, word in enumerate(WORDS)}),
    },
    keys=("image", "caption"),
)


def caption(digit: int, wrong: float, draw: random.Random) -> str:
    """Returns words about a digit in any order, each with some probability that of another one."""
    words = [
        draw.choice(ABOUT).split()[slot] if draw.random() < wrong else word
        for slot, word in enumerate(ABOUT[digit].split())
    ]
    draw.shuffle(words)
    return f"{words[0]} and {words[1]}, {words[2]}, {words[3]}"


def load(limit: int | None, noise: float = 0.5) -> tuple[list[Hierarchy], list[str]]:
    """Returns images and captions as hierarchies with their class ``y``, and the captions."""
    from sklearn.datasets import load_digits

    digits, draw = load_digits(), random.Random(0)
    images = torch.tensor(digits.images[:limit]).float() / 16
    images = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    angle = torch.arange(8) * torch.pi / 8
    waves = [wave.expand(8, 8) for wave in (angle.sin(), angle.cos())]
    where = torch.stack([*waves, *(wave.t() for wave in waves)])
    data, captions = [], []
    for image, digit in zip(images, digits.target[:limit].tolist(), strict=True):
        captions.append(caption(digit, 0.25, draw))
        sample = {"image": torch.cat([image[None], where]), "caption": captions[-1]}
        data.append(SIGNAL.to_hierarchy(sample, y=torch.tensor([digit])))
    return data, captions


def make_model(variant: str, channels: int = 32, layers: int = 2) -> HierarchicalTransformer:
    """Returns the model of a variant, all of the same size."""

    def make(variant: str, mlp_channels: int) -> HierarchicalTransformer:
        attention, states = VARIANTS[variant]
        return HierarchicalTransformer(
            {"patch": 4 * CHANNELS, "word": Ids(len(WORDS))}, channels, 10, layers,
            attention=attention, states=states, num_levels=4, mlp_channels=mlp_channels,
            domains=SIGNAL.domains if attention == "softmax" else None, dropout=0.1,
        )  # fmt: skip

    model: HierarchicalTransformer = of_equal_size(make, variant, "HSA + inner states", channels)
    return model


def shuffle(num: int, seed: int) -> Tensor:
    """Returns the samples in the order of a seed, those for training first."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))


def train(model: Any, shuffles: list[list[Batch]], test: Batch, clock: Clock, bar: Any) -> dict:
    """Trains a model; returns it and its accuracy on the test samples."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = clock.schedule(optimizer, 4e-3, len(shuffles[0]))
    for epoch in clock.epochs(bar):
        for batch in shuffles[epoch % len(shuffles)]:
            loss = F.cross_entropy(model(batch), batch.y)
            descend(loss, model, optimizer, schedule)
        bar.set_postfix_str(f"loss {float(loss.detach()):.3f}", refresh=False)
    seconds = clock.spent
    model.eval()
    with torch.no_grad():
        right = model(test).argmax(1) == test.y
    return {"model": model, "accuracy": float(right.float().mean()), "seconds": seconds}


def speaks_for(model: Any, sample: Hierarchy) -> Tensor:
    """Returns of each leaf the gradient of its class's logit along its row, ``[N]``."""
    batch, seen = Batch.from_data_list([sample]), []
    handle = model.lin_in.register_forward_hook(lambda module, args, out: seen.append(out))
    logits = model(batch)[0]
    handle.remove()
    other = logits.detach().clone()
    other[sample.y] = -torch.inf
    (grad,) = torch.autograd.grad(logits[sample.y[0]] - other.max(), seen[0])
    return (grad * seen[0]).sum(1).detach()


def draw_picture(results: dict, model: Any, sample: Hierarchy, text: str, out: Path) -> None:
    """Saves the accuracies, and what patches and words of a sample speak for."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, (left, image, share) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1.4, 1, 1))
    names = list(results)
    left.barh(names, [100 * results[n]["mean"] for n in names],
              xerr=[100 * results[n]["std"] for n in names], color="tab:orange")  # fmt: skip
    left.set(xlabel="accuracy [%]", xlim=(100 * min(r["mean"] for r in results.values()) - 10, 100))
    left.invert_yaxis()
    pixels = SIGNAL.to_nested(sample)["image"][0].numpy()
    image.imshow(pixels, cmap="gray_r")
    image.set_title(f"a {int(sample.y)}, with noise")
    weights = speaks_for(model, sample)
    top = float(weights.abs().max())
    patch = weights[sample.leaf_type == 0].view(4, 4).numpy()
    share.imshow(patch, cmap="PuOr_r", vmin=-top, vmax=top)
    share.set_title("what speaks for its class (orange)")
    words = text.replace(",", " ,").split()
    colors = plt.cm.ScalarMappable(plt.Normalize(-top, top), "PuOr_r")
    for i, (word, weight) in enumerate(zip(words, weights[sample.leaf_type == 1], strict=True)):
        box = {"facecolor": colors.to_rgba(float(weight)), "edgecolor": "none", "pad": 2}
        share.text(i % 4 * 0.25, -0.1 - i // 4 * 0.12, word, transform=share.transAxes, bbox=box)
    image.set_axis_off()
    share.set_axis_off()
    fig.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=120, bbox_inches="tight")
    plt.close(fig)


def main(
    seeds: int = 5,
    epochs: int = 20,
    seconds: float | None = None,
    samples: int = 600,
    limit: int | None = None,
    out: str | Path = FIGURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every model with every seed, prints the table, saves the picture.

    Args:
        seeds: number of splits and initialisations.
        epochs: epochs of each run.
        seconds: seconds of CPU of each run, instead.
        samples: number of samples for training; all others are for testing.
        limit: use only the first so many samples.
        out: where the picture goes.
        progress: show a progress bar.

    Returns:
        Of each model ``accuracy`` (a list), ``mean``, ``std``, ``parameters`` and ``seconds`` (of
        CPU, of a run on average); and the path of the ``picture``.
    """
    data, captions = load(limit)
    clock = partial(Clock, epochs, seconds)

    def prepare(seed: int) -> list[list[Batch]]:
        order = shuffle(len(data), seed)
        own = order[:samples]
        orders = [own[torch.randperm(samples)] for _ in range(min(4, clock().limit))]
        return [
            [Batch.from_data_list([data[i] for i in part.tolist()]) for part in parts]
            for parts in (*(order.split(20) for order in orders), [order[samples:]])
        ]

    def run(name: str, given: list[list[Batch]], bar: Any) -> dict[str, Any]:
        *shuffles, (test,) = given
        return train(make_model(name), shuffles, test, clock(), bar)

    results, runs = compare(
        VARIANTS, seeds, prepare, run, steps=clock().steps, key="accuracy",
        titles=("digits with captions", "accuracy"), progress=progress,
    )  # fmt: skip
    shown = int(shuffle(len(data), 0)[-1])
    draw_picture(results, runs["HSA"][0]["model"], data[shown], captions[shown], Path(out))
    print(f"\n{samples} samples for training, {len(data) - samples} for testing, {seeds} seeds, "
          f"{clock()}, mean ± standard deviation\npicture: {out}")  # fmt: skip
    return {**results, "picture": str(out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="digits with captions as nested signals")
    parser.add_argument("--seeds", type=int, help="splits and initialisations (default: 5)")
    parser.add_argument("--epochs", type=int, help="epochs of a run (default: 20)")
    parser.add_argument("--seconds", type=float, help="seconds of CPU of a run instead of epochs")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where to save the picture")
    parser.add_argument("--fast", action="store_true", help="1 seed, 5 epochs: a first look")
    args = parser.parse_args()
    seeds, epochs = (1, 5) if args.fast else (5, 20)
    main(args.seeds or seeds, args.epochs or epochs, args.seconds, out=args.out)
