"""Recorded frames as ASE ``Atoms``, and as extended XYZ with all that is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.data.system import System
from equimd.files import replacing
from equimd.md.recorded import Recorded
from equimd.md.trajectory import Trajectory

if TYPE_CHECKING:
    from ase import Atoms

BLOCK = 500  # frames converted at once
ATOM = "atom_"  # before the name of a value of atoms: one of the frame may be called the same


def as_atoms(part: Trajectory, system: System, state: Mapping[str, int] | None = None) -> list[Atoms]:
    """A structure of each frame: energies and forces as results of a calculator, momenta, step, time (fs) and the
    observables in ``info``, values of atoms as arrays such as ``atom_force_sigma``; nothing of what is NaN in a frame.

    Args:
        state: charge and spin, where they are stated.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms
    from ase.units import fs

    cell = None if system.cell is None else system.cell.cpu().numpy()
    held = None if system.fixed is None else FixAtoms(mask=system.fixed.cpu().numpy())
    found = []
    for k in range(len(part)):
        atoms = Atoms(part.numbers, part.positions[k], masses=part.masses, cell=cell, pbc=system.pbc)
        if np.isfinite(part.velocities[k]).all():
            atoms.set_velocities(part.velocities[k] / fs)
        atoms.set_constraint(held)
        values = {name: float(v[k]) for name, v in part.observables.items() if np.isfinite(v[k])}
        results = {"energy": values.pop("potential_energy")} if "potential_energy" in values else {}
        if np.isfinite(part.forces[k]).all():
            results["forces"] = part.forces[k]
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"step": int(part.step[k])}
        if np.isfinite(part.time[k]):
            atoms.info["time_fs"] = float(part.time[k])
        atoms.info |= {**(state or {}), **values}
        for name, of in part.atoms.items():
            if np.isfinite(of[k]).all():
                atoms.arrays[ATOM + name] = np.asarray(of[k], np.float64)
        found.append(atoms)
    return found


def write_extxyz(run: Recorded, system: System, out: Path, state: Mapping[str, int] | None = None) -> None:
    """All frames of a replica as extended XYZ, in eV and Angstrom.

    Raises:
        DataError: the trajectory is damaged.
    """
    from ase.io import write

    with replacing(out) as temporary, temporary.open("w") as file:
        for part in run.blocks(size=BLOCK):
            write(file, as_atoms(part, system, state), format="extxyz")
