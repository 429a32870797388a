r"""Hydration free energies of small molecules (FreeSolv), with attention along the molecule's own
hierarchy: molecule → fragments (BRICS) → ring systems → atoms.

Three models with the same parameters, data, splits and training are compared:

* ``hsa``:  message passing on bonds, alternating with hierarchical attention on the fragment tree;
* ``flat``: the same layers on a star tree (every atom a child of the molecule): softmax attention;
* ``none``: message passing on bonds; each attention is replaced by a per-atom MLP of equal size.

Run ``python examples/molecules.py`` (minutes on two cores) or add ``--fast`` (under a minute).
"""

import argparse
import copy
import csv
import importlib
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _progress import progress_bar
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GINEConv, global_add_pool, global_mean_pool

from hsa_geometric import Hierarchy, TreeIndex
from hsa_geometric.builders.molecules import atom_groups
from hsa_geometric.nn import HierarchicalAttentionConv

VARIANTS = ("hsa", "flat", "none")
DATA = Path(__file__).parent / "data" / "freesolv.csv"
FIGURE = Path(__file__).parent / "figures" / "molecules.png"


def _require(name: str) -> Any:
    """Imports an optional package, or says which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This example needs '{name}': pip install \"hsa_geometric[examples]\""
        ) from error


def one_hot(value: Any, choices: tuple) -> list[float]:
    """One entry per choice and a last one for everything else."""
    return [float(value == c) for c in choices] + [float(value not in choices)]


def atom_features(mol: Any) -> Tensor:
    """Returns the features of all heavy atoms, shape ``[N, F]``."""
    descriptors = _require("rdkit.Chem.rdMolDescriptors")
    _require("rdkit.Chem.rdPartialCharges").ComputeGasteigerCharges(mol)
    estate = _require("rdkit.Chem.EState").EStateIndices(mol)
    crippen = descriptors._CalcCrippenContribs(mol)  # each atom's share of logP and refractivity
    tpsa = descriptors._CalcTPSAContribs(mol)  # ... and of the polar surface, in Å²
    area = list(descriptors._CalcLabuteASAContribs(mol)[0])  # ... and of the whole surface

    rows = []
    for i, atom in enumerate(mol.GetAtoms()):
        row = one_hot(atom.GetSymbol(), ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I"))
        row += one_hot(atom.GetDegree(), (0, 1, 2, 3, 4))
        row += one_hot(atom.GetTotalNumHs(), (0, 1, 2, 3))
        row += one_hot(str(atom.GetHybridization()), ("SP", "SP2", "SP3"))
        row += one_hot(str(atom.GetChiralTag()), ("CHI_UNSPECIFIED",))
        row += [float(atom.GetFormalCharge()), float(atom.GetIsAromatic())]
        row += [float(atom.IsInRingSize(size)) for size in (3, 4, 5, 6, 7)]
        row += [4 * atom.GetDoubleProp(f"_Gasteiger{key}") for key in ("Charge", "HCharge")]
        row += [crippen[i][0], crippen[i][1] / 4, tpsa[i] / 20, area[i] / 10, float(estate[i]) / 10]
        rows.append(row)
    return torch.tensor(rows).nan_to_num(posinf=0.0, neginf=0.0)


def bond_features(mol: Any) -> tuple[Tensor, Tensor]:
    """Returns each bond in both directions: ``edge_index`` ``[2, E]``, ``edge_attr`` ``[E, B]``."""
    ends, rows = [], []
    for bond in mol.GetBonds():
        ends.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        row = one_hot(str(bond.GetBondType()), ("SINGLE", "DOUBLE", "AROMATIC"))
        row += one_hot(str(bond.GetStereo()), ("STEREONONE",))
        rows.append([*row, float(bond.GetIsConjugated()), float(bond.IsInRing())])
    index = torch.tensor(ends, dtype=torch.long).view(-1, 2).t()
    attr = torch.tensor(rows).view(-1, 8)
    return torch.cat([index, index.flip(0)], dim=1), torch.cat([attr, attr])


def fragments(mol: Any) -> tuple[Tensor, Tensor]:
    """Returns two partitions of the atoms, ``[N]`` each: the ring system and the fragment of each.

    An atom in no ring is a ring system of its own. Ring systems nest in fragments.
    """
    frags, rings = atom_groups(mol, levels=["brics", "rings"])
    return rings, frags


def fragment_tree(mol: Any) -> Tensor:
    """Returns the parents ``[T]``: of atoms, ring systems, fragments and, last, the molecule."""
    rings, frags = fragments(mol)
    num_atoms, num_rings = rings.numel(), int(rings.max()) + 1
    first_frag = num_atoms + num_rings
    root = first_frag + int(frags.max()) + 1
    parent = torch.full((root + 1,), root)
    parent[:num_atoms] = num_atoms + rings
    parent[num_atoms + rings] = first_frag + frags
    return parent


def star_tree(mol: Any) -> Tensor:
    """Returns the parents of a tree in which every atom is a child of the molecule."""
    return torch.full((mol.GetNumAtoms() + 1,), mol.GetNumAtoms())


def load_molecules(limit: int | None = None) -> tuple[list[str], dict[str, list[Hierarchy]]]:
    """Reads FreeSolv; returns its SMILES and, per tree, its molecules as hierarchies."""
    chem = _require("rdkit.Chem")
    with DATA.open(newline="") as file:
        table = list(csv.DictReader(file))[:limit]
    smiles = [row["smiles"] for row in table]
    data: dict[str, list[Hierarchy]] = {"fragments": [], "star": []}
    for row in table:
        mol = chem.MolFromSmiles(row["smiles"])
        energy = torch.tensor([float(row["expt"])])
        sample = (atom_features(mol), *bond_features(mol), energy)
        data["fragments"].append(Hierarchy(*sample, parent=fragment_tree(mol)))
        data["star"].append(Hierarchy(*sample, parent=star_tree(mol)))
    return smiles, data


class Block(nn.Module):
    """Bonds, then attention (or its per-atom stand-in), each on a residual branch."""

    def __init__(self, channels: int, edge_dim: int, attend: bool, heads: int = 4):
        super().__init__()
        self.attend = attend
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        # Branches start small: attention overfits 514 molecules otherwise.
        self.scales = nn.ParameterList(torch.full((channels,), 0.1) for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        mlp = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.bonds = GINEConv(mlp, edge_dim=edge_dim)
        if attend:  # query, key and value: 3 * channels^2 weights
            self.mix: nn.Module = HierarchicalAttentionConv(
                channels, channels // heads, heads=heads
            )
        else:  # in and out of 3/2 * channels: as many
            wide = channels * 3 // 2
            self.mix = nn.Sequential(
                nn.Linear(channels, wide), nn.ReLU(), nn.Linear(wide, channels)
            )

    def forward(self, x: Tensor, data: Batch, tree: TreeIndex) -> Tensor:
        """Returns the atoms' new features."""
        h = self.bonds(self.norms[0](x), data.edge_index, data.edge_attr)
        x = x + self.scales[0] * self.dropout(h)
        h = self.norms[1](x)
        h = self.mix(h, tree) if self.attend else self.mix(h)
        return x + self.scales[1] * self.dropout(h)


