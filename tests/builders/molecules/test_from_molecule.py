import sys
from functools import partial
from pathlib import Path

import networkx as nx
import pytest
import torch
from helpers import freesolv, leaf_sets, load_module
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, RDConfig
from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol
from torch_geometric.utils import from_rdmol
from torch_geometric.utils import from_smiles as pyg_from_smiles

from hsa_geometric.builders.molecules import KINDS, atom_groups, from_molecule
from hsa_geometric.builders.molecules.levels import find_levels

ALL = ("components", "scaffold", "brics", "functional_groups", "rings")
CLOSED = "N1(CCCC12)C(=O)C(C)NC(=O)CN(C)C2=O"  # a ring of proline, alanine and sarcosine
FREESOLV = freesolv()

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"  # atoms: acetyl 0-2, O 3, ring 4-9, acid 10-12
CAFFEINE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C"  # methyls 0, 9, 13; C=O at 6-7 and 10-11


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def pieces(labels):
    out = {}
    for atom, label in enumerate(labels.tolist()):
        out.setdefault(label, set()).add(atom)
    return {frozenset(piece) for piece in out.values()}


# Trees by hand ##################################################################################


@pytest.mark.parametrize(
    ("smiles", "levels", "parent", "kinds"),
    [
        # acetyl | O | ring | acid
        (
            ASPIRIN,
            ["brics", "rings"],
            [14, 14, 14, 16, *[13] * 6, 15, 15, 15, 16, 16, 16, 16],
            ["ring", "fragment", "fragment", "molecule"],
        ),
        # the acetyl loses its methyl to the side chain's rest, the oxygen stands alone
        (
            ASPIRIN,
            ALL,
            [16, 14, 14, 17, *[13] * 6, 15, 15, 15, 18, 16, 18, 17, 18, 18],
            ["ring", "functional_group", "functional_group", "fragment", "rest", "molecule"],
        ),
        (
            ASPIRIN,
            ["scaffold"],
            [*[13] * 4, *[14] * 6, 15, 15, 15, 16, 16, 16, 16],
            ["rest", "scaffold", "rest", "molecule"],
        ),
        # CH3 | ester | ring | acid
        (
            ASPIRIN,
            ["functional_groups"],
            [16, 13, 13, 13, *[14] * 6, 15, 15, 15, 16, 16, 16, 16],
            ["functional_group", "rest", "functional_group", "molecule"],
        ),
        (ASPIRIN, [], [13] * 14, ["molecule"]),
        # fused rings are one system, and so are rings that share one atom
        ("c1ccc2ccccc2c1", ["brics", "rings"], [10] * 11, ["ring"]),
        ("C1CCC2(C1)CCCC2", ["rings"], [9] * 10, ["ring"]),
        ("CC1(CCC2)CC2CC1", ["rings"], [10, *[9] * 8, 10, 10], ["ring", "molecule"]),  # bridged
        # rings joined by a bond are two
        (
            "c1ccc(cc1)-c1ccccc1",
            ["rings"],
            [*[12] * 6, *[13] * 6, 14, 14, 14],
            ["ring", "ring", "molecule"],
        ),
        # salts: components come first without being named, and may be named
        ("CC(=O)[O-].[Na+]", ["brics", "rings"], [5, 5, 5, 5, 6, 6, 6], ["fragment", "molecule"]),
        ("CC(=O)[O-].[Na+]", ["components"], [5, 5, 5, 5, 6, 6, 6], ["component", "molecule"]),
        (
            "CC(=O)[O-].[Na+]",
            ["functional_groups"],
            [6, 5, 5, 5, 7, 6, 7, 7],
            ["functional_group", "component", "molecule"],
        ),
        ("[Na+].[Cl-]", ["brics", "rings"], [2, 2, 2], ["molecule"]),
        # nothing to group
        ("C", ["brics", "rings"], [0], []),
        ("CCC", ["scaffold", "rings"], [3, 3, 3, 3], ["molecule"]),
        # BRICS cuts nothing in caffeine; each C=O belongs to the scaffold, but its O to no ring
        (
            CAFFEINE,
            ["scaffold", "brics", "rings"],
            [*[16, 14, 14, 14, 14, 14, 14, 15, 14, 16, 14, 15, 14, 16], 15, 16, 16],
            ["ring", "fragment", "molecule"],
        ),
        # a group that reaches into a ring has the whole ring with it
        (
            "CC(=O)N1CCCCC1",
            ["functional_groups", "rings"],
            [11, 10, 10, *[9] * 6, 10, 11, 11],
            ["ring", "functional_group", "molecule"],
        ),
        # residues of a ring of three amino acids; proline's C=O belongs to it, but to no ring
        (
            CLOSED,
            ["residues", "rings"],
            [*[17] * 5, *[19] * 5, *[20] * 5, *[18] * 3, *[21] * 4],
            ["ring", "residue", "residue", "residue", "molecule"],
        ),
        # a ring that is opened is no ring of the levels below
        (
            "C1C(=O)NCCCCCCC1",
            ["residues", "rings"],
            [11] * 12,
            ["residue"],
        ),
        # salts: what is cut nowhere is no residue
        (
            "CC(=O)NC.CC(=O)[O-]",
            ["residues"],
            [9, 9, 9, 10, 10, 11, 11, 11, 11, 12, 12, 13, 13, 13],
            ["residue", "residue", "component", "component", "molecule"],
        ),
    ],
)
def test_by_hand(smiles, levels, parent, kinds):
    h = from_molecule(mol(smiles), levels=levels)
    n = mol(smiles).GetNumAtoms()
    assert h.parent.tolist() == parent
    assert [KINDS[kind] for kind in h.tree_kind.tolist()] == ["atom"] * n + kinds
    assert h.num_nodes == n and h.num_trees == 1 and h.validate()


