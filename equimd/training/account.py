"""What a training says of itself: its plan, and whether it came to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from equimd.progress import duration
from equimd.training.schedule import epoch_budget

if TYPE_CHECKING:
    from equimd.training.loop import Trainer


def plan(trainer: Trainer) -> str:
    """The model and what is to be done, in two lines."""
    t, m = trainer.config.training, trainer.model.config
    weights = sum(p.numel() for p in trainer.model.parameters())
    budget = [f"{n} epochs" for n in [epoch_budget(t)] if n is not None]
    budget += [duration(t.max_time)] if t.max_time is not None else []
    every = "epoch" if trainer.val_interval == 1 else f"{trainer.val_interval} epochs"
    steps = f"{trainer.steps_per_epoch} steps an epoch"
    if t.max_atoms_per_batch is not None:
        steps = f"about {steps} of up to {t.max_atoms_per_batch:,} atoms"
    how = "compiled" if trainer.step.compile else "eager"
    if trainer.processes.size > 1:
        how += f", {trainer.processes.size} processes"
    return (
        f"model: PaiNN, {m.forces} forces, {m.size_in_words}, "
        f"{m.cutoff:g} A, {weights:,} weights, {m.dtype}\n"
        f"training: {' or '.join(budget)}, {steps}, {how}, on {trainer.device}, "
        f"validated every {every}; energies in {trainer.told.unit.name}, forces in {trainer.told.unit.forces}"
    )


def learned_nothing(trainer: Trainer) -> str | None:
    """Why the model is no better than none, where its time ended too early; None else.

    Its errors of validation are compared with those of no forces at all; a warm start takes a step, at least.
    """
    p, t = trainer.progress, trainer.config.training
    if t.max_time is None or not trainer.out_of_time() or epoch_budget(t) == p.epoch:
        return None
    if p.step == 0:
        return "not a step was taken"
    error, size = p.last_row.get("val_forces_rmse", 0.0), trainer.setup.val_force_rms
    if t.init or t.pretrain or not t.forces_weight or error < size:
        return None
    return f"{p.step} steps, and errors of forces ({1e3 * error:.0f} meV/A) as large as forces ({1e3 * size:.0f})"
