"""Trainings of learn: a share of the time turned into epochs beforehand, warm starts, frames that stay apart."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from equimd.config import RunConfig, parse_config
from equimd.machine import has_compiler
from equimd.progress import Progress
from equimd.run import Run
from equimd.tasks.learn.work import TimeIsUpError, Work
from equimd.training.loop import Trainer
from equimd.training.setup import Setup, complete, prepare, set_threads
from equimd.training.warm import FEW_EPOCHS, FEW_RATE, FINE_RATE

NOTHING: Mapping[str, Any] = MappingProxyType({})
PROBE = 8  # steps that are timed
WARM = 2  # steps before that
COMPILE_FROM = 2400.0  # seconds of all the time, from which compiling the training step pays back
FEWEST_EPOCHS = 2
PASSES, FEWEST_FRAMES = 10, 40  # over cheap frames, of which there are enough to leave some out


def train_model(
    work: Work,
    number: int | str,
    data: Sequence[Path],
    seconds: float,
    *,
    val: Path | None = None,
    init: Path | None = None,
    changed: Mapping[str, Any] = NOTHING,
) -> dict[str, Any]:
    """Train a model for about so many seconds; a stage of its own, with the validation errors as its result.

    Args:
        data: frames; a tenth of them are for validation where ``val`` gives none.
        init: the run whose model it starts from.
        changed: settings that differ from those asked for.
    """
    stage = f"train-{number}"
    path = work.model_path(number)
    settings = {**_settings(work, data, val, init), **changed}
    plan = work.journal.decide(stage, lambda: _plan(work, settings, seconds))
    config = complete(parse_config({**settings, **plan}))
    return work.journal.once(stage, lambda: _train(work, config, path))


def _settings(work: Work, data: Sequence[Path], val: Path | None, init: Path | None) -> dict[str, Any]:
    s = work.settings
    values: dict[str, Any] = {"preset": s.size, "data": tuple(str(p) for p in data), "seed": s.seed}
    if val is None:
        values["splits"] = (0.9, 0.1, 0.0)
    else:
        values |= {"val_data": (str(val),), "splits": (1.0, 0.0, 0.0)}
    if init is not None:
        values |= {"init": str(init), "lr": FINE_RATE if s.cheap_method is None else FEW_RATE}
    return values


def _plan(work: Work, settings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Epochs that fit into the time, from some steps of a training that is thrown away, compiled if the real one is."""
    asked, short = work.settings.compile, settings.get("lr") == FEW_RATE
    pays = work.settings.max_time >= COMPILE_FROM and has_compiler() and not short
    compile_ = "on" if asked == "on" or (asked == "auto" and pays) else "off"
    began = time.monotonic()
    config = complete(parse_config({**settings, "num_epochs": 1, "compile": compile_}))
    setup = prepare(config)
    each = _seconds_per_epoch(setup, config)
    passes = (seconds - (time.monotonic() - began)) / each
    cheap = "init" not in settings and "val_data" not in settings
    if passes < PASSES and cheap:  # rather some of the frames often than all of them once
        count = max(int(passes / PASSES * (len(setup.train) + len(setup.val))), FEWEST_FRAMES)
        return {"num_epochs": PASSES, "compile": compile_, "subset_size": count}
    epochs = min(int(passes), FEW_EPOCHS) if short else int(passes)
    if epochs < FEWEST_EPOCHS and FEWEST_EPOCHS * each > work.left:
        what = f"{max(0.0, work.left):.0f} s are left to train on {len(setup.train)} frames"
        raise TimeIsUpError(f"the time is up: {what}, of which an epoch takes {each:.1f} s")
    epochs = max(epochs, FEWEST_EPOCHS)
    return {"num_epochs": epochs, "compile": compile_}


