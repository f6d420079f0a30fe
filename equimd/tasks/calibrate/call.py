"""``equimd.calibrate``: from a trained run and frames it never saw to a calibrated run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.config import ReadingSettings
from equimd.data.dataset import notes as reading_notes
from equimd.data.given import GivenData, absolute, given_names, open_given
from equimd.files import check_output, check_writable, locked, plain
from equimd.guard.calibration import JSON_FILE
from equimd.guard.saved import place_for, places
from equimd.guard.sigmas import REGIONS, quality
from equimd.guard.wording import (
    error_meaning,
    error_table,
    error_table_note,
    flag_meaning,
    halt_meaning,
    more_frames,
    more_runs,
)
from equimd.notices import doing, note, warn
from equimd.progress import Callback, counted_stages, duration
from equimd.tables import Parts, Table, Tabled
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.stages import Prepared
from equimd.tasks.calibrate.task import calibrate as work
from equimd.tasks.calibrate.task import estimate, prepare, save
from equimd.tasks.keywords import cpu_threads, run_of, settings_of, takes

if TYPE_CHECKING:
    from equimd.calculators import LoadedModel
    from equimd.guard.calibration import Calibration
    from equimd.run import Run


@dataclass(frozen=True, repr=False)
class CalibrationResult(Tabled):
    """A run that knows its errors.

    Attributes:
        run: the run folder; the calibration is in its folder ``calibration``, or below it, by its name.
        data: names of the calibration frames, if they were given by name.
        calibration: posterior, thresholds and report, as ``model().calibration`` has them.
    """

    run: Path
    data: tuple[str, ...]
    calibration: Calibration

    def model(self) -> LoadedModel:
        """The model with its calibration, loaded at the first call."""
        return self._model

    @cached_property
    def _model(self) -> LoadedModel:
        from equimd.calculators import load

        return load(self.run, calibration=self.calibration.called)

    @property
    def report(self) -> dict[str, Any]:
        """How good the sigmas are, the thresholds and what they mean: the keys of ``equimd calibrate --json``."""
        return self.calibration.report

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd calibrate --json``."""
        return plain({"run": self.run, **self.report, "data": self.data})

    def parts(self) -> Parts:
        """What :meth:`table` is made of."""
        found, calibration = self.report, self.calibration
        on = found["reported_on"]
        ideal = "sigma in meV, meV/A; ideal: ZMS 1, each region its share, ENCE 0"
        metrics = quality(
            {kind: found[kind] for kind in ("energy", "forces")},
            ("zms", *REGIONS, "ence", "miscalibration_area", "sharpness"),
        )
        about = [f"on {on['n']:,} {on['frames']} frames, form {found['form']}; {ideal}"]
        used = found.get("posterior_frames", {"used": 0, "of": 0})
        if used["used"] < used["of"]:
            about.append(f"posterior: {_trained_on(**used)}")
        sentences = [flag_meaning(calibration.flag, calibration), error_meaning(calibration.error)]
        if calibration.halt is not None:
            sentences.insert(0, halt_meaning(calibration.halt, calibration))
        sentences += [*more_runs(calibration), *more_frames(calibration)]
        return [metrics, *about, "", *sentences, *_error_parts(calibration)]

    def _shown(self) -> Mapping[str, str]:
        limits = self.report["thresholds"]
        forces = self.report["forces"]
        found = {"run": str(self.run), "form": self.report["form"], "forces": f"ZMS {forces['zms']:.3g}"}
        found["forces"] += f", {100 * forces['coverage_95']:.3g} % in the region for 95 %"
        found |= {name: f"{limits[name]['value']:.4g} eV/A" for name in ("flag", "halt") if limits[name]}
        return {**found, "meaning": self.report["meaning"]}


def _error_parts(calibration: Calibration) -> list[Table | str]:
    rows = error_table(calibration)
    if not rows:
        return []
    head, *cells = rows
    return ["", Table(cells, head, left=tuple(range(len(head)))), error_table_note(calibration)]


