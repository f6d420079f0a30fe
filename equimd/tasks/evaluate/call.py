"""``equimd.evaluate``: the errors of a trained model on frames with labels, and how well it knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd import plots
from equimd.config import ReadingSettings
from equimd.data.dataset import notes as reading_notes
from equimd.data.given import GivenData, given_names, open_given
from equimd.files import check_output, plain
from equimd.guard.sigmas import parts as sigma_parts
from equimd.notices import note, warn
from equimd.progress import Callback, counting
from equimd.shown import Shown
from equimd.tables import Parts, as_text
from equimd.tasks.evaluate.measure import (
    Evaluation,
    Uncertainties,
    measure,
    parts,
    uncertainties,
    write_evaluated,
)
from equimd.tasks.evaluate.settings import EvaluationSettings
from equimd.tasks.keywords import cpu_threads, loaded, settings_of, takes

if TYPE_CHECKING:
    from equimd.data.dataset import Dataset


@dataclass(frozen=True, repr=False)
class EvaluationResult(Shown):
    """Errors of a model on frames with labels.

    Attributes:
        run: the run folder; None of a model without one.
        data: names of the frames, if they were given by name.
        summary: the keys of ``equimd evaluate --json``: errors in meV and meV/A, by element, and the worst frames.
        values: labels and predictions, as arrays.
        uncertainties: sigmas beside the errors, of a calibrated run; else None.
    """

    run: Path | None
    data: tuple[str, ...]
    summary: dict[str, Any]
    values: Evaluation
    uncertainties: Uncertainties | None
    frames: Dataset

    def parts(self, unit: str = "meV") -> Parts:
        """What :meth:`table` is made of."""
        known = [] if self.uncertainties is None else ["", *sigma_parts(self.summary["uncertainty"])]
        return [*parts(self.summary, unit), *known]

    def table(self, unit: str = "meV") -> str:
        """The summary as text; errors in ``unit``, meV or kcal/mol."""
        return as_text(self.parts(unit))

    def plot(self, path: str | Path, overwrite: bool = False) -> None:
        """A PNG of predicted against true values; ``overwrite`` replaces a file that is there."""
        check_output(path, overwrite, option="--plot")
        where = self.run or "model"
        plots.parity(self.values, Path(path), title=f"{where}: {self.summary['n_frames']} frames")

    def write(self, path: str | Path, overwrite: bool = False) -> None:
        """Extended XYZ of all frames with predictions, labels and sigmas; ``overwrite`` as of :meth:`plot`."""
        check_output(path, overwrite)
        write_evaluated(Path(path), self.frames, self.values, self.uncertainties)

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd evaluate --json``."""
        return plain({"run": self.run, "data": self.data, **self.summary})

    def _shown(self) -> Mapping[str, str]:
        s = self.summary
        found = {"run": str(self.run), "frames": str(s["n_frames"])}
        for name, unit in (("energy", "meV"), ("forces", "meV_per_A")):
            if s[f"{name}_mae_{unit}"] is not None:
                mae, rmse = s[f"{name}_mae_{unit}"], s[f"{name}_rmse_{unit}"]
                found[name] = f"MAE {mae:.4g}, RMSE {rmse:.4g} {unit.replace('_per_', '/')}"
        forces = (s.get("uncertainty") or {}).get("forces")
        if forces:
            found["sigmas of forces"] = f"ZMS {forces['zms']:.3g}, {100 * forces['coverage_95']:.3g} % in 95 %"
        return found


@takes(EvaluationSettings.model_fields)
def evaluate(
    run: Any,
    data: GivenData,
    *,
    settings: EvaluationSettings | None = None,
    out: str | Path | None = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> EvaluationResult:
    """Measure the errors of a trained model: overall, by element, and where it is worst; as ``equimd evaluate`` does.

    Of a calibrated run also how well its sigmas match the errors.

    Args:
        run: run folder, what ``equimd.train`` or ``equimd.calibrate`` returned, or a loaded model.
        data: frames with energies and forces: files, ``bundled:NAME`` (its test part), ASE ``Atoms`` or a data set.
        settings: an object of settings, beneath those given as keywords.
        out: file to write all frames to, with predictions, labels and sigmas, extxyz.
        plot: PNG of predicted against true values.
        overwrite: replace these files if they are there.
        progress: called with :class:`~equimd.progress.Progress` while frames are predicted and sigmas computed.

    Raises:
        DataError: no frames, or none with labels. ModelError: elements the model never saw.
        ConfigError, RunError, UncertaintyError: of settings, run and calibration.
    """
    s = settings_of(EvaluationSettings, settings, options)
    for path, option in ((out, "--out"), (plot, "--plot")):
        if path is not None:
            check_output(path, overwrite, option=option)
    with cpu_threads(s.threads):
        model = loaded(run, s)
        with_sigmas = model.gives_uncertainty("auto" if s.uncertainty else False)
        reading = ReadingSettings(**{key: getattr(s, key) for key in ReadingSettings.model_fields})
        frames = open_given(data, reading, part="test")
        for text in reading_notes(frames):
            note(text)
        with counting(progress, "frames", "errors") as tell:
            found = measure(model, frames, batch_size=s.batch_size_inference, progress=tell)
        known = None
        if with_sigmas:
            with counting(progress, "frames", "uncertainties") as tell:
                known = uncertainties(
                    model, frames, max_frames=s.uncertainty_frames, batch_size=s.batch_size_inference, progress=tell
                )
    summary = found.summary() if known is None else known.join(found.summary())
    if summary["n_known_frames"]:
        warn(f"{summary['n_known_frames']} of these frames were used in training or validation: the errors flatter")
    if not model.has_forces:
        warn("the model was trained on energies alone: it gives no forces")
    folder = None if model.run is None else model.run.path
    result = EvaluationResult(folder, given_names(data) or (), summary, found, known, frames)
    if plot is not None:
        result.plot(plot, overwrite)
        note(f"plot: {plot}")
    if out is not None:
        result.write(out, overwrite)
        note(f"wrote {summary['n_frames']:,} frames to {out}")
    return result
