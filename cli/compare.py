"""``equimd compare``: two models side by side on one molecule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.completion import bundled, completing, structures
from equimd.cli.options import with_settings
from equimd.config import ReadingSettings, StateSettings
from equimd.tasks.compare.settings import compared_fields
from equimd.tasks.simulate.settings import SimulationSettings


@with_settings(ReadingSettings, skip=StateSettings.model_fields)
@with_settings(SimulationSettings, fields=compared_fields(), kinds={"time": str, "equilibrate": str})
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="run folder of a model")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="run folder of another")],
    structure: Annotated[
        Path, typer.Argument(metavar="STRUCTURE", help="start geometry of the dynamics", autocompletion=structures)
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="frames with energies and forces for the errors; may be repeated",
            autocompletion=completing(bundled),
            metavar="<str>",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to make; by default comparisons/STRUCTURE-001")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Compare two models, such as one with conservative and one with direct forces.

    Both run molecules of the same start velocities at constant energy, after a Langevin bath. Measured: errors on the
    frames of --data, net force and torque (zero for forces that have an energy), time of a step (the models in turns;
    CPU time on one thread), drift of the total energy with its error, and for how long all bonds stay within 0.5 A of
    their length in the start geometry. No threshold watches, the physical checks do. The output folder holds a table
    as JSON, a plot and the simulations; the same command again goes on with an interrupted comparison.

    Examples:

        equimd compare runs/conservative runs/direct ethanol.xyz --data bundled:ethanol --time 20
        equimd compare runs/conservative runs/direct ethanol.xyz --replicas 3 --dtype float64 --json
    """
    from equimd.cli.common import echo_json, show_how_to_look
    from equimd.terminal import ProgressBar, show

    options |= {"data": data or None, "out": out, "overwrite": overwrite}
    with ProgressBar() as progress:
        from equimd.tasks.compare.call import compare as work

        done = work(run_a, run_b, structure, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        show(done.parts())
        show_how_to_look(done.folder)
