r"""Properties of molecules, by message passing with and without the molecule's own hierarchy.

Five models with the same parameters, data, splits, batches and epochs: message passing on bonds
alone, and with, in each layer,

* ``flat softmax``: attention between all atoms of a molecule;
* ``HSA``: attention along the tree, with a temperature for each level;
* ``inner states``: learned states of fragments (:class:`~hsa_geometric.nn.InnerStates`);
* both of the last two.

The tree is molecule → fragments (BRICS) → ring systems → atoms, or for cyclic peptides
molecule → residues → ring systems → atoms.

Run ``python examples/molecules.py`` for FreeSolv (minutes), or ``--data FILE`` with the usual CSV of
`CycPeptMPDB <http://cycpeptmpdb.com>`_ (permeability, PAMPA; values below -8, which are hardly
measured, count as -8) or of `MoleculeNet <https://moleculenet.org>`_'s lipophilicity or ESOL.
``--split scaffold`` holds out whole scaffolds; ``--fast`` is a first look.
"""

import argparse
import copy
import csv
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GINEConv, global_add_pool, global_mean_pool
from torch_geometric.utils.smiles import e_map, x_map

from hsa_geometric import Hierarchy
from hsa_geometric.builders import from_smiles
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.nn import HierarchicalTransformer

FREESOLV = Path(__file__).parent / "data" / "freesolv.csv"
FIGURE = Path(__file__).parent / "figures" / "molecules.png"
# Attention and states of each variant, as HierarchicalTransformer names them.
VARIANTS: dict[str, tuple[str | None, str | None]] = {
    "message passing": (None, None),
    "+ flat softmax": ("flat", None),
    "+ HSA": ("softmax", None),
    "+ inner states": (None, "mean"),
    "+ HSA + inner states": ("softmax", "mean"),
}


class Task(NamedTuple):
    """What a data set is about, and how its molecules are taken apart."""

    name: str
    unit: str
    epochs: int
    levels: tuple[str, ...] = ("brics", "rings")
    lowest: float = -float("inf")


# By the column of the values, in small letters.
ESOL, LIPO = Task("solubility", "log mol/L", 40), Task("lipophilicity", "log D", 20)
TASKS = {
    "expt": Task("hydration free energy", "kcal/mol", 40),
    "pampa": Task("permeability", "log cm/s", 12, ("residues", "rings"), -8.0),
    "measured log solubility in mols per litre": ESOL,
    "logsolubility": ESOL,
    "exp": LIPO,
    "lipo": LIPO,
}


def read(file: Path, limit: int | None) -> tuple[Task, list[tuple[str, float]]]:
    """Returns what a CSV file is about, and its SMILES and values; rows without value are left."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = [{k.lower(): v for k, v in row.items() if k} for row in csv.DictReader(lines)]
    column = next((name for name in TASKS if rows and name in rows[0]), None)
    if column is None or "smiles" not in rows[0]:
        raise ValueError(
            f"Expected --data to have the columns 'smiles' and one of {list(TASKS)} (got {file})"
        )
    values = [(row["smiles"], row[column]) for row in rows if row[column]][:limit]
    return TASKS[column], [(s, max(float(v), TASKS[column].lowest)) for s, v in values]


def atom_shares(mol: Any) -> Tensor:
    """Returns of each atom its charges and its share of what is usual of molecules, ``[N, 7]``."""
    from rdkit.Chem import EState, rdMolDescriptors, rdPartialCharges

    rdPartialCharges.ComputeGasteigerCharges(mol)
    charge = [[4 * a.GetDoubleProp(f"_Gasteiger{k}") for k in ("Charge", "HCharge")]
              for a in mol.GetAtoms()]  # fmt: skip
    columns = [
        torch.tensor(charge),
        torch.tensor(rdMolDescriptors._CalcCrippenContribs(mol)) / torch.tensor([1.0, 4.0]),
        torch.tensor(rdMolDescriptors._CalcTPSAContribs(mol))[:, None] / 20,  # Å²
        torch.tensor(list(rdMolDescriptors._CalcLabuteASAContribs(mol)[0]))[:, None] / 10,
        torch.tensor(EState.EStateIndices(mol))[:, None] / 10,
    ]
    return torch.cat([c.float() for c in columns], dim=1).nan_to_num(posinf=0.0, neginf=0.0)


def one_hot(columns: Tensor, maps: dict[str, list[Any]]) -> Tensor:
    """Returns PyG's numbered features as zeros and ones."""
    sizes = [len(values) for values in maps.values()]
    return torch.cat([F.one_hot(columns[:, i], n) for i, n in enumerate(sizes)], dim=1).float()


