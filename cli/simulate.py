"""``equimd simulate``: its options are the settings of :mod:`equimd.tasks.simulate.settings`, one for one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.options import keyword, setting_option
from equimd.errors import EXIT_HALTED, EXIT_INTERRUPTED, EXIT_OK
from equimd.md.ensembles import further_options
from equimd.tasks.simulate.settings import SimulationSettings

_HELP = """Molecular dynamics that halts or flags the frame whose predicted force error exceeds a calibrated threshold.

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
        equimd simulate --template > simulation.yaml
    """


def _show_notices(name: str = "equimd.md") -> None:
    """What the library notes on the way, such as that the potential is being compiled, as lines on stderr."""
    import logging

    from equimd.cli.common import log, warn

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            (warn if record.levelno >= logging.WARNING else log)(record.getMessage())

    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [Lines()], False
    logger.setLevel(logging.INFO)


def simulate(**options: Any) -> None:
    from equimd.cli.common import log, warn
    from equimd.tasks.simulate.settings import parse_settings, read_settings, settings_text

    source, out, resume, template, json = (options.pop(k) for k in ("source", "out", "resume", "template", "json"))
    given = {k: v for k, v in options.items() if v is not None}
    _show_notices()
    if template:
        typer.echo(settings_text(), nl=False)
        return
    if resume is not None:
        if out is not None or "structure" in given:
            raise typer.BadParameter("--resume goes on in its own folder: leave out the structure and --out")
        _go_on(resume, given if source is None else {**given, "run": str(source)}, json)
        return
    base = None
    if source is not None and source.suffix.lower() in (".yaml", ".yml"):
        base = parse_settings(read_settings(str(source)), where=str(source))
    elif source is not None:
        given["run"] = str(source)
    settings = parse_settings(given, where="command line", base=base)

    from equimd.tasks.simulate import checks, session, task

    if out is not None:
        session.check_free(out)
    ready = session.prepare(settings)
    folder = out or session.default_folder(settings)
    needed = checks.disk_needed(settings, ready.system.n_atoms, ready.judge.threshold is not None)
    note, too_little = checks.disk_note(needed, folder)
    for text in [*ready.notes, note]:
        log(text)
    for text in [*ready.warnings, *([too_little] if too_little else [])]:
        warn(text)
    log(f"simulation: {folder}, {_length(settings)}")
    summary = task.execute(ready, lambda: session.begin(ready, folder), folder)
    _finish(ready, summary, folder, settings.run, json)


def _go_on(folder: Path, given: dict[str, Any], json: bool) -> None:
    """The rest of an interrupted run, or more of a finished one."""
    from equimd.cli.common import log
    from equimd.tasks.simulate import session, task

    ready = session.reopen(folder, given)
    log(f"simulation: {folder}, {_length(ready.settings)}")
    summary = task.execute(ready, lambda: session.resume(ready, folder), folder)
    _finish(ready, summary, folder, ready.settings.run, json)


def _length(settings: SimulationSettings) -> str:
    many = f"{settings.replicas} replicas, " if settings.replicas > 1 else ""
    return f"{many}{settings.n_steps} steps of {settings.dt:g} fs, {settings.n_steps * settings.dt / 1000:g} ps"


def _finish(ready: Any, summary: dict[str, Any], folder: Path, run: str, json: bool) -> None:
    """The result on stdout, the last words on stderr, and the exit code."""
    from equimd.cli.common import echo_json, log
    from equimd.tasks.simulate.task import last_words, table

    if json:
        echo_json(summary)
    else:
        typer.echo(table(summary))
    log(last_words(ready, summary, folder, run))
    code = {"completed": EXIT_OK, "halted": EXIT_HALTED, "interrupted": EXIT_INTERRUPTED}[summary["status"]]
    if code:
        raise typer.Exit(code)


def _argument(name: str, metavar: str, kind: Any, help: str) -> inspect.Parameter:
    annotation = Annotated[kind | None, typer.Argument(metavar=metavar, help=help, show_default=False)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


simulate.__doc__ = _HELP
simulate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        _argument("source", "RUN", Path, "run folder of the model, or a YAML file of settings"),
        _argument("structure", "STRUCTURE", str, str(SimulationSettings.model_fields["structure"].description)),
        *(
            setting_option(SimulationSettings, key, {"time": str, "equilibrate": str, "uq_threshold": str})
            for key in SimulationSettings.model_fields
            if key not in ("run", "structure")
        ),
        *(
            keyword(key, Annotated[float | None, typer.Option(f"--{key.replace('_', '-')}", help=option.description)])
            for key, option in further_options(SimulationSettings.model_fields).items()
        ),
        keyword(
            "out",
            Annotated[Path | None, typer.Option("--out", help="folder to make; by default simulations/NAME-300K-001")],
        ),
        keyword(
            "resume", Annotated[Path | None, typer.Option("--resume", help="folder of a simulation to go on with")]
        ),
        inspect.Parameter(
            "template",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--template", help="print a YAML file of all settings")],
        ),
        inspect.Parameter(
            "json",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--json", help="one JSON object on stdout")],
        ),
    ]
)
simulate.__annotations__ = {p.name: p.annotation for p in simulate.__signature__.parameters.values()}  # type: ignore[attr-defined]
