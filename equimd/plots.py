"""Plots as PNG files: learning curves, and predicted against true values."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from equimd.errors import DataError
from equimd.files import STRANGE, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TRAIN, VAL, TRUE = "#8a8f98", "#0b62a4", "#222222"
MAX_POINTS = 20_000  # of a scatter plot; more only darken it


def new_figure(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, Any]:
    """A figure that needs no display and changes no global state of matplotlib, and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="compressed")  # as constrained, and squares stay within the figure
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="#e3e5e8", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    import io

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    write_atomic(path, content.getvalue())


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """The columns of a metrics.csv, empty cells as NaN.

    Raises:
        DataError: the file is missing or not a table of numbers.
    """
    try:
        with path.open() as file:
            rows = list(csv.DictReader(file))
        return {
            key: np.array([float(row[key]) if row[key] else math.nan for row in rows])
            for key in (rows[0] if rows else ())
        }
    except (OSError, *STRANGE) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None


def curves(metrics: Path, out: Path) -> None:
    """Errors of energies and forces against the epoch, train and validation, and the learning rate."""
    columns = read_metrics(metrics)
    if not columns:
        return
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure(12, 3.8, 3)
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    panels = (("energy_mae_meV", "energy MAE (meV)"), ("forces_mae_meV_per_A", "force MAE (meV/Å)"))
    for ax, (key, label) in zip(axes, panels, strict=False):
        for part, colour, name in (("train", TRAIN, "training, running"), ("val", VAL, "validation, averaged weights")):
            values = columns[f"{part}_{key}"]
            known = np.isfinite(values)
            if known.any():
                marker = "o" if known.sum() < 30 else None
                ax.plot(columns["epoch"][known], values[known], color=colour, label=name, marker=marker, markersize=3.5)
        ax.set(xlabel="epoch", ylabel=label)
        if ax.lines:
            ax.set_yscale("log")
            ax.legend(frameon=False)
        plain_log_ticks(ax)
    axes[2].plot(columns["epoch"], columns["lr"], color=VAL)
    axes[2].set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes[2].ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    save_figure(figure, out)


def plain_log_ticks(ax: Any) -> None:
    """Numbers, not powers of ten, on a logarithmic axis of errors."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if ax.get_yscale() != "log":
        return
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


class Compared(Protocol):
    """True and predicted values side by side: N frames with M atoms in all, NaN where there is no label."""

    @property
    def energy_true(self) -> np.ndarray: ...
    @property
    def energy(self) -> np.ndarray: ...
    @property
    def forces_true(self) -> np.ndarray: ...
    @property
    def forces(self) -> np.ndarray: ...
    @property
    def numbers(self) -> np.ndarray: ...


def parity(found: Compared, out: Path, *, title: str = "") -> None:
    """Predicted against true energies and forces, with their MAE; force components coloured by element."""
    from ase.data import chemical_symbols

    energy = np.isfinite(found.energy_true) & np.isfinite(found.energy)
    forces = np.isfinite(found.forces_true).all(1) & np.isfinite(found.forces).all(1)
    figure, axes = new_figure(9.6, 4.6, 2)
    if energy.any():
        shift = float(found.energy_true[energy].mean())
        true, predicted = found.energy_true[energy] - shift, found.energy[energy] - shift
        axes[0].scatter(*thinned(true, predicted), s=9, color=VAL, alpha=0.5, linewidths=0)
        _diagonal(axes[0], true, predicted, 1e3 * float(np.abs(predicted - true).mean()), "meV")
        axes[0].set(
            xlabel=f"true energy, relative to {shift:.3f} eV (eV)", ylabel="predicted energy, relative to the same (eV)"
        )
    else:
        axes[0].text(0.5, 0.5, "no energies", ha="center", transform=axes[0].transAxes)
    if forces.any():
        palette = {1: "#9aa0a6", 6: "#3c4043", 7: "#1a73e8", 8: "#d93025", 9: "#188038", 16: "#e8a600", 17: "#12b5a5"}
        for z in np.unique(found.numbers[forces]):
            part = forces & (found.numbers == z)
            x, y = thinned(found.forces_true[part].ravel(), found.forces[part].ravel())
            axes[1].scatter(x, y, s=6, alpha=0.5, linewidths=0, color=palette.get(int(z)), label=chemical_symbols[z])
        true, predicted = found.forces_true[forces].ravel(), found.forces[forces].ravel()
        _diagonal(axes[1], true, predicted, 1e3 * float(np.abs(predicted - true).mean()), "meV/Å")
        axes[1].set(xlabel="true force component (eV/Å)", ylabel="predicted force component (eV/Å)")
        axes[1].legend(frameon=False, markerscale=2.5, loc="lower right")
    else:
        axes[1].text(0.5, 0.5, "no forces", ha="center", transform=axes[1].transAxes)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, out)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS points, evenly taken."""
    step = max(1, math.ceil(len(x) / MAX_POINTS))
    return x[::step], y[::step]


def _diagonal(ax: Any, x: np.ndarray, y: np.ndarray, mae: float, unit: str) -> None:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.03 * (high - low or 1.0)
    limits = (low - margin, high + margin)
    ax.plot(limits, limits, color=TRUE, linewidth=0.8, zorder=0)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.text(0.04, 0.95, f"MAE {mae:.3g} {unit}", transform=ax.transAxes, va="top")


def plain_log(axes: Any) -> None:
    """For both axes of a plot that are logarithmic, once their limits stand."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis, most in ((axes.xaxis, 1e3), (axes.yaxis, 1e4)):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < most * low else (1,)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())


def finish(figure: Any, axes: Any, path: Path, columns: int) -> None:
    """The legend above in so many columns, no frame; written as PNG and closed."""
    import matplotlib.pyplot as plt

    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    figure.savefig(path, dpi=150)
    plt.close(figure)
