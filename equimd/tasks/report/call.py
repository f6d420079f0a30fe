"""``equimd.report``: one HTML page of what runs, simulations and learn runs hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equimd.errors import ConfigError
from equimd.files import check_output, plain, write_atomic
from equimd.progress import Callback, Progress
from equimd.run import Run
from equimd.shown import Shown
from equimd.tasks.keywords import cpu_threads, settings_of, takes
from equimd.tasks.report.settings import ReportSettings
from equimd.tasks.report.task import build, recognised

DEFAULT = "report.html"


@dataclass(frozen=True, repr=False)
class ReportResult(Shown):
    """A page that was written.

    Attributes:
        path: of the file; a browser opens it, without a network.
        folders: what it shows, as {path, kind}; kinds are run, simulation, learn and comparison.
        left_out: sections without what they would show, and why.
    """

    path: Path
    folders: tuple[dict[str, str], ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object of ``equimd report --json``."""
        return plain({"path": self.path, "bytes": self.path.stat().st_size, **self._rest()})

    def _rest(self) -> dict[str, Any]:
        return {"folders": self.folders, "left_out": self.left_out}

    def _shown(self) -> Mapping[str, str]:
        of = ", ".join(f"{f['kind']} {f['path']}" for f in self.folders)
        return {"path": str(self.path), "of": of, "left out": str(len(self.left_out))}


@takes(ReportSettings.model_fields)
def report(
    *folders: Any,
    settings: ReportSettings | None = None,
    out: str | Path = DEFAULT,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> ReportResult:
    """One HTML page of what folders hold, with plots to enlarge and molecules in 3D; what ``equimd report`` does.

    Args:
        folders: of runs, simulations, learn runs or comparisons, or what the functions that made them returned.
        settings: an object of settings, beneath those given as keywords.
        out: file to write.
        overwrite: replace that file if it is there.
        progress: called with :class:`~equimd.progress.Progress`, a line for each part.

    Raises:
        RunError: a folder that is none of these, or is damaged. DataError: the file exists.
        ConfigError: no folder, or a setting out of its range.
    """
    asked = settings_of(ReportSettings, settings, options)
    if not folders:
        raise ConfigError("no folder to report on", hint="equimd report RUN SIMULATION ...")
    found = [recognised(_folder(given)) for given in folders]
    check_output(out, overwrite)

    def told(what: str) -> None:
        if progress is not None:
            progress(Progress("line", "report", 0.0, f"report: {what}"))

    with cpu_threads(asked.threads):
        page = build(found, asked, told)
    names = ", ".join(dict.fromkeys(f.path.resolve().name for f in found))
    write_atomic(out, page.html(f"equimd report: {names}"))
    return ReportResult(Path(out), tuple({"path": str(f.path), "kind": f.kind} for f in found), tuple(page.left_out))


def _folder(given: Any) -> str | Path:
    """The folder that is meant by a path, or by what a function returned."""
    for name in ("folder", "run", "path"):
        given = getattr(given, name, given)
        if isinstance(given, Run):
            given = given.path
    if not isinstance(given, (str, Path)):
        raise ConfigError(f"not a folder: {type(given).__name__}", hint="the folder of a run, simulation or learn run")
    return given
