"""Models side by side: the part of a comparison's folder, and the table of runs that are reported together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from equimd.errors import DataError, EquimdError
from equimd.files import understood
from equimd.tasks.compare.table import rows
from equimd.tasks.compare.task import JSON_FILE, unique_names
from equimd.tasks.report import layers
from equimd.tasks.report.of_run import ReportedRun, errors_table
from equimd.tasks.report.page import Page, figures, paragraph, table

COLOURS = ("blue", "red", "green", "violet")


def comparison_part(page: Page, folder: Path) -> str:
    """The sections of what ``equimd compare`` wrote.

    Raises:
        RunError: comparison.json is damaged.
    """
    path = folder / JSON_FILE
    with understood(path):
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        head, *lines = rows(found)
        names = [f"{m['name']} ({m['forces']})" for m in found["models"]]
        curves = [[r["curve"] for r in m["replicas"] if r["curve"]] for m in found["models"]]
    drawn = [
        layers.line(curve[0], curve[1], COLOURS[k % len(COLOURS)], names[k])
        for k, of in enumerate(curves)
        for curve in of
    ]

    def energies() -> str:
        if not drawn:
            raise DataError("no replica ran long enough")
        axes = {"label": "time (ps)"}, {"label": "change of total energy (meV/atom)"}
        return figures(page.plot("Total energy at constant energy", *axes, drawn))

    told = paragraph(f"equimd report {folder}/{head[1][0]} shows the trajectories of a model, and so for each.")
    made = page.section(
        "Side by side", lambda: table(["", *head[1]], [[title, *cells] for title, cells in lines]) + told
    )
    return made + page.section("Conservation of energy", energies)


def runs_side_by_side(page: Page, runs: Sequence[ReportedRun]) -> str:
    """The errors of runs that are reported together."""

    def compared() -> str:
        kept, kinds, frames = [], [], set()
        for name, each in zip(unique_names([str(r.run.path) for r in runs]), runs, strict=True):
            kind = "conservative" if each.weights[0].conservative else "direct"
            try:
                test = each.test
            except EquimdError as error:
                page.left_out.append(f"Errors of {name}: {error.what}")
                continue
            kept.append((f"{name} ({kind})", test))
            kinds.append(kind)
            frames.add((*each.info["data"]["files"]["test"], test["n_frames"]))
        if len(kept) < 2:
            raise DataError("fewer than two of the runs have test errors")
        told = "Each on the test frames of its own training"
        told += "." if len(frames) == 1 else ", which are not the same: equimd evaluate measures on the same ones."
        return errors_table(kept) + paragraph(told)

    return page.section("Errors side by side", compared)
