"""Table and plot of the detection suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import made_by
from equimd.benchmarks.ticks import plain_log

RUNS = (
    ("runs", "runs", "{:.0f}"),
    ("runs_with_alarm", "with an alarm", "{:.0f}"),
    ("runs_with_bad_frame", "with a bad frame", "{:.0f}"),
    ("alarm_before_bad", "alarm no later than the first bad frame", "{:.0f}"),
    ("flag_before_bad", "flag no later than the first bad frame", "{:.0f}"),
    ("alarm_missing", "bad frame, no alarm", "{:.0f}"),
    ("alarm_without_bad", "alarm, no bad frame", "{:.0f}"),
    ("lead_median", "median lead (fs)", "{:.1f}"),
    ("lead_least", "least lead (fs)", "{:.1f}"),
    ("physical_halts", "physical checks failed", "{:.0f}"),
    ("alarm_before_physical", "of these with an alarm before", "{:.0f}"),
    ("lead_physical_median", "median time from the alarm to that failure (fs)", "{:.1f}"),
    ("real_runs", "runs in halt mode", "{:.0f}"),
    ("real_halts_at_alarm", "of these halted at the alarm's step", "{:.0f}"),
)
FRAMES = (
    ("labelled_frames", "frames labelled", "{:.0f}"),
    ("sampled_frames", "frames of the rates below, evenly spaced in time", "{:.0f}"),
    ("bad_share", "bad frames", "{:.1%}"),
    ("flagged_share", "flagged frames", "{:.1%}"),
    ("missed_share", "bad frames not flagged", "{:.1%}"),
    ("false_flag_share", "good frames flagged", "{:.1%}"),
    ("auroc_bad", "AUROC of bad frames", "{:.3f}"),
    ("spearman", "rank correlation of sigma and error", "{:.3f}"),
)


def _temperature(split: str) -> float:
    return float(split.removesuffix("K"))


def markdown(results: Mapping[str, Any]) -> str:
    """One table, a column a temperature."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        _, _, split, _, metric = row["name"].split("/")
        found.setdefault(split, {})[metric] = row
    splits = sorted(found, key=_temperature)
    lines = ["| | " + " | ".join(s.replace("K", " K") for s in splits) + " |", "|" + " --- |" * (1 + len(splits))]
    for metric, title, form in (*RUNS, *FRAMES):
        if any(metric in found[s] for s in splits):
            cells = [form.format(found[s][metric]["value"]) if metric in found[s] else "-" for s in splits]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    home = found[splits[0]]
    about = (
        "Lead: time from the first alarm of the halt rule, which sees every step, to the first bad frame among the "
        "labelled ones, every 10th step in the full suite."
    )
    if "tau" in home:
        about += f" A frame is bad above a force error of {1e3 * home['tau']['value']:.0f} meV/A on an atom (tau)."
        about += f" Thresholds on the force sigma: halt {1e3 * home['halt_threshold']['value']:.0f}, "
        about += f"flag {1e3 * home['flag_threshold']['value']:.0f} meV/A."
        about += (
            " By the definition of tau one frame in a hundred is bad at the training temperature too: a halt threshold "
            "that lets such runs through is far above it."
        )
    expected = home.get("runs_with_alarm", {}).get("interval")
    if expected:
        low, high = expected
        about += f" False halts to expect at {splits[0].replace('K', ' K')}: {low:.0f} to {high:.0f} runs."
    end = made_by(results, "equimd bench detection")
    return "\n".join(["# Detection", "", *lines, "", about, "", end, ""])


def plot(found: Mapping[float, Mapping[str, Any]], path: Path) -> None:
    """Left: true error against sigma. Right: of each hot run, the first alarm and the first bad frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (scatter, times) = plt.subplots(1, 2, figsize=(9.5, 4.3), layout="constrained")
    first, last = next(iter(found.values())), list(found)[-1]
    for temperature, colour in zip(reversed(found), ("tab:red", "tab:blue", "tab:green"), strict=False):
        frames = found[temperature]["frames"]
        x, y = ([1e3 * v for v in frames[key]] for key in ("sigma", "error"))
        scatter.scatter(x, y, s=6, alpha=0.5, lw=0, color=colour, label=f"{temperature:g} K")
    scatter.axhline(1e3 * first["tau"], color="0.4", lw=1, ls=":", label="bad above")
    scatter.axvline(1e3 * first["flag"], color="0.4", lw=1, ls="--", label="flag")
    scatter.axvline(1e3 * first["halt"], color="0.4", lw=1, ls="-", label="halt")
    scatter.set(xscale="log", yscale="log", xlabel="largest force σ of an atom (meV/Å)")
    scatter.set_ylabel("largest true force error of an atom (meV/Å)")
    scatter.legend(frameon=False, fontsize=8, loc="upper left", markerscale=2)
    _times(times, last, found[last]["runs"])
    for axis in (scatter, times):
        plain_log(axis)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _times(axis: Any, temperature: float, runs: list[Mapping[str, Any]]) -> None:
    """A line a run, in order of the first bad frame."""
    order = sorted(runs, key=lambda r: (r["bad"] is None, r["bad"] or 0, r["alarm"] or 0))
    for k, run in enumerate(order):
        alarm, bad = (None if run[key] is None else 0.5 * max(run[key], 1) for key in ("alarm", "bad"))
        if alarm is not None and bad is not None:
            axis.plot([alarm, bad], [k, k], color="0.75", lw=2, zorder=1)
        for time, marker, colour, label in ((alarm, "o", "tab:orange", "alarm"), (bad, "x", "black", "bad frame")):
            if time is not None:
                axis.plot(time, k, marker, color=colour, ms=5, label=label)
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, loc="best")
    axis.set(xscale="log", xlabel="time of the first (fs)", ylabel="run", title=f"{temperature:g} K")
    axis.yaxis.get_major_locator().set_params(integer=True)
