"""Arguments and options that commands which use a trained model share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from equimd.cli.completion import OF_SETTINGS, completing

Run = Annotated[Path, typer.Argument(metavar="RUN", help="run folder of the model")]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda or auto",
        autocompletion=completing(OF_SETTINGS["device"]),
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what another run left in the same place")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
