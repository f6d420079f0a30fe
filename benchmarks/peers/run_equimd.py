"""equimd as a worker; see worker.py for the protocol.

Training: the step of ``equimd train`` by its defaults (loss, clipping, AdamW, average of the weights), compiled.
Dynamics: the loop of ``equimd simulate``, trajectory and restart files included. A task may name a ``run``, whose model
and first temperature are then real (300 K); without one the model is untrained and scaled to almost nothing, as for the
peers. ``guard`` adds the physical checks and the uncertainty decision of every step; it needs a run that is calibrated.
"""

from __future__ import annotations

import atexit
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worker import DT_FS, Frames, Prepared, serve

from equimd.config import ModelConfig, parse_config
from equimd.md.forcefield import ForceField
from equimd.md.guard import Guard, Limits, ScoreRule
from equimd.md.integrators import VelocityVerlet
from equimd.md.score import SCORE_NAME, SCORE_UNIT, score_function
from equimd.md.simulation import Output, Simulation
from equimd.md.state import System, degrees_of_freedom, maxwell_boltzmann
from equimd.model.potential import Potential
from equimd.run import Run
from equimd.train.loop import Trainer
from equimd.train.setup import complete, prepare
from equimd.uq import saved

TEMPERATURE_K = 300.0


def scratch() -> Path:
    """A folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="equimd-speed-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def train(frames: Frames, task: dict[str, Any]) -> Prepared:
    """A training step on ``batch`` frames, as the trainer takes it."""
    settings = {
        "data": task["data"],
        "splits": [950, 50, 0],
        "batch_size_train": task["batch"],
        "max_time": "45m",
        "threads": task["threads"],
        "compile": task.get("compile", "on"),
        **task.get("settings", {}),
    }
    config = complete(parse_config(settings))
    setup = prepare(config)
    trainer = Trainer(setup, Run.create(scratch() / "run", config, {}))
    batches = [trainer.train_source.batch(rows % 950) for rows in frames.batches(task["batch"])]
    turn = iter(range(10**9))

    def step() -> None:
        trainer.step(batches[next(turn) % len(batches)], 1e-4)

    how = "compiled" if trainer.step.compile else "eager"
    return Prepared(step, task["batch"], f"equimd, {about(trainer.model.config)}, {how}", count(trainer.model))


def dynamics(frames: Frames, task: dict[str, Any]) -> Prepared:
    """A step of dynamics of ``batch`` replicas."""
    model, digest = potential(frames, task)
    system = System.build(frames.numbers)
    replicas = range(task["batch"])
    positions = torch.from_numpy(frames.positions[: len(replicas)])
    if task.get("run"):
        velocities = maxwell_boltzmann(system, positions, TEMPERATURE_K, seed=0, replicas=replicas, bath=False)
    else:
        velocities = torch.from_numpy(frames.cold_velocities(len(replicas)))
    guard, options = Guard(), {}
    if task.get("guard"):
        calibration = saved.load(task["run"], digest)
        decision, threshold = calibration.decision("flag")
        rule = ScoreRule(score_function(decision, model, system), threshold, "flag", SCORE_NAME, SCORE_UNIT)
        guard = Guard(Limits.from_reference(system, positions[0]), rule)
        options = {"features": True}
    accepted = inspect.signature(ForceField).parameters
    if "compile" in accepted:
        options["compile"] = task.get("compile", "on")
    if "screen" in accepted and guard.rule is not None:
        options["screen"] = (decision.screen, decision.calibrated.layer)
    simulation = Simulation.start(
        system,
        VelocityVerlet(DT_FS),
        ForceField(model, system, **options),
        positions,
        velocities,
        dof=degrees_of_freedom(system, positions[0], bath=False),
        guard=guard,
        output=Output(scratch()),
    )

    def step() -> None:
        with torch.no_grad():
            simulation.advance()

    how = "with guard" if guard.rule else "without guard"
    what = "trained" if task.get("run") else "untrained"
    return Prepared(step, len(replicas), f"equimd, {about(model.config)}, {what}, {how}", count(model))


def potential(frames: Frames, task: dict[str, Any]) -> tuple[Potential, str]:
    """The model of the task's run, or an untrained one, and its hash."""
    if task.get("run"):
        model, meta = Run.open(task["run"]).load_model()
        return model, meta["sha256"]
    model = Potential(ModelConfig(elements=tuple(int(z) for z in np.unique(frames.numbers)))).eval()
    model.scale.fill_(1e-4)
    return model, ""


def about(config: ModelConfig) -> str:
    """The model's width in a line."""
    return f"{config.num_features} features, {config.num_layers} layers, {config.num_rbf} radial, {config.cutoff:g} A"


def count(model: torch.nn.Module) -> int:
    """Weights of a model."""
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    serve({"train": train, "md": dynamics}, ("equimd",))
