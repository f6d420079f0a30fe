"""The sections of a calibration: error against sigma, reliability, what the thresholds mean and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from equimd.errors import UncertaintyError
from equimd.guard.calibration import Calibration
from equimd.guard.saved import is_calibrated, load_calibration, places, read_values
from equimd.guard.wording import error_meaning, error_table, error_table_note, flag_meaning, halt_meaning
from equimd.tasks.report import layers
from equimd.tasks.report.page import Page, figures, paragraph, table

KINDS = (("forces", "blue", "meV/Å"), ("energy", "red", "meV"))
NOTHING = "the calibration's report does not have it"


def calibration_sections(page: Page, run: Path, sha256: Callable[[], str]) -> str:
    """Sections of sigmas and thresholds, or one line that the run is not calibrated."""
    if not is_calibrated(run):
        why = f"the run is not calibrated; equimd calibrate {run} --data FRAMES makes it know its errors"
        return page.section("Uncertainty", lambda: page.missing("Uncertainty", why))

    @cache
    def calibration() -> Calibration:
        return load_calibration(run, sha256())

    several = page.section("Calibrations", lambda: _several(run)) if len(places(run)) > 1 else ""
    return (
        several
        + page.section("Sigma against error", lambda: _sigmas(page, calibration().report))
        + page.section("Thresholds", lambda: _thresholds(page, calibration()))
    )


def _several(run: Path) -> str:
    """What the calibrations of a run are for; the sections below are of the first."""
    rows = []
    for name, folder in places(run).items():
        values = read_values(folder)
        halt = values["halt"]
        rows.append(
            [
                name,
                f"{values['flag']['value']:.3g}",
                "none" if halt is None else f"{halt['value']:.3g}",
                "" if halt is None else f"{halt['run_length']} steps",
                str(values["created"])[:10],
            ]
        )
    told = "What follows is of the first; `equimd simulate` takes the one that fits."
    return table(["", "flag (eV/Å)", "halt (eV/Å)", "in runs of", "made"], rows) + paragraph(told)


def _sigmas(page: Page, report: Mapping[str, Any]) -> str:
    if "reported_on" not in report:
        raise UncertaintyError(NOTHING)
    on = report["reported_on"]
    made = [_against(page, report[kind], kind, colour, unit) for kind, colour, unit in KINDS]
    curves: list[layers.Layer] = [layers.diagonal("ideal")]
    for kind, colour, _ in KINDS:
        curve = report[kind]["coverage_curve"]
        name = f"{'energies' if kind == 'energy' else kind}, area {report[kind]['miscalibration_area']:.3f}"
        nominal, observed = (100 * np.array(curve[k]) for k in ("nominal", "observed"))
        curves.append(layers.line(nominal, observed, colour, name))
    axes = {"label": "nominal coverage (%)"}, {"label": "errors inside (%)"}
    made.append(page.plot("Reliability", *axes, curves, square=True))
    rows = []
    for kind, _, unit in KINDS:
        row = report[kind]
        covered = [f"{100 * row[f'coverage_{k}']:.1f} %" for k in (50, 68, 90, 95)]
        rows.append([f"{kind} ({unit})", f"{1e3 * row['sharpness']:.3g}", f"{row['zms']:.2f}", *covered])
    head = ["", "sigma", "mean squared z", "in 50 %", "in 68 %", "in 90 %", "in 95 %"]
    told = f"On {on['n']} {on['frames']} frames. Ideal: a mean squared z of 1, and every share of errors its level."
    return paragraph(told) + table(head, rows) + figures(*made)


def _against(page: Page, found: Mapping[str, Any], kind: str, colour: str, unit: str) -> str:
    bins = found["error_against_sigma"]
    sigma, rmse, counts = (np.array(bins[k], float) for k in ("sigma", "rmse", "counts"))
    dim = 3 if "per_element" in found else 1
    spread = np.minimum(1.96 / np.sqrt(2 * dim * counts), 0.95) * rmse  # of a root mean square of normal errors
    drawn = [
        layers.bars(1e3 * sigma, 1e3 * rmse, 1e3 * spread, colour, "bins of equal count"),
        layers.diagonal("ideal"),
    ]
    axes = (
        {"label": f"predicted sigma ({unit})", "log": True},
        {"label": f"root mean squared error ({unit})", "log": True},
    )
    name = "Energies" if kind == "energy" else "Force components"
    return page.plot(f"{name}: error against sigma", *axes, drawn, square=True)


def _thresholds(page: Page, calibration: Calibration) -> str:
    halt, report = calibration.halt, calibration.report
    sentences = [] if halt is None else [halt_meaning(halt, calibration)]
    sentences += [flag_meaning(calibration.flag, calibration), error_meaning(calibration.error)]
    if halt is None:
        refused = (report.get("dynamics") or {}).get("refused")
        sentences.append("There is no halt threshold" + (f": {refused}." if refused else "."))
    lines = [layers.upright(calibration.flag.value, "amber", f"flag {calibration.flag.value:.3g}")]
    if halt is not None:
        lines.append(layers.upright(halt.value, "red", f"halt {halt.value:.3g}"))
    made = []
    if alarms := report.get("alarms"):
        made.append(_alarms(page, alarms, lines))
    if maxima := (report.get("dynamics") or {}).get("maxima"):
        made.append(_maxima(page, maxima, lines))
    rows = error_table(calibration)
    rates = table(rows[0], rows[1:]) + paragraph(error_table_note(calibration)) if rows else ""
    return "".join(map(paragraph, sentences)) + rates + figures(*made)


def _alarms(page: Page, found: Mapping[str, Any], lines: list[layers.Layer]) -> str:
    threshold = np.array(found["threshold"])
    drawn = [
        layers.line(threshold, 100 * np.array(found["false_alarms"], float), "blue", "false alarms"),
        layers.line(threshold, 100 * np.array(found["missed"], float), "violet", "missed"),
    ]
    note = (
        f"False alarms: good frames above the threshold. Missed: of the {found['n_bad']} frames with a force error "
        f"above {found['bad_above']:.2g} eV/Å, those below it."
    )
    axes = (
        {"label": "threshold on the largest force sigma (eV/Å)", "log": True},
        {"label": "share (%)", "from": 0, "to": 100},
    )
    return page.plot("False alarms and misses", *axes, [*drawn, *lines], note=note)


def _maxima(page: Page, maxima: list[float], lines: list[layers.Layer]) -> str:
    ordered = np.sort(np.array(maxima))[::-1]
    share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
    drawn = [layers.points(ordered, share, "green", f"{len(ordered)} runs of the model"), *lines]
    axes = (
        {"label": "largest force sigma of a run (eV/Å)", "log": True},
        {"label": "runs above (%)", "from": 0, "to": 100},
    )
    return page.plot("The model's own runs", *axes, drawn)
