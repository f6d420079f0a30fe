"""``equimd.analyse``: what a trajectory tells, with errors of sampling and of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.errors import ConfigError
from equimd.files import check_output
from equimd.notices import note
from equimd.progress import Callback
from equimd.tables import Parts, Tabled
from equimd.tasks.keywords import settings_of, takes
from equimd.tasks.trajectory import files, plot
from equimd.tasks.trajectory.measure import Measured, measured
from equimd.tasks.trajectory.settings import AnalysisSettings
from equimd.tasks.trajectory.source import Source, open_source
from equimd.tasks.trajectory.table import parts


@dataclass(frozen=True, repr=False)
class AnalysisResult(Tabled):
    """What a trajectory tells.

    Attributes:
        source: the frames, by replica (``source.runs``), and the molecule.
        found: ``means`` (of ``potential_energy`` in eV, ``temperature`` in K, ``force_sigma`` in eV/Angstrom: mean, its
            sampling error, standard deviation, independent values), ``drift`` of the conserved quantity in meV/atom/ps,
            ``bonds`` (each bonded pair: ``name``, ``length``), ``torsions`` (distribution and ``wells``),
            ``distances`` (h(r)), ``vibrations`` (density of states) and ``velocity_autocorrelation`` (``x``, ``y``),
            ``flagged`` saved frames, ``events`` that the guard spoke about, with reasons, and what is ``left_out``.
            ``model`` says how the errors of the model were found, or ``no_model`` why there are none; they stand
            beside what they are of: ``means["potential_energy"].model``, ``bonds[0].length.model`` ...
    """

    source: Source
    found: Measured

    def parts(self) -> Parts:
        """What :meth:`table` is made of."""
        return parts(self.source.name, len(self.source.runs), self.found)

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd traj analyse --json``."""
        return files.as_json(self.source, self.found)

    def plot(self, path: str | Path, overwrite: bool = False) -> None:
        """A PNG of all quantities; ``overwrite`` replaces a file that is there."""
        check_output(path, overwrite)
        plot.figure(self.source, self.found, Path(path))

    def write(self, folder: str | Path, overwrite: bool = False) -> None:
        """A folder with everything as JSON, a CSV table of each quantity, and the figure."""
        check_output(folder, overwrite, made=("analysis", files.JSON_FILE), reads=[_path(self.source.name)])
        files.write(self.source, self.found, Path(folder))

    def _shown(self) -> Mapping[str, str]:
        shown = {"source": self.source.name, "frames": f"{self.found.n_frames:,}"}
        return shown | {name: of.told(3) for name, of in self.found.means.items()}


@takes(AnalysisSettings.model_fields)
def analyse(
    trajectory: Any,
    *,
    settings: AnalysisSettings | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> AnalysisResult:
    """What a trajectory tells, with its errors; what ``equimd traj analyse`` does.

    Errors of sampling are standard errors from the integrated autocorrelation time. Those of the model, of a simulation
    in a heat bath by a calibrated run, are standard deviations over draws from its posterior
    (:mod:`equimd.uq.draws`).

    Args:
        trajectory: folder of a simulation (all its replicas), what ``equimd.simulate`` returned, or a file of frames of
            one molecule; some of the frames as in ``md@::10``.
        settings: an object of settings, beneath those given as keywords.
        out: folder to write everything to: JSON, CSV tables, a figure.
        overwrite: replace an analysis that ``out`` holds.
        progress: called with :class:`~equimd.progress.Progress` while draws are computed, the slow part.

    Raises:
        DataError: no frames, a damaged file, or frames of several molecules. RunError: a damaged simulation.
        ConfigError: of settings. UncertaintyError: a ``run`` that is not calibrated.
    """
    asked = settings_of(AnalysisSettings, settings, options)
    given = getattr(trajectory, "folder", trajectory)
    if not isinstance(given, (str, Path)):
        raise ConfigError(f"not a trajectory: {type(given).__name__}", hint="a folder of a simulation, or a file")
    if out is not None:
        check_output(out, overwrite, made=("analysis", files.JSON_FILE), reads=[_path(given)])
    source = open_source(given, asked.replica, asked.interval)
    found = measured(source, errors=asked.uncertainty, run=asked.run, progress=progress)
    result = AnalysisResult(source, found)
    if out is not None:
        files.write(source, found, Path(out))
        note(f"wrote {out}")
    return result


def _path(given: str | Path) -> str:
    from equimd.data.paths import selection

    return selection(given)[0]
