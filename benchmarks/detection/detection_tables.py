"""Table and plot of the detection suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import made_by
from equimd.plots import plain_log

GUARD = (
    ("runs", "runs", "{:.0f}"),
    ("runs_with_bad_frame", "with a bad frame", "{:.0f}"),
    ("physical_halts", "physical checks failed", "{:.0f}"),
    ("labelled_frames", "frames labelled", "{:.0f}"),
    ("sampled_frames", "frames of the rates below, evenly spaced in time", "{:.0f}"),
    ("bad_share", "bad frames", "{:.1%}"),
    ("auroc_bad", "AUROC of bad frames", "{:.3f}"),
    ("spearman", "rank correlation of sigma and error", "{:.3f}"),
)
RULE = (
    ("threshold", "above (meV/A)", "{:.0f}"),
    ("runs", "runs with an alarm", "{:.0f}"),
    ("before_bad", "no later than the first bad frame", "{:.0f}"),
    ("missing", "bad frame, no alarm", "{:.0f}"),
    ("without_bad", "alarm, no bad frame", "{:.0f}"),
    ("lead_median", "median lead (fs)", "{:.1f}"),
    ("lead_least", "least lead (fs)", "{:.1f}"),
    ("before_physical", "before a physical check failed", "{:.0f}"),
    ("lead_physical_median", "median time before that (fs)", "{:.1f}"),
    ("share", "frames above", "{:.1%}"),
    ("missed_share", "bad frames not above", "{:.1%}"),
    ("false_share", "good frames above", "{:.1%}"),
    ("real_runs", "runs in halt mode", "{:.0f}"),
    ("real_halts_at_alarm", "halted at the alarm's step", "{:.0f}"),
)
RULES = {"halt": "halt", "flag": "flag", "bound": "error bound of tau"}


def _temperature(split: str) -> float:
    return float(split.removesuffix("K"))


def markdown(results: Mapping[str, Any]) -> str:
    """A table of the runs and one of the rules; a column a temperature, and a rule."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row in results["rows"]:
        _, _, split, rule, metric = row["name"].split("/")
        found.setdefault(split, {}).setdefault(rule, {})[metric] = row
    splits = sorted(found, key=_temperature)
    told = {split: split.replace("K", " K") for split in splits}
    home = found[splits[0]]
    for rule in RULES:
        for split in splits[1:]:
            found[split].setdefault(rule, {})["threshold"] = home.get(rule, {}).get("threshold")
    columns = [
        (f"{name}, {told[split]}", found[split].get(rule, {})) for rule, name in RULES.items() for split in splits
    ]
    lines = ["# Detection", "", *_table(GUARD, [(told[s], found[s].get("guard", {})) for s in splits])]
    lines += ["", "## Rules", "", *_table(RULE, columns), "", _about(home, told[splits[0]]), ""]
    return "\n".join([*lines, made_by(results, "equimd bench detection"), ""])


def _table(metrics: Sequence[tuple[str, str, str]], columns: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    lines = ["| | " + " | ".join(name for name, _ in columns) + " |", "|" + " --- |" * (1 + len(columns))]
    for metric, title, form in metrics:
        cells = [form.format(_shown(c[metric])) if c.get(metric) else "-" for _, c in columns]
        if set(cells) != {"-"}:
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _shown(row: Mapping[str, Any]) -> float:
    return float(row["value"]) * (1e3 if row["unit"] == "eV/A" else 1.0)


def _about(home: Mapping[str, Mapping[str, Any]], temperature: str) -> str:
    about = (
        "Each rule looks at the force sigma of every step; lead: from its first alarm to the first bad frame among the "
        "labelled ones, every 10th step in the full suite."
    )
    if "tau" in home["guard"]:
        about += (
            f" A frame is bad above a force error of {1e3 * home['guard']['tau']['value']:.0f} meV/A on an atom (tau): "
            "by its definition one frame in a hundred is bad at the training temperature too, and a halt threshold "
            "that lets such runs through is far above it. The error bound is what `--uq-threshold` of tau sets: it "
            "alarms where an error above tau is not ruled out, which happens in ordinary runs, too; so it is for flags "
            "(`--on-exceed flag`), or for those who would rather halt too often."
        )
    expected = home.get("halt", {}).get("runs", {}).get("interval")
    if expected:
        low, high = expected
        about += f" False halts to expect at {temperature}: {low:.0f} to {high:.0f} runs."
    return about


def plot(found: Mapping[float, Mapping[str, Any]], path: Path) -> None:
    """Left: true error against sigma. Right: of each hot run, the first alarm of every rule and the first bad frame."""
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
    for rule, style in (("bound", "-."), ("flag", "--"), ("halt", "-")):
        scatter.axvline(1e3 * first["thresholds"][rule], color="0.4", lw=1, ls=style, label=RULES[rule])
    scatter.set(xscale="log", yscale="log", xlabel="largest force σ of an atom (meV/Å)")
    scatter.set_ylabel("largest true force error of an atom (meV/Å)")
    scatter.legend(framealpha=1, edgecolor="none", fontsize=8, loc="lower right", markerscale=2)
    _times(times, last, found[last]["runs"])
    for axis in (scatter, times):
        plain_log(axis)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _times(axis: Any, temperature: float, runs: list[Mapping[str, Any]]) -> None:
    """A line a run, in order of the first bad frame."""
    marks = (("bound", "s", "tab:green"), ("flag", "^", "tab:blue"), ("halt", "o", "tab:orange"), ("bad", "x", "black"))
    for k, run in enumerate(sorted(runs, key=lambda r: (r["bad"] is None, r["bad"] or 0))):
        steps = {**run["first"], "bad": run["bad"]}
        times = {name: 0.5 * max(step, 1) for name, step in steps.items() if step is not None}
        if times:
            axis.plot([min(times.values()), max(times.values())], [k, k], color="0.85", lw=1.5, zorder=1)
        for name, marker, colour in marks:
            if name in times:
                axis.plot(times[name], k, marker, color=colour, ms=5, label=RULES.get(name, "bad frame"))
    handles, names = axis.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axis.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, loc="best")
    axis.set(xscale="log", xlabel="time of the first (fs)", ylabel="run", title=f"{temperature:g} K")
    axis.yaxis.get_major_locator().set_params(integer=True)