def load(file: Path, limit: int | None, progress: bool) -> tuple[Task, list[Hierarchy]]:
    """Returns the molecules of a CSV file as hierarchies with features, bonds and values ``y``."""
    from rdkit import Chem

    task, table = read(file, limit)
    data = []
    for smiles, value in progress_bar(table, desc="trees", unit="molecule", disable=not progress):
        h = from_smiles(smiles, levels=task.levels, y=torch.tensor([value]))
        h.x = torch.cat([one_hot(h.x, x_map), atom_shares(Chem.MolFromSmiles(smiles))], dim=1)
        h.edge_attr = one_hot(h.edge_attr, e_map)
        data.append(h)
    for key in ("x", "edge_attr"):  # what is the same everywhere says nothing
        rows = torch.cat([h[key] for h in data])
        varies = (rows != rows[:1]).any(0)
        for h in data:
            h[key] = h[key][:, varies]
    return task, data


def split(data: list[Hierarchy], seed: int, how: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a random split into 80 % training, 10 % validation and 10 % test.

    With ``how='scaffold'`` no two parts share a Murcko scaffold: these are shuffled and dealt out.
    """
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    groups: dict[Any, list[int]] = {}
    for i, h in enumerate(data):
        key = MurckoScaffoldSmiles(h.smiles) if how == "scaffold" else i
        groups.setdefault(key, []).append(i)
    dealt = list(groups.values())
    held_out = max(len(data) // 10, 1)
    test: list[int] = []
    val: list[int] = []
    train: list[int] = []
    for i in torch.randperm(len(dealt), generator=torch.Generator().manual_seed(seed)).tolist():
        rooms = (part for part in (test, val) if len(part) + len(dealt[i]) <= held_out)
        next(rooms, train).extend(dealt[i])
    return torch.tensor(train), torch.tensor(val), torch.tensor(test)


class Net(nn.Module):
    """Atoms and bonds in, one number for each molecule out."""

    def __init__(self, sample: Hierarchy, variant: str, channels: int, layers: int, mlp: int):
        super().__init__()

        def bonds(width: int, out: int) -> GINEConv:
            inside = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
            return GINEConv(inside, edge_dim=sample.edge_attr.shape[1])

        attention, states = VARIANTS[variant]
        self.encoder = HierarchicalTransformer(
            sample.x.shape[1], channels, None, layers, readout=None, attention=attention,
            states=states, conv=bonds, num_levels=3, mlp_channels=mlp, dropout=0.1, act="relu",
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 1)
        )

    def forward(self, data: Batch) -> Tensor:
        """Returns the standardised values."""
        x, pool = self.encoder(data), (data.batch, data.num_graphs)
        # The sum grows with the molecule, as some properties do; the mean does not.
        out = self.head(torch.cat([global_add_pool(x, *pool) / 9, global_mean_pool(x, *pool)], 1))
        return out[:, 0]


def parameters(model: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def make_model(sample: Hierarchy, variant: str, channels: int, layers: int) -> Net:
    """Returns the model of a variant; what it lacks of others' parameters, its MLPs have more."""
    least = channels // 2
    aim = parameters(Net(sample, "+ HSA + inner states", channels, layers, least))
    less = aim - parameters(Net(sample, variant, channels, layers, least))
    return Net(sample, variant, channels, layers, least + round(less / layers / (2 * channels + 1)))


def collate(data: list[Hierarchy], index: Tensor) -> Batch:
    """Returns a batch of molecules, its forest indexed once for all later epochs."""
    return Batch.from_data_list([data[i] for i in index.tolist()])


def rmse(predicted: Tensor, measured: Tensor) -> float:
    """Returns the root mean square error."""
    return float((predicted - measured).square().mean().sqrt())


def train(
    model: Net, shuffles: list[list[Batch]], val: Batch, test: Batch, options: dict, bar: Any
) -> dict[str, Any]:
    """Trains a model; returns it as of its best validation epoch, with its test predictions."""
    start = time.process_time()
    y = torch.cat([batch.y for batch in shuffles[0]])
    mean, std = y.mean(), y.std()
    average = copy.deepcopy(model).eval().requires_grad_(False)  # moving average of the weights
    optimizer = torch.optim.AdamW(model.parameters(), options["rate"], weight_decay=options["decay"])
    steps = options["epochs"] * len(shuffles[0])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options["rate"], total_steps=steps, pct_start=0.1
    )
    best, best_state, step = float("inf"), copy.deepcopy(average.state_dict()), 0
    for epoch in range(options["epochs"]):
        for batch in shuffles[epoch % len(shuffles)]:
            loss = F.mse_loss(model(batch), (batch.y - mean) / std)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            keep = min(0.99, step / (step + 10))
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.lerp_(new.detach(), 1 - keep)
        error = rmse(average(val) * std + mean, val.y)
        if error < best:
            best, best_state = error, copy.deepcopy(average.state_dict())
        bar.set_postfix_str(f"validation {best:.3f}", refresh=False)
        bar.update()
    average.load_state_dict(best_state)
    predicted = average(test) * std + mean
    return {
        "model": average, "predicted": predicted, "measured": test.y, "val_rmse": best,
        "rmse": rmse(predicted, test.y), "seconds": time.process_time() - start,
    }  # fmt: skip


