"""The table and the plot of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equimd.shown import digits
from equimd.tables import Table

COLOURS = ("#0b62a4", "#d95f02", "#5b8c3a", "#7b4ea3")
SYMLOG_FROM = 20.0  # meV/atom: above it the energy axis is logarithmic


def _error(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda m: "-" if not m["errors"] or m["errors"][key] is None else digits(m["errors"][key])


def _number(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda m: "-" if m[key] is None else digits(m[key])


def _drift(m: Mapping[str, Any]) -> str:
    if m["drift_meV_per_atom_per_ps"] is None:
        return "-"
    drift, error = m["drift_meV_per_atom_per_ps"], m["drift_error"]
    places = 0 if error <= 0 else max(0, 1 - math.floor(math.log10(error)))  # two digits of the error, and as far of it
    return f"{drift:+.{places}f} ± {error:.{places}f}" if 1e-6 < error < 1e5 else f"{drift:+.2e} ± {error:.1e}"


def _heat(m: Mapping[str, Any]) -> str:
    """Where no energy is conserved, the end is another temperature than the beginning."""
    ends = [r["temperature_ends"] for r in m["replicas"] if r.get("temperature_ends")]
    if not ends:
        return "-"
    first, last = (sum(column) / len(ends) for column in zip(*ends, strict=True))
    return f"{first:.0f} to {last:.0f}"


def _time(mode: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda m: digits(m["step_ms"][mode]) if mode in m["step_ms"] else "-"


def rows(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The names of the models, then a measure a row: its name, and what each model has. Measures that none has are left
    out."""
    replicas = len(found["models"][0]["replicas"])
    runs = f"{replicas} x {found['time_ps']:g} ps"
    where = "of the data" if found["data"] else "of the run"
    lines: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("forces", lambda m: str(m["forces"])),
        ("energy MAE (meV)", _error("energy_mae_meV")),
        ("energy RMSE (meV)", _error("energy_rmse_meV")),
        ("force MAE (meV/A)", _error("forces_mae_meV_per_A")),
        ("force RMSE (meV/A)", _error("forces_rmse_meV_per_A")),
        (f"net force, rms, frames {where} (meV/A)", _number("net_force_meV_per_A")),
        (f"torque, rms, frames {where} (meV)", _number("torque_meV")),
        ("step, eager (ms)", _time("eager")),
        ("step, compiled (ms)", _time("compiled")),
        (f"energy drift, NVE, {runs} (meV/atom/ps)", _drift),
        ("temperature, NVE, first and last tenth (K)", _heat),
        ("stable, mean of replicas (ps)", _number("stable_ps")),
        ("unstable replicas", lambda m: f"{m['n_unstable']} of {len(m['replicas'])}"),
    ]
    cells = [(title, [show(m) for m in found["models"]]) for title, show in lines]
    head = ("", [str(m["name"]) for m in found["models"]])
    return [head, *(row for row in cells if any(cell != "-" for cell in row[1]))]


def table(found: Mapping[str, Any]) -> Table:
    """One line a measure, one column a model."""
    head, *lines = [[title, *cells] for title, cells in rows(found)]
    return Table(lines, head)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Energy against time, and bars: force error or net force, time of a step, stable time."""
    from matplotlib.patches import Patch

    from equimd.plots import new_figure, save_figure

    figure, axes = new_figure(12.5, 3.6, 4)
    models, largest = found["models"], 0.0
    for colour, m in zip(COLOURS, models, strict=False):
        for replica in m["replicas"]:
            if replica["curve"]:
                t, e = replica["curve"]
                axes[0].plot(t, e, color=colour, linewidth=0.9, alpha=0.8)
                largest = max(largest, *(abs(float(x)) for x in e))
    if largest > SYMLOG_FROM:
        axes[0].set_yscale("symlog", linthresh=1.0)
    axes[0].set(xlabel="time (ps)", ylabel="change of total energy (meV/atom)", title="constant energy")
    axes[0].title.set_fontsize(10)
    known = all(m["errors"] and m["errors"]["forces_mae_meV_per_A"] is not None for m in models)
    if known:
        _bars(axes[1], models, [m["errors"]["forces_mae_meV_per_A"] for m in models], "force MAE (meV/Å)")
    else:
        _bars(axes[1], models, [m["net_force_meV_per_A"] or 0.0 for m in models], "net force, rms (meV/Å)")
    mode = "compiled" if all("compiled" in m["step_ms"] for m in models) else "eager"
    _bars(axes[2], models, [m["step_ms"][mode] for m in models], f"time of a step, {mode} (ms)")
    _bars(axes[3], models, [m["stable_ps"] for m in models], f"stable, of {found['time_ps']:g} (ps)")
    patches = [Patch(color=colour) for colour, _ in zip(COLOURS, models, strict=False)]
    names = [f"{m['name']} ({m['forces']})" for m in models]
    figure.legend(patches, names, loc="outside upper center", ncols=len(models), frameon=False, fontsize=9)
    save_figure(figure, path)


def _bars(axis: Any, models: Any, values: list[float], title: str) -> None:
    """One bar a model, with its value on it."""
    places = range(len(models))
    bars = axis.bar(places, values, width=0.6, color=COLOURS[: len(models)])
    axis.bar_label(bars, [f"{v:.3g}" for v in values], padding=2, fontsize=8)
    axis.set_xticks([])
    axis.set_title(title, fontsize=10)
    axis.grid(visible=False, axis="x")
    axis.margins(y=0.12)
