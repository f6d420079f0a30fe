"""``equimd calibrate``: the posterior of a trained run, sigmas that mean what they say, and thresholds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite, Run, Threads
from equimd.cli.completion import bundled, completing
from equimd.cli.options import with_settings
from equimd.config import ReadingSettings
from equimd.tasks.calibrate.settings import CalibrationSettings


@with_settings(CalibrationSettings, ReadingSettings)
def calibrate(
    run: Run,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="frames the model never saw, with forces and energies; may be repeated",
            autocompletion=completing(bundled),
            metavar="<str>",
        ),
    ],
    test_data: Annotated[
        list[str] | None,
        typer.Option(
            "--test-data",
            help="other such frames, to report on; else a part of --data",
            autocompletion=completing(bundled),
            metavar="<str>",
        ),
    ] = None,
    train_data: Annotated[
        list[str] | None,
        typer.Option(
            "--train-data",
            help="where the training frames are, if they have moved",
            autocompletion=completing(bundled),
            metavar="<str>",
        ),
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Learn how sure a trained model may be of itself, from frames it never saw.

    Fits the posterior of the last layer to the training frames, recalibrates its sigmas of energies and forces on
    --data, and sets three thresholds: flag (a share of ordinary frames), halt (the probability that an ordinary run
    stops, from the model's own molecular dynamics), error (a multiple of sigma that bounds the error). All of it, with
    plots, goes into RUN/calibration; an interrupted calibration leaves what was there before. A run may have several,
    for other temperatures, ensembles or lengths, each by its name (--name); `equimd simulate` takes the one that fits.

    Examples:

        equimd calibrate runs/ethanol --data bundled:ethanol --test-data bundled:ethanol
        equimd calibrate runs/aspirin --data held_out.xyz --temperature 500 --blocks 99
        equimd calibrate runs/ethanol --data hot.xyz --temperature 600 --run-length 20000
        equimd calibrate runs/ethanol --data held_out.xyz --no-halt --json
    """
    from equimd.cli.common import echo_json, show_how_to_look
    from equimd.terminal import ProgressBar, show

    options |= {"test_data": test_data or None, "train_data": train_data or None, "threads": threads}
    with ProgressBar() as progress:
        from equimd.tasks.calibrate.call import calibrate as work

        done = work(run, data, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        show(done.parts())
        show_how_to_look(done.run)
