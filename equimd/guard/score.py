"""The score of a frame: a free screen of all frames, and the exact force sigma of those it does not clear.

The exact score is f = max_i sqrt(trace C_i), eV/Angstrom, with C_i the calibrated 3x3 covariance of the force on atom
i, model part and noise part. No rotation changes it. For a conservative model it takes the derivatives of
the features by all coordinates. The screen s (:mod:`equimd.guard.screen`) estimates it for nothing.

A frame is *quiet* where s < level: its score is s itself, so below the level. Everywhere else its score is f. A
threshold is never below the level (:meth:`StepDecision.check`), so a quiet frame never exceeds one. The rates of a
threshold are those of this whole decision if the scores it was calibrated on were its scores, quiet ones included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import UncertaintyError
from equimd.guard.screen import Screen
from equimd.model.interface import CHUNK, Model
from equimd.shown import Shown
from equimd.uq.predict import Calibrated, Predictions
from equimd.uq.rows import BATCH_SIZE

SCORE_NAME, SCORE_UNIT = "force sigma", "eV/A"


def exact_scores(calibrated: Calibrated, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """f (N,) of every frame of a data set, and sqrt(trace C_i) (M,) of every atom, eV/Angstrom."""
    variance = np.trace(predictions.force_covariance, axis1=1, axis2=2) / 3
    distance = predictions.distance[predictions.frame]
    atoms = calibrated.forces.sigma(variance, distance, predictions.numbers)
    return predictions.per_frame(atoms)[0], atoms


@dataclass(frozen=True, repr=False)
class Decided(Shown):
    """Frames whose screen and exact score are both known, arrays of one shape in eV/Angstrom, and a screen's level."""

    screen: np.ndarray
    exact: np.ndarray
    level: float

    @property
    def quiet(self) -> np.ndarray:
        """Which frames the screen clears."""
        return self.screen < self.level

    @property
    def score(self) -> np.ndarray:
        """The score of each frame: the screen where it clears the frame, else the exact one."""
        return np.where(self.quiet, self.screen, self.exact)

    @property
    def exact_share(self) -> float:
        """How many of the frames need the exact covariance, 0..1."""
        return float((~self.quiet).mean())

    def missed(self, threshold: float) -> tuple[int, int]:
        """Frames whose exact score exceeds the threshold although the screen cleared them, and all that exceed it."""
        over = self.exact > threshold
        return int((over & self.quiet).sum()), int(over.sum())


@dataclass(frozen=True, repr=False)
class StepDecision(Shown):
    """Which score a frame gets; see the module's docstring.

    Attributes:
        level: of the screen, eV/Angstrom; frames below it are quiet. 0 makes every score exact.
    """

    calibrated: Calibrated
    screen: Screen
    level: float

    def __post_init__(self) -> None:
        if not self.level >= 0:
            raise UncertaintyError(f"a level of {self.level} eV/Angstrom for the screen", hint="0 or above")

    def screened(self, features: Tensor, n_atoms: Tensor) -> Tensor:
        """s (A,) of pooled features (A, P)."""
        return self.screen(self.calibrated.layer, features, n_atoms)

    def quiet(self, screen: Tensor) -> Tensor:
        """(A,) bool: cleared by the screen. What is not a number is not quiet."""
        return screen < self.level

    def force_sigma(self, model: Model, batch: Batch, *, chunk: int = CHUNK) -> Tensor:
        """Exact sqrt(trace C_i) of each slot (N,) of a batch, eV/Angstrom, 0 in padded ones."""
        layer = self.calibrated.layer
        rows = model.rows(batch, width=layer.forces.width, chunk=chunk)
        variance = layer.forces.variance(rows.forces).mean(-1)
        distance = layer.distance(rows.energy, batch.n_atoms)[batch.batch]
        return self.calibrated.forces.sigma(variance, distance, batch.atomic_numbers)

    def check(self, threshold: float) -> float:
        """The threshold, if it may be used with this decision.

        Raises:
            UncertaintyError: it is below the level, so that quiet frames could exceed it.
        """
        if not threshold >= self.level:
            raise UncertaintyError(
                f"a threshold of {threshold:.4g} eV/Angstrom is below the screen's level of {self.level:.4g}",
                hint="a lower level",
            )
        return threshold

    def of_predictions(self, predictions: Predictions) -> Decided:
        """The scores of a data set whose exact uncertainties are known."""
        variance, distance = (torch.from_numpy(x) for x in (predictions.energy_variance, predictions.distance))
        return Decided(
            self.screen.of(variance, distance).numpy(), exact_scores(self.calibrated, predictions)[0], self.level
        )


