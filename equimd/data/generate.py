"""Make labelled frames: Langevin MD with a reference method, seeded, several independent trajectories.

The integrator is BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)): for a harmonic mode its positions
are distributed exactly at the stated temperature whatever the time step, so that 1 fs serves even for O-H bonds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.data.methods import Method, make_method
from equimd.errors import ConfigError, DataError
from equimd.units import ACCELERATION, KB

if TYPE_CHECKING:
    from ase import Atoms

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GenerateConfig:
    """What `generate` does. Times in fs, temperature in K, friction in 1/fs.

    ``frames`` is the total over all trajectories; ``spin`` is the multiplicity, 0 for the lowest possible.
    """

    molecule: str
    temperature: float
    frames: int
    trajectories: int = 4
    interval: float = 100.0
    time_step: float = 1.0
    equilibration: float = 2000.0
    friction: float = 0.01
    seed: int = 0
    calculator: str = "tblite"
    charge: int = 0
    spin: int = 0

    def __post_init__(self) -> None:
        positive = ("temperature", "frames", "trajectories", "interval", "time_step", "friction")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name.replace('_', '-')} must be above zero, not {getattr(self, name)}")
        if self.equilibration < 0:
            raise ConfigError(f"equilibration must not be negative, it is {self.equilibration}")
        if self.frames < self.trajectories:
            raise ConfigError(f"{self.frames} frames cannot come from {self.trajectories} trajectories")
        if abs(self.interval / self.time_step - self.stride) > 1e-6 or self.stride < 1:
            raise ConfigError(
                f"the interval {self.interval} fs is not a whole number of {self.time_step} fs steps",
                hint=f"--interval {max(self.stride, 1) * self.time_step:g}",
            )

    @property
    def stride(self) -> int:
        """Steps between saved frames."""
        return round(self.interval / self.time_step)

    def frames_of(self, trajectory: int) -> int:
        """How many frames one trajectory gives: as even as it goes."""
        return self.frames // self.trajectories + (trajectory < self.frames % self.trajectories)


@dataclass
class Trajectory:
    """One finished trajectory: T frames of n atoms, eV and Angstrom; the kinetic temperature is a mean over all steps."""

    numbers: np.ndarray
    positions: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    temperature_mean: float
    temperature_error: float
    broken: np.ndarray
    theory: str


def load_molecule(name: str) -> Atoms:
    """A molecule from a file ASE reads, or by a name ASE knows (its G2 set; common names of a few molecules).

    Raises:
        DataError: neither such a file nor such a name.
    """
    from ase.build import molecule
    from ase.io import read

    aliases = {"ethanol": "CH3CH2OH", "benzene": "C6H6", "water": "H2O", "methanol": "CH3OH", "ammonia": "NH3"}
    if Path(name).is_file():
        try:
            atoms = read(name, index=-1)
        except Exception as error:  # ASE's readers raise anything
            raise DataError(f"ASE cannot read a structure from it: {error}", where=name) from error
        if isinstance(atoms, list):
            atoms = atoms[-1]
    else:
        try:
            atoms = molecule(aliases.get(name.lower(), name))
        except KeyError:
            raise DataError(
                f"'{name}' is neither a file nor a molecule ASE knows",
                hint="a structure file such as mol.xyz, or a name of ASE's G2 set such as CH3CH2OH (ethanol)",
            ) from None
    atoms.set_constraint()
    atoms.calc = None
    return atoms


def relax(method: Method, positions: np.ndarray, fmax: float = 0.02, steps: int = 500) -> np.ndarray:
    """Positions (n, 3) at a nearby minimum: steepest descent with FIRE (Bitzek et al., PRL 97, 170201 (2006)).

    Raises:
        DataError: the largest force is still above ``fmax`` eV/A after ``steps`` steps.
    """
    x, v = positions.copy(), np.zeros_like(positions)
    dt, alpha, good = 0.1, 0.1, 0
    for _ in range(steps):
        _, forces = method.propagate(x)
        if np.sqrt((forces**2).sum(1).max()) < fmax:
            return x
        power = float((forces * v).sum())
        if power > 0:
            v = (1 - alpha) * v + alpha * forces * (np.linalg.norm(v) / np.linalg.norm(forces))
            good += 1
            if good > 5:
                dt, alpha = min(dt * 1.1, 0.3), alpha * 0.99
        else:
            v[:] = 0.0
            dt, alpha, good = dt * 0.5, 0.1, 0
        v += dt * forces
        move = dt * v
        x = x + move * min(1.0, 0.1 / max(np.abs(move).max(), 1e-12))
    raise DataError(f"the structure did not relax to {fmax} eV/A in {steps} steps", hint="start from a better geometry")


class Baoab:
    """Langevin dynamics with the centre of mass at rest, so 3n-3 degrees of freedom.

    One step: half kick (B), half drift (A), friction and noise (O), half drift, half kick.
    """

    def __init__(
        self,
        method: Method,
        positions: np.ndarray,
        masses: np.ndarray,
        temperature: float,
        time_step: float,
        friction: float,
        rng: np.random.Generator,
    ) -> None:
        self.method, self.rng, self.dt = method, rng, time_step
        self.mass = masses[:, None].astype(np.float64)
        self.sigma = np.sqrt(KB * temperature * ACCELERATION / self.mass)
        self.keep = float(np.exp(-friction * time_step))
        self.positions = positions - self._mean(positions)
        self.velocities = self._noise()
        self.dof = 3 * len(positions) - 3
        self._accelerate()

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((self.mass * values).sum(0) / self.mass.sum())

    def _noise(self) -> np.ndarray:
        """Velocities of the canonical distribution, given that the centre of mass rests."""
        v = self.sigma * self.rng.standard_normal(self.mass.shape[:1] + (3,))
        return np.asarray(v - self._mean(v))

    def _accelerate(self) -> None:
        _, forces = self.method.propagate(self.positions)
        a = forces * (ACCELERATION / self.mass)
        self.acceleration = a - self._mean(a)

    def step(self) -> float:
        """Move by one step; returns the kinetic temperature (K) of the velocities in its middle."""
        half = 0.5 * self.dt
        self.velocities += half * self.acceleration
        self.positions = self.positions + half * self.velocities
        self.velocities = self.keep * self.velocities + np.sqrt(1 - self.keep**2) * self._noise()
        kinetic = float((self.mass * self.velocities**2).sum()) / ACCELERATION
        self.positions = self.positions + half * self.velocities
        self._accelerate()
        self.velocities = self.velocities + half * self.acceleration
        return kinetic / (self.dof * KB)


def bonds(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(k, 2) pairs closer than 1.25 times the sum of their covalent radii."""
    from ase.data import covalent_radii

    reach = 1.25 * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.argwhere(np.triu(distance < reach, 1))


