"""``equimd learn``: its options are the settings of :mod:`equimd.tasks.learn.settings`, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from equimd.cli.arguments import Json
from equimd.cli.options import with_settings
from equimd.errors import EXIT_HALTED, EXIT_INTERRUPTED
from equimd.tasks.learn.settings import LearnSettings

if TYPE_CHECKING:
    from equimd.tasks.learn.task import Learned


@with_settings(LearnSettings, skip=("molecule",), kinds={"error": str, "max_time": str, "call_limit": str})
def learn(
    source: Annotated[
        str | None,
        typer.Argument(metavar="MOLECULE", help="a structure file, a name, SMILES, or a YAML file of settings"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder to make; by default learn/NAME-300K-001")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="folder of a learn run to go on with")] = None,
    template: Annotated[bool, typer.Option("--template", help="print a YAML file of all settings")] = False,
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
    from equimd.config import read_config
    from equimd.tasks.learn import task
    from equimd.tasks.learn.report import settings_text

    given = options
    if template:
        typer.echo(settings_text(), nl=False)
        return
    if resume is not None:
        if out is not None or source is not None:
            raise typer.BadParameter("--resume goes on in its own folder: leave out MOLECULE and --out")
        settings, folder = task.reopen(resume, given), resume
    else:
        base = None
        if source is not None and source.lower().endswith((".yaml", ".yml")):
            base = LearnSettings.parse(read_config(source), where=source)
        elif source is not None:
            given["molecule"] = source
        settings = LearnSettings.parse(given, where="command line", base=base)
        folder = out or task.default_folder(settings)
        task.begin(settings, folder)
        settings = task.reopen(folder, {})
    log(f"learn: {folder}; go on with it after an interruption: equimd learn --resume {folder}")
    _work(folder, settings, json)


def _work(folder: Path, settings: LearnSettings, json: bool) -> None:
    from equimd.cli.common import echo_json, log
    from equimd.progress import ProgressBar, counted_stages
    from equimd.tasks.learn.task import interrupted, learn

    bar = ProgressBar()
    try:
        found = learn(folder, settings, say=bar.line, progress=counted_stages(bar))
    except KeyboardInterrupt:
        bar.clear()
        if json:
            echo_json(interrupted(folder, settings))
        log(f"interrupted; go on with: equimd learn --resume {folder}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    bar.clear()
    if json:
        echo_json(found.to_json())
    else:
        typer.echo(_table(found))
    log(_last_words(found))
    if found.status != "certified":
        raise typer.Exit(EXIT_HALTED)


def _table(found: Learned) -> str:
    from equimd.progress import duration

    labels = found.labels
    uses = ", ".join(f"{labels[k]} {k}" for k in ("train", "calibrate", "audit", "failed"))
    lines = [
        f"{'status':<10}{found.status}",
        f"{'labels':<10}{labels['total']} ({uses})",
        f"{'time':<10}{duration(found.seconds)}",
    ]
    if found.run is not None:
        lines.append(f"{'run':<10}{found.run}")
    return "\n".join(lines)


def _last_words(found: Learned) -> str:
    if found.status == "certified":
        return f"{found.words}\nuse it: equimd simulate {found.run} {found.folder}/conformers.xyz"
    missing = "; ".join(found.missing)
    return f"no certificate: {missing}\nwith more time or labels: equimd learn --resume {found.folder} --max-time TIME"
