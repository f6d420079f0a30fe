"""``equimd``: the table of commands. Each is imported when it is called, so that ``equimd --help`` answers at once."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from equimd.cli.common import CONTEXT_SETTINGS, handle_errors, keep_indented, new_app, plain_warnings

COMMANDS: dict[str, str] = {
    "data": "list, fetch, inspect, convert, generate and label data sets",
    "config": "write a commented YAML file of all training settings",
    "train": "train a potential on energies and forces",
    "calibrate": "uncertainties that mean what they say, and thresholds, from held-out frames",
    "evaluate": "measure the errors of a trained potential on a data set",
    "simulate": "molecular dynamics that halts or flags frames beyond a calibrated threshold",
    "compare": "two models side by side: errors, speed, conservation of energy, stability",
    "ipi": "serve energies and forces to i-PI, with the same guard",
    "predict": "energy and forces of the structures in a file",
    "bench": "benchmark suites: accuracy, speed and more, beside other packages",
}


def _build(name: str) -> Any:
    """The parser of one command, from ``equimd.cli.<name>``."""
    module = importlib.import_module(f"equimd.cli.{name.replace('-', '_')}")
    app = getattr(module, "app", None)
    if app is None:
        app = new_app("", no_args_is_help=False)
        app.command(name)(getattr(module, name.replace("-", "_")))
    command = typer.main.get_command(app)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        each.help = keep_indented(each.help or "")
    return command


class _Commands(TyperGroup):
    """A group that knows its commands by name and one line of help, and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name.replace("_", "-")
        if name in COMMANDS and name not in self.commands:
            self.commands[name] = _build(name)
        return self.commands.get(name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0].replace("_", "-") not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no command '{args[0]}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        with plain_warnings(), handle_errors():
            return super().invoke(ctx)


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    typer.echo(f"equimd {version('equimd')}\ntorch  {torch.__version__}\ne3nn   {version('e3nn')}\ndevice {device}")
    raise typer.Exit


_HELP = """Equivariant potentials for molecules: train on energies and forces, measure, predict.

Examples:

    equimd data fetch rmd17 ethanol
    equimd train --data bundled:ethanol --out runs/ethanol
    equimd evaluate runs/ethanol --data bundled:ethanol
    equimd predict runs/ethanol molecule.xyz

`equimd COMMAND --help` explains a command. Option names may be written with hyphens or underscores.
"""

app = new_app(keep_indented(_HELP), cls=_Commands, add_completion=True, context_settings=CONTEXT_SETTINGS)


@app.callback(help=keep_indented(_HELP))
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="versions of equimd, torch, e3nn and the device"
        ),
    ] = False,
) -> None: ...


if __name__ == "__main__":
    app()
