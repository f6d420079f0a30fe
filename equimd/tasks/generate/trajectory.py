"""One trajectory of labelled frames: Langevin MD with a reference method, seeded.

The integrator is BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)): for a harmonic mode its positions
are distributed exactly at the stated temperature whatever the time step, so that 1 fs serves even for O-H bonds.
Between steps, single bonds may be turned by Monte Carlo moves (:mod:`equimd.tasks.generate.torsions`), which mix
conformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.data.system import System
from equimd.errors import DataError
from equimd.files import replacing
from equimd.methods import make_method
from equimd.tasks.generate.sampling import Sampler, broken_bonds, relax
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.torsions import TorsionMoves, torsions

if TYPE_CHECKING:
    from ase import Atoms


@dataclass
class Trajectory:
    """One finished trajectory of T frames, eV and Angstrom; the kinetic temperature is a mean over all steps.

    ``turns`` are the Monte Carlo turns of single bonds, attempted and accepted, without those of the equilibration.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    temperature_mean: float
    temperature_error: float
    broken: np.ndarray
    theory: str
    turns: tuple[int, int] = (0, 0)


def run_trajectory(
    config: GenerationSettings,
    atoms: Atoms,
    index: int,
    progress: Callable[[], None] | None = None,
    *,
    must_turn: bool = True,
) -> Trajectory:
    """Trajectory ``index`` of a run: relax, equilibrate (discarded), then label a frame every ``interval`` fs.

    The random numbers depend on (seed, index) alone, so trajectories can be made in any order or process.

    Args:
        must_turn: refuse a molecule without a bond to turn where turns are asked for.
    """
    if len(atoms) < 2:
        raise DataError("a single atom has no dynamics to sample", where=config.molecule)
    if np.any(atoms.pbc):
        raise DataError("generate runs open molecules; this structure is periodic", where=config.molecule)
    method = make_method(config.calculator, atoms, config.charge, config.spin)
    start = relax(method, atoms.positions)
    masses = atoms.get_masses()
    if config.hydrogen_mass:
        masses[atoms.numbers == 1] = config.hydrogen_mass
    system = System.build(atoms.numbers, masses=masses)
    md = Sampler(
        method, system, start, config.temperature, config.time_step, config.friction, seed=config.seed, replica=index
    )
    turn = _turner(config, atoms, start, md, must_turn)
    _advance(md, turn, round(config.equilibration / config.time_step))
    turn.attempts = turn.accepted = 0
    labeller = make_method(config.calculator, atoms, config.charge, config.spin)
    positions, energy, forces, temperatures = [], [], [], []
    for _ in range(config.frames_of(index)):
        temperatures.append(_advance(md, turn, config.stride))
        e, f = labeller.label(md.positions)
        positions.append(md.positions)
        energy.append(e)
        forces.append(f)
        if progress is not None:
            progress()
    x = np.array(positions)
    if not np.isfinite(x).all():
        raise DataError(f"trajectory {index} blew up", where=config.molecule, hint="a smaller --time-step")
    return Trajectory(
        atoms.numbers.copy(), x, np.array(energy), np.array(forces), float(np.mean(temperatures)),
        _temperature_error(config, md.dof, len(x)), broken_bonds(atoms.numbers, start, x), method.theory,
        (turn.attempts, turn.accepted),
    )  # fmt: skip


def _turner(config: GenerationSettings, atoms: Atoms, start: np.ndarray, md: Sampler, must_turn: bool) -> TorsionMoves:
    """The turns of single bonds of a trajectory.

    Raises:
        DataError: they must be made, and the molecule has no bond to turn.
    """
    every = round(config.torsion_interval / config.time_step)
    found = torsions(atoms.numbers, start) if every else []
    if every and not found and must_turn:
        raise DataError(
            "no single bond of this molecule can be turned into another conformer",
            where=config.molecule, hint="leave --torsion-interval out",
        )  # fmt: skip
    return TorsionMoves(found, md, every if found else 0)


def _advance(md: Sampler, turn: TorsionMoves, steps: int) -> float:
    """Go on by ``steps`` steps, with the turns that fall due; the mean kinetic temperature, K (nan for no step)."""
    total = 0.0
    for _ in range(steps):
        total += md.step()
        turn.step()
    return total / steps if steps else float("nan")


def _temperature_error(config: GenerationSettings, dof: int, frames: int) -> float:
    """Standard error (K) of the mean temperature over ``frames`` intervals.

    One sample scatters by T sqrt(2/dof); kinetic energy is forgotten at twice the friction, so its integrated
    correlation time is at most 1/(2 friction) and a time t holds t * friction independent samples.
    """
    independent = max(frames * config.interval * config.friction, 1.0)
    return config.temperature * float(np.sqrt(2.0 / dof / independent))


def save_trajectory(path: Path, trajectory: Trajectory) -> None:
    """Write a finished trajectory: whole or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        np.savez(handle, **asdict(trajectory))  # type: ignore[arg-type]


def load_trajectory(path: Path) -> Trajectory:
    """What :func:`save_trajectory` wrote."""
    with np.load(path, allow_pickle=False) as data:
        values = {k: data[k] for k in data.files}
    for name in ("temperature_mean", "temperature_error"):
        values[name] = float(values[name])
    turns = tuple(int(k) for k in values["turns"])
    return Trajectory(**{**values, "theory": str(values["theory"]), "turns": turns})
