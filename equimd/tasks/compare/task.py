"""Models side by side: errors on given frames, constant-energy dynamics from one start, the time of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equimd.calculators import LoadedModel, load
from equimd.chemistry import refuse_unseen
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.errors import ConfigError, DataError, RunError
from equimd.files import versions, write_json
from equimd.forces.forcefield import Compile
from equimd.md.ensembles import ENSEMBLES
from equimd.md.observables import bond_stability
from equimd.md.trajectory import read, trajectory_path
from equimd.model.interface import check_data
from equimd.notices import note
from equimd.progress import counting
from equimd.tasks.compare import table
from equimd.tasks.compare.measures import judge_replica, net_force_and_torque, pooled, rms, step_times
from equimd.tasks.evaluate.measure import measure
from equimd.tasks.simulate import session
from equimd.tasks.simulate import task as simulating
from equimd.tasks.simulate.session import Session
from equimd.tasks.simulate.settings import SimulationSettings

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.progress import Callback

Counted = Callable[[int, int], None]
JSON_FILE, PLOT_FILE = "comparison.json", "comparison.png"
TIMED = 300  # steps
ERRORS = ("n_frames", "energy_mae_meV", "energy_rmse_meV", "forces_mae_meV_per_A", "forces_rmse_meV_per_A")


@dataclass(frozen=True)
class Contender:
    """One of the models: its name in the table, the model, and its dynamics made ready."""

    name: str
    model: LoadedModel
    session: Session


def prepare(
    runs: Sequence[str],
    settings: SimulationSettings,
    data: Dataset | None = None,
    structures: Sequence[Atoms] | None = None,
) -> list[Contender]:
    """Everything that can be found wrong is found here, before anything is computed.

    Args:
        runs: run folders.
        settings: of the dynamics of all of them; constant energy, no threshold.
        data: frames that the errors will be measured on.
        structures: the start geometry, in the place of the settings' file.

    Raises:
        ConfigError: one run twice, or dynamics not at constant energy.
        DataError, ModelError, RunError: of the structure or a model, as for a simulation.
    """
    names = unique_names(runs)
    if not ENSEMBLES[settings.ensemble].constant_energy:
        hint = ", ".join(name for name, ensemble in ENSEMBLES.items() if ensemble.constant_energy)
        raise ConfigError(f"ensemble {settings.ensemble} keeps no energy", hint=hint)
    found = []
    for name, run in zip(names, runs, strict=True):
        ready = session.prepare(settings.model_copy(update={"run": run, "uq_threshold": "off"}), structures)
        model = load(run, device=str(ready.system.masses.device))
        if data is not None:
            what = f"elements that {run} never saw"
            refuse_unseen(data.elements, model.potential.elements, what=what, where="--data", error=DataError)
            check_data(model.potential, data, where=run)
        found.append(Contender(name, model, ready))
    return found


def unique_names(runs: Sequence[str]) -> list[str]:
    """Short names of run folders: the last parts of their paths that tell them apart.

    Raises:
        ConfigError: one run twice.
    """
    parts = [Path(run).absolute().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise ConfigError("the models are one and the same run", hint="equimd compare RUN_A RUN_B MOLECULE.xyz")
    names: list[str] = []
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


def compare(
    contenders: Sequence[Contender],
    out: Path,
    data: Dataset | None = None,
    progress: Callback | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure everything, and write comparison.json, comparison.png and the simulations into ``out``.

    Dynamics that is there already, of the same settings, goes on or is read back; ``overwrite`` replaces others.

    Returns:
        ``status`` (``interrupted``: dynamics was stopped; the same call goes on), ``models`` and how they were
        measured.

    Raises:
        RunError: ``out`` holds simulations of other settings.
    """
    alike([c.session for c in contenders])
    models: list[dict[str, Any]] = []
    for c in contenders:
        note(f"{c.name}: dynamics at constant energy")
        summary = _simulate(c, out / c.name, _named(progress, c.name), overwrite)
        if summary["status"] == "interrupted":
            return {"status": "interrupted", "models": models}
        models.append(
            {**_about(c), **_conservation(c, summary, out / c.name), **_on_frames(c, data, out / c.name, progress)}
        )
    note("timing steps of the models, in turns")
    with counting(progress, "steps", "timing") as tell:
        for entry, times in zip(models, _times(contenders, tell), strict=True):
            entry["step_ms"] = times
    s = contenders[0].session.settings
    found = {
        "status": "completed",
        "structure": s.structure,
        "data": None if data is None else {"path": str(data.info.path), "n_frames": len(data)},
        "n_atoms": contenders[0].session.system.n_atoms,
        "time_ps": s.n_steps * s.dt / 1000,
        "settings": s.model_dump(mode="json", exclude={"run"}),
        "versions": versions(),
        "models": models,
    }
    write_json(out / JSON_FILE, found)
    table.plot(found, out / PLOT_FILE)
    return found


def _named(progress: Callback | None, name: str) -> Callback | None:
    """Tells of which model's dynamics the stage is."""
    return None if progress is None else lambda event: progress(replace(event, stage=f"{event.stage} {name}"))


