"""Make labelled frames: several independent trajectories of MD with a reference method, joined in one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.config import ReadingSettings
from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.data.given import open_given
from equimd.errors import DataError
from equimd.files import plain, sha256_of
from equimd.methods import check_method
from equimd.shown import Shown
from equimd.tasks.generate.sampling import load_molecule
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.trajectory import Trajectory, load_trajectory, run_trajectory, save_trajectory
from equimd.workers import processes, run_all

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.data.dataset import Dataset

Progress = Callable[[int, int], None]


def check_temperature(config: GenerationSettings, trajectories: list[Trajectory]) -> tuple[float, float]:
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


def _fingerprint(config: GenerationSettings, atoms: Atoms) -> str:
    settings = json.dumps({**config.model_dump(), "molecule": ""}, sort_keys=True).encode()
    return sha256_of([settings, atoms.numbers.tobytes(), atoms.positions.tobytes()])[:12]


def _worker(config: GenerationSettings, atoms: Atoms, index: int, path: Path) -> None:
    save_trajectory(path, run_trajectory(config, atoms, index))


def run_trajectories(
    config: GenerationSettings,
    work: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    atoms: Atoms | None = None,
) -> list[Trajectory]:
    """All trajectories of a run; each is kept in ``work`` when it is finished, and not made again.

    Args:
        work: folder for finished trajectories; a run of other settings in the same folder does not disturb.
        jobs: worker processes. With 1 the work is done in this process.
        progress: called with (frames done, frames in all).
    """
    check_method(config.calculator)
    atoms = load_molecule(config.molecule) if atoms is None else atoms
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
            save_trajectory(paths[k], run_trajectory(config, atoms, k, tick))
    elif todo:
        tasks = {k: (config, atoms, k, paths[k]) for k in todo}
        with processes(min(jobs, len(tasks))) as pool:
            run_all(pool, _worker, tasks, lambda k, _: tick(config.frames_of(k)))
    return [load_trajectory(p) for p in paths]


@dataclass(frozen=True, repr=False)
class GenerationResult(Shown):
    """Labelled frames in a file.

    Attributes:
        path: of the file. frames, trajectories: how many.
        theory: the method in words.
        temperature: asked for, K; temperature_mean, temperature_error: found, and the standard error of that.
        broken: rows of frames in which a bond is open.
        turned: accepted share of the turns of single bonds; None without any.
    """

    path: Path
    frames: int
    trajectories: int
    theory: str
    temperature: float
    temperature_mean: float
    temperature_error: float
    broken: tuple[int, ...]
    turned: float | None = None

    def dataset(self) -> Dataset:
        """The frames and their labels."""
        return open_given(self.path, ReadingSettings())

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd data generate --json``."""
        return plain(
            {
                "path": self.path, "n_frames": self.frames, "n_trajectories": self.trajectories, "theory": self.theory,
                "temperature_K": self.temperature, "temperature_K_mean": self.temperature_mean,
                "temperature_K_error": self.temperature_error, "broken_frames": self.broken,
                "turns_accepted": self.turned,
            }
        )  # fmt: skip

    def _shown(self) -> Mapping[str, str]:
        return {
            "path": str(self.path),
            "frames": f"{self.frames} of {self.trajectories} trajectories",
            "theory": self.theory,
            "temperature": f"{self.temperature_mean:.1f} K (standard error {self.temperature_error:.1f} K)",
        }


def parts_folder(out: Path) -> Path:
    """Where finished trajectories wait until all are done."""
    return out.with_name(out.name + ".parts")


def sample(
    config: GenerationSettings,
    out: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    atoms: Atoms | None = None,
) -> GenerationResult:
    """Run the trajectories and write their frames to ``out``: a store (.h5, .hdf5) or extended XYZ (.xyz, .extxyz).

    Finished trajectories wait in the folder ``OUT.parts`` until all are done, so that an interrupted run goes on.
    The frames do not depend on ``jobs``: on one machine and one set of package versions they repeat bit for bit.

    Args:
        atoms: the molecule, if not by name or file.

    Raises:
        DataError: unknown molecule, a calculation that fails, or a mean temperature that is off.
        ConfigError: impossible settings, or a calculator that is not there.
    """
    from equimd.data.convert import output_format, write_frames

    output_format(out)  # refuse an unknown ending before the work, not after it
    work = parts_folder(out)
    done = run_trajectories(config, work, jobs=jobs, progress=progress, atoms=atoms)
    mean, error = check_temperature(config, done)
    block = Frames.concatenate([_block(config, t) for t in done])
    steps = [(np.arange(len(t.energy)) + 1) * config.stride for t in done]
    data = ArrayDataset(
        block,
        DatasetInfo(str(out), "generated"),
        np.repeat(np.arange(len(done)), [len(t.energy) for t in done]),
        np.concatenate(steps),
    )
    unset = {k for k in ("charge", "spin", "torsion_interval", "hydrogen_mass") if not getattr(config, k)}
    settings = {k: v for k, v in config.model_dump().items() if k not in unset}
    attempts, accepted = np.sum([t.turns for t in done], axis=0).tolist()
    turned = accepted / attempts if attempts else None
    extra: dict[str, str | int | float] = {**settings, "temperature_mean": mean, "temperature_error": error}
    if turned is not None:
        extra["turns_accepted"] = turned
    write_frames(out, data, theory=done[0].theory, source="equimd data generate", extra=extra)
    shutil.rmtree(work)
    broken = np.flatnonzero(np.concatenate([t.broken for t in done]))
    rows = tuple(int(k) for k in broken)
    return GenerationResult(out, len(block), len(done), done[0].theory, config.temperature, mean, error, rows, turned)


def _block(config: GenerationSettings, trajectory: Trajectory) -> Frames:
    frames = len(trajectory.energy)
    return Frames.build(
        trajectory.numbers, trajectory.positions, trajectory.energy, trajectory.forces,
        charge=np.full(frames, config.charge), spin=np.full(frames, config.spin), where=config.molecule,
    )  # fmt: skip
