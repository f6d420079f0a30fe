"""A trained model at work: predictions for structures, and an ASE calculator."""

from __future__ import annotations

from equimd.calculators.ase import EquimdCalculator, StepSigma
from equimd.calculators.loaded import LoadedModel, Prediction, Wanted, load

__all__ = ["EquimdCalculator", "LoadedModel", "Prediction", "StepSigma", "Wanted", "load"]
