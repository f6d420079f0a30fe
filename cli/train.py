"""``equimd train``: its options are the settings of :mod:`equimd.config`, one for one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.completion import completing, presets
from equimd.cli.options import with_settings
from equimd.config import DERIVED_KEYS, PRESETS, SECTIONS

_PRESET = typer.Option(
    "--preset",
    help=f"settings by name, for minutes, an hour, hours: {', '.join(PRESETS)}",
    autocompletion=completing(presets),
)


@with_settings(*SECTIONS.values(), skip=DERIVED_KEYS)
def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML file of settings (`equimd config template`)")
    ] = None,
    preset: Annotated[str | None, _PRESET] = None,
    out: Annotated[Path | None, typer.Option("--out", help="run folder to make; by default runs/NAME-001")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="run folder to go on with")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Train a potential on frames with energies and forces.

    The settings come from the options, from a YAML file, or both: options override the file. The run folder holds the
    model, its errors, the split and a checkpoint; a training that was stopped goes on with --resume.

    Examples:

        equimd train --data bundled:ethanol --preset small --max-time 5m --out runs/ethanol
        equimd train --data ethanol_train_01.npz --splits 950 50 0 --test-data ethanol_test_01.npz --max-time 45m
        equimd train --data md17_ethanol.npz --subset-size 2000 --splits 1600 200 200 --num-epochs 10
        equimd train config.yaml --seed 1 --out runs/seed-1
        equimd train --resume runs/ethanol
    """
    from equimd.cli.common import echo_json, log, show_how_to_look
    from equimd.terminal import ProgressBar, show

    if preset is not None:
        options["preset"] = preset
    if resume is not None and (config is not None or out is not None or overwrite):
        raise typer.BadParameter(
            "--resume goes on with a run and its settings: leave out the config file and --out, and --overwrite"
        )
    with ProgressBar() as progress:
        from equimd.data.given import BUNDLED
        from equimd.run import Run
        from equimd.shown import counted
        from equimd.tasks.train import stated_settings
        from equimd.tasks.train import train as work
        from equimd.training.parallel import leads

        if resume is not None:
            done = work(resume=resume, progress=progress, **options)
        else:
            settings = stated_settings(config, options, where="command line")
            done = work(settings=settings, out=out, overwrite=overwrite, progress=progress)
    if not leads():
        return
    log(f"{done.status} after {counted(done.epochs, 'epoch')}; best validation in epoch {done.best_epoch}")
    if json:
        echo_json(done.to_json())
    elif done.test is not None:
        show([f"test errors of {done.run}", *done.parts()])
    if not json:
        show_how_to_look(done.run)
    data = Run.open(done.run).config.dataset.data[0]
    frame = f"{data}@0" if data.startswith(BUNDLED) or Path(data).is_file() else "molecule.xyz"
    log(f"use it: equimd predict {done.run} {shlex.quote(frame)}")
