r"""Properties of molecules, by message passing with and without the molecule's own hierarchy.

Five models, equal but for what is in each layer: message passing on bonds alone, and with

* ``flat softmax``: attention between all atoms of a molecule;
* ``HSA``: attention along the tree, with a temperature for each level;
* ``inner states``: learned states of fragments (:class:`~hsa_geometric.nn.InnerStates`);
* both of the last two.

The tree is molecule → fragments (BRICS) → ring systems → atoms, or for cyclic peptides
molecule → residues → ring systems → atoms.

Run ``python examples/molecules.py`` for FreeSolv (6 minutes), or ``--data FILE`` with the usual CSV
of `CycPeptMPDB <http://cycpeptmpdb.com>`_ (permeability, PAMPA; values below -8, too low to be
measured well, count as -8), or of `MoleculeNet <https://moleculenet.org>`_'s lipophilicity or ESOL.
``--split scaffold`` holds out whole scaffolds; ``--fast`` is a first look.
"""

import argparse
import copy
import csv
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _compare import Clock, compare, descend, needs, of_equal_size
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_geometric.data import Batch
from torch_geometric.nn import MLP, GINEConv, global_add_pool, global_mean_pool
from torch_geometric.utils.smiles import e_map, x_map

from hsa_geometric import Hierarchy
from hsa_geometric.builders import from_smiles
from hsa_geometric.builders._progress import progress_bar
from hsa_geometric.nn import HierarchicalTransformer
from hsa_geometric.report import plot_attention

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
BOTH = "+ HSA + inner states"
FEW = 1000  # fewer molecules: strong weight decay, small layers and scales, no batch norm


class Task(NamedTuple):
    """What a data set is about, and how its molecules are taken apart."""

    name: str
    unit: str
    epochs: int
    levels: tuple[str, ...] = ("brics", "rings")
    lowest: float = -float("inf")


ESOL, LIPO = Task("solubility", "log mol/L", 20), Task("lipophilicity", "log D", 10)
TASKS = {  # by the column of the values, in small letters
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
    rows = [row for row in rows if row[column]]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:limit]
    kept, task = (rows[i] for i in order.sort().values.tolist()), TASKS[column]
    return task, [(row["smiles"], max(float(row[column]), task.lowest)) for row in kept]


