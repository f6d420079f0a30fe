"""Models side by side: the part of a comparison's folder, and the table of runs that are reported together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from equimd.errors import DataError, EquimdError
from equimd.files import understood
from equimd.shown import with_error
from equimd.tasks.compare.table import rows
from equimd.tasks.compare.task import JSON_FILE, unique_names
from equimd.tasks.report import layers
from equimd.tasks.report.of_run import ReportedRun, errors_table
from equimd.tasks.report.page import Page, figures, paragraph, table
from equimd.tasks.simulate.task import SUMMARY_FILE

COLOURS = ("blue", "red", "green", "violet")
#: Of the measures of a comparison, those of dynamics.
IN_MOTION = ("step, ", "energy drift", "temperature, NVE", "stable", "unstable")


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


def runs_side_by_side(page: Page, runs: Sequence[ReportedRun], others: Sequence[Path] = ()) -> str:
    """The runs that are reported together: errors, and what ``others`` tell of time and conservation.

    Args:
        others: folders of simulations and comparisons on the same page.
    """
    names = [
        f"{name} ({'conservative' if each.weights[0].conservative else 'direct'})"
        for name, each in zip(unique_names([str(r.run.path) for r in runs]), runs, strict=True)
    ]

    def compared() -> str:
        kept, frames = [], set()
        for name, each in zip(names, runs, strict=True):
            try:
                test = each.test
            except EquimdError as error:
                page.left_out.append(f"Errors of {name}: {error.what}")
                continue
            kept.append((name, test))
            frames.add((*each.info["data"]["files"]["test"], test["n_frames"]))
        if len(kept) < 2:
            raise DataError("fewer than two of the runs have test errors")
        told = "Each on the test frames of its own training"
        told += "." if len(frames) == 1 else ", which are not the same: equimd evaluate measures on the same ones."
        return errors_table(kept) + paragraph(told)

    def moved() -> str:
        found = _in_motion([str(r.weights[1]["sha256"]) for r in runs], others)
        if not found:
            paths = " ".join(str(r.run.path) for r in runs[:2])
            raise DataError(
                "no simulation and no comparison of these runs is on this page",
                hint=f"equimd compare {paths} STRUCTURE, and equimd report with its folder",
            )
        return table(["", *names], [[title, *cells] for title, cells in found.items()])

    made = page.section("Errors side by side", compared)
    return made + page.section("Speed and conservation of energy side by side", moved)


def _in_motion(models: Sequence[str], folders: Sequence[Path]) -> dict[str, list[str]]:
    """What is measured in dynamics, by measure: a cell for each model; those of other models are passed by.

    Args:
        models: SHA-256 of their weights. folders: of simulations and comparisons.
    """
    found: dict[str, list[str]] = {}

    def add(title: str, model: str, cell: str) -> None:
        for k in (k for k, each in enumerate(models) if each == model and cell != "-"):
            found.setdefault(title, ["–"] * len(models))[k] = cell

    for folder in folders:
        path = folder / JSON_FILE
        if path.is_file():
            with understood(path):
                told = dict(json.loads(path.read_text(encoding="utf-8")))
                for title, cells in rows(told)[1:]:
                    for m, cell in zip(told["models"], cells, strict=True):
                        if title.startswith(IN_MOTION):
                            add(title, m["model_sha256"], cell)
        elif (path := folder / SUMMARY_FILE).is_file():
            with understood(path):
                made = dict(json.loads(path.read_text(encoding="utf-8")))
                s, model = made["settings"], made["model_sha256"]
                where = f"{s['ensemble']}, {s['temperature']:g} K, {s['dt']:g} fs"
                if made["drift_meV_per_atom_per_ps"] is not None:
                    drift = with_error(made["drift_meV_per_atom_per_ps"], made["drift_error"])
                    add(f"drift of the {made['conserved_quantity']}, {where} (meV/atom/ps)", model, drift)
                if made["ns_per_day_total"] is not None:
                    add(f"simulated, {where}, all replicas (ns/day)", model, f"{made['ns_per_day_total']:.3g}")
    return found
