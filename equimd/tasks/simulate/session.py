"""A simulation made ready from its settings, begun in a folder, and gone on with from there.

The folder holds ``simulation.yaml`` (the settings), ``start.safetensors`` (positions and velocities bit-exactly, and
what was decided: the model's hash, the threshold, the number of threads), ``start.xyz`` (elements, for viewers), and
what :mod:`equimd.md.simulation` writes. A run is gone on with from these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from equimd.calculators import LoadedModel
from equimd.calculators.predictor import unheard_state
from equimd.chemistry import formula
from equimd.data.batch import DENSE_MAX_ATOMS
from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import ConfigError, RunError, UncertaintyError
from equimd.files import check_output, check_writable, file_digest, new_folder, write_atomic
from equimd.forces.forcefield import ForceField
from equimd.guard.calibration import JSON_FILE, StatePoint
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.saved import name_of
from equimd.guard.wording import Watch, make_watch
from equimd.machine import choose_device
from equimd.md.ensembles import ENSEMBLES
from equimd.md.equilibration import Equilibrated
from equimd.md.integrators import Integrator, Langevin
from equimd.md.simulation import RESTART_FILE, Output, Simulation
from equimd.md.state import degrees_of_freedom
from equimd.md.trajectory import trajectory_files
from equimd.model.interface import check_data
from equimd.notices import doing
from equimd.run import Run, free_name
from equimd.tasks.simulate import checks
from equimd.tasks.simulate.settings import RESUMABLE, SimulationSettings, parse_settings, read_settings, settings_text
from equimd.tasks.simulate.start import START_FILE, Start, read_start, relax, with_velocities

if TYPE_CHECKING:
    from ase import Atoms

SETTINGS_FILE, STRUCTURE_FILE = "simulation.yaml", "start.xyz"


@dataclass(frozen=True)
class Session:
    """All that a run needs but its state.

    Attributes:
        start: replicas before their first step.
        limits: physical limits of the start geometry.
        dof: degrees of freedom of the run itself (equilibration has its own).
        watch: the calibrated threshold, and what to say about it.
        identity: what must not change between the sessions of a run, but for the settings: hashes, threads.
        notes, warnings: sentences for the person who starts the run.
    """

    settings: SimulationSettings
    start: Start
    system: System
    forces: ForceField
    integrator: Integrator
    limits: Limits
    dof: int
    watch: Watch
    identity: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def judge(self) -> Judge:
        """That of the forces: physical checks and the calibrated threshold."""
        return self.forces.judge or Judge()

    @property
    def replicas(self) -> tuple[int, ...]:
        """Numbers of the replicas."""
        first = self.settings.first_replica
        return tuple(range(first, first + self.settings.replicas))

    def output(self, folder: Path) -> Output:
        """Where and how often frames are written."""
        return Output(folder, self.settings.save_every, self.settings.sigma_every, info=self.start.state)


def prepare(
    settings: SimulationSettings, structures: Sequence[Atoms] | None = None, start: Start | None = None
) -> Session:
    """Everything that can be found wrong with a new run is found here, before a file is written.

    Args:
        structures: the start geometry, in the place of the settings' file.
        start: replicas with velocities, where they are known already.

    Raises:
        ConfigError: no run or no structure given, settings that contradict each other.
        DataError: a structure that cannot be read, or with overlapping atoms.
        ModelError: elements the model never saw, a model trained on energies alone.
        RunError, UncertaintyError: no such run, or not calibrated for what is asked.
    """
    for key, what in (("run", "run folder"), ("structure", "structure file")):
        if not getattr(settings, key) and not (key == "structure" and (structures or start)):
            raise ConfigError(f"no {what}", hint="equimd simulate RUN MOLECULE.xyz")
    # absolute, so that the run can be gone on with from any folder
    paths = {key: str(Path(name).absolute()) for key in ("run", "structure") if (name := getattr(settings, key))}
    shown, settings = settings, settings.model_copy(update=paths)
    doing("loading the model")
    model, sha256 = _load(settings)
    if start is not None:
        check_data(model.potential, ArrayDataset(Frames.from_ase([start.atoms()], where="--continue")))
        return _assemble(settings, start, model, sha256, _threads(settings, start), shown_run=shown.run)
    told = {"charge": settings.charge, "spin": settings.spin}
    start, structures = read_start(structures or shown.structure, settings.replicas, **told)
    frames = Frames.from_ase(structures, where=shown.structure)
    check_data(model.potential, ArrayDataset(frames))
    if model.has_forces and settings.relax:
        doing("relaxing")
        start, warnings = relax(start, structures, model)
    else:
        warnings = []
    bath = ENSEMBLES[settings.ensemble].bath or settings.equilibration_steps > 0
    first = settings.first_replica
    replicas = range(first, first + settings.replicas)
    start, note = with_velocities(start, settings.temperature, seed=settings.seed, replicas=replicas, bath=bath)
    # messages show the run as it was typed
    session = _assemble(settings, start, model, sha256, _threads(settings, start), shown_run=shown.run)
    session.notes.insert(0, note)
    if start.fixed is not None:
        session.notes.insert(0, f"{int(start.fixed.sum())} of {len(start.numbers)} atoms are held fixed")
    unheard = unheard_state(model.potential, frames)
    session.warnings[:0] = [unheard, *warnings] if unheard else warnings
    return session


def _load(settings: SimulationSettings) -> tuple[LoadedModel, str]:
    run = Run.open(settings.run)
    potential, meta = run.load_model()
    if settings.dtype is not None:
        potential = potential.to(getattr(torch, settings.dtype))
    return LoadedModel(potential, device=choose_device(settings.device), run=run), meta["sha256"]


def _threads(settings: SimulationSettings, start: Start) -> int:
    """One for small molecules: handing their small tensors to other threads takes longer than the work."""
    if settings.threads is not None:
        return settings.threads
    return 1 if len(start.numbers) <= DENSE_MAX_ATOMS else torch.get_num_threads()


def _assemble(
    settings: SimulationSettings,
    start: Start,
    model: LoadedModel,
    sha256: str,
    threads: int,
    *,
    shown_run: str | None = None,
    calibration: str | None = None,
    flags: bool = True,
) -> Session:
    potential = model.potential
    system = start.system(model.device)
    reference = start.reference.to(model.device)
    limits = Limits.from_reference(system, reference)
    steps = settings.n_steps + settings.equilibration_steps
    watch = make_watch(
        shown_run or settings.run,
        sha256,
        settings.uq_threshold,
        settings.on_exceed,
        dynamics=StatePoint(settings.temperature, settings.ensemble, settings.dt, settings.friction),
        steps=steps,
        formula=formula(start.numbers.numpy()),
        calibration=calibration or settings.calibration,
        flags=flags,
    )
    if settings.sigma_every and watch.rule is None:
        hint = f"equimd calibrate {shown_run or settings.run} --data FRAMES, and a threshold (--uq-threshold)"
        raise UncertaintyError("--sigma-every: without a calibrated threshold there are no sigmas", hint=hint)
    state: Any = {"charge": start.charge, "spin": start.spin}
    judge = Judge.of(potential, system, watch.rule, watch.action, limits=limits, **state)
    forces = ForceField(potential, system, judge=judge, compile=settings.compile, steps=steps, **state)
    dof = degrees_of_freedom(system, reference, bath=ENSEMBLES[settings.ensemble].bath)
    identity = {"model_sha256": sha256, "calibration_sha256": _calibration_sha256(watch), "threads": threads}
    if watch.rule is not None and watch.rule.flag is not None:
        identity["two_thresholds"] = True
    too_large = checks.time_step_warning(system, settings.dt)
    direct = not potential.conservative
    warnings = [*([too_large] if too_large else []), *checks.ensemble_warnings(settings, direct), *watch.warnings]
    integrator = _integrator(settings, dof)
    return Session(
        settings, start, system, forces, integrator, limits, dof, watch, identity, list(watch.notes), warnings
    )


def _integrator(settings: SimulationSettings, dof: int) -> Integrator:
    s = settings
    main = ENSEMBLES[s.ensemble].make(s.dt, temperature=s.temperature, dof=dof, seed=s.seed, settings=s)
    if not s.equilibration_steps:
        return main
    return Equilibrated(Langevin(s.dt, s.temperature, s.friction, s.seed), main, s.equilibration_steps)


def _calibration_sha256(watch: Watch) -> str | None:
    """Of the file that says everything about the thresholds, and by their hash about the arrays."""
    return None if watch.source is None else file_digest(watch.source / JSON_FILE)


def molecule_name(session: Session) -> str:
    """What folders are named after: the structure's file, else its formula."""
    from ase.symbols import Symbols

    numbers = session.start.numbers.numpy()
    return Path(session.settings.structure).stem or Symbols(numbers).get_chemical_formula("hill")