def atom_shares(mol: Any) -> Tensor:
    """Returns of each atom its charges and its share of logP, refractivity and surface, [N, 7]."""
    from rdkit.Chem import EState, rdMolDescriptors, rdPartialCharges

    rdPartialCharges.ComputeGasteigerCharges(mol)
    keys = ("_GasteigerCharge", "_GasteigerHCharge")
    columns = [
        torch.tensor([[4 * atom.GetDoubleProp(key) for key in keys] for atom in mol.GetAtoms()]),
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


def split(data: list[Hierarchy], seed: int, how: str) -> tuple[Tensor, ...]:
    """Returns a random split into 80 % training, 10 % validation and 10 % test.

    With ``how='scaffold'`` no two parts share a Murcko scaffold: these are shuffled and dealt out.
    """
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    groups: dict[Any, list[int]] = {}
    for i, h in enumerate(data):
        groups.setdefault(MurckoScaffoldSmiles(h.smiles) if how == "scaffold" else i, []).append(i)
    dealt, held_out = list(groups.values()), max(len(data) // 10, 1)
    train, val, test = parts = ([], [], [])  # type: tuple[list[int], list[int], list[int]]
    for i in torch.randperm(len(dealt), generator=torch.Generator().manual_seed(seed)).tolist():
        rooms = (part for part in (test, val) if len(part) + len(dealt[i]) <= held_out)
        next(rooms, train).extend(dealt[i])
    return tuple(map(torch.tensor, parts))


class Net(nn.Module):
    """Atoms and bonds in, one number for each molecule out."""

    def __init__(self, h: Hierarchy, channels: int, layers: int, few: bool, variant: str, mlp: int):
        super().__init__()
        (attention, states), width, edges = VARIANTS[variant], h.x.shape[1], h.edge_attr.shape[1]
        norm, self.weight_decay = (None, 1.0) if few else ("batch_norm", 0.01)
        self.norm_in = nn.Identity() if few else nn.BatchNorm1d(width)
        self.norm_out = nn.Identity() if few else nn.BatchNorm1d(2 * channels)
        self.encoder = HierarchicalTransformer(
            width, channels, None, layers, readout=None, attention=attention, mlp_channels=mlp,
            states=states and ("mean" if few else "attention"), num_levels=1 if few else 3,
            act="relu", dropout=0.1, layer_scale=0.1 if few else 1.0, attn_kwargs={"num_levels": 3},
            conv=lambda i, o: GINEConv(MLP([i, o, o], norm=norm), edge_dim=edges),
        )  # fmt: skip
        self.head = MLP([2 * channels, channels, 1], norm=None)

    def forward(self, data: Batch) -> Tensor:
        """Returns standardised values: of sums, which grow with the molecule, and of means."""
        x = self.encoder(
            self.norm_in(data.x), data.tree, edge_index=data.edge_index, edge_attr=data.edge_attr
        )
        of = data.batch, data.num_graphs
        pooled = [global_add_pool(x, *of) / 9, global_mean_pool(x, *of)]
        return self.head(self.norm_out(torch.cat(pooled, dim=1)))[:, 0]


def make_model(sample: Hierarchy, variant: str, few: bool = True, channels: int = 64) -> Net:
    """Returns the model of a variant, all of the same size; for few molecules with less freedom."""
    least = channels // 2 if few else 2 * channels
    return of_equal_size(partial(Net, sample, channels, 3, few), variant, BOTH, least)


def train(
    model: Net, shuffles: list[list[Batch]], val: Batch, test: Batch, clock: Clock, bar: Any
) -> dict[str, Any]:
    """Trains a model; returns it as of its best validation epoch, with its test predictions."""
    y = torch.cat([batch.y for batch in shuffles[0]])
    mean, std, best = y.mean(), y.std(), float("inf")
    average = AveragedModel(model, None, None, get_ema_multi_avg_fn(0.95), use_buffers=True).eval()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=model.weight_decay)
    schedule = clock.schedule(optimizer, 2e-3, len(shuffles[0]), warm=0.1)
    for epoch in clock.epochs(bar):
        for batch in shuffles[epoch % len(shuffles)]:
            loss = F.mse_loss(model(batch), (batch.y - mean) / std)
            descend(loss, model, optimizer, schedule)
            average.update_parameters(model)
        with torch.no_grad():
            error = float(F.mse_loss(average(val) * std + mean, val.y).sqrt())
        if error < best:
            best, state = error, copy.deepcopy(average.module.state_dict())
        bar.set_postfix_str(f"validation {best:.3f}", refresh=False)
    seconds = clock.spent
    model.load_state_dict(state)
    with torch.no_grad():
        predicted = model.eval()(test) * std + mean
    return {
        "model": model, "predicted": predicted, "measured": test.y, "val_rmse": best,
        "rmse": float(F.mse_loss(predicted, test.y).sqrt()), "seconds": seconds,
    }  # fmt: skip


@torch.no_grad()
def attention_from(model: Net, h: Hierarchy, atom: int) -> Tensor:
    """Returns the attention ``[N]`` of one atom in the last layer, averaged over heads."""
    seen: list[Tensor] = []
    attn: Any = model.encoder.layers[-1].attn
    handle = attn.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = Batch.from_data_list([h])
    model(batch)
    handle.remove()
    blocks = attn(seen[0], batch.tree, return_attention_weights="blocks")[1]
    return blocks.attention_from(atom).mean(0)


def draw(runs: list[dict[str, Any]], task: Task, h: Hierarchy, out: Path) -> None:
    """Saves predicted against measured values, and the attention of an atom of a molecule."""
    from matplotlib.figure import Figure
    from rdkit import Chem

    fig = Figure(figsize=(11, 5), dpi=130, layout="tight")
    left, right = fig.subplots(1, 2)
    measured = torch.cat([run["measured"] for run in runs])
    left.scatter(measured, torch.cat([run["predicted"] for run in runs]), s=12, alpha=0.5)
    left.axline((float(measured.mean()),) * 2, slope=1, color="0.5", linewidth=1)
    left.set(xlabel=f"measured {task.name} [{task.unit}]", ylabel="predicted", aspect="equal",
             title=f"{len(measured)} held-out molecules, {BOTH[2:]}")  # fmt: skip
    atom = int(atom_shares(Chem.MolFromSmiles(h.smiles))[:, 0].argmin())  # the most negative one
    title = "attention of the atom *, last layer, mean over heads"
    plot_attention(h, attention_from(runs[0]["model"], h, atom), atom, ax=right, title=title)
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out)


