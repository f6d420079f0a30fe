"""A trained model as a force of OpenMM (8.4 or newer), halted by the guard."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
from openmm.unit import nanometer

from equimd.calculators.step import Step
from equimd.errors import DataError
from equimd.units import KJ_PER_MOL, length_factor

NM = length_factor("nm")  # Angstrom


def openmm_force(step: Step) -> openmm.PythonForce:
    """The force on all atoms of a ``System`` whose particles are the atoms of ``step``, in their order.

    A structure that the guard refuses ends ``integrator.step`` and ``simulation.step`` with an ``OpenMMException``,
    whose text names the step, the score and the threshold; the error itself, with the frame and the last good
    positions, is ``step.halt``. Volumes stay as they are: there is no virial.
    """

    def compute(state: Any) -> tuple[float, np.ndarray]:
        """kJ/mol and kJ/mol/nm."""
        if step.system.periodic:
            _same_cell(step, state)
        found = step(NM * state.getPositions(asNumpy=True).value_in_unit(nanometer), state.getStepCount())
        return found.energy / KJ_PER_MOL, found.forces * (NM / KJ_PER_MOL)

    force = openmm.PythonForce(compute)
    force.setUsesPeriodicBoundaryConditions(step.system.periodic)
    return force


def _same_cell(step: Step, state: Any) -> None:
    """Raises DataError where OpenMM has another cell than the structure."""
    now = NM * state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(nanometer)
    if not np.allclose(now, step.atoms.cell.array, rtol=0, atol=1e-5):
        hint = "system.setDefaultPeriodicBoxVectors of the structure's cell, and no barostat"
        raise DataError(f"a cell of {now.tolist()} Angstrom, not the structure's", where="OpenMM", hint=hint)
