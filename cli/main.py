"""``equimd``: the command line. A command is imported when it is called, so that ``equimd --help`` answers at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from equimd.cli.commands import COMMANDS
from equimd.cli.common import CONTEXT_SETTINGS, handle_errors, keep_indented, new_app, printable_output, shown_notices
from equimd.errors import SEVERAL_FILES
from equimd.registry import imported


def _build(name: str) -> Any:
    """The parser of one command."""
    app = imported(COMMANDS[name].run)
    if not isinstance(app, typer.Typer):
        run, app = app, new_app("", no_args_is_help=False)
        app.command(name)(run)
    command = typer.main.get_command(app)
    command.name = name
    for each in (command, *getattr(command, "commands", {}).values()):
        each.help = keep_indented(each.help or "")
    return command


_USAGE: Any = typer.BadParameter.__mro__[1]  # click's UsageError, which typer brings without naming it


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
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with handle_errors():  # help lists what extensions add
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        printable_output()
        given = [*ctx._protected_args, *ctx.args]
        with shown_notices(), handle_errors():
            try:
                return super().invoke(ctx)
            except _USAGE as error:
                if "extra argument" in error.message and any(word.startswith("--data") for word in given):
                    error.message += f"; {SEVERAL_FILES}"
                raise


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    typer.echo(f"equimd {version('equimd')}\ntorch  {torch.__version__}\ne3nn   {version('e3nn')}\ndevice {device}")
    raise typer.Exit


_HELP = """Potentials for molecules in motion: train, measure, calibrate, and simulate until they stop being true.

Examples:

    equimd train --data bundled:ethanol --preset small --max-time 10m --out runs/ethanol
    equimd evaluate runs/ethanol --data bundled:ethanol-test
    equimd calibrate runs/ethanol --data bundled:ethanol --test-data bundled:ethanol
    equimd simulate runs/ethanol ethanol.xyz --relax --temperature 300 --time 10 --out md
    equimd predict runs/ethanol ethanol.xyz

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