class Net(nn.Module):
    """Atoms and bonds in, one number per molecule out."""

    def __init__(
        self, in_channels: int, edge_dim: int, attend: bool, channels: int = 64, layers: int = 3
    ):
        super().__init__()
        self.embed = nn.Linear(in_channels, channels)
        self.blocks = nn.ModuleList(Block(channels, edge_dim, attend) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 1)
        )

    def forward(self, data: Batch, tree: TreeIndex) -> Tensor:
        """Returns the standardised energies."""
        x = self.embed(data.x)
        for block in self.blocks:
            x = block(x, data, tree)
        x, pool = self.norm(x), (data.batch, data.num_graphs)
        # The sum grows with the molecule, as the energy does; the mean does not.
        out = self.head(torch.cat([global_add_pool(x, *pool) / 9, global_mean_pool(x, *pool)], 1))
        return out[:, 0]


def split(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a random 80/10/10 split into training, validation and test."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    held_out = max(num // 10, 1)
    return order[2 * held_out :], order[held_out : 2 * held_out], order[:held_out]


def collate(data: list[Hierarchy], index: Tensor) -> tuple[Batch, TreeIndex]:
    """Returns a batch of molecules and its forest, indexed once for all later epochs."""
    batch = Batch.from_data_list([data[i] for i in index.tolist()])
    return batch, batch.tree


def train(data: list[Hierarchy], seed: int, attend: bool, epochs: int, bar: Any) -> dict[str, Any]:
    """Trains one model; returns it as of its best validation epoch, with its test predictions."""
    start = time.perf_counter()
    train_index, val_index, test_index = split(len(data), seed)
    torch.manual_seed(seed)
    # Ten fixed shuffles instead of one per epoch: each batch and its forest are built only once.
    shuffles = [
        [collate(data, part) for part in train_index[torch.randperm(len(train_index))].split(32)]
        for _ in range(min(10, epochs))
    ]
    val, test = collate(data, val_index), collate(data, test_index)
    y = torch.cat([data[i].y for i in train_index.tolist()])
    mean, std = y.mean(), y.std()

    sample = data[0]
    model = Net(sample.x.size(1), sample.edge_attr.size(1), attend)
    average = copy.deepcopy(model).eval().requires_grad_(False)  # moving average of the weights
    rate = 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * len(shuffles[0]), pct_start=0.1
    )

    best, best_state, step = float("inf"), copy.deepcopy(average.state_dict()), 0
    for epoch in range(epochs):
        for batch, tree in shuffles[epoch % len(shuffles)]:
            loss = F.mse_loss(model(batch, tree), (batch.y - mean) / std)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            keep = min(0.99, step / (step + 10))
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.lerp_(new.detach(), 1 - keep)
        error = rmse(average(*val) * std + mean, val[0].y)
        if error < best:
            best, best_state = error, copy.deepcopy(average.state_dict())
        bar.set_postfix_str(f"seed {seed}, validation {best:.2f} kcal/mol", refresh=False)
        bar.update()

    average.load_state_dict(best_state)
    predicted = average(*test) * std + mean
    return {
        "model": average,
        "test_index": test_index,
        "predicted": predicted,
        "measured": test[0].y,
        "rmse": rmse(predicted, test[0].y),
        "val_rmse": best,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.perf_counter() - start,
    }