def _seconds_per_epoch(setup: Setup, config: RunConfig) -> float:
    restore = set_threads(config, setup.train)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(setup, _run_in(Path(folder) / "probe", config, setup))
            order = trainer.batching.epoch(0)
            batches = [order[k % len(order)] for k in range(PROBE + WARM)]
            times = []
            for batch in trainer.loader(batches):
                began = time.perf_counter()
                trainer.step(batch, 0.0)
                times.append(time.perf_counter() - began)
    finally:
        restore()
    # a share of validation and of checkpoints comes to the steps
    return 1.05 * trainer.steps_per_epoch * sum(times[WARM:]) / PROBE


def _run_in(path: Path, config: RunConfig, setup: Setup) -> Run:
    """A run folder ready to train in."""
    run = Run.create(path, config, {"data": setup.description()})
    setup.keep(run)
    return run


def _train(work: Work, config: RunConfig, path: Path) -> dict[str, Any]:
    from equimd import plots

    resume = (path / "checkpoint").is_dir() and Run.open(path).checkpoint.is_file()
    if resume:
        run = Run.open(path)
        setup = prepare(run.config, run=run)
    else:
        shutil.rmtree(path, ignore_errors=True)  # killed before its first checkpoint
        setup = prepare(config)
        run = _run_in(path, config, setup)

    def tell(event: Progress) -> None:
        work.progress(f"training {path.name}", round(1000 * event.share), 1000)
        if work.left <= 0:
            trainer.stop()

    trainer = Trainer(setup, run, resume=resume, progress=tell)
    ended = trainer.fit()
    if ended == "interrupted":
        raise TimeIsUpError if work.left <= 0 else KeyboardInterrupt
    plots.curves(run.path / "metrics.csv", run.path / "curves.png")
    row = trainer.progress.last_row
    keys = ("train_energy_mae", "train_forces_mae", "val_energy_mae", "val_forces_mae")
    return {
        "epochs": trainer.progress.epoch,
        "seconds": round(trainer.elapsed(), 1),
        "frames": len(setup.train),
        **{key: row[key] for key in keys if key in row},
    }


#: Of the loss, where forces are learned poorly: nearly all of it for the forces.
FORCES = {"energy_weight": 0.01, "forces_weight": 0.99}
LARGER = {"small": "default", "default": "accurate"}
FAR = 0.25  # a training error below this part of the validation error is far below it
ROUNDS = 2  # over which labels have not helped


def changes(work: Work, number: int) -> dict[str, Any]:
    """How the settings of a model differ from those asked for: {values, why}; decided once, from what the models before
    it showed.

    Labels do not help where the validation error of the forces stayed above the error that makes a frame bad over two
    rounds, or training errors are far below validation errors that are still half of it.
    """

    def decide() -> dict[str, Any]:
        before = work.journal.decision(f"changes-{number - 1}")
        values, since = dict(before.get("values", {})), int(before.get("since", 0))
        if number - since < ROUNDS:
            return {"values": values, "since": since, "why": None}
        shown = [work.journal.result(f"train-{k}") or {} for k in range(number - ROUNDS, number)]
        val = [float(r.get("val_forces_mae", 0.0)) for r in shown]
        train, error = float(shown[-1].get("train_forces_mae", val[-1])), work.settings.error
        if min(val) > error:
            why = f"validation forces stayed above {error:g} eV/A over {ROUNDS} rounds"
        elif min(val) > error / 2 and train < FAR * val[-1]:
            why = (
                f"training forces ({1e3 * train:.0f} meV/A) are far below validation forces ({1e3 * val[-1]:.0f} meV/A)"
            )
        else:
            return {"values": values, "since": since, "why": None}
        size = values.get("preset", work.settings.size)
        if "forces_weight" not in values:
            values |= FORCES
        elif size in LARGER:
            values["preset"] = LARGER[size]
        else:
            return {"values": values, "since": since, "why": None}
        return {"values": values, "since": number, "why": why}

    return work.journal.decide(f"changes-{number}", decide)


def in_words(changed: dict[str, Any]) -> str | None:
    """What was changed and why; None if nothing was."""
    if not changed["why"]:
        return None
    now = ", ".join(f"{key} {value}" for key, value in changed["values"].items())
    return f"{changed['why']}: the next models have {now}"
