"""A small potential of methanol with a decision and limits, as compiled forces use it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.forces.forcefield import ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import StepDecision, StepScore
from equimd.guard.screen import Screen
from equimd.uq.posterior import FeatureDistance, LastLayer, Posterior
from equimd.uq.predict import Calibrated
from equimd.uq.recalibration import Recalibration
from tests.potentials import METHANOL, MorseMolecule, methanol

from .test_forcefield import potential

SYSTEM = System.build(METHANOL)
LIMITS = Limits.from_reference(SYSTEM, methanol().reference)


def decision(seed: int = 0, level: float = 0.1) -> StepDecision:
    """A screen with a random posterior over the 5 features of the models here."""
    rng = np.random.default_rng(seed)
    scale = torch.tensor(np.tril(rng.normal(size=(5, 5))))
    posterior = Posterior(torch.zeros(5, dtype=torch.float64), scale, torch.eye(5, dtype=torch.float64) / 5)
    distance = FeatureDistance(torch.tensor(rng.normal(size=5)), torch.tensor(rng.normal(size=(5, 5))))
    layer = LastLayer(posterior, posterior, distance)
    same = Recalibration("scale", {0: 1.0}, {0: 0.0})
    return StepDecision(Calibrated(layer, same, same), Screen(0.3 + seed, 0.4, 0.2, 0.1, 50), level)


def field(dtype: str = "float64", compile: str = "on", **more: object) -> ForceField:
    """Blocks of two replicas."""
    model = more.pop("model", None) or potential(dtype)
    judge = Judge(LIMITS, StepScore(more.pop("decision", None) or decision(), model, SYSTEM))
    return ForceField(model, SYSTEM, compile=compile, judge=judge, **{"features": True, "block": 2, **more})


class WithSprings:
    """Compiled forces and springs that hold the molecule together, which the forces of random weights do not."""

    def __init__(self) -> None:
        self.field, self.springs = field(), methanol()

    @property
    def system(self) -> System:
        return self.springs.system

    @property
    def reference(self) -> Tensor:
        return self.springs.reference

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        energy, forces, extras = self.field(positions)
        more, pull = self.springs(positions)
        assert self.field.compiled
        return energy + more, forces + pull, extras

    def arrays(self) -> dict[str, Tensor]:
        return self.field.arrays()

    def load(self, arrays: dict[str, Tensor]) -> None:
        self.field.load(arrays)


def molecule(name: str) -> MorseMolecule | WithSprings:
    """Of the run ``name``."""
    return WithSprings() if name == "compiled" else methanol()
