"""``equimd.simulate``: molecular dynamics that halts or flags frames, from a run and a structure to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from equimd.data.given import GivenStructures, structures_of
from equimd.errors import ConfigError, DataError, Interrupted
from equimd.files import locked, plain
from equimd.md.simulation import SUSPECTS_FILE
from equimd.md.trajectory import Trajectory, read, trajectory_path
from equimd.notices import note, warn
from equimd.progress import Callback
from equimd.tables import Parts, Tabled
from equimd.tasks.keywords import run_of, takes
from equimd.tasks.simulate import checks, session
from equimd.tasks.simulate.advice import last_words
from equimd.tasks.simulate.continued import continued
from equimd.tasks.simulate.session import Session
from equimd.tasks.simulate.settings import SimulationSettings, parse_settings, read_settings
from equimd.tasks.simulate.task import execute, table

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.run import Run


@dataclass(frozen=True, repr=False)
class SimulationResult(Tabled):
    """A simulation that has ended. One that the guard halted is a result like any other, not an error.

    Attributes:
        folder: trajectories (H5MD), summary.json, a plot, and the frames that were halted at or flagged.
        summary: the contents of summary.json, the keys of ``equimd simulate --json``.
        ending: what happened, in a sentence, and what to do next.
    """

    folder: Path
    summary: dict[str, Any]
    ending: str

    @property
    def status(self) -> Literal["completed", "halted", "interrupted"]:
        """``completed`` only if no replica was halted."""
        return self.summary["status"]

    @property
    def halted(self) -> list[dict[str, Any]]:
        """Replica, step, reason, score, threshold and atoms of each replica that the guard halted."""
        return self.summary["halted"]

    @property
    def n_flagged(self) -> int:
        """Events in which frames were flagged."""
        return self.summary["n_flagged"]

    def trajectory(self, replica: int | None = None) -> Trajectory:
        """Steps, times (fs), positions (T, n, 3), velocities, forces (Angstrom, fs, eV) and observables of one replica,
        by its number; by default the first. Read at each call.

        Raises:
            DataError: no such replica, or it was halted before its first frame.
        """
        first, count = self.summary["settings"]["first_replica"], self.summary["n_replicas"]
        number = first if replica is None else replica
        path = trajectory_path(self.folder, number, count)
        if number not in range(first, first + count) or not path.is_file():
            known = f"{first} to {first + count - 1}" if count > 1 else f"{first} alone"
            raise DataError(f"no trajectory of replica {number}", where=str(self.folder), hint=f"there is {known}")
        return read(path)

    def flagged(self) -> list[Atoms]:
        """Frames that the guard halted at or flagged, with the reason and score of each; none if it never spoke."""
        from equimd.data.readers.structures import read_structures

        path = self.folder / SUSPECTS_FILE
        return read_structures(path) if path.is_file() else []

    def parts(self) -> Parts:
        """What :meth:`table` is made of."""
        return [table(self.summary)]

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd simulate --json``."""
        return plain(self.summary)

    def _shown(self) -> Mapping[str, str]:
        s = self.summary
        found = {"folder": str(self.folder), "status": self.status, "time": f"{s['time_ps']:g} ps"}
        if s["n_replicas"] > 1:
            found["replicas"] = f"{s['n_replicas']}, {len(self.halted)} halted"
        elif self.halted:
            found["reason"] = self.halted[0]["reason"]
        if s["temperature_K_mean"] is not None:
            found["temperature"] = f"{s['temperature_K_mean']:.1f} K"
        return {**found, "flagged": f"{self.n_flagged} events"}


FIELDS = {k: v for k, v in SimulationSettings.model_fields.items() if k not in ("run", "structure")}


