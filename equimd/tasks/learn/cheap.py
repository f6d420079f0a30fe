"""Stage 0: frames by a cheap method, at the target temperature and hotter, from each conformer; where runs start."""

from __future__ import annotations

from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.frames import Frames
from equimd.data.store import StoreDataset
from equimd.machine import cores
from equimd.tasks.generate.cheap import CheapRuns, frames_within, make_frames, measured_step
from equimd.tasks.learn.journal import Journal
from equimd.tasks.learn.work import CHEAP_FOLDER, Work
from equimd.workers import processes

if TYPE_CHECKING:
    from ase import Atoms

SHARE = 0.1  # of the time
TRAJECTORIES = 4  # at each of the two temperatures, at least one from each conformer
STARTS_EVERY = 4  # of the frames at the target temperature, those that runs start from
STAGE = "cheap"


def make_cheap(work: Work, molecules: list[Atoms]) -> dict[str, Any]:
    """The frames as ``cheap/frames.h5``: {frames, theory, starts, conformers}; ``starts`` are rows of it."""
    if (done := work.journal.result(STAGE)) is not None:
        return done
    jobs = work.settings.jobs or cores()
    with processes(jobs) if jobs > 1 else nullcontext() as pool:  # the same ones time the steps and make them
        plan = work.journal.decide(STAGE, lambda: _plan(work, molecules, jobs, pool))
        return work.journal.once(STAGE, lambda: _make(work, molecules, plan, pool))


def cheap_frames(work: Work) -> Path:
    """Where they are."""
    return _store(work.folder)


def _store(folder: Path) -> Path:
    return folder / CHEAP_FOLDER / "frames.h5"


def _plan(work: Work, molecules: list[Atoms], jobs: int, pool: Executor | None) -> dict[str, Any]:
    """How many frames the share of the time gives, from some steps of the method, in processes as they are used."""
    s = work.settings
    per_step = measured_step(pool, jobs, str(s.cheap_method), molecules[0], s.charge, s.spin, s.temperature)
    wanted = 2 * max(TRAJECTORIES, len(molecules))
    count, frames = frames_within(SHARE * work.left, per_step, jobs, wanted)
    return {"frames": frames, "trajectories": count}


def _make(work: Work, molecules: list[Atoms], plan: dict[str, Any], pool: Executor | None) -> dict[str, Any]:
    s, state = work.settings, (int(work.template.charge[0]), int(work.template.spin[0]))
    runs = CheapRuns(
        method=str(s.cheap_method),
        molecules=molecules,
        states=[state] * len(molecules),
        temperatures=(s.hottest, s.temperature),
        trajectories=plan["trajectories"],
        frames=plan["frames"],
        seed=s.seed,
        source=s.molecule,
    )

    def tell(done: int, total: int) -> None:
        work.progress("cheap frames: trajectories", done, total)
        work.check_time()

    data, theory, _ = make_frames(runs, cheap_frames(work), pool, tell, source="equimd learn")
    cool = np.flatnonzero(np.asarray(data.trajectory) % 2 == 1)
    return {"frames": len(data), "theory": theory, "starts": cool[::STARTS_EVERY].tolist()}


def start_positions(folder: Path, journal: Journal, molecules: list[Atoms]) -> np.ndarray:
    """Positions (k, n, 3) that runs start from: cheap frames at the target temperature, else the conformers."""
    made = journal.result(STAGE)
    if made is None:
        return np.array([a.positions for a in molecules])
    return StoreDataset(_store(folder)).frames(np.array(made["starts"])).positions


def start_file(folder: Path) -> str | None:
    """One of the frames that runs start from, as ``FILE@ROW``; None where these are the conformers."""
    made = Journal(folder).result(STAGE)
    return None if made is None else f"{_store(folder)}@{made['starts'][0]}"


def start_frames(work: Work, molecules: list[Atoms]) -> tuple[Frames, str]:
    """What runs start from, one or many frames, and what they are in words."""
    s, made = work.settings, work.journal.result(STAGE)
    positions = start_positions(work.folder, work.journal, molecules)
    count = len(positions)
    if made is not None:
        words = f"one of {count} frames of {made['theory']} dynamics at {s.temperature:g} K"
    else:
        words = "the given geometry" if count == 1 else f"one of {count} conformers"
    return work.at(positions), words
