"""MOLECULE on the command line: a structure file, a name ASE knows, or SMILES; as one or several conformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from equimd.data.paths import selection
from equimd.data.readers.structures import read_structures
from equimd.errors import ConfigError, DataError
from equimd.tasks.generate.sampling import load_molecule, unconstrained

if TYPE_CHECKING:
    from ase import Atoms

CONFORMERS = 8
DISTINCT = 0.5  # Angstrom RMSD between conformers of the same molecule


def conformers(molecule: str, *, seed: int = 0, count: int = CONFORMERS) -> list[Atoms]:
    """Start structures of one open molecule, with charge and multiplicity in ``info`` where SMILES or a file say so.

    A file gives those it holds, a name one; the name of a molecule is not read as SMILES (CO is carbon monoxide).
    SMILES give up to ``count`` conformers, by ETKDG (Riniker and Landrum, J. Chem. Inf. Model. 55, 2562 (2015)) and
    relaxed by MMFF94, the lowest first.

    Raises:
        DataError: neither a file, a name, nor SMILES; fewer than two atoms; periodic; a file of different molecules, or
            of more than ``count`` structures.
        ConfigError: SMILES, and rdkit is not installed.
    """
    if (file := Path(selection(molecule)[0])).is_file():
        return _of_file(molecule, count)
    try:
        found = [load_molecule(molecule)]
        if len(found[0]) == 1:
            found = _from_smiles(molecule, seed, count) or found  # C is methane: atoms have no forces to learn
    except DataError as error:
        if file.exists() or not _like_smiles(molecule):
            raise
        found = _from_smiles(molecule, seed, count)
        if not found:
            raise DataError(
                f"'{molecule}' is neither a file, nor a molecule ASE knows, nor SMILES", hint=error.hint
            ) from None
    return _checked(found, molecule)


def _of_file(name: str, count: int) -> list[Atoms]:
    found = [unconstrained(atoms, name) for atoms in read_structures(name)]
    if len(found) > count:
        what = f"holds {len(found)} structures, and a learn run starts from {count} conformers at most"
        path, _ = selection(name)
        raise DataError(what, where=name, hint=f"some of them: {path}@-1, or {path}@:{count}")
    for atoms in found:
        atoms.calc = None
    return given_conformers(found, name)


def given_conformers(atoms: list[Atoms], where: str = "") -> list[Atoms]:
    """Start structures that are given themselves.

    Raises:
        DataError: of different molecules, or as :func:`conformers`.
    """
    for k, each in enumerate(atoms):
        if list(each.numbers) != list(atoms[0].numbers):
            place = f"{where}, structure {k}" if where else f"structure {k}"
            raise DataError("is of another molecule or atom order than the first", where=place)
    return _checked([each.copy() for each in atoms], where or "structures")


def _checked(found: list[Atoms], where: str) -> list[Atoms]:
    for atoms in found:
        if len(atoms) < 2:
            raise DataError("a single atom has no forces to learn", where=where)
        if atoms.pbc.any():
            raise DataError("learn takes open molecules; this structure is periodic", where=where)
    return found


def _like_smiles(text: str) -> bool:
    return bool(text) and not any(c.isspace() or c in "\\" for c in text) and not text.endswith((".xyz", ".cif"))


def _from_smiles(smiles: str, seed: int, count: int) -> list[Atoms]:
    """Conformers of SMILES; none if it is no such thing."""
    try:
        from rdkit import Chem, RDLogger
        from rdkit.Chem import AllChem
    except ImportError as error:
        raise ConfigError(
            f"'{smiles}' is neither a file nor a molecule ASE knows; SMILES need rdkit, which is not installed",
            hint="pip install 'equimd[smiles]', or a structure file",
        ) from error
    from ase import Atoms

    RDLogger.DisableLog("rdApp.*")
    plain = Chem.MolFromSmiles(smiles)
    if plain is None:
        return []
    full = Chem.AddHs(plain)
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed, parameters.pruneRmsThresh = seed, DISTINCT
    numbers = [atom.GetAtomicNum() for atom in full.GetAtoms()]
    ids = list(AllChem.EmbedMultipleConfs(full, numConfs=count, params=parameters))
    if not ids:
        raise DataError("rdkit finds no geometry for it", where=smiles, hint="a structure file")
    energies = [e for _, e in AllChem.MMFFOptimizeMoleculeConfs(full, maxIters=500)]
    order = sorted(range(len(ids)), key=lambda k: energies[k])
    spin = 1 + sum(atom.GetNumRadicalElectrons() for atom in full.GetAtoms())
    info = {"charge": Chem.GetFormalCharge(full), "spin": spin if spin > 1 else 0}
    found = []
    for k in order:
        atoms = Atoms(numbers, full.GetConformer(ids[k]).GetPositions())
        atoms.info.update({key: value for key, value in info.items() if value})
        found.append(atoms)
    return found
