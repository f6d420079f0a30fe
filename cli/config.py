"""``equimd config``: YAML files of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equimd.cli.common import sub_app

app = sub_app("Settings files of `equimd train`.")


@app.command("template")
def template() -> None:
    """Print a YAML file of all settings, each with its default and its meaning.

    Examples:

        equimd config template > config.yaml
    """
    from equimd.config import config_text
    from equimd.terminal import show_settings

    show_settings(config_text())


@app.command("check")
def check(path: Annotated[Path, typer.Argument(metavar="FILE", help="YAML file of settings")]) -> None:
    """Read a YAML file of settings and print it complete, with the defaults it leaves out.

    Examples:

        equimd config check config.yaml
    """
    from equimd.config import config_text, parse_config, read_config

    typer.echo(config_text(parse_config(read_config(path), where=str(path)), comments=False), nl=False)