def alike(sessions: Sequence[Session]) -> None:
    """Compile the forces of all models or of none, where ``auto`` leaves it to what was compiled before."""
    for mode in (None, "on", "off"):
        for s in sessions:
            if mode is None or bool(s.forces.compiled) != (mode == "on"):
                s.forces.begin(s.start.positions.to(s.system.masses.device), mode)
        if len({bool(s.forces.compiled) for s in sessions}) == 1:
            return


def _about(c: Contender) -> dict[str, Any]:
    return {
        "name": c.name,
        "run": c.session.settings.run,
        "forces": "conservative" if c.model.potential.conservative else "direct",
        "model_sha256": c.session.identity["model_sha256"],
        "compiled": bool(c.session.forces.compiled),
    }


def _simulate(c: Contender, folder: Path, progress: Callback | None, overwrite: bool) -> Mapping[str, Any]:
    """Begin the dynamics, or go on with what is in the folder."""
    there = session.reopen(folder, {}) if (folder / session.START_FILE).is_file() else None
    if there is None or there.settings != c.session.settings or not _same_start(there, c.session):
        if there is not None and not overwrite:
            hint = "another --out, or --overwrite"
            raise RunError("holds a simulation of other settings", where=str(folder), hint=hint)
        return simulating.execute(c.session, lambda: session.begin(c.session, folder, overwrite), folder, progress)
    return simulating.execute(there, lambda: session.resume(there, folder), folder, progress)


def _same_start(a: Session, b: Session) -> bool:
    """Whether two simulations start from one geometry, to rounding; a relaxation may end at another."""
    if not torch.equal(a.start.numbers, b.start.numbers):
        return False
    return a.settings.relax or torch.allclose(a.start.positions, b.start.positions, rtol=0, atol=1e-6)


def _conservation(c: Contender, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Drift and stable time, by replica and pooled."""
    s, limits = c.session.settings, c.session.limits
    stopped = {h["replica"]: h["reason"] for h in summary["halted"]}
    replicas = [
        judge_replica(
            trajectory_path(folder, r, len(c.session.replicas)),
            limits.bonds,
            limits.bond_lengths,
            length_fs=s.n_steps * s.dt,
            stopped=stopped.get(r),
            lattice=c.session.system.lattice,
        )[0]
        for r in c.session.replicas
    ]
    drift = pooled(replicas)
    return {
        "drift_meV_per_atom_per_ps": None if drift is None else drift["drift"],
        "drift_error": None if drift is None else drift["error"],
        "stable_ps": float(np.mean([r["stable_ps"] for r in replicas])),
        "n_unstable": sum(r["stable_ps"] < s.n_steps * s.dt / 1000 for r in replicas),
        "replicas": replicas,
    }


def _on_frames(c: Contender, data: Dataset | None, folder: Path, progress: Callback | None) -> dict[str, Any]:
    """Errors, net force and torque on the data; without data net force and torque of the stable frames of the run."""
    nothing: dict[str, Any] = {"errors": None, "net_force_meV_per_A": None, "torque_meV": None}
    if data is not None:
        with counting(progress, "frames", f"errors {c.name}") as tell:
            summary = measure(c.model, data, progress=tell).summary()
        nothing["errors"] = {key: summary[key] for key in ERRORS}
        found = [] if c.session.system.periodic else [_of_block(c.model, block) for block in iterate_blocks(data)]
    else:
        found = [] if c.session.system.periodic else _of_runs(c, folder)
    if not found:
        return nothing
    force, torque = (np.concatenate(column) for column in zip(*found, strict=True))
    return {**nothing, "net_force_meV_per_A": rms(force), "torque_meV": rms(torque)}


def _of_block(model: LoadedModel, block: Any) -> tuple[np.ndarray, np.ndarray]:
    """Net forces and torques (B,) of a padded block of frames."""
    _, forces = model.predict_frames(block)
    if forces is None:
        raise DataError("a model trained on energies alone gives no forces")
    pairs = [
        net_force_and_torque(block.positions[k : k + 1, :n], forces[k : k + 1, :n]) for k, n in enumerate(block.n_atoms)
    ]
    force, torque = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return force, torque


def _of_runs(c: Contender, folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the stable frames of each replica."""
    limits, found = c.session.limits, []
    for r in c.session.replicas:
        path = trajectory_path(folder, r, len(c.session.replicas))
        if not path.is_file() or not len(frames := read(path)):
            continue
        good = int(bond_stability(frames.positions, limits.bonds, limits.bond_lengths).stable_frames)
        if good:
            found.append(net_force_and_torque(frames.positions[:good], frames.forces[:good]))
    return found


def _times(contenders: Sequence[Contender], progress: Counted | None) -> list[dict[str, float]]:
    """Of one molecule, in each mode that the dynamics used."""
    first = contenders[0].session
    modes: list[Compile] = ["off"]
    if all(c.session.forces.compiled for c in contenders):
        modes.append("on")
    system, s = first.system, first.settings
    positions = first.start.positions[:1].to(system.masses.device)
    models = {c.name: c.session.forces.model for c in contenders}
    before = torch.get_num_threads()
    torch.set_num_threads(int(first.identity["threads"]))
    try:
        how = {"dt": s.dt, "temperature": s.temperature}
        found = step_times(models, system, positions, TIMED, modes, progress=progress, **how)
    finally:
        torch.set_num_threads(before)
    return [{mode: times[c.name] for mode, times in found.items()} for c in contenders]
