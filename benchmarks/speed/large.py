"""Large systems: time and peak memory of energy and forces against the number of atoms, in boxes of liquid water.

Each size is a process of its own, so that its peak of resident memory is its own; sizes come one after the other. A
call is what `equimd simulate` makes of a periodic system: a neighbour list by vesin, then energy and forces. Here the
atoms move more than half of the skin between calls, so that each makes its list anew; the list is timed by itself too.
Molecules stand on a lattice at the density of the liquid, shifted and turned at random; the weights are untrained,
which the time does not depend on.

Memory counts from what the process holds after a small system, that is above Python, torch and the model. Exponents
are slopes of a straight line through the logarithms: 1 is proportional to the number of atoms.

Row names read speed/water/<atoms>/large/<metric>, and speed/water/all/large/exponent_<what>.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.options import Options, say
from equimd.benchmarks.results import Row
from equimd.benchmarks.speed.peer_workers import Worker
from equimd.plots import plain_log

SIZES = (500, 1000, 2000, 5000, 10000, 20000)
QUICK_SIZES = (500, 1000)
SMALL = 100  # atoms of the system that loads all there is to load
ROUNDS = 3
#: metric of the exponent, metric of each size, what the plot calls it
FITTED = (
    ("cpu_time", "cpu_ms", "a call"),
    ("list", "list_cpu_ms", "its neighbour list"),
    ("memory", "added_MiB", "a call"),
)
NOTE = "untrained, eager"


def measure(atoms: int, threads: int, options: Options, seconds: float) -> dict[str, Any]:
    """One size: medians over rounds of CPU and wall milliseconds of a call and of its list, and memory in MiB."""
    task = {"threads": threads, "atoms": atoms, "seconds": 0}
    found: dict[str, Any] = {}
    with Worker("equimd", threads, options.work / "speed" / "large" / f"{atoms}.log") as worker:
        worker.ask("prepare", task={**task, "what": "large", "atoms": SMALL})
        about = worker.ask("prepare", task={**task, "what": "large"})
        for part in ("", "list_"):
            if part:
                worker.ask("prepare", task={**task, "what": "neighbors"})
            times = [worker.ask("measure", seconds=seconds) for _ in range(ROUNDS)]
            for kind in ("cpu", "wall"):
                found[f"{part}{kind}_ms"] = statistics.median(1e3 * t[f"{kind}_s"] / t["steps"] for t in times)
            if not part:
                found["peak_MiB"] = worker.ask("memory", steps=0)["process_MiB"]
                found["added_MiB"] = found["peak_MiB"] - about["resident_MiB"]
    say(f"  {about['model']}: {found['cpu_ms'] / 1e3:.2f} s of CPU, peak {found['peak_MiB']:.0f} MiB")
    return {**found, "atoms": about["frames"], "model": about["model"]}


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of y in x: slope of the line through their logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def rows(found: Sequence[Mapping[str, Any]], threads: int) -> list[Row]:
    """The rows of all sizes, and the exponents."""

    def row(size: int | str, metric: str, value: float, unit: str, note: str) -> Row:
        name = f"speed/water/{size}/large{f'-{threads}threads' if threads > 1 else ''}/{metric}"
        return Row(name, value, unit, "equimd bench speed --parts large", note, None, None, 0)

    out = []
    for one in found:
        for metric in ("cpu_ms", "wall_ms", "list_cpu_ms", "list_wall_ms", "peak_MiB", "added_MiB"):
            out.append(row(one["atoms"], metric, one[metric], metric.rsplit("_", 1)[1], one["model"]))
        share = one["list_cpu_ms"] / one["cpu_ms"]
        out.append(row(one["atoms"], "list_share", share, "1", one["model"]))
    if len(found) > 1:
        atoms = [one["atoms"] for one in found]
        for what, metric, _ in FITTED:
            exponent = slope(atoms, [one[metric] for one in found])
            out.append(row("all", f"exponent_{what}", exponent, "1", f"{len(found)} sizes"))
    return out


def grouped(results: Mapping[str, Any]) -> dict[str, dict[int | str, dict[str, float]]]:
    """Values by threads (as in row names), atoms and metric; sizes in order, the exponents as size ``all``."""
    found: dict[str, dict[int | str, dict[str, float]]] = {}
    for row in results["rows"]:
        _, _, size, what, metric = row["name"].split("/")
        if is_large(what):
            key = int(size) if size.isdigit() else size
            found.setdefault(what, {}).setdefault(key, {})[metric] = row["value"]
    return {
        what: dict(sorted(sizes.items(), key=lambda item: (isinstance(item[0], str), item[0])))
        for what, sizes in found.items()
    }


def is_large(what: str) -> bool:
    """Whether a row name's ``what`` is of this part."""
    return what.partition("-")[0] == "large"


