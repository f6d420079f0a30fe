"""``equimd evaluate``: errors of a trained model on frames with labels, and how well it knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from equimd.cli.arguments import Json, Overwrite, Run
from equimd.cli.completion import bundled, completing
from equimd.cli.options import with_settings
from equimd.tasks.evaluate.settings import EvaluationSettings


@with_settings(EvaluationSettings)
def evaluate(
    run: Run,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="frames with energies and forces; may be repeated",
            autocompletion=completing(bundled),
            metavar="<str>",
        ),
    ],
    display_unit: Annotated[
        Literal["meV", "kcal/mol"], typer.Option("--display-unit", help="of the errors; --json is always in meV")
    ] = "meV",
    out: Annotated[
        Path | None, typer.Option("--out", help="write all frames with predictions, labels and sigmas, extxyz")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG of predicted against true values")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Measure the errors of a trained potential: overall, per element, and the frames where it is worst.

    Of a run that `equimd calibrate` went over, also how well its sigmas match those errors: mean squared z (ZMS, ideal
    1), the share of errors inside regions that should hold 50, 68, 90 and 95 %, negative log likelihood and CRPS (eV,
    eV/A), ENCE (ideal 0), and the rank correlation of sigma and error. Exact sigmas of conservative forces cost tens of
    times the predictions themselves.

    Examples:

        equimd evaluate runs/ethanol --data rmd17_ethanol_test_01.npz
        equimd evaluate runs/ethanol --data bundled:ethanol-600K --json
        equimd evaluate runs/ethanol --data test.extxyz --plot parity.png --out predicted.extxyz
        equimd evaluate runs/ethanol --data test.extxyz --no-uncertainty
    """
    from equimd.cli.common import echo_json
    from equimd.terminal import ProgressBar, show

    with ProgressBar() as progress:
        from equimd.tasks.evaluate.call import evaluate as work

        done = work(run, data, out=out, plot=plot, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        show(done.parts(display_unit))
