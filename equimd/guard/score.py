"""The calibrated score of molecular dynamics: the screen of every frame, the exact force sigma of those in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import UncertaintyError
from equimd.guard.decision import StepDecision
from equimd.guard.judge import ScoreFunction
from equimd.model.interface import Model
from equimd.uq.rows import BATCH_SIZE

SCORE_NAME, SCORE_UNIT = "force sigma", "eV/A"


class StepScore:
    """Scores (A,) of A frames of one structure, and per-atom scores (A, n), eV/Angstrom, float64.

    Per-atom scores are sqrt(trace C_i), NaN in the rows that the screen cleared, and None where it cleared them all. A
    row whose positions, features or screen are not finite scores NaN, which exceeds every threshold, and does not
    disturb the others.

    Attributes:
        exact_count: rows whose exact covariance was computed so far, of ``count`` in all.
    """

    def __init__(self, decision: StepDecision, model: Model, system: System, *, charge: int = 0, spin: int = 0) -> None:
        if not model.has_forces:
            raise UncertaintyError("the model was trained on energies alone: its forces have no uncertainty")
        self.device = model.device
        calibrated = decision.calibrated
        layer = calibrated.layer.to(self.device)
        self.decision = replace(decision, calibrated=replace(calibrated, layer=layer))
        self.model, self.system, self.charge, self.spin = model, system, charge, spin
        self.count = self.exact_count = 0

    def __call__(self, positions: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores of positions (A, n, 3), from extras["screen"] (A,) or extras["features"] (A, p).

        Raises:
            UncertaintyError: the force function supplies neither.
        """
        screen, level = self._screen(extras), self.decision.level
        values = screen.tolist()
        self.count += len(values)
        if all(value < level for value in values):  # in nearly every step, and of few numbers
            return screen, None
        screen = screen.to(positions.device)
        atoms = positions.new_full(positions.shape[:2], torch.nan, dtype=torch.float64)
        rows = ~self.decision.quiet(screen)
        finite = torch.isfinite(positions).all(-1).all(-1) & torch.isfinite(screen)
        rows, scores = (rows & finite).nonzero().flatten(), torch.where(finite, screen, torch.nan)
        self.exact_count += len(rows)
        for part in rows.split(BATCH_SIZE) if len(rows) else ():
            atoms[part] = self._exact(positions[part])
            scores[part] = atoms[part].amax(-1)
        return scores, atoms

    def _screen(self, extras: Mapping[str, Tensor]) -> Tensor:
        if "screen" in extras:
            return extras["screen"]
        if "features" not in extras:
            raise UncertaintyError("the force function gives neither features nor the screen", hint="features=True")
        features = extras["features"].detach().to(self.device)
        n_atoms = torch.full((len(features),), self.system.n_atoms, device=self.device)
        return self.decision.screened(features, n_atoms)

    def _exact(self, positions: Tensor) -> Tensor:
        """sqrt(trace C_i) (A, n) of finite positions (A, n, 3); relative to their centre before they are rounded."""
        centred = positions.detach() - positions.detach().mean(1, keepdim=True)
        count, system = len(positions), self.system
        cell = np.zeros((3, 3)) if system.cell is None else system.cell.cpu().numpy()
        frames = Frames.build(
            system.numbers.cpu().numpy(),
            centred.cpu().numpy(),
            cell=np.broadcast_to(cell, (count, 3, 3)),
            pbc=np.broadcast_to(np.array(system.pbc), (count, 3)),
            charge=np.full(count, self.charge),
            spin=np.full(count, self.spin),
        )
        batch = Batch.from_frames(frames, self.model.cutoff, dtype=self.model.dtype, device=self.device)
        return self.decision.force_sigma(self.model, batch).reshape(count, -1).to(positions.device)


def score_function(
    decision: StepDecision, model: Model, system: System, *, charge: int = 0, spin: int = 0
) -> ScoreFunction:
    """The score of a guard's rule, ``ScoreRule(score_function(...), decision.check(threshold), "halt")``.

    Args:
        model: eager; it computes the exact covariances, whatever computes the forces.
        charge, spin: of the structure, for models that see them.

    Raises:
        UncertaintyError: a model trained on energies alone.
    """
    return StepScore(decision, model, system, charge=charge, spin=spin)
