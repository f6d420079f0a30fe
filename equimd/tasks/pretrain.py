"""Pretraining (``equimd train --pretrain``): a model of many cheap labels first, from which the training then starts.

The frames are given, or made: dynamics of the training molecules by a cheap method, at the temperature that the
training frames have by that method and hotter, with turns of single bonds. What was decided is written down before it
is done (``pretrain/plan.json``), so that a run that was stopped goes on to the same frames.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.config import PRESETS, DataConfig, ModelConfig, ReadingSettings, RunConfig
from equimd.data.given import open_given
from equimd.errors import ConfigError, DataError, Interrupted
from equimd.files import understood, write_json
from equimd.machine import cores
from equimd.methods import check_method, theory_of
from equimd.notices import note, warn
from equimd.progress import counting, duration
from equimd.run import Run
from equimd.tasks.generate.cheap import CheapRuns, frames_within, make_frames, making_seconds, measured_step
from equimd.training.loop import Trainer
from equimd.training.setup import Setup, complete, prepare, started_from
from equimd.training.warm import FRAMES, METHOD, MODEL, PRETRAINED, PRETRAINING, source_of
from equimd.units import KB
from equimd.workers import processes

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.data.dataset import Dataset
    from equimd.progress import Callback, Progress

WITHOUT_LIMIT = 900.0  # seconds for it, where the training has epochs and no time
FEW, SHARE_OF_FEW, SHARE = 300, 0.8, 0.5  # its part of the time, where it is not stated: up to so many frames, beyond
MAKING = 0.25  # of its time, at most, for making frames
LOOKED_AT = 2000  # training frames, for their molecules
MOLECULES, STARTS = 16, 4  # that trajectories start from: molecules; structures, where there is one molecule
FEWEST_ENERGIES, USUAL = 20, 300.0  # of a molecule, to tell its temperature by; K, where there are fewer
HOTTER = 400.0  # K above the training frames' temperature
COLDEST, HOTTEST = 200.0, 1500.0  # K
VALIDATION = 0.05  # of the frames
WORTH_A_WORD = 500  # training frames, up to which pretraining is recommended


def check_pretraining(config: RunConfig, processes: int) -> None:
    """Raise ConfigError for what can't be, before anything is read: a method that is not there, several processes."""
    given = config.training.pretrain
    if given is None or source_of(given) == MODEL:
        return
    if processes > 1:
        raise ConfigError(
            "pretraining is for one process",
            where="--pretrain",
            hint=f"pretrain in one, and give the others its model: --pretrain RUN/{PRETRAINED}",
        )
    if source_of(given) == FRAMES:
        open_given(given, _reading(config))
        return
    try:
        check_method(given, "--pretrain")
    except ConfigError as error:
        hint = f"{error.hint or ''}; or gfn2, gfn1, a file of frames, a run".removeprefix("; ")
        raise ConfigError(error.what, where="--pretrain", hint=hint) from None


def check_theory(setup: Setup) -> None:
    """Raise ConfigError where the method that is to make cheap frames is the one that labelled the training frames."""
    given = setup.config.training.pretrain
    if given is None or source_of(given) != METHOD or (theory := theory_of(given)) is None:
        return
    if str(setup.train.info.extra.get("theory", "")) == theory:
        raise ConfigError(
            f"the training frames are labelled by {theory} themselves",
            where=f"--pretrain {given}",
            hint="a cheaper method, such as gfn1; or more frames of this one: equimd data generate, and --data",
        )


def worth_it(setup: Setup) -> str | None:
    """A sentence on what pretraining would cost and bring, where frames are few and the method is installed."""
    t, data = setup.config.training, setup.train
    small = len(data) <= WORTH_A_WORD and not setup.periodic and t.forces_weight
    if t.init or t.pretrain or not small or find_spec("tblite") is None:
        return None
    known = str(data.info.extra.get("theory", "")) == theory_of("gfn2")
    return (
        f"{len(data)} training frames are few: --pretrain {'gfn1' if known else 'gfn2'} would spend "
        f"{duration(seconds_of(setup))} on cheap "
        "frames of the same molecules first, which lowers errors, of hot frames most"
    )


def seconds_of(setup: Setup) -> float:
    """What all of it takes: as stated, else a part of the time, the larger one where there is little to learn after."""
    t = setup.config.training
    if t.pretrain_time is not None:
        return t.pretrain_time
    if t.max_time is None:
        return WITHOUT_LIMIT
    return (SHARE_OF_FEW if len(setup.train) <= FEW else SHARE) * t.max_time


def _reading(config: RunConfig) -> ReadingSettings:
    """Of frames to pretrain on: their units are those that their file states, their states those of the training's."""
    return ReadingSettings(charge=config.dataset.charge, spin=config.dataset.spin)


