"""``equimd.compare``: two models side by side on one molecule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.config import ReadingSettings, known_key
from equimd.data.given import GivenData, GivenStructures, open_given, structures_of
from equimd.errors import Interrupted
from equimd.files import check_output, locked, plain
from equimd.notices import note, warn
from equimd.progress import Callback
from equimd.run import free_name
from equimd.tables import Parts, Tabled
from equimd.tasks.compare import task
from equimd.tasks.compare.settings import DEFAULTS, compared_fields
from equimd.tasks.compare.table import table
from equimd.tasks.keywords import run_of, takes
from equimd.tasks.simulate.session import molecule_name
from equimd.tasks.simulate.settings import parse_settings


@dataclass(frozen=True, repr=False)
class ComparisonResult(Tabled):
    """Models side by side.

    Attributes:
        folder: comparison.json, a plot, and the simulations of each model.
        summary: the contents of comparison.json, the keys of ``equimd compare --json``: ``status``, ``models`` (a
            dictionary each) and how they were measured.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def models(self) -> list[dict[str, Any]]:
        """What was measured of each model: errors, drift, stable time, time of a step ..."""
        return self.summary["models"]

    def parts(self) -> Parts:
        """What :meth:`table` is made of: one line a measure, one column a model."""
        return [table(self.summary)]

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd compare --json``."""
        return plain(self.summary)

    def _shown(self) -> Mapping[str, str]:
        found = {"folder": str(self.folder), "status": self.summary["status"]}
        for m in self.models:
            found[m["name"]] = f"{m['forces']}, stable for {m['stable_ps']:g} ps"
            if m["drift_meV_per_atom_per_ps"] is not None:
                found[m["name"]] += f", drift {m['drift_meV_per_atom_per_ps']:.2g} meV/atom/ps"
        return found


@takes({**ReadingSettings.model_fields, **compared_fields()})
def compare(
    run_a: Any,
    run_b: Any,
    structure: GivenStructures,
    *,
    data: GivenData | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> ComparisonResult:
    """Compare two models: errors, conservation of energy, time of a step, stability; what ``equimd compare`` does.

    Args:
        run_a, run_b: run folders, or what ``equimd.train`` returned.
        structure: start geometry of the dynamics, ASE ``Atoms`` or a file.
        data: frames with energies and forces for the errors.
        out: folder to make; by default comparisons/NAME-001. The same call again goes on with an interrupted one.
        overwrite: replace a comparison that ``out`` holds; dynamics of the same settings is read from it.
        progress: called with :class:`~equimd.progress.Progress` during the dynamics of each model.

    Raises:
        Interrupted: Ctrl-C, a KeyboardInterrupt: what was simulated is saved; the same call with ``out`` goes on.
        ConfigError, DataError, ModelError, RunError: what is wrong, before anything is computed.
    """
    if out is not None:
        check_output(Path(out) / task.JSON_FILE, overwrite)
    runs, atoms = [str(run_of(r).path) for r in (run_a, run_b)], None
    reading = ReadingSettings.parse({k: options[k] for k in ReadingSettings.model_fields if k in options})
    for key in options:
        known_key(key, {**ReadingSettings.model_fields, **compared_fields()})
    given: dict[str, Any] = {**DEFAULTS, **{k: v for k, v in options.items() if k in compared_fields()}}
    if isinstance(structure, (str, Path)):
        given["structure"] = str(structure)
    else:
        atoms = structures_of(structure)
    settings = parse_settings(given)
    frames = None if data is None else open_given(data, reading, part="test")
    contenders = task.prepare(runs, settings, frames, atoms)
    for c in contenders:
        for text in c.session.warnings:
            warn(f"{c.name}: {text}")
    folder = Path(out) if out is not None else free_name(molecule_name(contenders[0].session), "comparisons")
    with locked(folder):
        found = ComparisonResult(folder, task.compare(contenders, folder, frames, progress, overwrite=overwrite))
    if found.summary["status"] == "interrupted":
        raise Interrupted(f"interrupted; the same command with --out {folder} goes on", found)
    note(f"table, plot and simulations: {folder}")
    return found
