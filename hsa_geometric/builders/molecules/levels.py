"""The levels of a molecule. A level is a rule that says which bonds it cuts.

What the cuts of a level and of all coarser levels leave connected are the groups of that level, so
groups nest whatever the levels are. No rule cuts a bond to a hydrogen, and only residues cut rings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeAlias

Bonds: TypeAlias = "set[tuple[int, int]]"
Partition: TypeAlias = "tuple[tuple[int, ...], ...]"

KINDS = (
    "atom",
    "ring",
    "functional_group",
    "scaffold",
    "fragment",
    "component",
    "molecule",
    "rest",
    "residue",
)
"""What ``tree_kind`` counts: ``KINDS[h.tree_kind[a]]`` is the kind of tree node ``a``."""

# P. Ertl, An algorithm to identify functional groups in organic molecules, J. Cheminform. 9:36
# (2017): heteroatoms; carbons with a multiple bond; acetal carbons; oxiranes and their like.
# Aromatic atoms are left to their ring.
_FUNCTIONAL = "[$([!#6;!#1;!a]),$(C=,#[!#6]),$(C=,#C),$([CX4](-[O,N,S])-[O,N,S]),$(C1[O,N,S]C1)]"

# Amides between two carbons. Those of small rings are lactams, whose rings stay whole.
_PEPTIDE = "[#6][CX3](=[OX1])-[NX3][#6]"
_SMALLEST_OPENED = 9  # atoms: a ring of three amino acids


class Level(NamedTuple):
    """One level of one molecule.

    Attributes:
        kind: index into :data:`KINDS` of the groups this level is about.
        groups: the atoms in such groups; the pieces of other atoms are the ``'rest'``.
        partition: all pieces as tuples of atoms, in the order of their first atoms.
    """

    kind: int
    groups: set[int]
    partition: Partition


class _Bond(NamedTuple):
    ends: tuple[int, int]
    in_ring: bool
    is_double: bool
    smallest_ring: int


def _components(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    return set(range(mol.GetNumAtoms())), set()


def _scaffold(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    """The atoms of RDKit's ``MurckoDecompose``, which takes all shortest paths to find them."""
    from networkx import Graph, connected_components, k_core

    rings = {i for bond in bonds if bond.in_ring for i in bond.ends}
    core = k_core(Graph(bond.ends for bond in bonds), 2)  # rings and what links them
    linked = (part for part in connected_components(core) if not rings.isdisjoint(part))
    atoms = set().union(*linked)
    double = [(i, j) for (i, j), _, is_double, _ in bonds if is_double]
    atoms |= {j for i, j in double if i in atoms} | {i for i, j in double if j in atoms}
    return atoms, _border(atoms, bonds)