def rmse(predicted: Tensor, measured: Tensor) -> float:
    """Returns the root mean square error."""
    return float((predicted - measured).square().mean().sqrt())


def attention_from(model: Net, data: Hierarchy, atom: int, layer: int = -1) -> Tensor:
    """Returns the attention ``[N]`` of one atom of a molecule, averaged over heads."""
    seen: list[Tensor] = []
    conv = model.blocks[layer].mix
    handle = conv.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    batch = Batch.from_data_list([data])
    model(batch, batch.tree)
    handle.remove()
    _, weights = conv(seen[0], batch.tree, return_attention_weights=True)
    return weights.mean(0)[atom]


def draw(runs: list[dict[str, Any]], smiles: list[str], data: list[Hierarchy], out: Path) -> None:
    """Saves predicted against measured energies, and one test molecule with its attention."""
    _require("matplotlib").use("Agg")
    plt, chem = _require("matplotlib.pyplot"), _require("rdkit.Chem")
    drawing = _require("rdkit.Chem.Draw.rdMolDraw2D")

    measured = torch.cat([run["measured"] for run in runs])
    predicted = torch.cat([run["predicted"] for run in runs])
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 5), width_ratios=(1, 1.25))
    low = float(torch.stack([measured, predicted]).min()) - 1
    high = float(torch.stack([measured, predicted]).max()) + 1
    ends = torch.tensor([low, high])
    left.fill_between(ends, ends - 1, ends + 1, color="0.9", label="within 1 kcal/mol")
    left.plot(ends, ends, color="0.5", linewidth=1)
    left.scatter(measured, predicted, s=16, color="tab:blue", alpha=0.6, linewidths=0)
    left.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    left.set_xlabel("measured hydration free energy [kcal/mol]")
    left.set_ylabel("predicted [kcal/mol]")
    error = sum(run["rmse"] for run in runs) / len(runs)
    left.set_title(f"{len(measured)} held-out molecules, mean RMSE {error:.2f} kcal/mol")
    left.legend(loc="upper left", frameon=False)

    # The most fragmented molecule with a ring in the first test set that is still easy to read ...
    mols = {i: chem.MolFromSmiles(smiles[i]) for i in runs[0]["test_index"].tolist()}
    small = {i: mol for i, mol in mols.items() if mol.GetNumAtoms() <= 16} or mols
    index = max(small, key=lambda i: ("1" in smiles[i], fragments(mols[i])[1].max(), smiles[i]))
    mol = mols[index]
    # ... and its atom with the most negative partial charge.
    _require("rdkit.Chem.rdPartialCharges").ComputeGasteigerCharges(mol)
    atom = min(mol.GetAtoms(), key=lambda a: a.GetDoubleProp("_GasteigerCharge")).GetIdx()
    weights = 100 * attention_from(runs[0]["model"], data[index], atom)

    norm = plt.Normalize(0, float(weights.max()))
    shades = ["#ffffff", "#fde3c0", "#f99d45", "#d9480f"]
    colors = _require("matplotlib.colors").LinearSegmentedColormap.from_list("attention", shades)
    canvas = drawing.MolDraw2DCairo(1200, 800)
    canvas.drawOptions().useBWAtomPalette()
    canvas.drawOptions().bondLineWidth = 3
    canvas.drawOptions().padding = 0.06
    shade = {i: colors(norm(weight))[:3] for i, weight in enumerate(weights.tolist())}
    options = {"highlightAtomColors": shade, "highlightAtomRadii": dict.fromkeys(shade, 0.42)}
    drawing.PrepareAndDrawMolecule(
        canvas, mol, highlightAtoms=list(shade), highlightBonds=[], **options
    )
    canvas.FinishDrawing()
    right.imshow(plt.imread(BytesIO(canvas.GetDrawingText())))
    right.set_axis_off()
    right.set_title("attention in the last layer, mean over heads")
    point, symbol = canvas.GetDrawCoords(atom), mol.GetAtomWithIdx(atom).GetSymbol()
    arrow = {"arrowstyle": "->", "shrinkB": 14}
    place = {"xytext": (-55, 50), "textcoords": "offset points", "ha": "center"}
    right.annotate(f"from this {symbol}", (point.x, point.y), arrowprops=arrow, **place)
    scale = plt.cm.ScalarMappable(norm, colors)
    fig.colorbar(scale, ax=right, fraction=0.035, label="weight of an atom [%]")
    fig.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=130)
    plt.close(fig)


