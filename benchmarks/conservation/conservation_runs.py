"""The measurements of the conservation suite: forces that should sum to nothing, energies that should stay, bonds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.benchmarks import models
from equimd.benchmarks.options import say
from equimd.benchmarks.pieces import fingerprint
from equimd.data.dataset import Dataset
from equimd.data.system import System
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md.ensembles import ENSEMBLES
from equimd.md.equilibration import Equilibrated
from equimd.md.integrators import Integrator, Langevin
from equimd.md.observables import distance_distribution
from equimd.md.simulation import RESTART_FILE, Output, Simulation
from equimd.md.state import degrees_of_freedom, maxwell_boltzmann
from equimd.md.trajectory import trajectory_files, trajectory_path
from equimd.model.interface import Model
from equimd.tasks.compare import measures
from equimd.tasks.compare.measures import judge_replica, net_force_and_torque, rms

DT, EQUILIBRATION_PS, FRICTION = 0.5, 2.0, 0.01  # fs, ps, 1/fs
BINS = 500  # of h(r)


@dataclass(frozen=True)
class Dynamics:
    """One kind of run.

    Attributes:
        ensemble: constant energy is equilibrated by a Langevin bath first, a thermostat is not.
        temperature: K. steps: of 0.5 fs. replicas: different starts and velocities.
        dtype: of the model. save_every: steps between two frames.
    """

    ensemble: str
    temperature: float
    steps: int
    replicas: int
    dtype: str
    save_every: int = 10
    seed: int = 0
    compile: Compile = "on"

    @property
    def constant_energy(self) -> bool:
        """Whether there is no thermostat."""
        return ENSEMBLES[self.ensemble].constant_energy

    @property
    def equilibration(self) -> int:
        """Steps before step 0, not more than after it."""
        return min(round(1e3 * EQUILIBRATION_PS / DT), self.steps) if self.constant_energy else 0

    def integrator(self, dof: int) -> Integrator:
        main = ENSEMBLES[self.ensemble].make(DT, temperature=self.temperature, dof=dof, seed=self.seed)
        if not self.constant_energy:
            return main
        return Equilibrated(Langevin(DT, self.temperature, FRICTION, self.seed), main, self.equilibration)


def net(model: Model, data: Dataset) -> dict[str, float]:
    """Root mean squared net force (meV/Angstrom) and torque (meV) of a molecule: zero for what has an energy."""
    block = data.frames()
    system = System.build(block.numbers[0])
    force, torque = net_force_and_torque(block.positions, models.predicted(model, system, block.positions))
    return {"net_force": rms(force), "torque": rms(torque)}


def step_times(
    potentials: Mapping[str, Model], data: Dataset, steps: int, modes: Sequence[Compile]
) -> dict[str, dict[str, float]]:
    """Milliseconds of an NVE step of one molecule, by mode and variant."""
    frame = data.frames([0])
    system, positions = System.build(frame.numbers[0]), torch.from_numpy(frame.positions.copy())
    return measures.step_times(potentials, system, positions, steps, modes, dt=DT)


def simulate(model: Model, data: Dataset, kind: Dynamics, folder: Path) -> Simulation:
    """Run, or go on with, or look at, the dynamics in a folder of its own; frames are in its trajectories."""
    if kind.dtype == "float64":
        model = model.converted(torch.float64)
    starts = data.frames(np.linspace(0, len(data) - 1, kind.replicas).round().astype(np.int64))
    system, positions = System.build(starts.numbers[0]), torch.from_numpy(starts.positions.copy())
    dof = degrees_of_freedom(system, positions[0], bath=False)
    judge = Judge(Limits.from_reference(system, positions[0]))
    forces = ForceField(model, system, judge=judge, compile=kind.compile, steps=kind.steps * kind.replicas)
    integrator, output = kind.integrator(dof), Output(folder, kind.save_every)
    if (folder / RESTART_FILE).exists():
        simulation = Simulation.resume(system, integrator, forces, output, dof=dof)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        for old in trajectory_files(folder):  # of a start that was killed before anything could be gone on with
            old.unlink()
        velocities = maxwell_boltzmann(
            system,
            positions,
            kind.temperature,
            seed=kind.seed,
            replicas=range(kind.replicas),
            bath=kind.constant_energy,
        )
        simulation = Simulation.start(
            system,
            integrator,
            forces,
            positions,
            velocities,
            dof=dof,
            first_step=-kind.equilibration,
            output=output,
        )
    every = max(1, kind.steps // 20)

    def tell(s: Simulation) -> None:
        if s.state.step >= 0 and s.state.step % every == 0:
            say(f"{folder.name}: {1e-3 * DT * s.state.step:g} of {1e-3 * DT * kind.steps:g} ps")

    simulation.run(kind.steps, observer=tell)
    return simulation


def name_of(kind: Dynamics, model_sha256: str) -> str:
    """Of the folder of a run."""
    mark = fingerprint({**vars(kind), "model": model_sha256})
    return f"{kind.ensemble}-{kind.temperature:g}K-{kind.dtype}-{mark}"


def mean_bonds(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Bonds (b, 2) of the first frame, and their mean lengths (b,) over the data, Angstrom."""
    block = data.frames()
    limits = Limits.from_reference(System.build(block.numbers[0]), torch.from_numpy(block.positions[0].copy()))
    i, j = limits.bonds.T
    return limits.bonds, np.linalg.norm(block.positions[:, i] - block.positions[:, j], axis=-1).mean(0)


def judge(simulation: Simulation, data: Dataset, kind: Dynamics, folder: Path) -> dict[str, Any]:
    """Drift, stable time and h(r) of the replicas of a finished run.

    A replica is stable until a bond differs by more than 0.5 Angstrom from its mean length in the data (Fu et al.
    2022), or a physical check fails. Drift and h(r) are of the frames until then; h(r) is compared with the data's.
    """
    bonds, lengths = mean_bonds(data)
    stopped = {e.replica: e for e in simulation.suspects.halts}
    replicas: list[dict[str, Any]] = []
    stable_positions = []
    for replica in range(kind.replicas):
        told, positions = judge_replica(
            trajectory_path(folder, replica, kind.replicas),
            bonds,
            lengths,
            length_fs=kind.steps * DT,
            stopped=stopped[replica].reason if replica in stopped else None,
        )
        replicas.append(told)
        if len(positions):
            stable_positions.append(positions)
    out: dict[str, Any] = {"replicas": replicas, "length_ps": 1e-3 * DT * kind.steps}
    if not kind.constant_energy and sum(map(len, stable_positions)):
        out["h"] = h_error(np.concatenate(stable_positions), data)
    return out


def h_error(positions: np.ndarray, data: Dataset) -> dict[str, Any]:
    """Integral of |h(r) - h_data(r)|, 0 to 2, and both curves."""
    reference = data.frames().positions
    longest = 1.1 * max(float(np.linalg.norm(np.ptp(x.reshape(-1, 3), axis=0))) for x in (reference, positions))
    r, own = distance_distribution(positions, max_distance=longest, bins=BINS)
    _, true = distance_distribution(reference, max_distance=longest, bins=BINS)
    return {"error": float(np.abs(own - true).sum() * (r[1] - r[0])), "r": r, "own": own, "data": true}