def _brics(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    from rdkit.Chem.BRICS import bondMatchers, environMatchers

    # BRICS counts neighbours, so it must not see hydrogens.
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    if len(heavy) < mol.GetNumAtoms():
        mol = _without_hydrogens(mol, heavy)
    # RDKit's own FindBRICSBonds stops without a word after 1,000 bonds of a kind.
    here = {name for name, pattern in environMatchers.items() if _matches(mol, pattern)}
    cut = {
        (heavy[i], heavy[j])
        for kinds in bondMatchers
        for left, right, _, pattern in kinds
        if "L" + left in here and "L" + right in here
        for i, j in _matches(mol, pattern)
    }
    return set(heavy), cut


def _functional_groups(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    atoms = {i for (i,) in _matches(mol, _query(_FUNCTIONAL))}
    return atoms, _border(atoms, bonds)


def _residues(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    lactams = {bond.ends for bond in bonds if 0 < bond.smallest_ring < _SMALLEST_OPENED}
    found = {(c, n) for _, c, _, n, _ in _matches(mol, _query(_PEPTIDE))}
    cut = {(i, j) for i, j in found if (i, j) not in lactams and (j, i) not in lactams}
    return {i for ends in cut for i in ends}, cut


def _rings(mol: Any, bonds: list[_Bond]) -> tuple[set[int], Bonds]:
    atoms = {i for bond in bonds if bond.in_ring for i in bond.ends}
    return atoms, {bond.ends for bond in bonds if not bond.in_ring}


def _matches(mol: Any, pattern: Any) -> Any:
    """All matches: RDKit's default, also within recursive patterns, is the first 1,000."""
    from rdkit import Chem

    parameters: Any = Chem.SubstructMatchParameters()
    parameters.maxMatches = 2**31 - 1
    parameters.maxRecursiveMatches = 2**31 - 1
    return mol.GetSubstructMatches(pattern, parameters)


def _without_hydrogens(mol: Any, heavy: list[int]) -> Any:
    """What BRICS asks of the other atoms, copied (RDKit removes hydrogens in quadratic time)."""
    from rdkit import Chem

    place = {i: k for k, i in enumerate(heavy)}
    out = Chem.RWMol()
    for i in heavy:
        out.AddAtom(mol.GetAtomWithIdx(i))
    for bond in bonds_of(mol):
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in place and j in place:
            out.AddBond(place[i], place[j], bond.GetBondType())
            out.GetBondBetweenAtoms(place[i], place[j]).SetIsAromatic(bond.GetIsAromatic())
    Chem.GetSymmSSSR(out)
    return out


_Rule: TypeAlias = "Callable[[Any, list[_Bond]], tuple[set[int], Bonds]]"
LEVELS: dict[str, tuple[str, _Rule]] = {
    "components": ("component", _components),
    "scaffold": ("scaffold", _scaffold),
    "brics": ("fragment", _brics),
    "functional_groups": ("functional_group", _functional_groups),
    "residues": ("residue", _residues),
    "rings": ("ring", _rings),
}


def check_levels(levels: Iterable[str]) -> tuple[str, ...]:
    """Return the names of levels, coarse to fine."""
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise TypeError(f"Expected 'levels' to be a list of names (got {levels!r})")
    names = tuple(levels)
    for name in names:
        if name not in LEVELS:
            raise ValueError(f"Expected 'levels' to be among {list(LEVELS)} (got {name!r})")
        if names.count(name) > 1:
            raise ValueError(f"Expected 'levels' to name each level once (got {name!r} twice)")
    if "components" in names[1:]:
        raise ValueError(f"Expected 'components' to be the first of 'levels' (got {list(names)})")
    if "rings" in names[:-1]:
        raise ValueError(
            f"Expected 'rings' to be the last of 'levels', for it leaves no bond to cut "
            f"(got {list(names)})"
        )
    return names


def find_levels(mol: Any, names: tuple[str, ...]) -> list[Level]:
    """Cut a molecule level by level, coarse to fine; each level cuts what the last one left."""
    from networkx import Graph, bridges, connected_components
    from rdkit import Chem

    mol = Chem.Mol(mol)
    Chem.SetAromaticity(mol)  # kekulized or not, a molecule has one tree
    rings = mol.GetRingInfo()
    hydrogen = {atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 1}
    bonds = [
        _Bond(
            (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()),
            bond.IsInRing(),
            bond.GetBondType() == Chem.BondType.DOUBLE,
            rings.MinBondRingSize(bond.GetIdx()),
        )
        for bond in bonds_of(mol)
    ]
    pieces = Graph()
    pieces.add_nodes_from(range(mol.GetNumAtoms()))
    pieces.add_edges_from(bond.ends for bond in bonds)
    levels = []
    for name in names:
        kind, rule = LEVELS[name]
        groups, cut = rule(mol, bonds)
        pieces.remove_edges_from((i, j) for i, j in cut if i not in hydrogen and j not in hydrogen)
        if name == "residues" and cut:  # what rings there are is now another matter
            left = [bond for bond in bonds if pieces.has_edge(*bond.ends)]
            opened = {frozenset(ends) for ends in bridges(pieces)}
            bonds = [b._replace(in_ring=frozenset(b.ends) not in opened) for b in left]
        partition = tuple(tuple(sorted(piece)) for piece in connected_components(pieces))
        levels.append(Level(KINDS.index(kind), groups, partition))
    return levels


def bonds_of(mol: Any) -> Iterator[Any]:
    """Each bond once, in linear time (RDKit's ``GetBonds`` walks to each from the first)."""
    for atom in mol.GetAtoms():
        for bond in atom.GetBonds():
            if bond.GetBeginAtomIdx() == atom.GetIdx():
                yield bond


def _border(atoms: set[int], bonds: list[_Bond]) -> Bonds:
    """Bonds outside rings between these atoms and others."""
    return {(i, j) for (i, j), in_ring, *_ in bonds if not in_ring and (i in atoms) != (j in atoms)}


@cache
def _query(smarts: str) -> Any:
    from rdkit import Chem

    return Chem.MolFromSmarts(smarts)
