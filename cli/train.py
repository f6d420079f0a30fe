"""``equimd train``: its options are the settings of :mod:`equimd.config`, one for one."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.options import keyword, setting_option
from equimd.config import PRESETS, SHORT_TRAINING, RunConfig, Settings, config_keys, parse_config, read_config
from equimd.errors import EXIT_INTERRUPTED, ConfigError

if typing.TYPE_CHECKING:
    from equimd.run import Run
    from equimd.training.parallel import Processes
    from equimd.training.setup import Setup

_HELP = """Train a potential on frames with energies and forces.

    The settings come from the options, from a YAML file, or both: options override the file. The run folder holds the
    model, its errors, the split and a checkpoint; a training that was stopped goes on with --resume.

    Examples:

        equimd train --data bundled:ethanol --preset small --max-time 5m --out runs/ethanol
        equimd train --data ethanol_train_01.npz --splits 950 50 0 --test-data ethanol_test_01.npz --max-time 45m
        equimd train --data md17_ethanol.npz --subset-size 2000 --splits 1600 200 200 --num-epochs 10
        equimd train config.yaml --seed 1 --out runs/seed-1
        equimd train --resume runs/ethanol
    """


def _parameters() -> list[inspect.Parameter]:
    """One keyword parameter for each setting, None where the option is not given."""
    sections = RunConfig.model_fields
    kinds = {"max_time": str, "checkpoint_interval": str}
    return [
        setting_option(typing.cast("type[Settings]", sections[section].annotation), key, kinds)
        for key, section in config_keys().items()
    ]


def train(**options: Any) -> None:
    from equimd.training.parallel import launched

    with launched() as processes:
        if processes.first:
            _lead(processes, options)
        else:
            _follow(processes, options["resume"] is not None)


def _lead(processes: Processes, options: dict[str, Any]) -> None:
    """What the first process does, or the only one; the others take the run folder it made."""
    made = None
    try:
        made = _made(options)
    finally:
        processes.broadcast(str(made[1].path) if made else None)
    _finish(*made, processes)


def _follow(processes: Processes, resume: bool) -> None:
    """Train as another process of a run that the first one made; what there is to say, that one says."""
    from equimd.run import Run
    from equimd.training.loop import Trainer
    from equimd.training.setup import prepare

    path = processes.broadcast(None)
    if path is None:
        return
    run = Run.open(path)
    Trainer(prepare(run.config, run=run), run, resume=resume, processes=processes).fit()


def _made(options: dict[str, Any]) -> tuple[Setup, Run, bool]:
    """The training that the command line asks for, and whether it goes on with an earlier one."""
    config_file, out, resume = (options.pop(k) for k in ("config", "out", "resume"))
    given = {k: v for k, v in options.items() if v is not None and v != []}
    if resume is not None:
        if config_file is not None or out is not None:
            raise typer.BadParameter(
                "--resume goes on with a run and its settings: leave out the config file and --out"
            )
        return _resumed(resume, given)
    base = parse_config(read_config(config_file), where=str(config_file)) if config_file else None
    return _new(parse_config(given, base=base, where="command line"), out)


def _new(config: RunConfig, out: Path | None) -> tuple[Setup, Run, bool]:
    """A run folder for a new training, made only once data and settings are found good."""
    from equimd.machine import choose_device
    from equimd.run import Run, check_free, free_name
    from equimd.training.setup import SPLIT_FILE, complete, prepare

    if out is not None:
        check_free(out)
    choose_device(config.training.device)
    config = complete(config)
    setup = prepare(config)
    name = Path(config.dataset.data[0].replace("bundled:", "")).stem
    run = Run.create(out or free_name(f"{name}-{config.model.forces}"), config, {"data": setup.description()})
    setup.split.save(run.path / SPLIT_FILE)
    for part, hashes in setup.hashes.items():
        run.save_hashes(part, hashes)
    return setup, run, False


def _resumed(path: Path, given: dict[str, Any]) -> tuple[Setup, Run, bool]:
    """The training of an existing run, with a new budget if one is given."""
    from equimd.run import Run
    from equimd.training.setup import RESUMABLE, prepare

    run = Run.open(path)
    if wrong := [k for k in given if k not in RESUMABLE]:
        option = "--" + wrong[0].replace("_", "-")
        raise ConfigError(
            f"{option} cannot change when a training goes on",
            where="--resume",
            hint=f"leave it out, or start a new one from its model: equimd train --init {path} {option} ...",
        )
    config = parse_config(given, base=run.config, where="command line")
    if given:
        run.save_config(config)
    return prepare(config, run=run), run, True


def _finish(setup: Setup, run: Run, resume: bool, processes: Processes) -> None:
    """Train, then test; says what it does on stderr and the test errors on stdout."""
    from equimd import plots
    from equimd.cli.common import log, warn
    from equimd.tasks.evaluate import finish_run, table
    from equimd.training.loop import Trainer

    for note in setup.notes:
        log(note)
    for text in setup.warnings:
        warn(text)
    log(f"run: {run.path}")
    trainer = Trainer(setup, run, resume=resume, processes=processes)
    log(trainer.describe())
    t, m = setup.config.training, setup.config.model
    if not resume and t.max_time is not None and t.max_time < SHORT_TRAINING and m.lmax > 1:
        log("such a short training gets farther with --preset small")
    ended = trainer.fit()
    if ended == "interrupted":
        log(f"interrupted after {trainer.progress.epoch} epochs; go on with: equimd train --resume {run.path}")
        raise typer.Exit(EXIT_INTERRUPTED)
    plots.curves(run.path / "metrics.csv", run.path / "curves.png")
    log(f"{ended} after {trainer.progress.epoch} epochs; best validation in epoch {trainer.progress.best_epoch}")
    if setup.test is not None:
        t = setup.config.training
        summary = finish_run(run, setup.test, batch_size=t.batch_size_inference, device=str(trainer.device))
        typer.echo(f"test errors of {run.path}\n{table(summary, t.display_unit)}")
    log(f"use it: equimd predict {run.path} molecule.xyz")


train.__doc__ = _HELP
train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Argument(help="YAML file of settings (`equimd config template`)")],
        ),
        keyword(
            "out", Annotated[Path | None, typer.Option("--out", help="run folder to make; by default runs/NAME-001")]
        ),
        keyword(
            "preset",
            Annotated[
                str | None,
                typer.Option("--preset", help=f"settings by name, for minutes, an hour, hours: {', '.join(PRESETS)}"),
            ],
        ),
        keyword("resume", Annotated[Path | None, typer.Option("--resume", help="run folder to go on with")]),
        *_parameters(),
    ]
)
train.__annotations__ = {p.name: p.annotation for p in train.__signature__.parameters.values()}  # type: ignore[attr-defined]