@takes(FIELDS)
def simulate(
    run: str | Path | Run | Any = None,
    structure: GivenStructures | None = None,
    *,
    settings: SimulationSettings | str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    after: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> SimulationResult:
    """Molecular dynamics of a trained model; what ``equimd simulate`` does.

    Args:
        run: run folder, or what ``equimd.train`` or ``equimd.calibrate`` returned.
        structure: start geometry, ASE ``Atoms`` or a file: one for all replicas, or one for each. Momenta are taken as
            start velocities.
        settings: an object of settings or a YAML file of them, beneath those given as keywords.
        out: folder to make; by default simulations/NAME-300K-001.
        resume: folder of a simulation to go on with, to its end or as far as ``steps`` or ``time`` say.
        after: folder of a simulation whose last good frames are the start, in the place of a structure: the rest of it
            with ``run``, a better model. Settings that are not stated are those of that simulation.
        overwrite: replace a simulation that ``out`` holds.
        progress: called with :class:`~equimd.progress.Progress`; without it, nothing is shown.

    Raises:
        Interrupted: Ctrl-C, a KeyboardInterrupt: the run is saved, its ``result`` says how far it is, and
            ``equimd.simulate(resume=...)`` goes on. A second Ctrl-C ends at once.
        ConfigError, DataError, ModelError, RunError, UncertaintyError: what is wrong, before a file is written.
        MachineError: the disk is full; what was written is intact.
    """
    if resume is not None:
        if out is not None or structure is not None:
            raise ConfigError("--resume goes on in its own folder: leave out the structure and --out")
        return _go_on(Path(resume), run, options, progress)
    if settings is not None and not isinstance(settings, SimulationSettings):
        settings = parse_settings(read_settings(str(settings)), where=str(settings))
    if run is not None:
        options["run"] = str(run_of(run).path)
    atoms = None
    if isinstance(structure, (str, Path)):
        options["structure"] = str(structure)
    elif structure is not None:
        options["structure"], atoms = "", structures_of(structure)
    start = None
    if after is not None:
        if structure is not None or settings is not None:
            raise ConfigError(
                "--continue starts from its last good frames: leave out the structure and the settings file"
            )
        settings, start = continued(Path(after), options)
    else:
        settings = parse_settings(options, base=settings)
    if out is not None:
        reads = filter(None, (settings.run, settings.structure, after))
        session.check_free(Path(out), overwrite, map(str, reads))
    ready = session.prepare(settings, atoms, start)
    if after is not None:
        ready.identity["continues"] = str(Path(after).absolute())
    folder = Path(out) if out is not None else session.default_folder(ready)
    needed = checks.disk_needed(settings, ready.system.n_atoms, ready.judge.threshold is not None)
    disk, too_little = checks.disk_note(needed, folder)
    for text in [*ready.notes, disk]:
        note(text)
    for text in [*ready.warnings, *([too_little] if too_little else [])]:
        warn(text)
    note(f"simulation: {folder}, {_length(settings)}")
    with locked(folder):
        summary = execute(ready, lambda: session.begin(ready, folder, overwrite), folder, progress)
    return _ended(ready, summary, folder, settings.run)


def _go_on(folder: Path, run: Any, options: dict[str, Any], progress: Callback | None) -> SimulationResult:
    """The rest of an interrupted run, or more of a finished one."""
    given = options if run is None else {**options, "run": str(run_of(run).path)}
    session.check_begun(folder)
    with locked(folder):
        ready = session.reopen(folder, given)
        note(f"simulation: {folder}, {_length(ready.settings)}")
        summary = execute(ready, lambda: session.resume(ready, folder), folder, progress)
    return _ended(ready, summary, folder, ready.settings.run)


def _ended(ready: Session, summary: dict[str, Any], folder: Path, run: str) -> SimulationResult:
    result = SimulationResult(folder, summary, last_words(ready, summary, folder, run))
    if result.status == "interrupted":
        raise Interrupted(result.ending, result)
    return result


def _length(settings: SimulationSettings) -> str:
    many = f"{settings.replicas} replicas, " if settings.replicas > 1 else ""
    return f"{many}{settings.n_steps} steps of {settings.dt:g} fs, {settings.n_steps * settings.dt / 1000:g} ps"
