"""Rows, table and plot of the speed suite. What is measured stands in :mod:`equimd.benchmarks.speed.speed_suite`.

Row names read speed/<molecule>/<batch>/<what>/<metric>: ``cpu_ms_<who>``, ``wall_ms_<who>`` (median of a step),
``spread_<who>`` (half the distance of the quartiles over the median), ``ratio_vs_<peer>`` (the peer's time over
equimd's), ``frames_per_cpu_s_<who>``, ``work_over_gemm_peak_<who>``, ``guard_ratio``, ``peak_MiB_<who>``,
``replicas_ratio`` (frames per unit of time, replicas at once over one after the other), ``memory_ratio_vs_<peer>``,
``first_step_<cold|warm>_s_<who>``.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import Row, made_by
from equimd.benchmarks.speed import large
from equimd.benchmarks.speed.speed_suite import GEMM, OWN, SpeedCase, spread
from equimd.plots import finish, plain_log

MFLOP = {"ethanol": 16.7, "aspirin": 45.3}  # products of one forward pass: 128 features, 3 layers, 20 radial, 5 A
TIMES_FORWARD = {"md": 2.0, "train": 6.0}
WORK_OF_SAME_WIDTH = ("equimd", "schnetpack")
NAMES = {
    "equimd": "equimd",
    "equimd-single": "equimd, one after the other",
    "equimd-run": "equimd, trained run",
    "equimd-guard": "equimd, guard on",
    "schnetpack": "SchNetPack PaiNN",
    "nequip": "NequIP",
    "mace": "MACE",
}


def _row(case: SpeedCase, metric: str, value: float, unit: str, note: str) -> Row:
    return Row(f"speed/{case.name}/{metric}", value, unit, "equimd bench speed", note, None, None, 0)


def step_rows(case: SpeedCase, found: dict[str, Any]) -> list[Row]:
    """The rows of one comparison."""
    measured = {k: v for k, v in found["measured"].items() if k != GEMM}
    kind = "cpu_ms" if case.threads == 1 else "wall_ms"
    rows = []
    for who, m in measured.items():
        rows += [_row(case, f"{k}_{who}", statistics.median(m[k]), "ms", m["model"]) for k in ("cpu_ms", "wall_ms")]
        rows.append(_row(case, f"spread_{who}", spread(m[kind]), "1", m["model"]))
        if case.what == "md" and case.batch > 1:
            rate = 1e3 * m["frames"] / statistics.median(m["cpu_ms"])
            rows.append(_row(case, f"frames_per_cpu_s_{who}", rate, "1/s", m["model"]))
    own = measured.get("equimd")
    for who, m in measured.items():
        if own is not None and who not in OWN:
            ratios = [a / b for a, b in zip(m[kind], own[kind], strict=True)]
            rows.append(_row(case, f"ratio_vs_{who}", statistics.median(ratios), "1", m["model"]))
    if "equimd-guard" in measured and "equimd-run" in measured:
        with_guard, without = measured["equimd-guard"], measured["equimd-run"]
        ratios = [a / b for a, b in zip(with_guard[kind], without[kind], strict=True)]
        rows.append(_row(case, "guard_ratio", statistics.median(ratios), "1", with_guard["model"]))
    if "equimd-single" in measured and own is not None:
        single = measured["equimd-single"]
        frames = own["frames"] / single["frames"]
        ratios = [frames * a / b for a, b in zip(single[kind], own[kind], strict=True)]
        rows.append(_row(case, "replicas_ratio", statistics.median(ratios), "1", own["model"]))
    return rows + _work_rows(case, found["measured"])


def _work_rows(case: SpeedCase, measured: dict[str, Any]) -> list[Row]:
    """Useful work per second over the peak of matrix products in the same rounds, on one thread."""
    gemm, rows = measured.get(GEMM), []
    if gemm is None or case.threads != 1 or case.molecule not in MFLOP:
        return []
    peak = [gemm["frames"] / t / 1e6 for t in gemm["cpu_ms"]]  # GFLOP/s
    rows.append(_row(case, "gemm_peak", statistics.median(peak), "GFLOP/s", gemm["model"]))
    work = MFLOP[case.molecule] * TIMES_FORWARD[case.what] * case.batch
    for who in WORK_OF_SAME_WIDTH:
        if who in measured:
            share = [work / t / p for t, p in zip(measured[who]["cpu_ms"], peak, strict=True)]
            rows.append(_row(case, f"work_over_gemm_peak_{who}", statistics.median(share), "1", measured[who]["model"]))
    return rows


def memory_rows(found: dict[str, Any]) -> list[Row]:
    """The rows of peak memory: of the steps themselves, and of the whole process, compilation included."""
    case, measured = SpeedCase(**found["case"]), found["measured"]
    rows = []
    for who, m in measured.items():
        rows.append(_row(case, f"peak_MiB_{who}", m["steps_MiB"], "MiB", m["model"]))
        rows.append(_row(case, f"process_peak_MiB_{who}", m["process_MiB"], "MiB", m["model"]))
        if who != "equimd" and "equimd" in measured:
            ratio = m["steps_MiB"] / measured["equimd"]["steps_MiB"]
            rows.append(_row(case, f"memory_ratio_vs_{who}", ratio, "1", m["model"]))
    return rows


def first_step_rows(case: SpeedCase, found: dict[str, Any]) -> list[Row]:
    """The rows of the time to the first step."""
    return [
        _row(case, f"first_step_{state}_{kind}_s_{who}", m[f"{state}_{kind}_s"], "s", m["model"])
        for who, m in found["measured"].items()
        for state in ("cold", "warm")
        for kind in ("wall", "cpu")
        if f"{state}_{kind}_s" in m
    ]


def _grouped(results: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """Rows by (molecule, batch, what), then metric."""
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        _, molecule, batch, what, metric = row["name"].split("/")
        if not large.is_large(what):
            found.setdefault((molecule, batch, what), {})[metric] = row
    return found


def _value(rows: dict[str, dict[str, Any]], metric: str, form: str) -> str:
    return format(rows[metric]["value"], form) if metric in rows else "-"


def _head(*titles: str) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]


def _steps_table(groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    lines = _head(
        "molecule",
        "frames a step",
        "what",
        "potential",
        "CPU ms",
        "wall ms",
        "spread",
        "equimd is faster by",
        "of GEMM peak",
    )
    for (molecule, batch, what), rows in groups.items():
        for who, name in NAMES.items():
            if f"cpu_ms_{who}" not in rows:
                continue
            cpu, wall = _value(rows, f"cpu_ms_{who}", ".3g"), _value(rows, f"wall_ms_{who}", ".3g")
            share, ratio = _value(rows, f"work_over_gemm_peak_{who}", ".0%"), _value(rows, f"ratio_vs_{who}", ".2f")
            if who == "equimd-single":
                name += f" (at once: {_value(rows, 'replicas_ratio', '.2f')} x the frames)"
            if who == "equimd-guard":
                name += f" ({_value(rows, 'guard_ratio', '.2f')} x off)"
            about = f"{_value(rows, f'spread_{who}', '.0%')} | {ratio} | {share}"
            lines.append(f"| {molecule} | {batch} | {what} | {name} | {cpu} | {wall} | {about} |")
    return lines


def _other_tables(groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    replicas = _head("molecule", "replicas", "potential", "frames per CPU-second")
    peaks = _head("molecule", "batch", "potential", "peak in steps (MiB)", "of the process (MiB)")
    first = _head("molecule", "frames a step", "what", "potential", "cold (s)", "warm (s)")
    until = _head("molecule", "potential", "seconds", "of each seed", "about")
    for (molecule, batch, what), rows in groups.items():
        for who, name in NAMES.items():
            if f"frames_per_cpu_s_{who}" in rows and what == "md":
                rate = _value(rows, f"frames_per_cpu_s_{who}", ".0f")
                replicas.append(f"| {molecule} | {batch} | {name} | {rate} |")
            if f"peak_MiB_{who}" in rows:
                both = [_value(rows, f"{kind}_MiB_{who}", ".0f") for kind in ("peak", "process_peak")]
                peaks.append(f"| {molecule} | {batch} | {name} | {both[0]} | {both[1]} |")
            if f"first_step_cold_wall_s_{who}" in rows:
                both = [_value(rows, f"first_step_{state}_wall_s_{who}", ".1f") for state in ("cold", "warm")]
                first.append(f"| {molecule} | {batch} | {what} | {name} | {both[0]} | {both[1]} |")
        until += _target_lines(molecule, rows)
    titles = {
        "Many replicas, one thread": replicas,
        "Peak memory of training": peaks,
        "Wall time from the start of a training to a validation error of the forces, medians over seeds": until,
        "Wall time to the first finished step, nothing compiled before (cold) and everything (warm)": first,
    }
    return [line for title, table in titles.items() if len(table) > 2 for line in ("", title + ":", "", *table)]


def _target_lines(molecule: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """Of time to accuracy (:mod:`equimd.benchmarks.speed.target`): each potential, then the ratios."""
    lines = []
    for who, name in {
        "equimd": "equimd, cold",
        "equimd-warm": "equimd, warm",
        "schnetpack": NAMES["schnetpack"],
    }.items():
        if (row := rows.get(f"seconds_{who}")) is not None:
            each = ", ".join(f"{v:.0f}" for v in row["per_seed"].values())
            lines.append(f"| {molecule} | {name} | {row['value']:.0f} | {each} | {row['preset']} |")
    for metric, row in rows.items():
        if metric.startswith("target_ratio_"):
            state, _, peer = metric.removeprefix("target_ratio_").partition("_vs_")
            each = ", ".join(f"{v:.2f}" for v in row["per_seed"].values())
            lines.append(f"| {molecule} | {NAMES[peer]} over equimd, {state} | {row['value']:.2f} x | {each} | |")
    return lines


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    groups = _grouped(results)
    models = sorted({row["preset"] for row in results["rows"] if "_ms_" in row["name"]})
    about = [made_by(results, "equimd bench speed")]
    if models:
        about[0] += (
            " Medians over interleaved rounds; spread is half the distance of the quartiles over the median. "
            "Ratios are of CPU time on one thread, of wall time on several. Models:"
        )
        about += ["", *(f"- {model}" for model in models)]
    steps = ["", *_steps_table(groups)] if groups else []
    return "\n".join(["# Speed", *steps, *_other_tables(groups), *large.table(results), "", *about, ""])


def plot(results: dict[str, Any], path: Path) -> bool:
    """Bars of how many times longer each peer takes; returns whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ratios: dict[str, dict[str, float]] = {}
    for (molecule, batch, what), rows in _grouped(results).items():
        for metric, row in rows.items():
            if metric.startswith("ratio_vs_"):
                step = {"train": f"training, batch {batch}", "md": "dynamics" if batch == "1" else f"{batch} replicas"}
                kind, _, threads = what.partition("-")
                name = f"{molecule}, {step[kind]}" + (f", {threads.replace('threads', ' threads')}" if threads else "")
                ratios.setdefault(name, {})[metric.removeprefix("ratio_vs_")] = row["value"]
    if not ratios:
        return False
    peers = [p for p in NAMES if any(p in found for found in ratios.values())]
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.26 * len(ratios) * (len(peers) + 0.6)), layout="constrained")
    height = 0.8 / len(peers)
    for k, peer in enumerate(peers):
        y = [i + (k - (len(peers) - 1) / 2) * height for i, found in enumerate(ratios.values()) if peer in found]
        values = [found[peer] for found in ratios.values() if peer in found]
        drawn = axes.barh(y, values, height * 0.9, label=NAMES[peer])
        axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set_xscale("log")
    plain_log(axes)
    axes.axvline(1.0, color="0.3", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel("time of the peer over time of equimd")
    finish(figure, axes, path, len(peers))
    return True


def write(results: dict[str, Any], out: Path) -> None:
    """Table and plot beside the results."""
    (out / "speed.md").write_text(markdown(results))
    plot(results, out / "speed.png")
    large.plot(results, out / "speed-large.png")
