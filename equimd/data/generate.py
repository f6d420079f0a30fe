"""Make labelled frames: Langevin MD with a reference method, seeded, several independent trajectories.

The integrator is BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)): for a harmonic mode its positions
are distributed exactly at the stated temperature whatever the time step, so that 1 fs serves even for O-H bonds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.data.methods import make_method
from equimd.data.sampling import Baoab, broken_bonds, load_molecule, relax
from equimd.errors import ConfigError, DataError

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
    """One finished trajectory of T frames, eV and Angstrom; the kinetic temperature is a mean over all steps."""

    numbers: np.ndarray
    positions: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    temperature_mean: float
    temperature_error: float
    broken: np.ndarray
    theory: str


def run_trajectory(
    config: GenerateConfig, atoms: Atoms, index: int, progress: Callable[[], None] | None = None
) -> Trajectory:
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


@dataclass(frozen=True)
class Generated:
    """What :func:`generate` wrote: temperatures in K, ``broken`` the frames in which a bond is open."""

    path: Path
    frames: int
    trajectories: int
    theory: str
    temperature_mean: float
    temperature_error: float
    broken: tuple[int, ...]


def generate(config: GenerateConfig, out: Path, *, jobs: int = 1, progress: Progress | None = None) -> Generated:
    """Run the trajectories and write their frames to ``out``: a store (.h5, .hdf5) or extended XYZ (.xyz, .extxyz).

    Finished trajectories wait in the folder ``OUT.parts`` until all are done, so that an interrupted run goes on.
    The frames do not depend on ``jobs``: on one machine and one set of package versions they repeat bit for bit.

    Raises:
        DataError: unknown molecule, a calculation that fails, or a mean temperature that is off.
        ConfigError: impossible settings, or a calculator that is not there.
    """
    from equimd.data.convert import output_format, write_frames

    output_format(out)  # refuse an unknown ending before the work, not after it
    work = out.with_name(out.name + ".parts")
    done = run_trajectories(config, work, jobs=jobs, progress=progress)
    mean, error = check_temperature(config, done)
    block = Frames.concatenate([_block(config, t) for t in done])
    steps = [(np.arange(len(t.energy)) + 1) * config.stride for t in done]
    data = ArrayDataset(
        block,
        DatasetInfo(str(out), "generated"),
        np.repeat(np.arange(len(done)), [len(t.energy) for t in done]),
        np.concatenate(steps),
    )
    settings = {k: v for k, v in asdict(config).items() if k not in ("charge", "spin") or v}
    extra = {**settings, "temperature_mean": mean, "temperature_error": error}
    write_frames(out, data, theory=done[0].theory, source="equimd data generate", extra=extra)
    shutil.rmtree(work)
    broken = np.flatnonzero(np.concatenate([t.broken for t in done]))
    return Generated(out, len(block), len(done), done[0].theory, mean, error, tuple(int(k) for k in broken))


def _block(config: GenerateConfig, trajectory: Trajectory) -> Frames:
    frames = len(trajectory.energy)
    return Frames.build(
        trajectory.numbers, trajectory.positions, trajectory.energy, trajectory.forces,
        charge=np.full(frames, config.charge), spin=np.full(frames, config.spin), where=config.molecule,
    )  # fmt: skip
