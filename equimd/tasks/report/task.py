"""From folders to a page: what kind each is, and its part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from equimd.errors import RunError
from equimd.run import RUN_FILE, Run
from equimd.tasks.compare.task import JSON_FILE
from equimd.tasks.learn.task import SETTINGS_FILE
from equimd.tasks.report.of_comparison import comparison_part, runs_side_by_side
from equimd.tasks.report.of_learn import learn_part
from equimd.tasks.report.of_run import ReportedRun, run_part
from equimd.tasks.report.of_simulation import simulation_part
from equimd.tasks.report.page import Page
from equimd.tasks.report.settings import ReportSettings
from equimd.tasks.simulate.start import START_FILE

#: What tells a kind of folder: a file that it holds.
KINDS = {RUN_FILE: "run", START_FILE: "simulation", SETTINGS_FILE: "learn", JSON_FILE: "comparison"}
TITLES = {"run": "Run", "simulation": "Simulation", "learn": "Learn run", "comparison": "Comparison"}


@dataclass(frozen=True)
class Reported:
    """A folder, and what it is."""

    path: Path
    kind: str


def recognised(path: str | Path) -> Reported:
    """What a folder is.

    Raises:
        RunError: there is no such folder, or it is none that has a report.
    """
    folder = Path(path)
    hint = "a folder that equimd train, simulate, learn or compare wrote (--out)"
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise RunError(what, where=str(path), hint=hint)
    for name, kind in KINDS.items():
        if (folder / name).is_file():
            return Reported(folder, kind)
    raise RunError("is no folder that has a report", where=str(path), hint=hint)


def build(folders: Sequence[Reported], settings: ReportSettings, told: Callable[[str], None]) -> Page:
    """The page of some folders, in order.

    Args:
        told: what is computed, before it is.

    Raises:
        RunError: a folder cannot be read.
    """
    page = Page()
    runs = {each.path.resolve(): ReportedRun(Run.open(each.path), settings) for each in folders if each.kind == "run"}
    if len(runs) > 1:
        others = [each.path for each in folders if each.kind in ("simulation", "comparison")]
        page.parts.append(("Runs side by side", runs_side_by_side(page, list(runs.values()), others)))
    for each in folders:
        title = f"{TITLES[each.kind]} {each.path.resolve().name}"
        run = runs.get(each.path.resolve())
        made = _part(page, each, settings, told) if run is None else run_part(page, run, told)
        page.parts.append((title, made))
    return page


def _part(page: Page, each: Reported, settings: ReportSettings, told: Callable[[str], None]) -> str:
    if each.kind == "simulation":
        return simulation_part(page, each.path, settings, told)
    if each.kind == "learn":
        return learn_part(page, each.path, settings, told)
    return comparison_part(page, each.path)
