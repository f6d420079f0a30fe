"""A calibration of a tiny potential on random structures, for tests of what is done with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from equimd.chemistry import formula
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.guard.calibration import Calibration, Levels, ScoredFrames, StatePoint
from equimd.guard.score import StepDecision, exact_scores
from equimd.guard.screen import Screen
from equimd.guard.thresholds import error_bound, flag_threshold, halt_threshold
from equimd.model.painn.potential import Potential
from equimd.run import Run
from equimd.uq.laplace import fit_last_layers
from equimd.uq.predict import Calibrated, Predictions, predict
from equimd.uq.recalibration import fit_form

ENERGY_FORM, FORCE_FORM = "distance", "per_element_distance_total"


def fit(
    model: Potential, train: Frames, held_out: Frames, force_form: str = FORCE_FORM
) -> tuple[Calibrated, Predictions]:
    """A calibrated posterior, and the raw predictions it was calibrated on."""
    layer, _ = fit_last_layers(model, ArrayDataset(train))
    predictions = predict(model, layer, ArrayDataset(held_out))
    energy, forces = fit_form(predictions.energies(), ENERGY_FORM), fit_form(predictions.forces(), force_form)
    return Calibrated(layer, energy, forces), predictions


def screened(calibrated: Calibrated, predictions: Predictions, share: float = 0.2) -> StepDecision:
    """The decision whose screen clears all but a share of the frames."""
    exact, _ = exact_scores(calibrated, predictions)
    screen = Screen.fit(predictions.energy_variance, predictions.distance, exact)
    values = screen.of(torch.from_numpy(predictions.energy_variance), torch.from_numpy(predictions.distance))
    return StepDecision(calibrated, screen, float(np.quantile(values.numpy(), 1 - share)))


def calibration(
    model: Potential, train: Frames, held_out: Frames, *, model_sha256: str = "0", compositions: tuple[str, ...] = ()
) -> Calibration:
    """All of it, with thresholds from the held-out frames themselves."""
    calibrated, predictions = fit(model, train, held_out)
    decision = screened(calibrated, predictions)
    decided = decision.of_predictions(predictions)
    scores = decided.score
    maxima = scores[: len(scores) // 4 * 4].reshape(-1, 4).max(1)
    return Calibration(
        calibrated=calibrated,
        screen=decision.screen,
        levels=Levels(decision.level, decision.level),
        flag=flag_threshold(scores, 0.05),
        halt=halt_threshold(maxima, 0.1, 4),
        error=error_bound(predictions.max_force_error, scores, 0.9),
        state_point=StatePoint(300.0, "langevin", 0.5, 0.01),
        compositions=compositions,
        elements=tuple(sorted({int(z) for z in predictions.numbers})),
        model_sha256=model_sha256,
        data_sha256={"train": "1", "calibration": "2"},
        report={"forces": {"zms": 1.0, "ence": None}, "dynamics": {"maxima": sorted(maxima.tolist())}},
        frames=ScoredFrames(
            *(tuple(x.tolist()) for x in (decided.screen, decided.exact, predictions.max_force_error)),
            trajectory=tuple(range(len(scores))),
        ),
    )


def calibrate_run(folder: Path, train: Frames, held_out: Frames) -> Calibration:
    """Put a calibration of its best weights into a run folder."""
    model, meta = Run.open(folder).load_model()
    compositions = tuple(sorted({formula(z[z > 0]) for z in held_out.numbers}))
    made = calibration(model, train, held_out, model_sha256=meta["sha256"], compositions=compositions)
    made.save(folder)
    return made
