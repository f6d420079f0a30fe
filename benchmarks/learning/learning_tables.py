"""Tables and plot of the learning suite: errors by way and number of labels, and labels at equal error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.accuracy.accuracy_tables import duration
from equimd.benchmarks.learning.chains import (
    BASE,
    CHEAP_KELVIN,
    FIRST,
    MEMBERS,
    METRICS,
    N_VAL,
    PRETRAINING,
    WAYS,
)
from equimd.benchmarks.results import made_by
from equimd.files import write_atomic
from equimd.plots import new_figure, plain_log, save_figure

Curve = Mapping[int, float]  # error by labels
FORCES, ENERGY = METRICS
OTHER_SIDE = {"": "", "<": ">", ">": "<"}


def labels_for(curve: Curve, error: float) -> tuple[str, float]:
    """Labels at which a curve first comes down to an error, log error interpolated against log labels.

    Returns:
        ``""`` and their number; ``"<"`` and the smallest size, if that has less error already; ``">"`` and the largest
        one, if none has as little.
    """
    sizes = sorted(curve)
    if curve[sizes[0]] <= error:
        return ("<" if curve[sizes[0]] < error else ""), float(sizes[0])
    for size, larger in zip(sizes, sizes[1:], strict=False):
        if curve[larger] <= error:
            part = math.log(curve[size] / error) / math.log(curve[size] / curve[larger])
            return "", size * (larger / size) ** part
    return ">", float(sizes[-1])


def labels_ratio(way: Curve, base: Curve) -> tuple[str, float]:
    """Labels that a way needs over those that ``base`` needs, at equal error; ``<`` or ``>`` where that is a bound.

    At the error that ``base`` has at its largest size; where the way never gets there, at the error that it has itself
    at its largest size: losses are measured as gains are, and nothing is extrapolated.
    """
    most = max(base)
    side, count = labels_for(way, base[most])
    if side != ">":
        return side, count / most
    side, count = labels_for(base, way[max(way)])
    return OTHER_SIDE[side], max(way) / count


def curves(results: Mapping[str, Any], metric: str) -> dict[str, dict[str, dict[int, dict[int, float]]]]:
    """Errors by test, way, seed and labels; ways in their own order."""
    found: dict[str, dict[str, dict[int, dict[int, float]]]] = {}
    for row in results["rows"]:
        _, _, split, variant, name = row["name"].split("/")
        if name == metric:
            way, test = variant.removesuffix(f"-seed{row['seed']}"), split.removesuffix(f"-n{row['n_train']}")
            seeds = found.setdefault(test, {}).setdefault(way, {})
            seeds.setdefault(row["seed"], {})[row["n_train"]] = row["value"]
    return {test: {way: ways[way] for way in WAYS if way in ways} for test, ways in sorted(found.items())}


def mean(seeds: Mapping[int, Curve]) -> dict[int, float]:
    """The geometric mean over the seeds, at each number of labels."""
    sizes = sorted({size for curve in seeds.values() for size in curve})
    return {n: math.exp(np.mean([math.log(c[n]) for c in seeds.values() if n in c])) for n in sizes}


def markdown(results: Mapping[str, Any]) -> str:
    """Errors of forces and of energies, and the labels at equal error of the forces."""
    forces = curves(results, FORCES)
    lines = [
        "# Learning",
        "",
        *_about(results),
        "",
        "Force MAE (meV/A), geometric mean of the seeds and their range:",
        "",
    ]
    lines += [*_errors(forces), "", "Energy MAE (meV):", "", *_errors(curves(results, ENERGY)), ""]
    lines += ["## Labels at equal error", "", *_saved(forces), ""]
    return "\n".join([*lines, made_by(dict(results), "equimd bench learning"), ""])


def _about(results: Mapping[str, Any]) -> list[str]:
    times = ", ".join(duration(s) for s in sorted({row["budget_s"] for row in results["rows"]}))
    kelvin = " and ".join(f"{k:g}" for k in CHEAP_KELVIN)
    presets = ", ".join(sorted({row["preset"] for row in results["rows"]}))
    return [
        f"Ethanol, GFN2-xTB; trainings of {times}, preset {presets}, one thread. Frames are chosen out of 1000 at 300 "
        f"K and 500 at 1000 K, less {N_VAL} that validate every training and do not count as labels; none is of 600 K. "
        f"Every chain of a seed begins with the same {FIRST} random frames, and the model of those labelled so far "
        f"chooses the next. Cheap stage: trained on from a model of GFN1-xTB frames at {kelvin} K, which took "
        f"{PRETRAINING:g} times as long. Difference: GFN2-xTB minus GFN1-xTB is learned, and each prediction takes a "
        f"GFN1-xTB calculation too. The ensemble chooses by {MEMBERS} models; errors are those of one."
    ]


def _errors(found: Mapping[str, Mapping[str, Mapping[int, Curve]]]) -> list[str]:
    columns = sorted({(t, n) for t, ways in found.items() for s in ways.values() for c in s.values() for n in c})
    heads = ["frames", "seeds", *(f"{test.replace('K', ' K')}, {n}" for test, n in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for way in [way for way in WAYS if any(way in ways for ways in found.values())]:
        cells = [WAYS[way].label, str(max(len(ways.get(way, {})) for ways in found.values()))]
        for test, n in columns:
            values = [curve[n] for curve in found[test].get(way, {}).values() if n in curve]
            cells.append(_spread(math.exp(np.mean(np.log(values))), values) if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _spread(middle: float, values: Sequence[float]) -> str:
    return f"{middle:.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")


def _saved(forces: Mapping[str, Mapping[str, Mapping[int, Curve]]]) -> list[str]:
    tests = [test for test, ways in forces.items() if BASE in ways]
    if not tests:
        return ["Not known without frames chosen at random."]
    heads = [
        "frames",
        *(f"{test.replace('K', ' K')}, {what}" for test in tests for what in ("ratio", "saved", "seeds")),
    ]
    lines = [
        "Labels a way needs over those that random choice needs for the same force error: that of random choice at its "
        "largest size, or where the way does not get there, the way's own at its largest size. Below 1, labels are "
        "saved; above 1, lost. Interpolated in the logarithms of errors and labels; < and > where no size reaches.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for way in [way for way in WAYS if way != BASE and any(way in forces[test] for test in tests)]:
        cells = [WAYS[way].label]
        for test in tests:
            own, base = forces[test].get(way, {}), forces[test][BASE]
            if not own:
                cells += ["-"] * 3
                continue
            side, ratio = labels_ratio(mean(own), mean(base))
            each = [labels_ratio(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())]
            told = ", ".join(f"{s}{r:.2f}" for s, r in each) or "-"
            cells += [f"{side}{ratio:.2f}", f"{OTHER_SIDE[side]}{100 * (1 - ratio):.0f} %", told]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(results: Mapping[str, Any], path: Path) -> None:
    """The force error against the number of labels, a panel a test; points are seeds."""
    found = curves(results, FORCES)
    figure, axes = new_figure(4.6 * len(found) + 1.0, 4.6, len(found))
    for ax, (test, ways) in zip(axes, found.items(), strict=True):
        for name, seeds in ways.items():
            way, middle = WAYS[name], mean(seeds)
            for curve in seeds.values():
                ax.plot(list(curve), list(curve.values()), ".", color=way.colour, alpha=0.4)
            style = "--" if way.pretrained else "-"
            ax.plot(list(middle), list(middle.values()), style, color=way.colour, label=way.label)
        ax.set(xscale="log", yscale="log", xlabel="labels", ylabel="force MAE (meV/Å)", title=test.replace("K", " K"))
        plain_log(ax)
        sizes = sorted({n for seeds in ways.values() for c in seeds.values() for n in c})
        ax.set_xticks(sizes, [str(n) for n in sizes])
    axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def write(results: Mapping[str, Any], out: Path) -> None:
    """Tables and plot beside the results."""
    write_atomic(out / "learning.md", markdown(results))
    plot(results, out / "learning.png")