def pretrained(setup: Setup, run: Run, stop_at: float | None, progress: Callback | None) -> Setup:
    """The training as it goes on from a pretrained model, with the time that is left; the pretraining itself where it
    is not done yet.

    Args:
        stop_at: by the clock, when to stop, so that it can be gone on with; as of a training.

    Raises:
        Interrupted: Ctrl-C; what is done so far is kept. ConfigError, DataError: frames can't be made or are no good.
    """
    given = setup.config.training.pretrain
    if given is None or source_of(given) == MODEL:
        return setup
    info = dict(run.info.get("pretraining", {}))
    if info.get("status") != "completed":
        try:
            setup, info = _pretrain(setup, run, info, stop_at, progress)
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted("interrupted in its pretraining", None) from None
    return _with_time_left(setup, float(info["seconds"]))


def _with_time_left(setup: Setup, spent: float) -> Setup:
    """The training without the time that its pretraining took.

    Raises:
        ConfigError: there is none left.
    """
    t = setup.config.training
    if t.max_time is None:
        return setup
    if t.max_time <= spent:
        raise ConfigError(
            f"all of the time went into the pretraining ({duration(spent)})",
            where=f"--max-time {duration(t.max_time)}",
            hint="more time, with --resume and --max-time",
        )
    training = t.model_copy(update={"max_time": t.max_time - spent, "pretrain_time": None})
    return replace(setup, config=setup.config.model_copy(update={"training": training}))


def _pretrain(
    setup: Setup, run: Run, info: dict[str, Any], stop_at: float | None, progress: Callback | None
) -> tuple[Setup, dict[str, Any]]:
    """Frames, a run of them, and the training as it starts from there."""
    t = setup.config.training
    whole = seconds_of(setup)
    if source_of(str(t.pretrain)) == METHOD:
        if "frames" not in info:
            info |= _make(setup, run, MAKING * whole, progress)
            run.update_info({"pretraining": info})
        data = str((run.path / PRETRAINING / "frames.h5").absolute())
    else:
        data = str(t.pretrain)
    config = _of_pretraining(setup.config, data, max(whole - float(info.get("making_seconds", 0.0)), 1.0))
    trainer = _trainer(config, run.path / PRETRAINED, stop_at, progress)
    ended = trainer.fit()
    seconds = float(info.get("making_seconds", 0.0)) + trainer.elapsed()
    if ended == "interrupted":
        raise Interrupted("", None)
    errors = {k: v for k, v in trainer.progress.last_row.items() if k.startswith("val_") and k.endswith("_mae")}
    info |= {
        "given": str(t.pretrain), "status": "completed", "seconds": round(seconds, 1),
        "frames": len(trainer.setup.train) + len(trainer.setup.val), "epochs": trainer.progress.epoch, **errors,
    }  # fmt: skip
    run.update_info({"pretraining": info})
    note(
        f"pretrained on {info['frames']} frames for {duration(seconds)}: forces {1e3 * errors['val_forces_mae']:.3g} "
        "meV/A from their labels"
    )
    setup = started_from(setup, run.path / PRETRAINED)
    setup.say()
    return setup, info


def _has(model: ModelConfig, preset: Mapping[str, Any]) -> bool:
    """Whether a model is of the size of a preset."""
    return all(value == getattr(model, key) for key, value in preset.items() if key != "lr")


def _of_pretraining(config: RunConfig, data: str, seconds: float) -> RunConfig:
    """The settings of the run that learns the cheap labels: those of the training, at a fresh model's rate."""
    c, t = config.dataset, config.training
    rate = next((v["lr"] for v in PRESETS.values() if "lr" in v and _has(config.model, v)), None)
    changed = {
        "pretrain": None, "pretrain_time": None, "num_epochs": None, "max_time": seconds,
        "early_stopping_patience": None, "lr": rate or type(t).model_fields["lr"].default,
    }  # fmt: skip
    frames = DataConfig(data=(data,), splits=(1.0 - VALIDATION, VALIDATION, 0.0), charge=c.charge, spin=c.spin)
    return config.model_copy(update={"dataset": frames, "training": t.model_copy(update=changed)})


def _trainer(config: RunConfig, path: Path, stop_at: float | None, progress: Callback | None) -> Trainer:
    """Of a run in ``path``, gone on with if it is there."""

    def tell(event: Progress) -> None:
        if progress is not None:
            progress(replace(event, stage="pretraining", head=f"pretraining, {event.head}"))

    if (path / "run.json").is_file() and (run := Run.open(path)).trained:
        return Trainer(prepare(run.config, run=run), run, resume=True, progress=tell, stop_at=stop_at)
    setup = prepare(complete(config))
    run = Run.create(path, setup.config, {"data": setup.description()}, overwrite=path.exists())
    setup.keep(run)
    return Trainer(setup, run, progress=tell, stop_at=stop_at)


