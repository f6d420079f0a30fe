"""A trained model within i-PI, by its own registration of drivers: no socket and no second process.

i-PI reads this file by its path::

    <ffdirect name='equimd'>
      <pes>custom</pes>
      <pes_path>...</pes_path>   <!-- python -c "import equimd.calculators.ipi_driver as d; print(d.__file__)" -->
      <parameters>{run: runs/ethanol, structure: ethanol.xyz}</parameters>
    </ffdirect>

A halt is a soft exit of i-PI, at once: it writes a RESTART of the last whole step, and its log has the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ipi.pes.dummy import Dummy_driver
from ipi.utils.softexit import softexit

from equimd.calculators.ipi import Driver, refuse_change
from equimd.calculators.loading import load
from equimd.data.given import structures_of
from equimd.errors import DataError, GuardError
from equimd.units import BOHR, HARTREE

__DRIVER_NAME__ = "equimd"
__DRIVER_CLASS__ = "EquimdDriver"


class EquimdDriver(Dummy_driver):
    """Energy, forces and virial of one structure, in i-PI's atomic units.

    Args:
        run, structure: folder of the run, and a file of the atoms in i-PI's order, the reference of the physical
            checks. Charge and spin are those that the file states.
        on_exceed, threshold, compile: as in :class:`~equimd.calculators.ase.EquimdCalculator`.
        device: where the model computes.
        frames: extended XYZ that refused and flagged frames are appended to.
    """

    def __init__(
        self,
        run: str,
        structure: str,
        on_exceed: Any = "halt",
        threshold: str | float = "auto",
        compile: Any = "auto",
        device: str = "cpu",
        frames: str = "flagged.extxyz",
        **more: Any,
    ) -> None:
        calculator = load(run, device=device).calculator(on_exceed=on_exceed, threshold=threshold, compile=compile)
        self.driver = Driver(calculator, structures_of(structure)[0], frames=Path(frames))
        self.cell: np.ndarray | None = None
        super().__init__(**more)

    def compute_structure(self, cell: np.ndarray, pos: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, str]:
        """Of a cell whose columns are lattice vectors, and positions (n, 3), Bohr."""
        driver, atoms = self.driver, self.driver.atoms
        now = BOHR * cell.T
        virial = np.zeros((3, 3))
        atoms.positions = BOHR * pos
        try:
            if driver.stress:
                atoms.cell = now
                virial = -atoms.get_stress(voigt=False) * atoms.cell.volume / HARTREE
            else:
                self.cell = now if self.cell is None else self.cell
                refuse_change(self.cell, now)
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        except (GuardError, DataError) as error:
            if isinstance(error, GuardError):
                driver.halted(error)
            softexit.trigger("restartable", f" @equimd: {error.where}: {error.what}.")
            raise  # where i-PI is used as a library, and has ended its own thread alone
        driver.served.count += 1
        return energy / HARTREE, forces * (BOHR / HARTREE), virial, ""