def main(
    data: str | Path = FREESOLV,
    how: str = "random",
    seeds: int = 5,
    epochs: int | None = None,
    seconds: float | None = None,
    limit: int | None = None,
    out: str | Path = FIGURE,
    progress: bool = True,
) -> dict[str, Any]:
    """Trains every variant on every split, prints the table, saves the picture.

    Returns what ``compare`` does of each variant, and the path of the ``picture``.
    """
    needs("matplotlib", "rdkit")
    task, mols = load(Path(data), limit, progress)
    few = len(mols) < FEW
    clock = partial(Clock, task.epochs if epochs is None else epochs, seconds)

    def prepare(seed: int) -> list[list[Batch]]:
        index, *held_out = split(mols, seed, how)
        orders = [index[torch.randperm(len(index))] for _ in range(min(4, clock().limit))]
        return [  # batches and their forests are built only once
            [Batch.from_data_list([mols[i] for i in part.tolist()]) for part in parts]
            for parts in (*(order.split(32) for order in orders), held_out)
        ]

    def run(name: str, given: list[list[Batch]], bar: Any) -> dict[str, Any]:
        *shuffles, (val, test) = given
        return train(make_model(mols[0], name, few), shuffles, val, test, clock(), bar)

    results, runs = compare(
        VARIANTS, seeds, prepare, run, steps=clock().steps, key="rmse", progress=progress,
        titles=(task.name, f"test RMSE [{task.unit}]"),
    )  # fmt: skip
    print(f"\n{len(mols)} molecules, {seeds} {how} 80/10/10 splits, {clock()}, mean ± std")
    print(f"picture: {out}")
    tests = sorted((mols[i] for i in split(mols, 0, how)[2].tolist()), key=lambda h: h.num_nodes)
    small = tests[: 1 + len(tests) // 2]  # which are easy to read
    draw(runs[BOTH], task, max(small, key=lambda h: h.num_tree_nodes - h.num_nodes), Path(out))
    return {**results, "picture": str(out)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="molecules, with and without their hierarchy")
    parser.add_argument("--data", type=Path, default=FREESOLV, help="CSV (default: FreeSolv)")
    parser.add_argument("--split", choices=["random", "scaffold"], default="random")
    parser.add_argument("--seeds", type=int, default=5, help="splits and initialisations")
    parser.add_argument("--epochs", type=int, help="epochs of a run (default: by data set)")
    parser.add_argument("--seconds", type=float, help="seconds of CPU of a run instead of epochs")
    parser.add_argument("--limit", type=int, help="a random sample of so many molecules")
    parser.add_argument("--out", type=Path, default=FIGURE, help="where to save the picture")
    parser.add_argument("--fast", action="store_true", help="1 seed, 5 epochs: a first look")
    args = parser.parse_args()
    seeds, epochs = (1, 5) if args.fast else (args.seeds, args.epochs)
    main(args.data, args.split, seeds, epochs, args.seconds, args.limit, args.out)
