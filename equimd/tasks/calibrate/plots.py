"""The plots of a calibration: how the sigmas match the errors, and what the thresholds do. PNG, in RUN/calibration/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from equimd.guard.score import exact_scores
from equimd.plots import TRAIN, TRUE, VAL, new_figure, plain_log_ticks, save_figure, thinned
from equimd.tasks.calibrate.stages import Calibrating

SIGMAS_FILE, THRESHOLDS_FILE = "sigmas.png", "thresholds.png"
ALARM, OWN = "#c0392b", "#2e8b57"
KINDS = (("forces", VAL, "forces"), ("energy", ALARM, "energies"))


def draw(done: Calibrating, folder: Path) -> list[Path]:
    """Both plots."""
    paths = [folder / SIGMAS_FILE, folder / THRESHOLDS_FILE]
    sigmas(done.calibration.report, paths[0])
    thresholds(done, paths[1])
    return paths


def sigmas(found: dict[str, Any], out: Path) -> None:
    """Coverage against its nominal level, and the error against sigma, of forces and of energies."""
    figure, axes = new_figure(12.6, 4.2, 3)
    ax = axes[0]
    ax.plot([0, 100], [0, 100], color=TRUE, linewidth=0.8, zorder=0)
    for kind, colour, name in KINDS:
        curve, area = found[kind]["coverage_curve"], found[kind]["miscalibration_area"]
        nominal, observed = (100 * np.array(curve[k]) for k in ("nominal", "observed"))
        ax.plot(nominal, observed, color=colour, label=f"{name}, area {area:.3f}")
    ax.set(xlabel="nominal coverage (%)", ylabel="errors inside (%)", xlim=(0, 100), ylim=(0, 100), aspect="equal")
    ax.legend(frameon=False, loc="upper left")
    panels = (("forces", "forces (component)", "meV/Å"), ("energy", "energies", "meV"))
    for ax, (kind, name, unit) in zip(axes[1:], panels, strict=True):
        _error_against_sigma(ax, found[kind], name, unit)
    axes[0].set_title(f"{found['reported_on']['n']} held-out frames")
    save_figure(figure, out)


def _error_against_sigma(ax: Any, found: dict[str, Any], name: str, unit: str) -> None:
    bins = found["error_against_sigma"]
    sigma, rmse, counts = (np.array(bins[k], float) for k in ("sigma", "rmse", "counts"))
    dim = 3 if "per_element" in found else 1
    spread = 1.96 / np.sqrt(2 * dim * counts)  # of a root mean square of so many normal errors, relative
    sigma, rmse = 1e3 * sigma, 1e3 * rmse
    ax.errorbar(sigma, rmse, yerr=np.minimum(spread, 0.95) * rmse, fmt="o", color=VAL, markersize=4, linewidth=1)
    low, high = min(sigma.min(), rmse.min()) / 1.4, max(sigma.max(), rmse.max()) * 1.4
    ax.plot([low, high], [low, high], color=TRUE, linewidth=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel=f"predicted sigma ({unit})", ylabel=f"root mean squared error ({unit})", title=name)
    plain_log_ticks(ax)
    _plain_x_ticks(ax)
    interval = found["intervals"]["zms"]
    low_text = f"({interval[0]:.2f} to {interval[1]:.2f})" if interval[0] is not None else ""
    text = f"mean squared z {found['zms']:.2f} {low_text}\nENCE {found['ence']:.3f}"
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top")


def thresholds(done: Calibrating, out: Path) -> None:
    """Errors and scores of the frames with the thresholds, false alarms and misses, and the model's own runs."""
    figure, axes = new_figure(12.6, 4.2, 3 if done.own is not None else 2)
    calibration, part = done.calibration, done.report_part
    score = exact_scores(done.found.calibrated, part.predictions)[0]
    error, q = part.predictions.max_force_error, calibration.error
    lines = [(calibration.flag.value, ALARM, "--", f"flag {calibration.flag.value:.3g}")]
    if calibration.halt is not None:
        lines.append((calibration.halt.value, TRUE, "-", f"halt {calibration.halt.value:.3g}"))
    ax = axes[0]
    ax.scatter(*thinned(score, error), s=8, color=VAL, alpha=0.5, linewidths=0)
    span = np.array([score.min(), max(score.max(), lines[-1][0])])
    label = f"{q.multiplier:.2g} × sigma: holds {100 * q.coverage:.0f} %"
    ax.plot(span, q.multiplier * span, color=TRAIN, label=label)
    for value, colour, style, name in lines:
        ax.axvline(value, color=colour, linestyle=style, linewidth=1, label=name)
    ax.set(xscale="log", yscale="log", xlabel="score: largest force sigma (eV/Å)", ylabel="largest force error (eV/Å)")
    ax.legend(frameon=False, fontsize=8)
    plain_log_ticks(ax)
    _plain_x_ticks(ax)
    _rates(axes[1], calibration.report["alarms"], lines)
    if done.own is not None:
        _own_runs(axes[2], done, score, lines)
    save_figure(figure, out)


def _rates(ax: Any, found: dict[str, Any], lines: list[tuple[float, str, str, str]]) -> None:
    threshold = np.array(found["threshold"])
    ax.plot(threshold, 100 * np.array(found["false_alarms"], float), color=VAL, label="good frames above: false alarms")
    name = f"frames with errors above {found['bad_above']:.2g} eV/Å below: missed"
    ax.plot(threshold, 100 * np.array(found["missed"], float), color=ALARM, label=name)
    for value, colour, style, _ in lines:
        ax.axvline(value, color=colour, linestyle=style, linewidth=1)
    ax.set(xlabel="threshold on the score (eV/Å)", ylabel="share of frames (%)", ylim=(0, 119), xscale="log")
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.legend(frameon=False, fontsize=8, loc="upper center")
    _plain_x_ticks(ax)


def _own_runs(ax: Any, done: Calibrating, reference: np.ndarray, lines: list[tuple[float, str, str, str]]) -> None:
    """How often scores exceed a value: held-out frames, frames of the own runs, and their maxima."""
    if done.own is None:
        return
    decided = done.calibration.report["dynamics"]
    own = done.own.scores[np.isfinite(done.own.scores)]
    level = done.scored.halt_level
    part = done.part.predictions
    halting = done.calibration.decision("halt")[0].of_predictions(part).score if done.calibration.halt else reference
    for values, colour, name in ((halting, VAL, "held-out frames"), (own, OWN, "frames of the own runs")):
        ordered = np.sort(values)[::-1]
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        keep = np.unique(np.geomspace(1, len(ordered), 400).astype(int)) - 1
        ax.plot(ordered[keep], share[keep], color=colour, label=name)
    if decided["maxima"]:
        maxima = np.array(decided["maxima"])[::-1]
        name = f"largest of each of {len(maxima)} runs"
        ax.plot(maxima, np.arange(1, len(maxima) + 1) / len(maxima), "o", color=OWN, markersize=3.5, label=name)
    ax.axvline(level, color=TRAIN, linestyle=":", linewidth=1, label="below: screen alone")
    for value, colour, style, _ in lines:
        ax.axvline(value, color=colour, linestyle=style, linewidth=1)
    ax.set(xlabel="score (eV/Å)", ylabel="share above", yscale="log", xscale="log")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    _plain_x_ticks(ax)


def _plain_x_ticks(ax: Any) -> None:
    """Numbers on a logarithmic x axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
