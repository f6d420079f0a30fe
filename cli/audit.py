"""``equimd audit``: its options are the settings of :mod:`equimd.tasks.audit.settings`, one for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.arguments import Json, Overwrite
from equimd.cli.options import with_settings
from equimd.errors import EXIT_HALTED
from equimd.tasks.audit.settings import AuditSettings


@with_settings(AuditSettings, kinds={"error": str})
def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder of a calibrated model")],
    overwrite: Overwrite = False,
    json: Json = False,
    **options: Any,
) -> None:
    """A certificate for a calibrated run: how many frames are bad, how often it halts, shown by fresh runs.

    Fresh runs of the length and dynamics that the run was calibrated for, at the threshold it halts at; one frame of
    each, at a step drawn beforehand, is labelled by the reference method. Certified is that fewer than --share of the
    frames which pass have a force error above --error, and that fewer than --false-halt-rate of such runs halt, with
    95 % confidence over all tries: they are counted in the run, and each takes more than the one before. An audit that
    was killed goes on with the same command. Exit code 3: no certificate, and why.

    Examples:

        equimd audit runs/ethanol --starts ethanol.xyz
        equimd audit runs/ethanol --starts frames_300K.xyz --calculator mypackage.calc:MyCalculator --share 0.1
        equimd audit runs/ethanol --starts ethanol.xyz --error 0.15eV/A --json
    """
    from equimd.cli.common import echo_json, log
    from equimd.terminal import ProgressBar, show

    with ProgressBar() as progress:
        from equimd.tasks.audit.call import audit as work

        done = work(run, overwrite=overwrite, progress=progress, **options)
    if json:
        echo_json(done.to_json())
    else:
        show(done.parts())
    log(done.ending)
    if done.status != "certified":
        raise typer.Exit(EXIT_HALTED)
