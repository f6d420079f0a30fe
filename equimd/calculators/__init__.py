"""A trained model at work: predictions for structures, and an ASE calculator."""

from __future__ import annotations

from equimd.calculators.ase import EquimdCalculator
from equimd.calculators.loading import LoadedModel, load
from equimd.calculators.predictor import Prediction, Wanted
from equimd.calculators.results import StepSigma
from equimd.calculators.step import Step, StepForces

__all__ = ["EquimdCalculator", "LoadedModel", "Prediction", "Step", "StepForces", "StepSigma", "Wanted", "load"]
