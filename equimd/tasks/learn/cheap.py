"""Stage 0: frames by a cheap method, at the target temperature and hotter, from each conformer; and where runs start.

Trajectories have heavy hydrogens and steps of 2.5 fs: positions are distributed as with any masses. Bonds that turn
are turned by Monte Carlo moves, so that conformers come by their weight.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.data.store import StoreDataset
from equimd.data.system import System
from equimd.methods import make_method
from equimd.tasks.generate.sampling import Sampler, relax
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.torsions import torsions
from equimd.tasks.generate.trajectory import load_trajectory, run_trajectory, save_trajectory
from equimd.tasks.learn.work import CHEAP_FOLDER, Work
from equimd.workers import processes, run_all

if TYPE_CHECKING:
    from ase import Atoms

SHARE = 0.1  # of the time
FEWEST, MOST = 80, 4000  # frames
TRAJECTORIES = 4  # at each of the two temperatures, at least one from each conformer
STEP, INTERVAL, EQUILIBRATION, HYDROGEN = 2.5, 25.0, 1000.0, 5.0  # fs, fs, fs, u
STARTS_EVERY = 4  # of the frames at the target temperature, those that runs start from
PROBE = 20  # steps that are timed
STAGE = "cheap"


def make_cheap(work: Work, molecules: list[Atoms]) -> dict[str, Any]:
    """The frames as ``cheap/frames.h5``: {frames, theory, starts, conformers}; ``starts`` are rows of it."""
    if (done := work.journal.result(STAGE)) is not None:
        return done
    jobs = _jobs(work)
    with processes(jobs) if jobs > 1 else nullcontext() as pool:  # the same ones time the steps and make them
        plan = work.journal.decide(STAGE, lambda: _plan(work, molecules, jobs, pool))
        return work.journal.once(STAGE, lambda: _make(work, molecules, plan, pool))


def cheap_frames(work: Work) -> Path:
    """Where they are."""
    return work.folder / CHEAP_FOLDER / "frames.h5"


def _plan(work: Work, molecules: list[Atoms], jobs: int, pool: Executor | None) -> dict[str, Any]:
    """How many frames the share of the time gives, from some steps of the method, in processes as they are used."""
    s, measured = work.settings, list[tuple[float, bool]]()
    probe = (str(s.cheap_method), molecules[0], s.charge, s.spin, s.temperature)
    _each(pool, probe_steps, dict.fromkeys(range(jobs), probe), lambda _, found: measured.append(found))
    per_step = float(np.mean([seconds for seconds, _ in measured]))
    count = max(TRAJECTORIES, len(molecules))
    steps = SHARE * work.left * jobs / per_step - 2 * count * EQUILIBRATION / STEP
    frames = int(np.clip(steps / (INTERVAL / STEP + 1), FEWEST, MOST))
    frames = max(frames // (2 * count), 1) * 2 * count
    return {"frames": frames, "trajectories": 2 * count, "turned": measured[0][1]}


def _each(pool: Executor | None, function: Any, tasks: dict[int, tuple[Any, ...]], finished: Any) -> None:
    """In processes side by side, or in this one."""
    if pool is not None:
        run_all(pool, function, tasks, finished)
        return
    for key, arguments in tasks.items():
        finished(key, function(*arguments))


def probe_steps(calculator: str, atoms: Atoms, charge: int, spin: int, kelvin: float) -> tuple[float, bool]:
    """Seconds a step takes, and whether the relaxed molecule has bonds to turn."""
    method = make_method(calculator, atoms, charge, spin)
    start = relax(method, atoms.positions)
    system = System.build(atoms.numbers, masses=atoms.get_masses())
    md = Sampler(method, system, start, kelvin, 1.0, 0.01, seed=0)
    began = time.perf_counter()
    for _ in range(PROBE):
        md.step()
    return (time.perf_counter() - began) / PROBE, bool(torsions(atoms.numbers, start))


def _jobs(work: Work) -> int:
    return work.settings.jobs or len(os.sched_getaffinity(0))


def make_one(config: GenerationSettings, atoms: Atoms, index: int, path: Path) -> None:
    """One trajectory into a file; in a process of its own."""
    save_trajectory(path, run_trajectory(config, atoms, index))


def _make(work: Work, molecules: list[Atoms], plan: dict[str, Any], pool: Executor | None) -> dict[str, Any]:
    folder = work.folder / CHEAP_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:03d}.npz" for k in range(plan["trajectories"])]
    missing = {k: _task(work, molecules, plan, k, path) for k, path in enumerate(paths) if not path.is_file()}
    done = len(paths) - len(missing)

    def finished(_: int, __: None) -> None:
        nonlocal done
        done += 1
        work.progress("cheap frames: trajectories", done, len(paths))
        work.check_time()

    if missing:
        _each(pool, make_one, missing, finished)
    found = [load_trajectory(path) for path in paths]
    blocks, owner = [], []
    for k, t in enumerate(found):
        whole = np.flatnonzero(~t.broken)
        f = work.at(t.positions[whole])
        labels = t.energy[whole], t.forces[whole]
        blocks.append(Frames.build(f.numbers, f.positions, *labels, charge=f.charge, spin=f.spin))
        owner += [k] * len(whole)
    trajectory = np.array(owner)
    data = ArrayDataset(Frames.concatenate(blocks), DatasetInfo(str(cheap_frames(work)), "generated"), trajectory)
    write_frames(cheap_frames(work), data, theory=found[0].theory, source="equimd learn")
    cool = np.flatnonzero(trajectory % 2 == 1)
    return {"frames": len(data), "theory": found[0].theory, "starts": cool[::STARTS_EVERY].tolist()}


def _task(
    work: Work, molecules: list[Atoms], plan: dict[str, Any], k: int, path: Path
) -> tuple[GenerationSettings, Atoms, int, Path]:
    """The trajectories of even number are hot, those of odd number at the target temperature."""
    s, each = work.settings, plan["frames"] // plan["trajectories"]
    config = GenerationSettings(
        molecule=s.molecule,
        temperature=s.temperature if k % 2 else s.hottest,
        frames=each * plan["trajectories"],
        trajectories=plan["trajectories"],
        interval=INTERVAL,
        time_step=STEP,
        equilibration=EQUILIBRATION,
        seed=s.seed,
        calculator=str(s.cheap_method),
        charge=s.charge,
        spin=s.spin,
        torsion_interval=INTERVAL if plan["turned"] else 0.0,
        hydrogen_mass=HYDROGEN,
    )
    return config, molecules[(k // 2) % len(molecules)], k, path


def start_frames(work: Work, molecules: list[Atoms]) -> tuple[Frames, str]:
    """What runs start from, one or many frames, and what they are in words."""
    s, made = work.settings, work.journal.result(STAGE)
    if made is None:
        count = len(molecules)
        conformers = work.at(np.array([a.positions for a in molecules]))
        return conformers, "the given geometry" if count == 1 else f"one of {count} conformers"
    data = StoreDataset(cheap_frames(work))
    frames = data.frames(np.array(made["starts"]))
    words = f"one of {len(frames)} frames of {made['theory']} dynamics at {s.temperature:g} K"
    return work.at(frames.positions), words
