"""Deep ensembles: models trained from different seeds; their mean predicts, their spread is the uncertainty.

Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017. With K members the spread has rank K - 1: from four on, the 3x3
covariance of a force is of full rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from equimd.benchmarks.calibration.baselines.method import Baseline
from equimd.calculators import LoadedModel
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.errors import ConfigError
from equimd.model.interface import Model
from equimd.uq.predict import Predictions


def fit(members: Sequence[Model]) -> Baseline:
    """An ensemble of trained models.

    Raises:
        ConfigError: fewer than two members.
    """
    if len(members) < 2:
        raise ConfigError(f"an ensemble of {len(members)}", hint="two members or more")
    loaded = [LoadedModel(model) for model in members]

    def of(data: Dataset, base: Predictions) -> Predictions:
        return predict(loaded, data, base)

    def step(batch: object) -> object:
        return [model.evaluate(batch) for model in members]  # type: ignore[arg-type]

    return Baseline(f"ensemble-{len(members)}", f"ensemble of {len(members)}", of, step, trainings=len(members))


def predict(members: Sequence[LoadedModel], data: Dataset, base: Predictions) -> Predictions:
    """Errors of the members' mean, and the covariance of the members, unbiased."""
    energy, forces, true_energy, true_forces = [], [], [], []
    for block in iterate_blocks(data):
        real = block.numbers > 0
        found = [member.predict_frames(block) for member in members]
        energy.append(np.stack([e for e, _ in found]))
        forces.append(np.stack([f[real] for _, f in found if f is not None]))
        true_energy.append(block.energy)
        true_forces.append(block.forces[real])
    e, f = np.concatenate(energy, 1), np.concatenate(forces, 1)
    spread = f - f.mean(0)
    return replace(
        base,
        energy_error=e.mean(0) - np.concatenate(true_energy),
        force_error=f.mean(0) - np.concatenate(true_forces),
        energy_variance=e.var(0, ddof=1),
        force_covariance=np.einsum("kmi,kmj->mij", spread, spread) / (len(members) - 1),
    )
