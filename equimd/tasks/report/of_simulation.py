"""The part of a simulation: how it ended, the molecule in 3D, what happened along it, and what it averages to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from equimd.calculators import LoadedModel
from equimd.chemistry import formula
from equimd.data.readers.structures import read_structures
from equimd.errors import DataError, EquimdError, RunError
from equimd.files import understood
from equimd.guard.certificate import words
from equimd.guard.saved import is_calibrated
from equimd.machine import choose_device
from equimd.md.simulation import SUSPECTS_FILE
from equimd.md.trajectory import Columns, read_columns, trajectory_path
from equimd.run import Run
from equimd.shown import counted
from equimd.tasks.generate.sampling import bonds as find_bonds
from equimd.tasks.report import of_trajectory
from equimd.tasks.report.page import Page, facts, folded, paragraph, prose, text
from equimd.tasks.report.settings import ReportSettings
from equimd.tasks.report.trajectories import Shot, packed, shot, with_sigmas
from equimd.tasks.simulate.session import SETTINGS_FILE
from equimd.tasks.simulate.start import Start
from equimd.tasks.simulate.task import SUMMARY_FILE, flags_in_words

FEWEST = 4  # frames of a replica in 3D


@dataclass
class ReportedSimulation:
    """A simulation whose part is made; what is needed twice is read once.

    Attributes:
        view: id of its 3D view, once there is one.
    """

    folder: Path
    settings: ReportSettings
    summary: dict[str, Any]
    view: str = ""
    damaged: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, settings: ReportSettings) -> ReportedSimulation:
        """A simulation that has come to an end, a halt or Ctrl-C.

        Raises:
            RunError: it has no summary yet, or a damaged one.
        """
        path = folder / SUMMARY_FILE
        if not path.is_file():
            hint = f"equimd simulate --resume {folder}"
            raise RunError(f"has no {SUMMARY_FILE}: the simulation is not at an end", where=str(folder), hint=hint)
        with understood(path):
            found = dict(json.loads(path.read_text(encoding="utf-8")))
            _ = found["status"], found["settings"]["temperature"], found["uncertainty"]["mode"], found["n_replicas"]
        return cls(folder, settings, found)

    @cached_property
    def start(self) -> Start:
        """Elements, cell, and the start geometry."""
        return Start.load(self.folder)[0]

    @cached_property
    def columns(self) -> dict[int, Columns]:
        """What is one number a frame, by replica; replicas that were halted before their first frame are not there.

        Raises:
            DataError: no replica has a trajectory that can be read.
        """
        count, found = self.summary["n_replicas"], {}
        for replica in self.replicas:
            path = trajectory_path(self.folder, replica, count)
            try:
                if path.is_file():
                    found[replica] = read_columns(path)
            except EquimdError as error:
                self.damaged.append(str(error).splitlines()[0])
        if not found or not any(len(c.step) for c in found.values()):
            raise DataError(self.damaged[0] if self.damaged else "no frame was saved", where=str(self.folder))
        return {r: c for r, c in found.items() if len(c.step)}

    @property
    def replicas(self) -> range:
        """Numbers of the replicas."""
        first = self.summary["settings"]["first_replica"]
        return range(first, first + self.summary["n_replicas"])

    @property
    def several(self) -> bool:
        """Whether there are replicas to choose from."""
        return len(self.columns) > 1

    @cached_property
    def suspects(self) -> list[Any]:
        """Frames that the guard halted at or flagged."""
        path = self.folder / SUSPECTS_FILE
        return read_structures(path) if path.is_file() and path.stat().st_size else []

    @property
    def threshold(self) -> float | None:
        """Of the guard, eV/Angstrom."""
        found: float | None = self.summary["uncertainty"].get("threshold")
        return found

    @cached_property
    def model(self) -> LoadedModel:
        """The model it was made with.

        Raises:
            RunError: it is not there any more, or is another one.
        """
        run = Run.open(self.summary["settings"]["run"])
        potential, meta = run.load_model()
        if meta["sha256"] != self.summary["model_sha256"]:
            raise RunError("the model is not the one of this simulation any more", where=str(run.path))
        named = (self.summary.get("uncertainty") or {}).get("calibration")
        device = choose_device(self.settings.device)
        return LoadedModel(potential, device=device, run=run, sha256=meta["sha256"], calibration=named)


def simulation_part(page: Page, folder: Path, settings: ReportSettings, told: Callable[[str], None]) -> str:
    """The sections of a simulation.

    Args:
        told: what is computed, before it is.

    Raises:
        RunError: it is not at an end, or its summary is damaged.
    """
    s = ReportedSimulation.open(folder, settings)
    s.view = f"view-{len(page.data)}"
    made = page.section("The simulation", lambda: _about(s))
    made += page.section("The molecule", lambda: _molecule(page, s, told))
    made += page.section("Along the trajectory", lambda: of_trajectory.along(page, s))
    made += page.section("Observables", lambda: of_trajectory.observables(s))
    made += page.section("Distances", lambda: of_trajectory.distances(page, s.summary))
    made += page.section("Vibrations", lambda: of_trajectory.vibrations(page, s.summary))
    return made + page.section("Torsions", lambda: of_trajectory.torsion_angles(page, s))


def _about(s: ReportedSimulation) -> str:
    made, given = s.summary, s.summary["settings"]
    made_of = f"{made['steps']:,} steps of {given['dt']:g} fs ({made['time_ps']:g} ps)"
    molecule = formula(s.start.numbers.numpy())
    many = f"{made['n_replicas']} replicas of {molecule}" if made["n_replicas"] > 1 else molecule
    rows: list[tuple[str, object]] = [("folder", s.folder), ("model", given["run"]), ("molecule", many)]
    rows += [("dynamics", f"{given['ensemble']}, {given['temperature']:g} K, {made_of}")]
    uq = made["uncertainty"]
    guard = "physical checks alone"
    if uq["mode"] != "off":
        guard = f"{uq['action']}s above a force sigma of {uq['threshold']:.4g} eV/Å ({uq['mode']} threshold)"
        guard += f", flags above {uq['flag']['threshold']:.4g} eV/Å" if "flag" in uq else ""
    rows += [("guard", guard)]
    warned = "".join(f'<p class="warning">{prose(w)}</p>' for w in made["warnings"])
    certified = paragraph(words(uq["certificate"])) if "certificate" in uq else ""
    status = f'<p class="status">{prose(in_words(made))}</p>'
    settings = (s.folder / SETTINGS_FILE).read_text(encoding="utf-8")
    return status + warned + facts(rows) + certified + folded("All settings (simulation.yaml)", settings)


def in_words(summary: Mapping[str, Any]) -> str:
    """How a simulation ended, in a sentence or two."""
    flags = f"flagged: {flags_in_words(summary)}" if summary["n_flagged"] else "nothing was flagged"
    time = f"{summary['time_ps']:g} ps"
    if summary["status"] == "interrupted":
        return f"Interrupted after {time}; {flags}."
    if summary["status"] == "completed":
        return f"Ran through {time} without a halt; {flags}."
    halts = summary["halted"]
    first = halts[0]
    where = f"at step {first['step']:,} ({first['time_ps']:.3f} ps): {first['reason']}"
    halted = f"The guard halted it {where}"
    if summary["n_replicas"] > 1:
        halted = (
            f"The guard halted {len(halts)} of {summary['n_replicas']} replicas, replica {first['replica']} {where}"
        )
    return f"{halted}; {flags}. A frame that is refused is not part of the trajectory."


def _molecule(page: Page, s: ReportedSimulation, told: Callable[[str], None]) -> str:
    """The 3D view."""
    each = max(FEWEST, s.settings.frames // len(s.columns))
    shots = []
    for replica, columns in s.columns.items():
        path = trajectory_path(s.folder, replica, s.summary["n_replicas"])
        own = [a for a in s.suspects if a.info["replica"] == replica]
        shots.append(shot(replica, path, columns, each, own, s.summary["settings"]["dt"]))
    shots, uncoloured = _coloured(s, shots, told)
    atoms = s.start.atoms()
    open_molecule = not any(s.start.pbc)
    known = np.concatenate([x.atom_sigma.ravel() for x in shots])
    known = known[np.isfinite(known)]
    full = s.threshold or (float(np.quantile(known, 0.99)) if len(known) else 1.0)
    bonds = find_bonds(atoms.numbers, atoms.positions)
    page.data[s.view] = {
        "elements": atoms.get_chemical_symbols(),
        "bonds": [[int(b) for a, b in (*bonds, *bonds[:, ::-1]) if a == k] for k in range(len(atoms))],
        "edges": [] if open_molecule else _edges(atoms.cell.array, atoms.positions.mean(0)),
        "full": full,
        "replicas": [packed(x, turn=open_molecule) for x in shots],
    }
    taken, saved, more = (sum(getattr(x, k) for x in shots) for k in ("taken", "saved", "spoken_of"))
    note = f"{taken:,} of {saved:,} saved frames, taken evenly, flagged ones on top (--frames for more)"
    note += f", and {more} that the guard kept." if more else "."
    if open_molecule:
        note += " Each frame is turned onto the first."
    if len(known):
        what = "the threshold" if s.threshold else "the 99 % quantile"
        note += (
            f" Colours: force sigma of each atom, from blue (0) over amber ({what}, {full:.3g} eV/Å) to red (twice it)."
        )
    return _chooser(s) + _view_html(s, full if len(known) else None, uncoloured) + f'<p class="note">{text(note)}</p>'


def _coloured(s: ReportedSimulation, shots: list[Shot], told: Callable[[str], None]) -> tuple[list[Shot], str]:
    """The frames with the sigmas of their atoms, or why there are none."""
    try:
        if not is_calibrated(s.model.run.path if s.model.run else ""):
            return shots, "The run is not calibrated: atoms are coloured by element."
        lacking = sum(int((~np.isfinite(x.atom_sigma).all(1)).sum()) for x in shots)
        if lacking:
            told(f"sigmas of {counted(lacking, 'frame')} of {s.folder}")
        return with_sigmas(shots, s.start.atoms(), s.model, _silent), ""
    except EquimdError as error:
        return shots, f"No sigmas of atoms: {error.where or ''} {error.what}."


def _silent(*_: int) -> None:
    return None


def _edges(cell: np.ndarray, centre: np.ndarray) -> list[Any]:
    """The twelve edges of the cell, about the centre of the frames."""
    found = []
    for a in range(3):
        b, c = (k for k in range(3) if k != a)
        for i in (0, 1):
            for j in (0, 1):
                start = i * cell[b] + j * cell[c] - centre
                found.append([start.tolist(), (start + cell[a]).tolist()])
    return found


def _chooser(s: ReportedSimulation) -> str:
    """The replica to look at, where there are several."""
    if not s.several:
        return ""
    halted = {h["replica"] for h in s.summary["halted"]}
    flagged = {r for r, c in s.columns.items() if (c.observables.get("flagged", np.zeros(1)) > 0).any()}
    options = "".join(
        f'<option value="{r}">{r}{" (halted)" if r in halted else " (flagged)" if r in flagged else ""}</option>'
        for r in s.columns
    )
    return f'<p><label>Replica <select class="replica" data-view="{s.view}">{options}</select></label></p>\n'


def _view_html(s: ReportedSimulation, full: float | None, uncoloured: str) -> str:
    label = f"Molecule in 3D, {formula(s.start.numbers.numpy())}; the controls below choose the frame"
    sigma = '<option value="sigma">force sigma</option>' if full is not None else ""
    scale = ""
    if full is not None:
        ends = "<span>0</span>", f"<span>{2 * full:.3g} eV/Å</span>"
        scale = f'<div class="scale">{ends[0]}<canvas width="160" height="12"></canvas>{ends[1]}</div>'
    why = f'<p class="missing">{text(uncoloured)}</p>' if uncoloured else ""
    return (
        f'{why}<div class="view" id="{s.view}"><div class="stage" role="img" aria-label="{text(label)}"></div>'
        '<p class="where"></p><div class="controls"><button type="button" class="play">Play</button>'
        '<button type="button" class="back" aria-label="Frame before">◀</button>'
        '<button type="button" class="next" aria-label="Next frame">▶</button>'
        '<input type="range" min="0" value="0" step="1" aria-label="Frame">'
        f'<label>Colour <select class="colour">{sigma}<option value="element">element</option></select></label>'
        f"</div>{scale}</div>\n"
    )
