"""equimd as a worker; see worker.py for the protocol.

Training: the step of ``equimd train`` by its defaults (loss, clipping, AdamW, average of the weights), compiled.
Dynamics: the loop of ``equimd simulate``, compiled, physical checks, trajectory and restart files included. A task may
name a ``run``, whose molecule then moves at 300 K; without one the model is untrained and scaled to almost nothing, as
the peers' are. ``guard`` adds the uncertainty decision of every step; it needs a run that is calibrated.
Large systems: a box of water of about ``atoms`` atoms; ``large``: energy and forces with a new neighbour list,
``neighbors``: the list alone.
"""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import write
from water import water
from worker import DT_FS, PeerFrames, PeerTask, serve

from equimd.config import ModelConfig, parse_config
from equimd.data.neighbors import neighbor_list
from equimd.data.system import System
from equimd.forces.forcefield import ForceField
from equimd.forces.skin import SKIN
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md.integrators import VelocityVerlet
from equimd.md.simulation import Output, Simulation
from equimd.md.state import degrees_of_freedom
from equimd.model.painn.potential import Potential
from equimd.run import Run
from equimd.tasks.simulate.session import begin
from equimd.tasks.simulate.session import prepare as session_of
from equimd.tasks.simulate.settings import SimulationSettings
from equimd.training.loop import Trainer
from equimd.training.setup import complete, prepare

#: PaiNN as published, whatever the defaults are: the width of the peers, and of the work that is counted
WIDTH = {"num_features": 128, "num_layers": 3, "num_rbf": 20, "cutoff": 5.0, "lmax": 1, "radial_basis": "gaussian"}


def scratch() -> Path:
    """A folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="equimd-speed-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def train(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A training step on ``batch`` frames, as the trainer takes it."""
    settings = {
        "data": task["data"],
        "splits": [950, 50, 0],
        "batch_size_train": task["batch"],
        "max_time": "45m",
        "threads": task["threads"],
        "compile": task.get("compile", "on"),
        **WIDTH,
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
    return PeerTask(step, task["batch"], f"equimd, {about(trainer.model.config)}, {how}", count(trainer.model))


def dynamics(frames: PeerFrames, task: dict[str, Any]) -> PeerTask:
    """A step of dynamics of ``batch`` replicas."""
    simulation, config = (of_run if task.get("run") else untrained)(frames, task)

    def step() -> None:
        with torch.no_grad():
            simulation.advance()

    step()  # decides whether the forces are compiled
    forces = simulation.forces
    parts = ["trained" if task.get("run") else "untrained", "compiled" if forces.compiled else "eager"]
    parts += ["guard on"] if simulation.judge.score else []
    return PeerTask(step, task["batch"], f"equimd, {about(config)}, {', '.join(parts)}", count(forces.model))


def of_run(frames: PeerFrames, task: dict[str, Any]) -> tuple[Simulation, ModelConfig]:
    """What ``equimd simulate RUN`` runs at constant energy, with the calibrated flag threshold or without."""
    folder = scratch()
    start = folder / "start.xyz"
    write(start, [Atoms(frames.numbers, positions=x) for x in frames.positions[: task["batch"]]])
    settings = SimulationSettings(
        run=task["run"],
        structure=str(start),
        ensemble="nve",
        replicas=task["batch"],
        steps=10**6,
        uq_threshold="flag" if task.get("guard") else "off",
        threads=task["threads"],
    )
    session = session_of(settings)
    session.forces.compile = task.get("compile", "on")
    return begin(session, folder / "simulation"), session.forces.model.config


def untrained(frames: PeerFrames, task: dict[str, Any]) -> tuple[Simulation, ModelConfig]:
    """The same loop with fresh weights, scaled so that the molecule stays together, and the physical checks."""
    config = ModelConfig.model_validate({**WIDTH, "elements": [int(z) for z in np.unique(frames.numbers)]})
    model = Potential(config).eval()
    model.scale.fill_(1e-6)
    system = System.build(frames.numbers)
    positions = torch.from_numpy(frames.positions[: task["batch"]])
    judge = Judge(Limits.from_reference(system, positions[0]))
    simulation = Simulation.start(
        system,
        VelocityVerlet(DT_FS),
        ForceField(model, system, judge=judge, compile=task.get("compile", "on")),
        positions,
        torch.from_numpy(frames.cold_velocities(task["batch"])),
        dof=degrees_of_freedom(system, positions[0], bath=False),
        output=Output(scratch()),
    )
    return simulation, config


def large(frames: None, task: dict[str, Any]) -> PeerTask:
    """Energy and forces of a box of water; all atoms move together between two calls, so that each makes its list."""
    numbers, positions, cell = water(task["atoms"])
    config = ModelConfig.model_validate({**WIDTH, "elements": [1, 8]})
    field = ForceField(Potential(config).eval(), System.build(numbers, cell=cell, pbc=[True] * 3))
    x = torch.from_numpy(positions)[None]
    moved = torch.tensor([0.6 * SKIN, 0.0, 0.0], dtype=torch.float64)
    turn = iter(range(10**9))

    def step() -> None:
        field(x + moved * (next(turn) % 2))

    about_it = f"equimd, {about(config)}, {len(numbers)} atoms of water, untrained, eager"
    return PeerTask(step, len(numbers), about_it, count(field.model))


def neighbors(frames: None, task: dict[str, Any]) -> PeerTask:
    """The neighbour list that ``large`` makes, alone."""
    numbers, positions, cell = water(task["atoms"])
    x, box = torch.from_numpy(positions), torch.from_numpy(cell)[None]
    n_atoms, pbc = torch.tensor([len(numbers)]), torch.ones(1, 3, dtype=torch.bool)

    def step() -> None:
        neighbor_list(x, n_atoms, float(str(WIDTH["cutoff"])) + SKIN, cell=box, pbc=pbc)

    return PeerTask(step, len(numbers), f"neighbour list of {len(numbers)} atoms of water")


def about(config: ModelConfig) -> str:
    """The model's width in a line."""
    sizes = f"{config.num_features} features, {config.num_layers} layers, {config.num_rbf} radial"
    return f"{sizes}, lmax {config.lmax}, {config.cutoff:g} A"


def count(model: torch.nn.Module) -> int:
    """Weights of a model."""
    return sum(p.numel() for p in model.parameters())


if __name__ == "__main__":
    serve({"train": train, "md": dynamics, "large": large, "neighbors": neighbors}, ("equimd", "vesin"))