FIELDS = {**ReadingSettings.model_fields, **CalibrationSettings.model_fields}


@takes(FIELDS)
def calibrate(
    run: str | Path | Run | Any,
    data: GivenData,
    *,
    test_data: GivenData | None = None,
    train_data: GivenData | None = None,
    settings: CalibrationSettings | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> CalibrationResult:
    """Learn how sure a trained model may be of itself, from frames it never saw; what ``equimd calibrate`` does.

    Args:
        run: run folder, or what ``equimd.train`` returned.
        data: frames the model never saw, with energies and forces: files, ``bundled:NAME`` (its calibration part),
            ASE ``Atoms`` or a data set.
        test_data: other such frames, to report on; else a part of ``data``.
        train_data: where the training frames are, if they have moved.
        settings: an object of settings, beneath those given as keywords.
        threads: CPU threads; by default all cores.
        overwrite: replace the calibration of the same name that the run has. Others stay.
        progress: called with :class:`~equimd.progress.Progress` in each stage.

    Raises:
        UncertaintyError: an energy-only model, too few frames, frames that are not new, rates outside 0..1.
        ConfigError, DataError, RunError: of settings, data and run.
    """
    read = {key: options.pop(key) for key in ReadingSettings.model_fields if key in options}
    reading = settings_of(ReadingSettings, None, read)
    settings = settings_of(CalibrationSettings, settings, options)

    def frames(given: GivenData, part: str) -> Any:
        opened = open_given(given, reading, part=part)
        for text in reading_notes(opened):
            note(text)
        return opened

    run = run_of(run)
    check_writable(run.path)
    if settings.name is not None:
        check_output(place_for(run.path, settings.name) / JSON_FILE, overwrite, option="--name")
    with cpu_threads(threads), locked(run.path):
        prepared = prepare(
            run,
            frames(data, "calibration"),
            settings,
            test=None if test_data is None else frames(test_data, "test"),
            train_data=() if train_data is None else train_data,
        )
        check_output(prepared.folder / JSON_FILE, overwrite, option="--name")
        for text in prepared.warnings:
            warn(text)
        _announce(prepared)
        with counted_stages(progress) as told:
            done = work(prepared, told)
        folder = save(done, absolute(given_names(data) or ()))
    if done.outcome.refused and settings.halt:
        warn(f"{done.outcome.refused}. Flag and error thresholds are there all the same.")
    if not done.calibration.flag.resolved:
        warn("the frames are so alike in time that the flag rate is uncertain; see its interval")
    others = [name for name in places(run.path) if name != done.calibration.called]
    note(f"calibration: {folder}" + (f", beside {', '.join(others)}" if others else ""))
    return CalibrationResult(prepared.run.path, given_names(data) or (), done.calibration)


def _trained_on(used: int, of: int) -> str:
    return f"{of} training" if used == of else f"{used:,} of {of:,} training frames, drawn at random"


def _announce(prepared: Prepared) -> None:
    """The parts of the frames, and how long it will take about."""
    trained = _trained_on(len(prepared.train), prepared.n_train)
    sizes, how = prepared.parts.sizes, {"trajectory": "whole trajectories", "blocks": "contiguous in time"}
    note(
        f"frames: {trained}; {sizes['fit']} to fit, {sizes['select']} to choose the form, "
        f"{sizes['threshold']} for thresholds ({how.get(prepared.parts.method, 'at random')})"
        + (f"; {len(prepared.test)} for the report" if prepared.test is not None else "")
    )
    if prepared.no_halt is None:
        s = prepared.settings
        note(f"own dynamics: {s.blocks} runs of {s.run_length} steps at {prepared.temperature:g} K, {s.ensemble}")
    doing("estimating the time")
    stages = estimate(prepared)
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in stages.items())
    note(f"this takes about {duration(sum(stages.values()))} ({each})")
    doing("preparing the posterior")
