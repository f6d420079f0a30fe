"""equimd: equivariant potentials trained on energies and forces, and molecular dynamics that knows when to stop.

    trained = equimd.train("bundled:ethanol", preset="small", max_time="5m")
    equimd.calibrate(trained, "bundled:ethanol")
    done = equimd.simulate(trained, atoms, time="5ps")    # done.status, done.trajectory(), done.flagged()

    model = equimd.load("runs/ethanol")
    prediction = model.predict(atoms)      # .energy in eV, .forces in eV/Angstrom; once calibrated, .energy_std ...
    atoms.calc = model.calculator()        # ASE
    model.calibration                      # posterior, thresholds and report of a calibrated run

Each function does what the command of its name does, with the same settings, and prints nothing:
``progress=equimd.ProgressBar()`` shows how far it is, warnings are Python warnings, notes go to the logger ``equimd``.
``dir(equimd)`` lists all there is. Importing the package imports neither torch nor ASE; using it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equimd import config, data, errors, units
    from equimd.calculators import EquimdCalculator, LoadedModel, Prediction, load
    from equimd.progress import Progress
    from equimd.tasks.audit.call import AuditResult, audit
    from equimd.tasks.audit.settings import AuditSettings
    from equimd.tasks.calibrate.call import CalibrationResult, calibrate
    from equimd.tasks.calibrate.settings import CalibrationSettings
    from equimd.tasks.compare.call import ComparisonResult, compare
    from equimd.tasks.evaluate.call import EvaluationResult, evaluate
    from equimd.tasks.evaluate.settings import EvaluationSettings
    from equimd.tasks.export import ExportResult, export
    from equimd.tasks.generate.call import generate
    from equimd.tasks.generate.settings import GenerationSettings
    from equimd.tasks.generate.task import GenerationResult
    from equimd.tasks.label.settings import LabelSettings
    from equimd.tasks.label.task import LabelResult, label
    from equimd.tasks.learn.call import LearnResult, learn
    from equimd.tasks.learn.settings import LearnSettings
    from equimd.tasks.predict import predict
    from equimd.tasks.report.call import ReportResult, report
    from equimd.tasks.report.settings import ReportSettings
    from equimd.tasks.simulate.call import SimulationResult, simulate
    from equimd.tasks.simulate.settings import SimulationSettings
    from equimd.tasks.train import TrainResult, train
    from equimd.tasks.trajectory.call import AnalysisResult, analyse
    from equimd.tasks.trajectory.settings import AnalysisSettings
    from equimd.terminal import ProgressBar

_HOME = {
    "learn": "tasks.learn.call",
    "audit": "tasks.audit.call",
    "train": "tasks.train",
    "calibrate": "tasks.calibrate.call",
    "simulate": "tasks.simulate.call",
    "evaluate": "tasks.evaluate.call",
    "predict": "tasks.predict",
    "compare": "tasks.compare.call",
    "export": "tasks.export",
    "generate": "tasks.generate.call",
    "label": "tasks.label.task",
    "report": "tasks.report.call",
    "analyse": "tasks.trajectory.call",
    "load": "calculators",
    "LoadedModel": "calculators",
    "Prediction": "calculators",
    "EquimdCalculator": "calculators",
    "Progress": "progress",
    "ProgressBar": "terminal",
    "LearnResult": "tasks.learn.call",
    "AuditResult": "tasks.audit.call",
    "TrainResult": "tasks.train",
    "CalibrationResult": "tasks.calibrate.call",
    "SimulationResult": "tasks.simulate.call",
    "EvaluationResult": "tasks.evaluate.call",
    "ComparisonResult": "tasks.compare.call",
    "ExportResult": "tasks.export",
    "GenerationResult": "tasks.generate.task",
    "LabelResult": "tasks.label.task",
    "ReportResult": "tasks.report.call",
    "AnalysisResult": "tasks.trajectory.call",
    "LearnSettings": "tasks.learn.settings",
    "AuditSettings": "tasks.audit.settings",
    "CalibrationSettings": "tasks.calibrate.settings",
    "SimulationSettings": "tasks.simulate.settings",
    "EvaluationSettings": "tasks.evaluate.settings",
    "GenerationSettings": "tasks.generate.settings",
    "LabelSettings": "tasks.label.settings",
    "ReportSettings": "tasks.report.settings",
    "AnalysisSettings": "tasks.trajectory.settings",
}
_MODULES = ("config", "data", "errors", "units")

__all__ = [
    "AnalysisResult", "AnalysisSettings", "AuditResult", "AuditSettings", "CalibrationResult",
    "CalibrationSettings", "ComparisonResult", "EquimdCalculator", "EvaluationResult", "EvaluationSettings",
    "ExportResult", "GenerationResult", "GenerationSettings", "LabelResult", "LabelSettings", "LearnResult",
    "LearnSettings", "LoadedModel", "Prediction", "Progress", "ProgressBar", "ReportResult", "ReportSettings",
    "SimulationResult", "SimulationSettings", "TrainResult", "analyse", "audit", "calibrate", "compare", "config",
    "data", "errors", "evaluate", "export", "generate", "label", "learn", "load", "predict", "report", "simulate",
    "train", "units",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"equimd.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"equimd.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("equimd")
    raise AttributeError(f"module 'equimd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