def main(
    seeds: int = 5,
    epochs: int = 40,
    limit: int | None = None,
    out: str | Path = FIGURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every variant on every split, prints the table, saves the picture.

    Args:
        seeds: number of random splits (and initialisations).
        epochs: epochs of each run.
        limit: use only the first so many molecules.
        out: where the picture goes.
        progress: show a progress bar.

    Returns:
        Per variant ``rmse`` (a list, kcal/mol), ``mean``, ``std``, ``parameters`` and ``seconds``
        (of one run, on average); and the path of the ``picture``.
    """
    if seeds < 1 or epochs < 1:
        raise ValueError(f"Expected at least 1 seed and 1 epoch (got {seeds} and {epochs})")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # molecules are so small that more threads wait for each other
    smiles, data = load_molecules(limit)
    results: dict[str, Any] = {}
    for name in VARIANTS:
        trees = data["fragments" if name == "hsa" else "star"]
        bar = progress_bar(total=seeds * epochs, desc=name, unit="epoch", disable=not progress)
        with bar:
            runs = [train(trees, seed, name != "none", epochs, bar) for seed in range(seeds)]
        errors = torch.tensor([run["rmse"] for run in runs])
        results[name] = {
            "rmse": errors.tolist(),
            "val_rmse": [run["val_rmse"] for run in runs],
            "mean": float(errors.mean()),
            "std": float(errors.std(correction=0)),
            "parameters": runs[0]["parameters"],
            "seconds": sum(run["seconds"] for run in runs) / seeds,
        }
        if name == "hsa":
            draw(runs, smiles, trees, Path(out))

    torch.set_num_threads(threads)

    print("\n| attention | test RMSE [kcal/mol] | parameters | seconds per run |")
    print("|---|---|---|---|")
    labels = {"hsa": "hierarchical", "flat": "flat (softmax)", "none": "none (per-atom MLP)"}
    for name in VARIANTS:
        r = results[name]
        print(
            f"| {labels[name]} | {r['mean']:.2f} ± {r['std']:.2f} "
            f"| {r['parameters']:,} | {r['seconds']:.0f} |"
        )
    print(f"\n{seeds} random 80/10/10 splits, mean ± standard deviation\npicture: {out}")
    return {**results, "picture": str(out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="FreeSolv with hierarchical self-attention")
    parser.add_argument("--seeds", type=int, help="random splits (default: 5)")
    parser.add_argument("--epochs", type=int, help="epochs of a run (default: 40)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where to save the picture")
    parser.add_argument("--fast", action="store_true", help="1 seed, 10 epochs: a first look")
    args = parser.parse_args()
    seeds, epochs = (1, 10) if args.fast else (5, 40)
    main(args.seeds or seeds, args.epochs or epochs, out=args.out)
