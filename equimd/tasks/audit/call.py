"""``equimd.audit``: a certificate for a calibrated run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.files import plain
from equimd.progress import Callback, counted_stages
from equimd.tables import Parts, Tabled, facts
from equimd.tasks.audit.of_run import AuditedRun, audit_run
from equimd.tasks.audit.settings import AuditSettings
from equimd.tasks.keywords import run_of, settings_of, takes

if TYPE_CHECKING:
    from equimd.run import Run


@dataclass(frozen=True, repr=False)
class AuditResult(Tabled, AuditedRun):
    """How an audit ended. One without a certificate is a result like any other, not an error.

    Attributes:
        run: the run folder; a certificate is in it.
        status: ``certified`` or ``not_certified``. missing: what keeps it from being certified.
        certificate: as in certificate.json; None without one. words: what it says.
        finding: what was counted: draws, bad, runs, halts, and the bounds these show.
        labels: calls of the reference method by use.
        expected: the share of bad frames that the calibrated sigmas predicted.
    """

    def parts(self) -> Parts:
        """What :meth:`table` is made of: what was counted."""
        f = self.finding
        bad = f"{f['bad']} of {f['draws']} frames, below {100 * f['share_bound']:.3g} %"
        halts = f"{f['halts']} of {f['runs']} runs, below {100 * f['halts_bound']:.3g} %"
        return [facts({"status": self.status, "bad": bad, "halts": halts})]

    @property
    def ending(self) -> str:
        """What was shown, or what was not."""
        return self.words if self.status == "certified" else f"no certificate: {'; '.join(self.missing)}"

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd audit --json``."""
        names = ("run", "status", "missing", "certificate", "finding", "labels")
        return plain({**{name: getattr(self, name) for name in names}, "expected_bad": self.expected})

    def _shown(self) -> Mapping[str, str]:
        f = self.finding
        bad, halts = f"{f['bad']} of {f['draws']}", f"{f['halts']} of {f['runs']}"
        return {"run": str(self.run), "status": self.status, "bad": bad, "halts": halts}


@takes(AuditSettings.model_fields)
def audit(
    run: str | Path | Run | Any,
    *,
    settings: AuditSettings | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> AuditResult:
    """A certificate for a calibrated run, from fresh runs and labels; what ``equimd audit`` does.

    Args:
        run: run folder, or what ``equimd.train`` or ``equimd.calibrate`` returned.
        settings: an object of settings, beneath those given as keywords.
        overwrite: replace the certificate that the run has, if another try earns one.
        progress: called with :class:`~equimd.progress.Progress`; without it, nothing is shown.

    Raises:
        UncertaintyError: the run is not calibrated to halt, or what it takes is more labels than there are.
        ConfigError, DataError, RunError: no such run, no structures to start from, or of another molecule.
    """
    asked = settings_of(AuditSettings, settings, options)
    with counted_stages(progress) as told:
        found = audit_run(run_of(run).path, asked, progress=told, overwrite=overwrite)
    return AuditResult(**vars(found))