def broken_bonds(numbers: np.ndarray, reference: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(T,) whether a bond of ``reference`` (n, 3) is longer than 1.5 times the sum of its covalent radii in each frame."""
    from ase.data import covalent_radii

    i, j = bonds(numbers, reference).T
    limit = 1.5 * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    return np.asarray((np.linalg.norm(positions[:, i] - positions[:, j], axis=-1) > limit).any(1))


def run_trajectory(config: GenerateConfig, atoms: Atoms, index: int, progress: Callable[[], None] | None = None) -> Trajectory:
    """Trajectory ``index`` of a run: relax, equilibrate (discarded), then label a frame every ``interval`` fs.

    The random numbers depend on (seed, index) alone, so trajectories can be made in any order or process.
    """
    if len(atoms) < 2:
        raise DataError("a single atom has no dynamics to sample", where=config.molecule)
    if np.any(atoms.pbc):
        raise DataError("generate runs open molecules; this structure is periodic", where=config.molecule)
    method = make_method(config.calculator, atoms, config.charge, config.spin)
    start = relax(method, atoms.positions)
    rng = np.random.default_rng([config.seed, index])
    md = Baoab(method, start, atoms.get_masses(), config.temperature, config.time_step, config.friction, rng)
    for _ in range(round(config.equilibration / config.time_step)):
        md.step()
    labeller = make_method(config.calculator, atoms, config.charge, config.spin)
    positions, energy, forces, temperatures = [], [], [], []
    for _ in range(config.frames_of(index)):
        temperatures.append(np.mean([md.step() for _ in range(config.stride)]))
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
    )  # fmt: skip


def _temperature_error(config: GenerateConfig, dof: int, frames: int) -> float:
    """Standard error (K) of the mean temperature over ``frames`` intervals.

    One sample scatters by T sqrt(2/dof); kinetic energy is forgotten at twice the friction, so its integrated
    correlation time is at most 1/(2 friction) and a time t holds t * friction independent samples.
    """
    independent = max(frames * config.interval * config.friction, 1.0)
    return config.temperature * float(np.sqrt(2.0 / dof / independent))


def check_temperature(config: GenerateConfig, trajectories: list[Trajectory]) -> tuple[float, float]:
    """Mean temperature of all trajectories and its standard error, K.

    Raises:
        DataError: the mean is off by more than 2 % of the target and five standard errors.
    """
    weights = np.array([len(t.energy) for t in trajectories], float)
    weights /= weights.sum()
    mean = float(weights @ [t.temperature_mean for t in trajectories])
    error = float(np.sqrt(weights**2 @ np.array([t.temperature_error for t in trajectories]) ** 2))
    if abs(mean - config.temperature) > 0.02 * config.temperature + 5 * error:
        raise DataError(
            f"the mean temperature is {mean:.1f} K, not {config.temperature:g} K",
            hint="a smaller --time-step or a longer --equilibration",
        )
    return mean, error


def _fingerprint(config: GenerateConfig, atoms: Atoms) -> str:
    settings = json.dumps({**asdict(config), "molecule": ""}, sort_keys=True).encode()
    return hashlib.sha256(settings + atoms.numbers.tobytes() + atoms.positions.tobytes()).hexdigest()[:12]


def _save(path: Path, trajectory: Trajectory) -> None:
    part = path.with_name(path.name + ".tmp")
    with open(part, "wb") as handle:
        np.savez(handle, **asdict(trajectory))  # type: ignore[arg-type]
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def _load(path: Path) -> Trajectory:
    with np.load(path, allow_pickle=False) as data:
        values = {k: data[k] for k in data.files}
    for name in ("temperature_mean", "temperature_error"):
        values[name] = float(values[name])
    return Trajectory(**{**values, "theory": str(values["theory"])})


def _worker(config: GenerateConfig, atoms: Atoms, index: int, path: Path) -> int:
    _save(path, run_trajectory(config, atoms, index))
    return index


def run_trajectories(
    config: GenerateConfig, work: Path, *, jobs: int = 1, progress: Progress | None = None
) -> list[Trajectory]:
    """All trajectories of a run; each is kept in ``work`` when it is finished, and not made again.

    Args:
        work: folder for finished trajectories; a run of other settings in the same folder does not disturb.
        jobs: worker processes. With 1 the work is done in this process.
        progress: called with (frames done, frames in all).
    """
    atoms = load_molecule(config.molecule)
    work.mkdir(parents=True, exist_ok=True)
    mark = _fingerprint(config, atoms)
    paths = [work / f"{mark}-{k:03d}.npz" for k in range(config.trajectories)]
    todo = [k for k, p in enumerate(paths) if not p.exists()]
    done = sum(config.frames_of(k) for k, p in enumerate(paths) if p.exists())

    def tick(count: int = 1) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, config.frames)

    tick(0)
    if jobs <= 1:
        for k in todo:
            _save(paths[k], run_trajectory(config, atoms, k, tick))
    elif todo:
        _run_parallel(config, atoms, {k: paths[k] for k in todo}, jobs, tick)
    return [_load(p) for p in paths]


def _run_parallel(
    config: GenerateConfig, atoms: Atoms, todo: dict[int, Path], jobs: int, tick: Callable[[int], None]
) -> None:
    import multiprocessing

    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they start; threads only slow small molecules down
    try:
        with ProcessPoolExecutor(min(jobs, len(todo)), multiprocessing.get_context("spawn")) as pool:
            waiting = [pool.submit(_worker, config, atoms, k, path) for k, path in todo.items()]
            try:
                for future in as_completed(waiting):
                    tick(config.frames_of(future.result()))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
