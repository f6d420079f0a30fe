"""Predictions of structures as extended XYZ."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from equimd.files import write_atomic

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculators import Prediction


def write_predictions(
    path: str | Path, atoms: Sequence[Atoms], predictions: Sequence[Prediction], *, keep_labels: bool = False
) -> None:
    """Extended XYZ of the structures with predicted energies and forces (eV, eV/Angstrom), in ASE's usual places.

    Of a calibrated run, also ``energy_std``, ``score``, ``flagged`` and ``atom`` of each structure, and the columns
    ``forces_std`` (three an atom) and ``atom_forces_std``, as in :class:`Prediction`.

    Args:
        keep_labels: keep the energies and forces the structures came with, as ``energy_ref`` and ``forces_ref``.
    """
    from ase.io import write

    text = io.StringIO()
    write(text, [_labelled(a, p, keep_labels) for a, p in zip(atoms, predictions, strict=True)], format="extxyz")
    write_atomic(path, text.getvalue())


def _labelled(atoms: Atoms, p: Prediction, keep_labels: bool) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    copy = atoms.copy()  # with its constraints: what was held fixed stays so
    results = atoms.calc.results if atoms.calc is not None else {}
    for kept, key in ((copy.info, "energy"), (copy.arrays, "forces")):
        own = kept.pop(key, None)  # a label may stand there, too, where the prediction is to stand
        known = results.get(key, own)
        if keep_labels and known is not None:
            kept[f"{key}_ref"] = known
    for key in ("free_energy", "stress", "energies", "stresses"):
        copy.info.pop(key, None)
    labels = {"energy": p.energy} if p.forces is None else {"energy": p.energy, "forces": p.forces}
    copy.calc = SinglePointCalculator(copy, **labels)
    if p.forces_std is not None and p.atom_forces_std is not None:
        copy.info |= {k: getattr(p, k) for k in ("energy_std", "score", "flagged", "atom")}
        copy.arrays |= {"forces_std": p.forces_std, "atom_forces_std": p.atom_forces_std}
    return copy