def table(results: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown; none without rows."""
    lines = []
    for what, sizes in grouped(results).items():
        threads = what.partition("-")[2].removesuffix("threads") or "1"
        lines += [
            "",
            f"Large systems: energy and forces of periodic water, {threads} thread{'s' if threads != '1' else ''}:",
            "",
            "| atoms | CPU s | wall s | CPU ms an atom | of it, neighbour list | peak (MiB) | above the start (MiB) |",
            "|" + " --- |" * 7,
        ]
        for atoms, m in sizes.items():
            if isinstance(atoms, int):
                lines.append(
                    f"| {atoms} | {m['cpu_ms'] / 1e3:.3g} | {m['wall_ms'] / 1e3:.3g} | {m['cpu_ms'] / atoms:.2f} "
                    f"| {m['list_share']:.1%} | {m['peak_MiB']:.0f} | {m['added_MiB']:.0f} |"
                )
        if "all" in sizes:
            m = sizes["all"]
            told = [
                f"{name} {m[f'exponent_{key}']:.2f}"
                for key, name in (("cpu_time", "CPU time"), ("list", "neighbour list"), ("memory", "memory"))
                if f"exponent_{key}" in m
            ]
            lines += ["", f"Exponents in the number of atoms: {', '.join(told)}."]
    return lines


def plot(results: Mapping[str, Any], path: Path) -> bool:
    """Time and memory against atoms, both axes logarithmic; returns whether there was anything to draw."""
    from equimd.plots import TRAIN, VAL, new_figure, save_figure

    groups = grouped(results)
    if not groups:
        return False
    figure, axes = new_figure(9.6, 4.0, 2)
    for k, (what, sizes) in enumerate(groups.items()):
        atoms = [n for n in sizes if isinstance(n, int)]
        threads = what.partition("-")[2].replace("threads", " threads")
        more = {"marker": "o", "markersize": 4.5, "linestyle": ("-", "--", ":")[k % 3]}
        for (key, metric, name), axis, colour in zip(FITTED, axes[[0, 0, 1]], (VAL, TRAIN, VAL), strict=True):
            exponent = sizes.get("all", {}).get(f"exponent_{key}")
            told = [t for t in (name, threads, None if exponent is None else f"exponent {exponent:.2f}") if t]
            values = [sizes[n][metric] / (1e3 if metric.endswith("_ms") else 1.0) for n in atoms]
            axis.plot(atoms, values, color=colour, label=", ".join(told), **more)
    for axis, label in zip(axes, ("CPU time (s)", "peak memory above the start (MiB)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        low, high = axis.get_xlim()
        anchor = axis.lines[0].get_xydata()[-1]
        line = [anchor[1] * x / anchor[0] for x in (low, high)]
        axis.plot([low, high], line, color="0.6", linewidth=0.8, zorder=0, label="proportional to atoms")
        axis.set_xlim(low, high)
        plain_log(axis)
        axis.legend(frameon=False, fontsize=9, loc="upper left")
    save_figure(figure, path)
    return True


def run(options: Options, threads: int, *, quick: bool, kept: Any) -> list[Row]:
    """Measure what was not measured before; the rows.

    Args:
        kept: (name, key, make) -> a measurement, made or read.
    """
    seconds = 0.3 if quick else 2.0
    name = "large" if threads == 1 else f"large-{threads}threads"
    found = [
        kept(f"{name}/{n}", {"seconds": seconds, "rounds": ROUNDS}, lambda n=n: measure(n, threads, options, seconds))
        for n in (QUICK_SIZES if quick else SIZES)
    ]
    return rows(found, threads)
