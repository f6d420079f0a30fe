"""Table and picture of the guard suite, both from its results file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.results import made_by
from equimd.plots import TRUE, VAL, new_figure, plain_log_ticks, save_figure

HALT, FAINT = "#c5221f", "#f1f2f4"
LATER = "#8db8d9", "#85888c"  # bound and error after a halt


def write(folder: Path) -> Path:
    """guard.md and guard.png from guard.json; returns the path of the table."""
    results = json.loads((folder / "guard.json").read_text())
    table = folder / "guard.md"
    table.write_text(markdown(results))
    picture(results, folder / "guard.png")
    return table


def traces(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By temperature, ascending: arrays ``time`` (fs), ``bound``, ``error`` (meV/Angstrom); ``halted``, ``ended``."""
    found = {}
    for row in results["rows"]:
        if row.get("trace"):
            given = row["trace"]
            arrays = {k: np.array(given[k], float) for k in ("time_fs", "bound", "error")}
            found[row["name"].split("/")[2].removesuffix("K")] = {
                "time": arrays["time_fs"],
                "bound": 1e3 * arrays["bound"],
                "error": 1e3 * arrays["error"],
                "halted": given["halted_fs"],
                "ended": given["ended"],
            }
    return {f"{t} K": found[t] for t in sorted(found, key=float)}


def figure_of(results: Mapping[str, Any], metric: str) -> float:
    """A figure of the model or its calibration."""
    return next(float(row["value"]) for row in results["rows"] if row["name"].endswith(f"K/guard/{metric}"))


def before_halt(trace: Mapping[str, Any]) -> np.ndarray:
    """(T,) bool, frames that the guard let pass."""
    halted = trace["halted"]
    return np.full(len(trace["time"]), True) if halted is None else trace["time"] < halted


def markdown(results: Mapping[str, Any]) -> str:
    """A row a temperature."""
    found = traces(results)
    heads = ["", "halted at (fs)", "frames before", "of them error below the bound", "largest true error (meV/A)"]
    heads += ["frames gone on with", "largest true error there (meV/A)"]
    lines = [heads, ["---"] * len(heads)]
    for name, t in found.items():
        passed = before_halt(t)
        error, later = t["error"][passed], t["error"][~passed]
        cells = ["-" if t["halted"] is None else f"{t['halted']:g}", f"{len(error)}"]
        cells += [f"{100 * (error <= t['bound'][passed]).mean():.1f} %", f"{np.nanmax(error):.0f}"]
        cells += [f"{len(later)}", f"{np.nanmax(later):.0f}"] if len(later) else ["-", "-"]
        lines.append([name, *cells])
    preset = results["rows"][0]
    text = (
        f"Ethanol (GFN2-xTB), `{preset['preset']}` preset, {preset['budget_s'] / 60:g} min of training on one thread, "
        f"force MAE on test frames {figure_of(results, 'forces_mae_meV_per_A'):.1f} meV/A. The bound holds, by its "
        f"calibration at 300 K, for {100 * figure_of(results, 'coverage'):g} % of ordinary frames; the halt threshold "
        f"is a bound of {1e3 * figure_of(results, 'threshold'):.0f} meV/A. Errors are a frame's largest of an atom."
    )
    ended = [f"{name}: ended early, {t['ended']}." for name, t in found.items() if t["ended"]]
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    made = made_by(results, "equimd bench guard")
    return "\n".join(["# Guard", "", *table, "", " ".join([text, *ended]), "", made, ""])


def picture(results: Mapping[str, Any], path: Path) -> None:
    """A panel a temperature: the bound and the halt threshold that the guard knew, and the true errors."""
    found, threshold = traces(results), 1e3 * figure_of(results, "threshold")
    figure, axes = new_figure(8.4, 3.9, len(found))
    largest = max(float(np.nanmax(np.concatenate([t["bound"], t["error"]]))) for t in found.values())
    least = min(float(np.nanmin(t["error"])) for t in found.values())
    end = max(t["time"][-1] for t in found.values())
    for ax, (name, t) in zip(axes, found.items(), strict=True):
        ax.axhline(threshold, color=HALT, lw=1.5, ls="--", zorder=3)
        passed = before_halt(t)
        for part, (line, dots) in ((passed, (VAL, TRUE)), (~passed, LATER)):
            ax.plot(t["time"][part], t["bound"][part], color=line, lw=1.6)
            ax.plot(t["time"][part], t["error"][part], ".", color=dots, ms=5.5, mew=0)
        if t["halted"] is not None:
            ax.axvspan(t["halted"], end, color=FAINT, zorder=0)
            ax.plot(t["halted"], threshold, "X", color=HALT, ms=11, mec="white", zorder=5)
            ax.text(0.97, 0.96, "if it were not halted", transform=ax.transAxes, ha="right", va="top", color=TRUE)
        ax.set(yscale="log", xlim=(0, end), ylim=(0.7 * least, 3 * largest), xlabel="time (fs)")
        ax.set_title(name + (": goes through" if t["halted"] is None else f": halted after {t['halted']:.0f} fs"))
        plain_log_ticks(ax)
    axes[0].set(ylabel="largest force error of an atom (meV/Å)")
    _legend(figure, figure_of(results, "coverage"))
    save_figure(figure, path)


def _legend(figure: Any, coverage: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=VAL, lw=1.8, label=f"error bound, as the model states it ({100 * coverage:g} %)"),
        Line2D([], [], color=TRUE, marker=".", ls="", ms=8, label="true error, computed afterwards"),
        Line2D([], [], color=HALT, lw=1.5, ls="--", label="halt threshold"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, columnspacing=1.4)
