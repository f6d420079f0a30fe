"""``equimd learn``: its options are the settings of :mod:`equimd.tasks.learn.settings`, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.completion import structures
from equimd.cli.options import with_settings
from equimd.errors import EXIT_HALTED, Interrupted
from equimd.tasks.learn.settings import LearnSettings


@with_settings(LearnSettings, skip=("molecule",), kinds={"error": str})
def learn(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="MOLECULE",
            help="a structure file, a name, SMILES, or a YAML file of settings",
            autocompletion=structures,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder to make; by default learn/NAME-300K-001")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="folder of a learn run to go on with")] = None,
    template: Annotated[bool, typer.Option("--template", help="print a YAML file of all settings")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """From a molecule and a reference method to a certified potential.

    MOLECULE is a structure file, a name ASE knows, or SMILES. Frames of a cheap method, labels where they tell most,
    training, calibration, exploration by the model's own guarded dynamics, and an audit: again until the certificate
    holds, or labels or time are spent. The certificate says that of the frames which runs of --run-length steps at
    --temperature visit and the guard lets pass, fewer than --share have a force error above --error, and that such runs
    halt with a probability below --false-halt-rate.

    All of it is in the output folder, the model in its folder `run`; an interrupted or killed run goes on with
    --resume. Exit code 3: it ended without a certificate, and says what is missing.

    Examples:

        equimd learn ethanol --max-time 60m
        equimd learn "CCC(C)O" --temperature 700 --error 0.25eV/A
        equimd learn molecule.xyz --calculator mypackage.calc:MyCalculator --labels 250
        equimd learn learn.yaml --seed 1
        equimd learn --resume learn/ethanol-300K-001 --max-time 3h
        equimd learn --template > learn.yaml
    """
    from equimd.cli.common import log
    from equimd.tasks.learn.report import settings_text
    from equimd.terminal import ProgressBar, show_settings

    if template:
        show_settings(settings_text())
        return
    settings = None
    if source is not None and source.lower().endswith((".yaml", ".yml")):
        source, settings = None, source

    given = {"settings": settings, "out": out, "resume": resume, "overwrite": overwrite, **options}
    try:
        with ProgressBar() as progress:
            from equimd.tasks.learn.call import learn as work

            done = work(source, progress=progress, **given)
    except Interrupted as stopped:
        _show(stopped.result, json)
        raise
    _show(done, json)
    log(done.ending)
    if done.status != "certified":
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