def default_folder(session: Session) -> Path:
    """``simulations/MOLECULE-300K-001``, or the first number that is free."""
    return free_name(f"{molecule_name(session)}-{session.settings.temperature:g}K", "simulations")


def begin(session: Session, folder: Path, overwrite: bool = False) -> Simulation:
    """Make the folder, in the place of another simulation's if ``overwrite``, and judge the first frame.

    Raises:
        RunError: the folder holds something.
        MachineError: it cannot be written.
    """
    check_free(folder, overwrite)
    new_folder(folder)
    session.start.save(folder, {"identity": session.identity})
    _write_structure(session.start, folder / STRUCTURE_FILE)
    write_atomic(folder / SETTINGS_FILE, settings_text(session.settings))  # last: from here on it can be gone on with
    return _first(session, folder)


def check_free(folder: Path, overwrite: bool = False, reads: Iterable[str] = ()) -> None:
    """Raise RunError unless a simulation can be begun in ``folder``; as :func:`~equimd.files.check_output`."""
    resume = f"equimd simulate --resume {folder}"
    check_output(folder, overwrite, made=("simulation", START_FILE), resume=resume, reads=reads)


def _write_structure(start: Start, path: Path) -> None:
    """The start geometry for viewers, and for MDAnalysis, which takes the elements from it."""
    from ase.symbols import Symbols

    lines = [str(len(start.numbers)), "start of the simulation, Angstrom"]
    for symbol, x in zip(Symbols(start.numbers.numpy()), start.reference.tolist(), strict=True):
        lines.append(f"{symbol:<2} {x[0]:15.8f} {x[1]:15.8f} {x[2]:15.8f}")
    write_atomic(path, "\n".join(lines) + "\n")


