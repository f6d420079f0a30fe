"""``equimd doctor``: what this machine has, each part tried."""

from __future__ import annotations

import typer

from equimd.cli.arguments import Json
from equimd.errors import EXIT_MACHINE


def doctor(json: Json = False) -> None:
    """Try what equimd needs of this machine, and say what a report of a fault should say.

    Versions, threads, devices, a model, files, the cache folder, the compiler and optional packages, each by a tiny
    run. Exit code 1: something that is there does not work.

    Examples:

        equimd doctor
        equimd doctor --json > report.json
    """
    from equimd.cli.common import echo_json
    from equimd.tables import Table
    from equimd.tasks.doctor import examine, to_json
    from equimd.terminal import show

    found = examine()
    if json:
        echo_json(to_json(found))
    else:
        show(
            [
                Table(
                    [[part.name, part.status, part.detail] for part in found],
                    ("part", "", "what was found"),
                    left=(0, 1, 2),
                )
            ]
        )
    if any(part.status == "fails" for part in found):
        raise typer.Exit(EXIT_MACHINE)
