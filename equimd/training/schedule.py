"""Schedules that know the budget (a number of epochs, a time, or whichever of the two ends first): of the learning
rate, and of validations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from equimd.config import TrainConfig

FLOOR = 1e-3  # of the peak rate: the end of the cosine, and where plateau gives up halving
DEFAULT_EPOCHS = 1000
VALIDATION_SHARE = 0.02  # of the training time, where the interval is not stated
FORWARD_COST = 1 / 3  # of energy and forces, against a training step, per frame


def epoch_budget(config: TrainConfig) -> int | None:
    """Epochs to train; None where only the time limits it."""
    if config.num_epochs is None and config.max_time is None:
        return DEFAULT_EPOCHS
    return config.num_epochs


def validation_interval(config: TrainConfig, n_train: int, n_val: int) -> int:
    """Epochs between validations: as stated; else 1 where it is cheap, the run short, or early stopping needs it."""
    if config.val_interval is not None:
        return config.val_interval
    if config.early_stopping_patience is not None or (config.num_epochs is not None and config.num_epochs <= 100):
        return 1
    return max(1, math.ceil(FORWARD_COST * n_val / (VALIDATION_SHARE * n_train)))


@dataclass
class Schedule:
    """Learning rate of each step.

    Cosine (Loshchilov & Hutter 2017, one cycle): ``lr/2 (1 + cos(pi p))`` with p the part of the budget used. With an
    epoch budget p depends on the step alone, so that a resumed training repeats the same rates; a time budget counts
    the training time of all its sessions.

    Attributes:
        state: what plateau remembers: ``factor``, ``best``, ``stalled`` (epochs without improvement).
    """

    config: TrainConfig
    steps_per_epoch: int
    state: dict[str, float] = field(default_factory=dict)

    def used(self, step: float, elapsed: float) -> float:
        """Part of the budget used, 0..1, after so many steps; parts of one where epochs are not of one length."""
        parts = [0.0]
        if (epochs := epoch_budget(self.config)) is not None:
            parts.append(step / max(1, epochs * self.steps_per_epoch))
        if self.config.max_time is not None:
            parts.append(elapsed / self.config.max_time)
        return min(1.0, max(parts))

    def warmup(self, step: float) -> float:
        """Linear rise over ``warmup_steps``, at most a tenth of a known number of steps."""
        steps = self.config.warmup_steps
        if (epochs := epoch_budget(self.config)) is not None:
            steps = min(steps, epochs * self.steps_per_epoch // 10)
        return min(1.0, (step + 1) / (steps + 1))

    def lr(self, step: float, elapsed: float) -> float:
        """Learning rate of step ``step`` (from 0) after ``elapsed`` seconds of training."""
        shape = 1.0
        if self.config.lr_schedule == "cosine":
            shape = max(FLOOR, 0.5 * (1.0 + math.cos(math.pi * self.used(step, elapsed))))
        elif self.config.lr_schedule == "plateau":
            shape = self.state.get("factor", 1.0)
        return self.config.lr * self.warmup(step) * shape

    def validated(self, value: float, epochs: int) -> None:
        """Tell plateau the validation loss, ``epochs`` after the one before."""
        if self.config.lr_schedule != "plateau":
            return
        if value < self.state.get("best", math.inf):
            self.state.update(best=value, stalled=0.0)
            return
        self.state["stalled"] = self.state.get("stalled", 0.0) + epochs
        if self.state["stalled"] >= self.config.plateau_patience:
            self.state.update(factor=max(FLOOR, self.state.get("factor", 1.0) / 2), stalled=0.0)