@dataclass(frozen=True)
class Rule:
    """What frames are judged by.

    Attributes:
        kind: of the threshold.
        decision, threshold: the score, and what is done something above, eV/Angstrom.
        flag: both of a lower threshold, above which frames are flagged whatever is done above the other; None: no such.
    """

    kind: Literal["flag", "halt", "error"]
    decision: StepDecision
    threshold: float
    flag: tuple[StepDecision, float] | None = None


class StepScore:
    """Scores (A,) of A frames of one structure, and per-atom scores (A, n), eV/Angstrom, float64.

    Per-atom scores are sqrt(trace C_i), NaN in the rows that the screen cleared, and None where it cleared them all. A
    row whose positions, features or screen are not finite scores NaN, which exceeds every threshold, and does not
    disturb the others.

    Args:
        decision: of the threshold. lower: of a lower one as well, above which frames are flagged.

    Attributes:
        decision: of the two the one that clears fewer frames. levels: of the screen, that of the threshold and of the
            lower one; exact scores above both are computed by themselves, so that no digit of theirs depends on how
            many rows below are looked at.
        exact_count: rows whose exact covariance was computed so far, of ``count`` in all.
    """

    def __init__(
        self,
        decision: StepDecision,
        model: Model,
        system: System,
        *,
        lower: StepDecision | None = None,
        charge: int = 0,
        spin: int = 0,
    ) -> None:
        if not model.has_forces:
            raise UncertaintyError("the model was trained on energies alone: its forces have no uncertainty")
        self.device = model.device
        self.levels = decision.level, decision.level if lower is None else lower.level
        if lower is not None and lower.level < decision.level:
            decision = lower
        calibrated = decision.calibrated
        layer = calibrated.layer.to(self.device)
        self.decision = replace(decision, calibrated=replace(calibrated, layer=layer))
        self.model, self.system, self.charge, self.spin = model, system, charge, spin
        self.count = self.exact_count = 0

    def __call__(self, positions: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Scores of positions (A, n, 3), from extras["screen"] (A,) or extras["features"] (A, P).

        Raises:
            UncertaintyError: the force function supplies neither.
        """
        scores, rows = self.screened(positions, extras)
        if rows is None:
            return scores, None
        atoms = positions.new_full(positions.shape[:2], torch.nan, dtype=torch.float64)
        above = scores[rows] >= max(self.levels)
        for part in (rows[above], rows[~above]):
            if len(part):
                atoms[part] = self.exact(positions[part])
                scores[part] = atoms[part].amax(-1)
        return scores, atoms

    def screened(self, positions: Tensor, extras: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The scores of those that the screen clears, and the rows of the others, whose scores are exact ones and still
        to be computed, and which are counted as such; None where it clears all."""
        screen, level = self.screen(extras), self.decision.level
        values = screen.tolist()
        self.count += len(values)
        if all(value < level for value in values):  # in nearly every step, and of few numbers
            return screen, None
        screen = screen.to(positions.device)
        rows = ~self.decision.quiet(screen)
        finite = torch.isfinite(positions).all(-1).all(-1) & torch.isfinite(screen)
        rows = (rows & finite).nonzero().flatten()
        self.exact_count += len(rows)
        return torch.where(finite, screen, torch.nan), rows

    def exact(self, positions: Tensor) -> Tensor:
        """sqrt(trace C_i) (A, n) of finite positions (A, n, 3), whatever the screen says; not counted."""
        return torch.cat([self._exact(part) for part in positions.split(BATCH_SIZE)])

    def screen(self, extras: Mapping[str, Tensor]) -> Tensor:
        """s (A,) as the force function gives it, or of the features that it gives.

        Raises:
            UncertaintyError: it supplies neither.
        """
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
