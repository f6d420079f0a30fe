"""``equimd simulate``: its options are the settings of :mod:`equimd.tasks.simulate.settings`, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.completion import structures
from equimd.cli.options import with_settings
from equimd.errors import EXIT_HALTED, Interrupted
from equimd.tasks.simulate.settings import SimulationSettings

_RUN = typer.Argument(metavar="RUN", help="run folder of the model, or a YAML file of settings", show_default=False)
_START = typer.Argument(
    metavar="STRUCTURE",
    help=SimulationSettings.model_fields["structure"].description,
    show_default=False,
    autocompletion=structures,
)
_OUT = typer.Option("--out", help="folder to make; by default simulations/NAME-300K-001")
_AFTER = typer.Option(
    "--continue", help="folder of a simulation whose last good frames are the start, for a better model RUN"
)


@with_settings(
    SimulationSettings, skip=("run", "structure"), kinds={"time": str, "equilibrate": str, "uq_threshold": str}
)
def simulate(
    source: Annotated[Path | None, _RUN] = None,
    structure: Annotated[str | None, _START] = None,
    out: Annotated[Path | None, _OUT] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="folder of a simulation to go on with")] = None,
    after: Annotated[Path | None, _AFTER] = None,
    run: Annotated[Path | None, typer.Option("--run", help="run folder, in the place of RUN")] = None,
    template: Annotated[bool, typer.Option("--template", help="print a YAML file of all settings")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Molecular dynamics that halts or flags the frame whose predicted force error exceeds a calibrated threshold.

    RUN is a trained and calibrated model, STRUCTURE the start geometry, with velocities or without. The settings come
    from the options, from a YAML file in the place of RUN, or both: options override the file. The output folder holds
    the trajectories (H5MD), a summary, a plot, and the frames that were halted at or flagged; an interrupted or killed
    run goes on with --resume, bit for bit. Exit code 3: the guard halted at least one replica.

    Examples:

        equimd simulate runs/ethanol ethanol.xyz --relax --equilibrate 2 --time 20
        equimd simulate runs/ethanol ethanol.xyz --temperature 600 --replicas 20 --uq-threshold flag
        equimd simulate runs/ethanol ethanol.xyz --ensemble nve --dt 0.5 --steps 20000 --uq-threshold 0.15eV/A
        equimd simulate simulation.yaml --seed 1
        equimd simulate --resume simulations/ethanol-300K-001 --time 50
        equimd simulate --continue simulations/ethanol-600K-001 --run runs/better
        equimd simulate --template > simulation.yaml
    """
    from equimd.cli.common import log
    from equimd.tasks.simulate.settings import parse_settings, read_settings, settings_text
    from equimd.terminal import ProgressBar, show_settings

    if template:
        show_settings(settings_text())
        return
    if resume is not None and (out is not None or structure is not None or overwrite):
        raise typer.BadParameter(
            "--resume goes on in its own folder: leave out the structure and --out, or --overwrite"
        )
    if after is not None and (structure is not None or resume is not None):
        raise typer.BadParameter("--continue goes on from its last good frames: leave out the structure and --resume")
    source, settings = source or run, None
    if after is None and resume is None:
        base = None
        if source is not None and source.suffix.lower() in (".yaml", ".yml"):
            base = parse_settings(read_settings(str(source)), where=str(source))
        elif source is not None:
            options["run"] = str(source)
        if structure is not None:
            options["structure"] = structure
        settings, options = parse_settings(options, where="command line", base=base), {}

    try:
        options |= {"out": out, "resume": resume, "after": after, "overwrite": overwrite}
        with ProgressBar() as progress:
            from equimd.tasks.simulate.call import simulate as work

            done = work(source if resume or after else None, settings=settings, progress=progress, **options)
    except Interrupted as stopped:
        _show(stopped.result, json)
        raise
    _show(done, json)
    log(done.ending)
    if done.status == "halted":
        raise typer.Exit(EXIT_HALTED)


def _show(done: Any, json: bool) -> None:
    """The result on stdout."""
    from equimd.cli.common import echo_json, show_how_to_look
    from equimd.terminal import show

    if json:
        echo_json(done.to_json())
    else:
        show(done.parts())
        show_how_to_look(done.folder)
