"""A trained model at work: predictions for structures, and an ASE calculator."""

from __future__ import annotations

from equimd.calculator.ase_calculator import EquimdCalculator, StepSigma
from equimd.calculator.loaded import LoadedModel, Prediction, Wanted, load

__all__ = ["EquimdCalculator", "LoadedModel", "Prediction", "StepSigma", "Wanted", "load"]