def _make(setup: Setup, run: Run, seconds: float, progress: Callback | None) -> dict[str, Any]:
    """``pretrain/frames.h5``, in about so many seconds; what they are."""
    folder, began = run.path / PRETRAINING, time.monotonic()
    folder.mkdir(exist_ok=True)
    molecules = molecules_of(setup.train, setup.config.training.seed)
    structures, states = _starts(molecules)
    jobs = min(cores(), len(structures))
    with processes(jobs) if jobs > 1 else nullcontext() as pool:
        plan = _plan(setup, folder / "plan.json", molecules, seconds, jobs, pool)
        runs = CheapRuns(
            method=str(setup.config.training.pretrain),
            molecules=structures,
            states=states,
            temperatures=plan["temperatures_K"],
            trajectories=plan["trajectories"],
            frames=plan["frames"],
            seed=setup.config.training.seed,
            source="--pretrain",
        )
        with counting(progress, "trajectories", "cheap frames") as tell:
            told = tell or (lambda done, total: None)
            path, source = folder / "frames.h5", "equimd train --pretrain"
            data, theory, failed = make_frames(runs, path, pool, told, source=source, may_fail=True)
    if failed:
        warn(f"{len(failed)} of {plan['trajectories']} trajectories of cheap frames failed: {failed[0]}")
    for part in folder.glob("*.npz"):
        part.unlink()
    took = time.monotonic() - began
    hot = " and ".join(f"{t:g}" for t in plan["temperatures_K"])
    note(f"made {len(data)} frames at {hot} K by {theory} in {duration(took)}")
    return {"frames": len(data), "theory": theory, "making_seconds": round(took, 1), **plan}


def _plan(
    setup: Setup, path: Path, molecules: list[Molecule], seconds: float, jobs: int, pool: Executor | None
) -> dict[str, Any]:
    """How many frames, how hot; decided once."""
    if path.is_file():
        with understood(path):
            return dict(json.loads(path.read_text(encoding="utf-8")))
    method, cool = str(setup.config.training.pretrain), molecules[0].temperature
    per_step = 0.0
    for k, molecule in enumerate(molecules):
        atoms = molecule.structures[0]
        try:
            per_step = measured_step(pool, jobs, method, atoms, *_charge_spin(atoms), cool)
            break
        except DataError:  # a method may know some of the molecules
            if k + 1 == len(molecules):
                raise
    count, frames = frames_within(seconds, per_step, jobs, 2 * len(_starts(molecules)[0]))
    least = making_seconds(frames, count, per_step, jobs)
    if least > seconds / MAKING / 2:
        raise ConfigError(
            f"{frames} frames would take {duration(least)}, and there are {duration(seconds / MAKING)} in all",
            where="--pretrain",
            hint=f"--pretrain-time {duration(4 * least)} or more, and a --max-time of twice that; or --pretrain FRAMES",
        )
    plan = {"temperatures_K": [round(cool), round(cool + HOTTER)], "trajectories": count, "frames": frames}
    write_json(path, plan)
    return plan


@dataclass(frozen=True)
class Molecule:
    """Training structures of the same atoms; their ``info`` states charge and spin where the data do.

    Attributes:
        temperature: K, about, by their energies.
    """

    structures: list[Atoms]
    temperature: float


def molecules_of(data: Dataset, seed: int) -> list[Molecule]:
    """The molecules of training frames, in random order.

    Raises:
        ConfigError: they are periodic.
    """
    rng = np.random.default_rng(seed)
    frames = data.frames(rng.permutation(len(data))[:LOOKED_AT])
    if np.any(frames.pbc):
        raise ConfigError(
            "the training frames are periodic, and frames are made of open molecules alone",
            where="--pretrain", hint="--pretrain FRAMES, or --pretrain RUN",
        )  # fmt: skip
    kinds: dict[tuple[Any, ...], list[tuple[Atoms, float]]] = {}
    for k, atoms in enumerate(frames.to_ase()):
        atoms.calc, atoms.info = None, {}
        if frames.charge_stated[k]:
            atoms.info["charge"] = int(frames.charge[k])
        if frames.spin[k]:
            atoms.info["spin"] = int(frames.spin[k])
        energy = float(frames.energy[k]) if frames.has_energy[k] else np.nan
        kinds.setdefault((*sorted(atoms.numbers.tolist()), *atoms.info.items()), []).append((atoms, energy))
    return [
        Molecule([atoms for atoms, _ in kind], temperature_of(np.array([e for _, e in kind]), len(kind[0][0])))
        for kind in kinds.values()
    ]


def _starts(molecules: list[Molecule]) -> tuple[list[Atoms], list[tuple[int | None, int]]]:
    """Where trajectories start, and charge and spin there: a structure of each molecule, several of a single one."""
    several = len(molecules) > 1
    found = [m.structures[0] for m in molecules[:MOLECULES]] if several else molecules[0].structures[:STARTS]
    return found, [(atoms.info.get("charge"), atoms.info.get("spin", 0)) for atoms in found]


def _charge_spin(atoms: Atoms) -> tuple[int, int]:
    return atoms.info.get("charge", 0), atoms.info.get("spin", 0)


def temperature_of(energies: np.ndarray, n_atoms: int) -> float:
    """The temperature of structures of one molecule by their energies (k,), K, within what is sensible for dynamics: by
    equipartition their variance is half a (kT)^2 for each of 3n - 6 vibrations. Of fewer than FEWEST_ENERGIES: USUAL.
    """
    known = energies[np.isfinite(energies)]
    if len(known) < FEWEST_ENERGIES:
        return USUAL
    found = np.sqrt(2.0 * known.var() / max(3 * n_atoms - 6, 1)) / KB
    return float(np.clip(found, COLDEST, HOTTEST - HOTTER))
