"""equimd: equivariant potentials trained on energies and forces, and molecular dynamics that knows when to stop.

    model = equimd.load("runs/ethanol")
    prediction = model.predict(atoms)      # .energy in eV, .forces in eV/Angstrom; once calibrated, .energy_std ...
    atoms.calc = model.calculator()        # ASE
    model.calibration                      # posterior, thresholds and report of a calibrated run

Importing the package imports neither torch nor ASE; using it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equimd.calculators import EquimdCalculator, LoadedModel, Prediction, load

__all__ = ["EquimdCalculator", "LoadedModel", "Prediction", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from equimd import calculators

        return getattr(calculators, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("equimd")
    raise AttributeError(f"module 'equimd' has no attribute '{name}'")