def test_fragments_and_ring_systems_are_the_default():
    assert torch.equal(
        from_molecule(mol(ASPIRIN)).parent,
        from_molecule(mol(ASPIRIN), levels=["brics", "rings"]).parent,
    )


def test_a_kind_keeps_its_number():
    assert KINDS[:4] == ("atom", "ring", "functional_group", "scaffold")
    assert KINDS[4:] == ("fragment", "component", "molecule", "rest", "residue")


# What each level is #############################################################################


def test_levels_nest_are_connected_and_open_no_ring():
    for smiles in FREESOLV:
        m = mol(smiles)
        bonds = nx.Graph((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in m.GetBonds())
        bonds.add_nodes_from(range(m.GetNumAtoms()))
        coarser = [frozenset(range(m.GetNumAtoms()))]
        for labels in atom_groups(m, levels=ALL):
            level = pieces(labels)
            assert sum(map(len, level)) == m.GetNumAtoms()
            for piece in level:
                assert any(piece <= above for above in coarser)
                assert nx.is_connected(bonds.subgraph(piece))
            for ring in m.GetRingInfo().AtomRings():
                assert any(piece.issuperset(ring) for piece in level)
            coarser = level


@pytest.mark.parametrize("levels", [("brics", "rings"), ALL])
def test_the_nodes_are_the_groups_of_two_atoms_or_more_each_once(levels):
    for smiles in FREESOLV:
        m = mol(smiles)
        h = from_molecule(m, levels=levels)
        groups = {frozenset(range(m.GetNumAtoms()))}.union(
            *map(pieces, atom_groups(m, levels=levels))
        )
        nodes = leaf_sets(h)
        assert len(nodes) == len(set(nodes))
        assert set(nodes) == {group for group in groups if len(group) > 1}


def test_fragments_are_those_of_rdkit():
    for smiles in FREESOLV:
        m = mol(smiles)
        frags = Chem.GetMolFrags(Chem.FragmentOnBRICSBonds(m))  # with dummy atoms at the end
        expected = {frozenset(i for i in frag if i < m.GetNumAtoms()) for frag in frags}
        assert pieces(atom_groups(m, levels=["brics"])[0]) == expected


@pytest.mark.parametrize(
    ("smiles", "sizes"),
    [
        ("CC(=O)NCC(=O)NC", [3, 4, 2]),  # caps are residues too
        ("CC(=O)N(C)CC(=O)N(C)C", [3, 5, 3]),
        ("NCC(=O)NC(CC(=O)N)C(=O)O", [4, 9]),  # the amide of asparagine stays
        ("CC(=O)OCC(=O)NC", [7, 2]),  # esters
        ("CNC(=O)NC", [6]),  # ureas
        ("COC(=O)NC", [6]),  # carbamates
        ("CC(=O)n1cccc1", [8]),  # aromatic nitrogen
        ("O=C1CNC(=O)CN1", [8]),  # a ring of two amino acids
        ("O=C1CCCN1CC(=O)NC", [9, 2]),  # a lactam beside an amide
        ("O=C1CNC(=O)CNC(=O)CN1", [4, 4, 4]),
        ("O=C1CCCCCCN1", [9]),  # a ring of eight atoms
    ],
)
def test_residues_are_what_amide_bonds_of_two_carbons_link(smiles, sizes):
    for m in (mol(smiles), mol(Chem.MolToSmiles(mol(smiles)))):
        labels = atom_groups(m, levels=["residues"])[0]
        assert sorted(torch.bincount(labels).tolist()) == sorted(sizes)


def test_levels_below_residues_see_the_rings_that_are_left():
    tyrosines = mol("O=C1C(Cc2ccc(O)cc2)NC(=O)C(Cc2ccc(O)cc2)NC(=O)C(Cc2ccc(O)cc2)N1")
    opened, whole = (
        atom_groups(tyrosines, levels=levels)[-1] for levels in (["residues", "rings"], ["rings"])
    )
    assert sorted(torch.bincount(opened).tolist())[-4:] == [1, 6, 6, 6]
    assert sorted(torch.bincount(whole).tolist())[-4:] == [6, 6, 6, 9]


def test_a_protein_is_cut_to_its_ends():
    labels = atom_groups(glycines(1100), levels=["residues"])[0]
    assert torch.bincount(labels).tolist() == [4] * 1099 + [5]


def test_ring_systems_are_rings_merged_where_they_share_atoms():
    for smiles in [*FREESOLV, "C1CCC2(C1)CCCC2", "C1CC2CCC1C2", "C1CC1C1CC1"]:
        m = mol(smiles)
        systems = []
        for ring in map(set, m.GetRingInfo().AtomRings()):
            apart = [system for system in systems if system.isdisjoint(ring)]
            touching = [system for system in systems if not system.isdisjoint(ring)]
            systems = [*apart, ring.union(*touching)]
        found = {piece for piece in pieces(atom_groups(m, levels=["rings"])[0]) if len(piece) > 1}
        assert found == set(map(frozenset, systems))


def test_functional_groups_are_ertls_but_for_aromatic_atoms():
    # RDKit ships this implementation beside its package, not inside.
    ifg = load_module(Path(RDConfig.RDContribDir) / "IFG" / "ifg.py")
    more = [
        "OCC1OC(CC1O)n2cnc3C(O)CNC=Nc32",
        "CC(O)C1C2C(C)C(=C(N2C1=O)C(=O)O)SC3CNC(C3)",
        CAFFEINE,
    ]
    for smiles in [*FREESOLV, *more, "C1OC1CC#N", "CC(OC)OC"]:
        m = mol(smiles)
        found = {i for group in ifg.identify_functional_groups(m) for i in group.atomIds}
        expected = {i for i in found if not m.GetAtomWithIdx(i).GetIsAromatic()}
        assert find_levels(m, ("functional_groups",))[0].groups == expected


def test_scaffolds_are_those_of_rdkit():
    metals = ["C1CN->[Pt]<-N1", "c1cc[n](cc1)->[Pt](Cl)(Cl)<-[n]1ccccc1"]  # rings of dative bonds
    odd = ["C1CC1=C=C=C", "c1ccccc1.CCCC=O.C1CC1CC1CC1", "CP(=O)(C1CC1)C=C", *metals]
    for smiles in [*FREESOLV, *odd]:
        for m in (mol(smiles), Chem.AddHs(mol(smiles))):
            groups = find_levels(m, ("scaffold",))[0].groups
            for atom in m.GetAtoms():
                atom.SetIntProp("row", atom.GetIdx())
            found = GetScaffoldForMol(m).GetAtoms()
            assert groups == {atom.GetIntProp("row") for atom in found}


# Large molecules ################################################################################


def glycines(n):
    """Residues N, CA, C, O: atoms 4 i .. 4 i + 3; BRICS cuts each C-N bond."""
    return mol("NCC(=O)" * n + "O")


@pytest.mark.parametrize("with_hydrogen", [False, True])
@pytest.mark.parametrize("n", [500, 1100])
def test_chains_of_glycines_are_cut_to_their_ends(n, with_hydrogen):
    # Residues N, CA, C, O are atoms 4 i .. 4 i + 3; both bonds of each N inside are cut.
    m = mol("NCC(=O)" * n + "O")
    labels = atom_groups(Chem.AddHs(m) if with_hydrogen else m, levels=["brics"])[0]
    size = torch.bincount(labels[: 4 * n + 1])
    assert size.tolist() == [4, *[1, 3] * (n - 2), 1, 4]


def test_functional_groups_are_found_beyond_a_thousand():
    groups = find_levels(mol("C" + "OCC" * 3000), ("functional_groups",))[0].groups
    assert groups == set(range(1, 9001, 3))
    # Acetal carbons are told by recursive patterns, which have a limit of their own.
    groups = find_levels(mol("OC" * 4000), ("functional_groups",))[0].groups
    assert len(groups) == 7999  # all but the last carbon


@pytest.mark.parametrize("num_atoms", [552, 1102, 2202, 10_002])
def test_scaffolds_of_long_chains(num_atoms):
    n = num_atoms // 2 - 7
    m = mol("CCC1CC1" + "C(O)" * n + "C(=O)CC1CC1" + "CCC")  # the chain links two rings
    assert m.GetNumAtoms() == num_atoms
    sides = {0, 1, *range(6, 5 + 2 * n, 2), *range(num_atoms - 3, num_atoms)}
    assert find_levels(m, ("scaffold",))[0].groups == set(range(num_atoms)) - sides


def calls_of(function):
    """How many functions are called, in Python and in RDKit."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(trace)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("with_hydrogen", [False, True])
def test_work_is_linear_in_the_atoms(with_hydrogen):
    small, large = (mol("[C@@H](Cc1ccccc1)C(=O)NCC(=O)N" * n) for n in (10, 80))
    if with_hydrogen:
        small, large = Chem.AddHs(small), Chem.AddHs(large)
    for levels in [
        ["scaffold"],
        ["brics"],
        ["functional_groups"],
        ["residues", "rings"],
        ["rings"],
        ALL,
    ]:
        few, many = (calls_of(partial(atom_groups, m, levels=levels)) for m in (small, large))
        assert many < 10 * few


def test_what_takes_quadratic_time_in_rdkit_is_not_called(monkeypatch):
    m = Chem.AddHs(mol(ASPIRIN))

    def refuse(*args):
        raise AssertionError("called")

    for name in ("MurckoDecompose", "RemoveAllHs", "RemoveHs"):
        monkeypatch.setattr(Chem, name, refuse)
    atom_groups(m, levels=ALL)


# Invariances ####################################################################################


@st.composite
def molecules(draw):
    """Mixtures of one to three molecules, their atoms shuffled, perhaps with hydrogens."""
    smiles = draw(
        st.lists(st.sampled_from([*FREESOLV, CLOSED, "[Na+]", "[H][H]"]), min_size=1, max_size=3)
    )
    m = mol(".".join(smiles))
    m = Chem.AddHs(m) if draw(st.booleans()) else m
    return Chem.RenumberAtoms(m, draw(st.permutations(range(m.GetNumAtoms()))))


@st.composite
def level_names(draw):
    inner = draw(st.permutations(["scaffold", "brics", "functional_groups", "residues"]))
    inner = inner[: draw(st.integers(0, 4))]
    first, last = draw(st.booleans()), draw(st.booleans())
    return [*["components"] * first, *inner, *["rings"] * last]


@given(molecules(), level_names(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_levels_of_any_molecule_make_a_tree_that_moves_with_the_atoms(m, levels, random):
    h = from_molecule(m, levels=levels)
    assert h.validate() and h.num_trees == 1 and h.num_nodes == m.GetNumAtoms()
    assert h.collapse_chains().num_tree_nodes == h.num_tree_nodes

    order = list(range(m.GetNumAtoms()))
    random.shuffle(order)
    moved = from_molecule(Chem.RenumberAtoms(m, order), levels=levels)
    kinds, moved_kinds = (t.tree_kind[t.num_nodes :].tolist() for t in (h, moved))
    there = [frozenset(order[i] for i in group) for group in leaf_sets(moved)]
    assert set(zip(there, moved_kinds, strict=True)) == set(zip(leaf_sets(h), kinds, strict=True))


@pytest.mark.parametrize("levels", [("brics", "rings"), ALL])
def test_hydrogens_join_the_groups_of_their_neighbours(levels):
    for smiles in FREESOLV[::3]:
        m = mol(smiles)
        with_h = Chem.AddHs(m)
        assert atom_groups(with_h, levels=levels)[:, : m.GetNumAtoms()].equal(
            atom_groups(m, levels=levels)
        )
        for labels in atom_groups(with_h, levels=levels):
            for atom in list(with_h.GetAtoms())[m.GetNumAtoms() :]:
                assert labels[atom.GetIdx()] == labels[atom.GetNeighbors()[0].GetIdx()]


def test_hydrogens_alone_are_atoms_like_others():
    assert from_molecule(mol("[H][H]")).parent.tolist() == [2, 2, 2]
    assert from_molecule(mol("[H+].[Cl-]")).parent.tolist() == [2, 2, 2]
    assert from_molecule(mol("[H+]")).parent.tolist() == [0]


@pytest.mark.parametrize("clear", [False, True])
def test_a_kekulized_molecule_has_the_same_tree(clear):
    for smiles in [ASPIRIN, CAFFEINE, "c1ccc(cc1)-c1ccc(OC(C)CN)cc1"]:
        m, kekulized = mol(smiles), mol(smiles)
        Chem.Kekulize(kekulized, clearAromaticFlags=clear)
        before = Chem.MolToSmiles(kekulized)
        h, same = (from_molecule(x, levels=ALL) for x in (m, kekulized))
        assert torch.equal(h.parent, same.parent) and torch.equal(h.tree_kind, same.tree_kind)
        assert Chem.MolToSmiles(kekulized) == before  # the caller's molecule is left alone


# What is carried ################################################################################


def test_a_molecule_brings_its_features_and_takes_others():
    m, pyg = mol(ASPIRIN), from_rdmol(mol(ASPIRIN))
    h = from_molecule(m, y=torch.tensor([1.5]))
    for key in ("x", "edge_index", "edge_attr"):
        assert torch.equal(h[key], pyg[key])
    assert h.y.item() == 1.5
    x = torch.rand(13, 2)
    h = from_molecule(m, x=x)
    assert torch.equal(h.x, x) and torch.equal(h.edge_index, pyg.edge_index)


@pytest.mark.parametrize("with_hydrogen", [False, True])
def test_a_pyg_graph_keeps_all_it_has(with_hydrogen):
    data = pyg_from_smiles(ASPIRIN, with_hydrogen=with_hydrogen)
    data.fingerprint, data.name, data.pos = torch.rand(7), "aspirin", torch.rand(data.num_nodes, 3)
    before = data.clone()
    h = from_molecule(data)
    assert h.num_nodes == data.num_nodes and h.validate()
    assert set(before.keys()) == set(data.keys()) == set(h.keys()) - {"parent", "tree_kind"}
    for key, value in data.to_dict().items():
        assert h[key] is value
    m = Chem.AddHs(mol(ASPIRIN)) if with_hydrogen else mol(ASPIRIN)
    assert torch.equal(h.parent, from_molecule(m).parent)


def test_more_edges_than_bonds_are_no_harm():
    data = pyg_from_smiles("CCO")
    data.edge_index = torch.tensor([[0, 2, 0], [1, 1, 2]])  # each bond once, and one edge more
    data.edge_attr = torch.zeros(3, 3)
    assert from_molecule(data, levels=[]).parent.tolist() == [3, 3, 3, 3]
    data.edge_index = data.edge_attr = None
    assert from_molecule(data, levels=[]).parent.tolist() == [3, 3, 3, 3]


# Errors #########################################################################################


@pytest.mark.parametrize(
    ("levels", "error", "match"),
    [
        ("rings", TypeError, r"'levels' to be a list of names \(got 'rings'\)"),
        (None, TypeError, r"'levels' to be a list of names \(got None\)"),
        (["ring"], ValueError, r"'levels' to be among \['components', .*'rings'\] \(got 'ring'\)"),
        ([3], ValueError, r"'levels' to be among .* \(got 3\)"),
        (["brics", "brics"], ValueError, r"each level once \(got 'brics' twice\)"),
        (["brics", "components"], ValueError, "'components' to be the first of 'levels'"),
        (["rings", "brics"], ValueError, "'rings' to be the last of 'levels'"),
    ],
)
def test_bad_levels_are_named(levels, error, match):
    for build in (from_molecule, atom_groups):
        with pytest.raises(error, match=match):
            build(mol("CCO"), levels=levels)


@pytest.mark.parametrize(
    ("molecule", "error", "match"),
    [
        (None, TypeError, r"\(got NoneType; RDKit gives None for what it cannot read\)"),
        ("CCO", TypeError, r"an RDKit molecule or a PyG Data with 'smiles' \(got str\)"),
        (Chem.Mol(), ValueError, r"at least one atom \(got none\)"),
        (Chem.MolFromSmiles("CCO", sanitize=False), ValueError, "'molecule' to be sanitized"),
    ],
)
def test_what_is_no_molecule_is_named(molecule, error, match):
    for build in (from_molecule, atom_groups):
        with pytest.raises(error, match=match):
            build(molecule)


def changed(**values):
    data = pyg_from_smiles("CC(=O)N")
    for key, value in values.items():
        data[key] = value
    return data


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (changed(smiles=None), ValueError, "'molecule' to have 'smiles'"),
        (changed(smiles=3), TypeError, r"'smiles' to be a string \(got int\)"),
        (changed(smiles=["CC(=O)N"]), TypeError, r"one 'smiles' \(got a list, as in a batch\)"),
        (changed(smiles="CC(=O"), ValueError, r"RDKit can read \(got 'CC\(=O': its syntax is wro"),
        (changed(smiles=""), ValueError, r"'smiles' to hold at least one atom \(got ''\)"),
        (
            changed(smiles="CCO"),
            ValueError,
            r"each atom of 'smiles', 3, or 9 with hydrogens \(got 4 nodes for 'CCO'\)",
        ),
        (  # the same molecule, its atoms in another order
            changed(smiles="C(C)(N)=O"),
            ValueError,
            r"'edge_index' to hold every bond of 'smiles' \(got none between 0 and 2",
        ),
    ],
)
def test_a_graph_that_does_not_fit_its_smiles_is_named(data, error, match):
    with pytest.raises(error, match=match):
        from_molecule(data)


def test_a_missing_rdkit_names_the_extra(monkeypatch):
    m = mol("CCO")
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"from_molecule needs RDKit.*hsa_geometric\[molecules\]"):
        from_molecule(m)
    with pytest.raises(ImportError, match=r"atom_groups needs RDKit.*hsa_geometric\[molecules\]"):
        atom_groups(m)
