"""``equimd audit``: its options are the settings of :mod:`equimd.tasks.audit.settings`, one for one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from equimd.cli.options import setting_option
from equimd.errors import EXIT_HALTED
from equimd.tasks.audit.settings import AuditSettings

_HELP = """A certificate for a calibrated run: how many frames are bad, how often it halts, shown by fresh runs.

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


def audit(**options: Any) -> None:
    from equimd.cli.common import echo_json, log
    from equimd.progress import CountedProgress
    from equimd.tasks.audit.of_run import audit_run

    run, json = options.pop("run"), options.pop("json")
    given = {k: v for k, v in options.items() if v is not None and v != []}
    settings = AuditSettings.parse(given, where="command line")
    bar = CountedProgress()
    found = audit_run(run, settings, progress=lambda stage, done, total: bar(done, total, stage))
    bar.close()
    if json:
        echo_json(found.to_json())
    else:
        f = found.finding
        typer.echo(
            f"{'status':<10}{found.status}\n"
            f"{'bad':<10}{f['bad']} of {f['draws']} frames, below {100 * f['share_bound']:.3g} %\n"
            f"{'halts':<10}{f['halts']} of {f['runs']} runs, below {100 * f['halts_bound']:.3g} %"
        )
    log(found.words if found.status == "certified" else f"no certificate: {'; '.join(found.missing)}")
    if found.status != "certified":
        raise typer.Exit(EXIT_HALTED)


_RUN = Annotated[Path, typer.Argument(metavar="RUN", help="run folder of a calibrated model")]
_JSON = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
audit.__doc__ = _HELP
audit.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY, annotation=_RUN),
        *(setting_option(AuditSettings, key, {"error": str, "call_limit": str}) for key in AuditSettings.model_fields),
        inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_JSON),
    ]
)
audit.__annotations__ = {p.name: p.annotation for p in audit.__signature__.parameters.values()}  # type: ignore[attr-defined]