def attention_from(model: Net, h: Hierarchy, atom: int) -> Tensor:
    """Returns the attention ``[N]`` of one atom in the last layer, averaged over heads."""
    seen: list[Tensor] = []
    attn, batch = model.encoder.layers[-1].attn, Batch.from_data_list([h])
    handle = attn.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(batch)
    handle.remove()
    return attn(seen[0], batch.tree, return_attention_weights=True)[1].mean(0)[atom].detach()


def draw(runs: list[dict[str, Any]], title: str, unit: str, h: Hierarchy, out: Path) -> None:
    """Saves predicted against measured values, and the attention of an atom of a molecule."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from rdkit import Chem
    from rdkit.Chem import Draw

    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 5))
    measured = torch.cat([run["measured"] for run in runs])
    left.scatter(measured, torch.cat([run["predicted"] for run in runs]), s=12, alpha=0.5)
    left.axline((float(measured.mean()),) * 2, slope=1, color="0.5", linewidth=1)
    left.set(xlabel=f"measured {title} [{unit}]", ylabel=f"predicted [{unit}]", aspect="equal")
    error = sum(run["rmse"] for run in runs) / len(runs)
    left.set_title(f"{len(measured)} held-out molecules, mean RMSE {error:.2f} {unit}")

    mol = Chem.MolFromSmiles(h.smiles)
    charge = atom_shares(mol)[:, 0]
    atom = int(charge.argmin())  # the most negative one
    weights = 100 * attention_from(runs[0]["model"], h, atom)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, float(weights.max())), "Oranges")
    mol.GetAtomWithIdx(atom).SetProp("atomNote", "*")
    shades = {i: tuple(scale.to_rgba(float(w))[:3]) for i, w in enumerate(weights)}
    right.imshow(Draw.MolToImage(mol, (1000, 800), highlightAtoms=list(shades),
                                 highlightAtomColors=shades, highlightBonds=[]))  # fmt: skip
    right.set_axis_off()
    right.set_title("attention of the atom * in the last layer, mean over heads")
    fig.colorbar(scale, ax=right, fraction=0.035, label="weight of an atom [%]")
    fig.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=130)
    plt.close(fig)


def main(
    data: str | Path = FREESOLV,
    how: str = "random",
    seeds: int = 5,
    epochs: int | None = None,
    limit: int | None = None,
    out: str | Path = FIGURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every variant on every split, prints the table, saves the picture.

    Returns:
        Per variant ``rmse`` and ``val_rmse`` (lists), ``mean``, ``std``, ``parameters`` and
        ``seconds`` (of CPU, of one run on average); and the path of the ``picture``.
    """
    if seeds < 1 or (epochs is not None and epochs < 1):
        raise ValueError(f"Expected at least 1 seed and 1 epoch (got {seeds} and {epochs})")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # molecules are so small that more threads wait for each other
    task, molecules = load(Path(data), limit, progress)
    options = {"epochs": epochs or task.epochs, "rate": 2e-3, "decay": 0.1}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    total = seeds * len(VARIANTS) * options["epochs"]
    with progress_bar(total=total, unit="epoch", disable=not progress) as bar:
        for seed in range(seeds):
            *_, test = parts = split(molecules, seed, how)
            torch.manual_seed(seed)
            shuffles = [
                [collate(molecules, part) for part in parts[0][torch.randperm(len(parts[0]))].split(32)]
                for _ in range(min(4, options["epochs"]))
            ]  # each batch and its forest are built only once
            held_out = [collate(molecules, part) for part in parts[1:]]
            for name in VARIANTS:
                bar.set_description(f"seed {seed}, {name}", refresh=False)
                torch.manual_seed(seed)
                model = make_model(molecules[0], name, 32, 3)
                runs[name].append(train(model, shuffles, *held_out, options, bar))
    torch.set_num_threads(threads)

    results: dict[str, Any] = {}
    print(f"\n| {task.name} | test RMSE [{task.unit}] | parameters | seconds of CPU per run |")
    print("|:--|--:|--:|--:|")
    for name, own in runs.items():
        errors = torch.tensor([run["rmse"] for run in own])
        results[name] = r = {
            "rmse": errors.tolist(), "val_rmse": [run["val_rmse"] for run in own],
            "mean": float(errors.mean()), "std": float(errors.std(correction=0)),
            "parameters": parameters(own[0]["model"]),
            "seconds": sum(run["seconds"] for run in own) / seeds,
        }  # fmt: skip
        print(f"| {name} | {r['mean']:.3f} ± {r['std']:.3f} | {r['parameters']:,} "
              f"| {r['seconds']:.0f} |")  # fmt: skip
    # A molecule of many fragments that is still easy to read.
    shown = [molecules[i] for i in test.tolist()]
    small = [h for h in shown if h.num_nodes <= 16] or shown
    h = max(small, key=lambda h: (h.num_tree_nodes - h.num_nodes, h.smiles))
    draw(runs["+ HSA + inner states"], task.name, task.unit, h, Path(out))
    print(f"\n{len(molecules)} molecules, {seeds} {how} 80/10/10 splits, {options['epochs']} epochs, "
          f"mean ± standard deviation\npicture: {out}")  # fmt: skip
    return {**results, "picture": str(out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="molecules, with and without their hierarchy")
    parser.add_argument("--data", type=Path, default=FREESOLV, help="a CSV file (default: FreeSolv)")
    parser.add_argument("--split", choices=["random", "scaffold"], default="random")
    parser.add_argument("--seeds", type=int, help="splits and initialisations (default: 5)")
    parser.add_argument("--epochs", type=int, help="epochs of a run (default: by data set)")
    parser.add_argument("--limit", type=int, help="use only the first so many molecules")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where to save the picture")
    parser.add_argument("--fast", action="store_true", help="1 seed, 8 epochs: a first look")
    args = parser.parse_args()
    seeds, epochs = (1, 8) if args.fast else (5, None)
    main(args.data, args.split, args.seeds or seeds, args.epochs or epochs, args.limit, args.out)
