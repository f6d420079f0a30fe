"""Arguments and options that commands which use a trained model share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(help="run folder of the model")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