def _first(session: Session, folder: Path) -> Simulation:
    device = session.system.masses.device
    if session.start.velocities is None:
        raise RunError("has no start velocities", where=str(folder / START_FILE))
    return Simulation.start(
        session.system,
        session.integrator,
        session.forces,
        session.start.positions.to(device),
        session.start.velocities.to(device),
        dof=session.dof,
        replicas=session.replicas,
        first_step=-session.settings.equilibration_steps,
        output=session.output(folder),
    )


def reopen(folder: Path, given: Mapping[str, Any]) -> Session:
    """The session of a run in a folder, for :func:`resume`, with a new length if one is given.

    Args:
        given: settings to change (``RESUMABLE``), and ``run`` if the model's folder has moved.

    Raises:
        RunError: not such a folder, or the model or its calibration is not the one the run began with.
        ConfigError: a setting that cannot change.
    """
    check_begun(folder)
    changed = {k: v for k, v in given.items() if k != "run"}
    if wrong := [k for k in changed if k not in RESUMABLE]:
        option = "--" + wrong[0].replace("_", "-")
        raise ConfigError(f"{option} cannot change when a run goes on", where="--resume", hint="leave it out")
    if "run" in given:
        changed["run"] = str(Path(given["run"]).absolute())
    path = str(folder / SETTINGS_FILE)
    settings = parse_settings(read_settings(path), where=path)
    settings = parse_settings(changed, base=settings, where="command line")
    start, meta = Start.load(folder)
    began = meta["identity"]
    model, sha256 = _load(settings)
    # with the calibration that it began with, whichever were made since
    digest = began["calibration_sha256"]
    named = None if digest is None else name_of(settings.run, digest)
    threads, flags = int(began["threads"]), bool(began.get("two_thresholds"))
    session = _assemble(settings, start, model, sha256, threads, calibration=named, flags=flags)
    for key, what in (("model_sha256", "model"), ("calibration_sha256", "calibration")):
        if session.identity[key] != began[key]:
            raise RunError(f"the {what} has changed since the run began", where=settings.run, hint="a new simulation")
    if changed:
        write_atomic(folder / SETTINGS_FILE, settings_text(settings))
    session.identity.update(began)
    return session


def check_begun(folder: Path) -> None:
    """Raise RunError unless there is a simulation in ``folder`` to go on with, which may be written to."""
    if not ((folder / START_FILE).is_file() and (folder / SETTINGS_FILE).is_file()):
        raise RunError("is not a simulation to go on with", where=str(folder), hint="the folder given by --out")
    check_writable(folder)


def resume(session: Session, folder: Path) -> Simulation:
    """Go on where the run in a folder was stopped or killed.

    Raises:
        RunError: the restart file is damaged or does not belong to these settings.
    """
    if (folder / RESTART_FILE).is_file():
        return Simulation.resume(
            session.system,
            session.integrator,
            session.forces,
            session.output(folder),
            dof=session.dof,
        )
    for left in trajectory_files(folder):
        left.unlink()  # killed between its first frame and its first restart file
    return _first(session, folder)
