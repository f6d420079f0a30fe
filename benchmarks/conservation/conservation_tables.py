"""Table and plot of the conservation suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import made_by

LINES = (
    ("energy_mae_meV", "energy MAE (meV)", "{:.2f}"),
    ("forces_mae_meV_per_A", "force MAE (meV/A)", "{:.2f}"),
    ("net_force", "net force, rms (meV/A)", "{:.3g}"),
    ("torque", "torque, rms (meV)", "{:.3g}"),
    ("step_eager", "step, eager (ms)", "{:.2f}"),
    ("step_compiled", "step, compiled (ms)", "{:.2f}"),
    ("nve_float64_drift", "drift, float64 (meV/atom/ps)", "{:+.2g}"),
    ("nve_float32_drift", "drift, float32 (meV/atom/ps)", "{:+.2g}"),
    ("nve_float64_stable", "stable, constant energy, float64 (ps)", "{:.1f}"),
    ("nve_float32_stable", "stable, constant energy, float32 (ps)", "{:.1f}"),
    ("nvt_stable", "stable, 500 K (ps)", "{:.1f}"),
    ("nvt_h_error", "h(r) error, 500 K", "{:.3f}"),
)
PLOTS = {"conservation.png": ("nve-float64", "nve-float32"), "conservation-500K.png": ("nvt",)}
COLOURS = {"conservative": "tab:blue", "direct": "tab:orange"}


def markdown(results: Mapping[str, Any]) -> str:
    """One table, a column a model."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        _, molecule, _, variant, metric = row["name"].split("/")
        found.setdefault((molecule, variant), {})[metric] = row
    lines = ["| | " + " | ".join(", ".join(key) for key in found) + " |", "|" + " --- |" * (1 + len(found))]
    metrics = {metric for rows in found.values() for metric in rows}
    for metric, title, form in LINES:
        if metric in metrics:
            lines.append(f"| {title} | " + " | ".join(_cell(rows.get(metric), form) for rows in found.values()) + " |")
    lengths = {
        part: next((r["preset"].partition(", ")[2] for rows in found.values() for m, r in rows.items() if m == key), "")
        for part, key in (("constant energy at 300 K", "nve_float64_stable"), ("500 K (Nose-Hoover)", "nvt_stable"))
    }
    told = "; ".join(f"{part}: {length}" for part, length in lengths.items() if length)
    trained = {f"`{r['preset'].partition(', ')[0]}` preset, {r['budget_s'] / 60:g} min" for r in results["rows"]}
    notes = [f"Models: {', '.join(sorted(trained))} of training on one thread."]
    notes += ["Steps are of one molecule at constant energy."] if any(m.startswith("step") for m in metrics) else []
    if told:
        notes.append(
            f"Dynamics with steps of 0.5 fs; {told}. Drift: of the total energy while stable, mean over replicas ± two "
            "standard errors. Stable: mean over replicas of the time until a bond differs by more than 0.5 A from its "
            "mean length."
        )
    if "nvt_h_error" in metrics:
        notes.append(
            "h(r) error: integral of the absolute difference to the distribution of distances in the test frames."
        )
    end = made_by(results, "equimd bench conservation")
    return "\n".join(["# Conservation", "", *lines, "", *([" ".join(notes), ""] if notes else []), end, ""])


def _cell(row: Mapping[str, Any] | None, form: str) -> str:
    if row is None:
        return "-"
    text = form.format(row["value"])
    if row.get("interval"):
        low, high = row["interval"]
        text += f" ± {(high - low) / 2:.1g}"
    return text


def plots(found: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Energies of constant-energy runs, and distances at 500 K: a plot of each, so that parts can be run one by one."""
    for name, keys in PLOTS.items():
        there = [key for key in keys if any(key in parts for parts in found.values())]
        if there:
            _plot(found, there, folder / name)


def _plot(found: Mapping[str, Mapping[str, Any]], keys: Sequence[str], path: Path) -> None:
    """A row a molecule, a column a kind of run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(found), len(keys), figsize=(4.2 * len(keys), 2.9 * len(found) + 0.4), layout="constrained", squeeze=False
    )
    for line, (molecule, parts) in zip(axes, found.items(), strict=True):
        for axis, key in zip(line, keys, strict=True):
            draw = _distances if key == "nvt" else _energies
            draw(axis, parts.get(key, {}))
            title = "h(r), 500 K" if key == "nvt" else f"constant energy, {key.removeprefix('nve-')}"
            axis.set_title(f"{molecule}, {title}", fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _energies(axis: Any, variants: Mapping[str, Any]) -> None:
    """Total energy against time; where it leaves linear size, on a logarithmic scale."""
    largest = 0.0
    for variant, values in variants.items():
        for replica in values["replicas"]:
            if replica["curve"]:
                t, e = replica["curve"]
                axis.plot(t, e, color=COLOURS[variant], lw=1, label=variant)
                largest = max(largest, *(abs(x) for x in e))
    if largest > 20:
        axis.set_yscale("symlog", linthresh=1.0)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if not axis.lines:
        axis.text(0.5, 0.5, "none stable", transform=axis.transAxes, ha="center")
    axis.set(xlabel="time (ps)", ylabel="change of energy (meV/atom)")


def _distances(axis: Any, variants: Mapping[str, Any]) -> None:
    known = {variant: values["h"] for variant, values in variants.items() if "h" in values}
    for variant, h in known.items():
        axis.plot(h["r"], h["own"], color=COLOURS[variant], lw=1, label=variant)
    if known:
        h = next(iter(known.values()))
        axis.plot(h["r"], h["data"], color="black", lw=1, ls="--", label="data")
        seen = [r for h in known.values() for r, a, b in zip(h["r"], h["own"], h["data"], strict=True) if a or b]
        axis.set_xlim(0.9 * min(seen), 1.05 * max(seen))
    axis.set(xlabel="r (Å)", ylabel="h(r) (1/Å)")
