"""``equimd.train``: from settings and frames to a run folder, or on from where one was stopped."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd import plots
from equimd.config import ReadingSettings, RunConfig, config_fields, parse_config, read_config
from equimd.data.convert import write_frames
from equimd.data.given import BUNDLED, GivenData, given_names, open_given
from equimd.errors import ConfigError, Interrupted
from equimd.files import check_writable, locked, plain
from equimd.machine import choose_device
from equimd.notices import doing, note, warn
from equimd.progress import counting, duration
from equimd.run import Run, check_free, free_name
from equimd.tables import Parts, Tabled, as_text
from equimd.tasks.evaluate.measure import finish_run, parts
from equimd.tasks.keywords import takes
from equimd.tasks.pretrain import check_pretraining, check_theory, pretrained, worth_it
from equimd.training.account import learned_nothing, plan
from equimd.training.deadline import slurm_end, stop_time
from equimd.training.loop import Trainer
from equimd.training.parallel import Processes, launched
from equimd.training.setup import RESUMABLE, Setup, complete, prepare
from equimd.training.warm import FEW_RATE, inherited

if TYPE_CHECKING:
    from equimd.calculators import LoadedModel
    from equimd.data.dataset import Dataset
    from equimd.progress import Callback

METRICS_FILE = "metrics.csv"
SHORT_TRAINING = 900.0  # seconds in which the small preset gets farther than the default one
DATA_KEYS = ("data", "val_data", "test_data")


@dataclass(frozen=True, repr=False)
class TrainResult(Tabled):
    """A training that has ended.

    Attributes:
        run: the run folder.
        status: ``completed`` (the budget is used up), ``stopped early``, or ``interrupted``.
        epochs, steps: done, over all sessions. best_epoch: the one whose weights were kept.
        training_seconds: over all sessions, without compiling_seconds.
        atoms_per_second: of training steps. waiting_share: the part of their time, 0 to 1, spent waiting for data.
        test: errors on the test frames, as ``equimd.evaluate`` gives them; None without test frames.
    """

    run: Path
    status: str
    epochs: int
    steps: int
    best_epoch: int
    training_seconds: float
    compiling_seconds: float
    atoms_per_second: float
    waiting_share: float
    test: dict[str, Any] | None = None

    def model(self) -> LoadedModel:
        """The model with the best weights by validation, loaded at the first call."""
        return self._model

    @cached_property
    def _model(self) -> LoadedModel:
        from equimd.calculators import load

        return load(self.run)

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns of metrics.csv, a value an epoch: ``epoch``, ``time_s``, ``lr``, ``train_forces_mae_meV_per_A``,
        ``val_forces_mae_meV_per_A`` ...; NaN in epochs without validation."""
        with (self.run / METRICS_FILE).open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: np.array([float(r[name] or "nan") for r in rows]) for name in (rows[0] if rows else ())}

    def parts(self, unit: str | None = None) -> Parts:
        """What :meth:`table` is made of."""
        if self.test is None:
            return []
        return parts(self.test, unit or Run.open(self.run).config.training.display_unit)

    def table(self, unit: str | None = None) -> str:
        """Test errors as text, in ``unit`` (meV or kcal/mol; by default the run's display unit); empty without any."""
        return as_text(self.parts(unit))

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd train --json``."""
        return plain({f.name: getattr(self, f.name) for f in fields(self)})

    def _shown(self) -> Mapping[str, str]:
        found = {"run": str(self.run), "status": f"{self.status}, {self.epochs} epochs"}
        if self.test is not None:
            errors = [(self.test["energy_mae_meV"], "meV"), (self.test["forces_mae_meV_per_A"], "meV/A")]
            found["test MAE"] = ", ".join(f"{value:.3g} {unit}" for value, unit in errors if value is not None)
        return found


@takes(config_fields())
def train(
    data: GivenData | None = None,
    *,
    settings: RunConfig | str | Path | None = None,
    preset: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> TrainResult:
    """Train a potential on frames with energies and forces; what ``equimd train`` does.

    Frames given as ASE ``Atoms`` or as a data set are kept in the run folder, as data.h5, val_data.h5 and test_data.h5,
    so that the run can be resumed and calibrated. Started by torchrun, several processes share the training.

    Args:
        data: files, folders, ``bundled:NAME``, ASE ``Atoms`` with energies and forces, or a data set.
        settings: an object of settings or a YAML file of them, beneath those given as keywords.
        preset: settings by name: small, default, accurate.
        out: run folder to make; by default runs/NAME-001.
        resume: run folder to go on with, with its own settings and, if given, a new budget.
        overwrite: replace a run that ``out`` holds.
        progress: called with :class:`~equimd.progress.Progress`; without it, nothing is shown.

    Raises:
        Interrupted: Ctrl-C, SIGTERM, SIGUSR1 or ``stop_before``, a KeyboardInterrupt: the run is saved, its ``result``
            says how far it is, and ``equimd.train(resume=...)`` goes on. A second signal ends at once.
        ConfigError, DataError, RunError: what is wrong with settings, data or folder, before anything is written; or
            the time ended before the model learned anything (the run can be gone on with, and more time).
    """
    began = time.time()
    given = {"data": data, "preset": preset, **options}
    given = {key: value for key, value in given.items() if value is not None}
    with launched() as processes:
        if not processes.first:
            return _follow(processes)
        made = None
        try:
            if resume is None:
                made = _new(settings, given, out, overwrite, processes)
            else:
                made = _resumed(resume, settings, given, out)
        finally:
            processes.broadcast(str(made[1].path.resolve()) if made else None)  # others may have started elsewhere
        with locked(made[1].path):
            return _fit(*made, stop_time(made[0].config.training, began), processes, progress)


def _follow(processes: Processes) -> TrainResult:
    """Train as another process of a run that the first one made; what there is to say, that one says."""
    path = processes.broadcast(None)
    if path is None:
        raise SystemExit(0)  # the first one has said why
    logging.getLogger("equimd").setLevel(logging.WARNING)
    run = Run.open(path)
    trainer = Trainer(prepare(run.config, run=run), run, resume=run.trained, processes=processes)
    return _result(trainer, trainer.fit())


def stated_settings(
    settings: RunConfig | str | Path | None, given: Mapping[str, Any], *, where: str | None = None
) -> RunConfig:
    """Settings that are given over those of a file or object; beneath a file's, those of the run it starts from.

    Raises:
        ConfigError, RunError: what is wrong with them, or with that run.
    """
    if isinstance(settings, RunConfig):  # which states every setting
        return parse_config(given, where=where, base=settings)
    stated = {} if settings is None else read_config(settings)
    base = None if settings is None else parse_config(stated, where=str(settings))
    if (stated := {**stated, **given}).get("init") and not stated.get("pretrain"):
        given = {**inherited(stated), **given}
    elif stated.get("pretrain"):
        given = {"lr": FEW_RATE, **stated, **given}
    return parse_config(given, where=where, base=base)


def _new(
    settings: RunConfig | str | Path | None,
    given: dict[str, Any],
    out: str | Path | None,
    overwrite: bool,
    processes: Processes,
) -> tuple[Setup, Run]:
    """A run folder for a new training, made only once data and settings are found good."""
    unnamed = [k for k in DATA_KEYS if given_names(given.get(k)) is None]
    config = stated_settings(settings, {k: v for k, v in given.items() if k not in unnamed})
    frames = {k: open_given(given[k], config.dataset.reading) for k in unnamed}
    stop_time(config.training, time.time())
    folder = _folder(config, frames) if out is None else Path(out)
    reads = [name for k in DATA_KEYS for name in getattr(config.dataset, k) or ()]
    check_free(folder, overwrite, [*reads, *(s for s in (config.training.init, config.training.pretrain) if s)])
    choose_device(config.training.device)
    check_pretraining(config, processes.size)
    kept: dict[str, Any] = {k: (str((folder / f"{k}.h5").absolute()),) for k in frames}
    if frames:
        kept |= _reading_of_kept(config)
    config = complete(config.model_copy(update={"dataset": config.dataset.model_copy(update=kept)}))
    setup = prepare(config, frames=frames)
    check_theory(setup)
    if (advice := worth_it(setup)) is not None:
        setup.notes.append(advice)
    run = Run.create(folder, config, {"data": setup.description()}, overwrite=overwrite)
    for key, data in frames.items():
        write_frames(run.path / f"{key}.h5", data, source=data.info.path)
    setup.keep(run)
    return setup, run


def _reading_of_kept(config: RunConfig) -> dict[str, Any]:
    """What is kept is in eV and Angstrom, under its own names: what was said of other columns and units is done with.

    Raises:
        ConfigError: it is said, and other parts are files that it is meant for.
    """
    plain_reading = ReadingSettings()
    if config.dataset.reading != plain_reading and any(getattr(config.dataset, k) for k in DATA_KEYS):
        raise ConfigError(
            "units or columns are stated, and some frames are files, others structures",
            hint="all of them files, or all structures",
        )
    return plain_reading.model_dump()


def _folder(config: RunConfig, frames: Mapping[str, Dataset]) -> Path:
    """``runs/NAME-conservative-001``, or the first number that is free."""
    if "data" in frames:
        name = frames["data"].frames([0]).to_ase()[0].get_chemical_formula("hill")
    elif config.dataset.data:
        name = Path(config.dataset.data[0].removeprefix(BUNDLED)).stem
    else:
        name = "run"
    return free_name(f"{name}-{config.model.forces}")


def _resumed(path: str | Path, settings: object, given: dict[str, Any], out: str | Path | None) -> tuple[Setup, Run]:
    """The training of an existing run, with a new budget if one is given."""
    if settings is not None or out is not None:
        raise ConfigError("--resume goes on with a run and its settings: leave out the config file and --out")
    run = Run.open(path)
    check_writable(run.path)
    if wrong := [k for k in given if k not in RESUMABLE]:
        option = "--" + wrong[0].replace("_", "-")
        raise ConfigError(
            f"{option} cannot change when a training goes on",
            where="--resume",
            hint=f"leave it out, or start a new one from its model: equimd train --init {path} {option} ...",
        )
    config = parse_config(given, base=run.config, where="--resume")
    if given:
        run.save_config(config)
    t = config.training
    if t.stop_before and "stop_before" not in given and t.max_wall_time is None and slurm_end() is None:
        warn(f"when this job ends is not known: --stop-before {duration(t.stop_before)} is left out")
        config = parse_config({"stop_before": None}, base=config)
    if run.trained:
        return prepare(config, run=run), run
    setup = prepare(config)  # stopped before its first checkpoint: from the beginning
    setup.keep(run)
    return setup, run


def _fit(setup: Setup, run: Run, stop_at: float | None, processes: Processes, progress: Callback | None) -> TrainResult:
    """Train, then test."""
    setup.say()
    note(f"run: {run.path}")
    resume = run.trained
    try:
        setup = pretrained(setup, run, stop_at, progress)
    except Interrupted as error:
        done = TrainResult(run.path, "interrupted", 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
        raise Interrupted(f"{error}; go on with: equimd train --resume {run.path}", done) from None
    doing("building the model")
    trainer = Trainer(setup, run, resume=resume, progress=progress, stop_at=stop_at, processes=processes)
    note(plan(trainer))
    t, m = setup.config.training, setup.config.model
    short = t.max_time is not None and t.max_time < SHORT_TRAINING
    if not resume and not t.init and not t.pretrain and short and m.lmax > 1:
        note("such a short training gets farther with --preset small")
    ended = trainer.fit()
    if trainer.pace.atoms_per_second:
        note(f"training steps: {trainer.pace}")
    if ended == "interrupted":
        how = "stopped before the time limit" if trainer.time_is_up else "interrupted"
        text = f"{how} after {trainer.progress.epoch} epochs; go on with: equimd train --resume {run.path}"
        raise Interrupted(text, _result(trainer, ended))
    if why := learned_nothing(trainer):
        run.update_info({"status": "learned nothing"})
        raise ConfigError(
            f"the time ended before the model learned anything: {why}",
            where=f"--max-time {duration(t.max_time or 0.0)}",
            hint=f"more time: equimd train --resume {run.path} --max-time TIME; or start again with --preset small",
        )
    doing("drawing the plots")
    plots.curves(run.path / METRICS_FILE, run.path / "curves.png")
    test = None
    if setup.test is not None:
        size = t.batch_size_inference
        if t.max_atoms_per_batch is not None:
            size = max(1, min(size, t.max_atoms_per_batch // int(setup.test.n_atoms.max(initial=1))))
        settings: dict[str, Any] = {"batch_size": size, "device": str(trainer.device)}
        with counting(progress, "frames", "test errors") as tell:
            test = finish_run(run, setup.test, progress=tell, **settings)
    return _result(trainer, ended, test)


def _result(trainer: Trainer, ended: str, test: dict[str, Any] | None = None) -> TrainResult:
    return TrainResult(trainer.run.path, ended, **trainer.summary(), test=test)
