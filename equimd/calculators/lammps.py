"""A trained model as the forces of LAMMPS, by its fix external, stopped by the guard.

LAMMPS swallows what a callback raises and runs on. So a run is ended by its time-out, which it looks at before each
step, and the error is kept for whoever asks after the run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from equimd.calculators.step import Step
from equimd.errors import ConfigError, DataError
from equimd.units import KCAL_PER_MOL

#: eV to the unit of energy; lengths are Angstrom in both.
UNITS = {"metal": 1.0, "real": 1.0 / KCAL_PER_MOL}
OPEN = "boundary f f f for a molecule, and for a crystal atoms with the cell and pbc of the LAMMPS box"


class LammpsForces:
    """The forces on all atoms of a LAMMPS whose box and atoms are there, in units metal or real.

    Args:
        lmp: ``lammps.lammps()``, of one process. Its atom IDs 1 to n are the atoms of ``step``, in their order.
        step: of ``equimd.load(run).step(atoms)``.
        name: of the fix external. Its energy is part of the potential energy that LAMMPS prints.

    Raises:
        ConfigError: other units, several processes, or another boundary than the structure's.
        DataError: another number of atoms or another cell than the structure's.
    """

    def __init__(self, lmp: Any, step: Step, name: str = "equimd") -> None:
        self.lmp, self.step, self.name = lmp, step, name
        self.error: BaseException | None = None
        units = lmp.extract_global("units")
        if units not in UNITS:
            raise ConfigError(f"units {units}", where="LAMMPS", hint="units metal, or real")
        if lmp.extract_setting("world_size") > 1:
            raise ConfigError("several MPI processes share the atoms", where="LAMMPS", hint="one process")
        self._unit = UNITS[units]
        self._check_box()
        if lmp.get_natoms() != len(step.atoms):
            raise DataError(f"{lmp.get_natoms()} atoms, not the {len(step.atoms)} of the structure", where="LAMMPS")
        lmp.command(f"fix {name} all external pf/callback 1 1")
        lmp.command(f"fix_modify {name} energy yes")
        lmp.set_fix_external_callback(name, self._called, lmp)

    def run(self, steps: int) -> None:
        """``run steps`` of LAMMPS.

        Raises:
            GuardError: the guard halted it. LAMMPS stands at the refused frame, ``step.halt.last_accepted`` are the
                last good positions.
            DataError: the box changed.
        """
        self.lmp.command(f"run {steps}")
        self.check()

    def check(self) -> None:
        """After runs that were begun by other commands: raise what ended them, as :meth:`run` does."""
        error, self.error = self.error, None
        if error is not None:
            self.lmp.command("timer timeout off")  # another run may follow
            raise error

    def _called(self, _: Any, number: int, count: int, tags: np.ndarray, x: np.ndarray, forces: np.ndarray) -> None:
        """Called in every step, with positions (count, 3) in LAMMPS's own order, whose forces are to be set."""
        if self.error is not None:
            return
        try:
            if self.lmp.extract_box()[6]:
                self._check_box()
            order = np.asarray(tags).reshape(-1) - 1
            positions = np.empty_like(x)
            positions[order] = x
            found = self.step(positions, number)
            forces[:] = found.forces[order] * self._unit
            self.lmp.fix_external_set_energy_global(self.name, found.energy * self._unit)
        except BaseException as error:  # Ctrl-C, too, would be swallowed
            self.error = error
            forces[:] = 0.0
            self.lmp.force_timeout()

    def _check_box(self) -> None:
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        atoms = self.step.atoms
        if [bool(p) for p in periodic] != atoms.pbc.tolist():
            raise ConfigError(f"a box periodic in {periodic}, a structure in {atoms.pbc}", where="LAMMPS", hint=OPEN)
        box = np.diag(np.subtract(high, low))
        box[1, 0], box[2, 0], box[2, 1] = xy, xz, yz
        if not np.allclose(box[atoms.pbc], atoms.cell.array[atoms.pbc], rtol=0, atol=1e-5):
            hint = "the structure's cell, and no ensemble that changes it"
            raise DataError(f"a box of {box.tolist()} Angstrom, not the structure's", where="LAMMPS", hint=hint)
