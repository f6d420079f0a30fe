"""``equimd report``: its options are the settings of :mod:`equimd.tasks.report.settings`, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.options import with_settings
from equimd.tasks.report.settings import ReportSettings


@with_settings(ReportSettings)
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="of a run, a simulation, a learn run or a comparison")
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """One HTML page of runs, simulations and learn runs: plots to enlarge, molecules in 3D, all in words too.

    Of a run: settings, learning curves, parity, error against sigma, thresholds, certificate. Of a simulation: energy,
    temperature and sigma along the trajectory, distances, vibrations, torsions, and the molecule in 3D, coloured by the
    sigma of the force on each atom; a click on a flag shows its frame. Of a learn run: its rounds, labels and what it
    shows. The page is one file that loads nothing, for browsers without a network and phones. What cannot be had, such
    as the parity of a run whose test data have moved, is left out with a line that says why.

    Examples:

        equimd report runs/ethanol
        equimd report runs/ethanol simulations/ethanol-300K-001 --out ethanol.html
        equimd report runs/conservative runs/direct --out both.html --overwrite
        equimd report learn/ethanol-300K-001 --json
    """
    from equimd.cli.common import echo_json
    from equimd.terminal import ProgressBar

    with ProgressBar() as progress:
        from equimd.tasks.report.call import report as work

        done = work(*folders, out=out, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        typer.echo(f"{done.path}: open it in a browser")
