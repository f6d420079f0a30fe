"""Tables and plot of the calibration suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimd.benchmarks.calibration.baselines import METHODS
from equimd.benchmarks.results import made_by
from equimd.plots import plain_log

TITLES = {"acac": "acetylacetone", "bundled": "bundled ethanol"}  # of plots; else the molecule of rMD17
COLUMNS = (
    ("forces_zms", "ZMS", 2, True),
    ("forces_coverage_95", "in 95 %", 3, False),
    ("forces_miscalibration_area", "area", 3, False),
    ("forces_ence", "ENCE", 2, False),
    ("forces_nll", "NLL", 2, False),
    ("forces_zms_one_scale", "ZMS, one scale", 2, False),
    ("auroc_bad", "AUROC bad", 3, True),
    ("auroc_bad_expected", "of exact sigmas", 3, False),
    ("auroc_domain", "AUROC domain", 3, True),
    ("energy_zms", "energy ZMS", 2, False),
    ("energy_coverage_95", "energy in 95 %", 3, False),
)
NOTES = (
    "All sigmas are calibrated with in-domain labels alone, each method by the form with the best held-out likelihood. "
    "ZMS: mean squared z of the force on an atom, ideal 1; area: between nominal and observed coverage; NLL in nats a "
    "component; ZMS, one scale: with a single scale factor and noise instead. AUROC bad: frames with a force error "
    "above the in-domain 99 % quantile against the others of the split (- below 20 of either); of exact sigmas: what "
    "it would be on average if errors were draws from the very distributions that the method predicts, the ceiling of "
    "any ranking by them; AUROC domain: frames of the split against the in-domain test frames. Means over training "
    "seeds; in brackets 95 % bootstrap intervals, the widest of the seeds. The ensemble is judged by the errors of its "
    "own mean. Step: energy, forces and exact uncertainty over energy and forces, batches of 16, uncompiled."
)


def method_of(variant: str) -> str | None:
    """The key in ``METHODS`` of a row's variant; None if it is no method."""
    key = "ensemble" if variant.startswith("ensemble-") else variant
    return key if key in METHODS else None


def _values(results: Mapping[str, Any]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """Rows by (data set and molecule, split, variant), then metric."""
    found: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        dataset, molecule, split, variant, metric = row["name"].split("/")
        found.setdefault((f"{dataset} {molecule}", split, variant), {})[metric] = row
    return found


def _cell(row: Mapping[str, Any] | None, digits: int, interval: bool) -> str:
    if row is None:
        return "-"
    text = f"{row['value']:.{digits}f}"
    if interval and row.get("interval"):
        low, high = row["interval"]
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text


def _temperature(split: str) -> float:
    digits = split.removesuffix("K")
    return float(digits) if digits.isdigit() else 0.0


def _sigmas(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    order = list(METHODS)
    keys = [k for k in values if method_of(k[2]) and "forces_zms" in values[k]]
    keys.sort(key=lambda k: (k[0], _temperature(k[1]), order.index(str(method_of(k[2])))))
    if not keys:
        return []
    heads = ["molecule", "split", "method", *(title for _, title, _, _ in COLUMNS), "models", "fit (s)", "step"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for key in keys:
        rows = values[key]
        name = METHODS[str(method_of(key[2]))].label
        name += f" of {key[2].rsplit('-', 1)[1]}" if key[2].startswith("ensemble-") else ""
        home = [v for (molecule, _, variant), v in values.items() if molecule == key[0] and variant == key[2]]
        cost = next((v for v in home if "step_ratio" in v), {})
        cells = [_cell(rows.get(metric), digits, interval) for metric, _, digits, interval in COLUMNS]
        cells += [_cell(cost.get("trainings"), 0, False), _cell(cost.get("fit_time"), 0, False)]
        cells.append(_cell(cost.get("step_ratio"), 1, False))
        lines.append("| " + " | ".join([key[0], key[1], name, *cells]) + " |")
    return [*lines, "", NOTES]


def _rates(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    lines = []
    for (molecule, split, variant), rows in values.items():
        if variant != "last-layer":
            continue
        for metric, row in rows.items():
            per_seed = ", ".join(f"{v:.3g}" for v in (row.get("per_seed") or {}).values())
            low, high = row.get("interval") or (None, None)
            if metric.startswith("flag_rate_at_"):
                nominal = metric.removeprefix("flag_rate_at_").removesuffix("_percent").replace("_", ".")
                cells = f"flags a frame | {nominal} % | {100 * row['value']:.2f} %"
                each = ", ".join(f"{100 * v:.2f} %" for v in (row.get("per_seed") or {}).values())
                lines.append(f"| {molecule} | {split} | {cells} | {each} | {100 * low:.2f} to {100 * high:.2f} % |")
            if metric.startswith("false_halts_of_"):
                runs, nominal = metric.removeprefix("false_halts_of_").removesuffix("_percent").split("_runs_at_")
                cells = f"false halts of {runs} runs ({row['preset'].removeprefix('default, ')}) | {nominal} %"
                each = f"{row['value']:.1f} | {per_seed} | {low:.0f} to {high:.0f} expected"
                lines.append(f"| {molecule} | {split} | {cells} | {each} |")
    if not lines:
        return []
    head = "| molecule | split | rate | nominal | realised | by seed | interval |"
    about = "Fresh runs of the models in domain; intervals of flags by resampling whole runs, of halts beta-binomial."
    return ["", "## Realised rates", "", head, "|" + " --- |" * 7, *lines, "", about]


def _costs(values: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    metrics = {
        "decision_halt_ratio": "decision that halts",
        "decision_flag_ratio": "decision that flags",
        "rank_8_ratio": "rank-8 score",
        "exact_ratio": "exact covariance",
    }
    lines = []
    for (molecule, _, mode), rows in values.items():
        if mode in ("eager", "compiled"):
            cells = " | ".join(_cell(rows.get(metric), 2, False) for metric in metrics)
            share = rows.get("exact_share_halt"), rows.get("exact_share_flag")
            shares = " / ".join("-" if s is None else f"{100 * s['value']:.1f} %" for s in share)
            lines.append(f"| {molecule} | {mode} | {_cell(rows.get('plain_ms'), 2, False)} | {cells} | {shares} |")
    if not lines:
        return []
    heads = ["molecule", "mode", "plain call (ms)", *metrics.values(), "exact calls, halt / flag"]
    about = (
        "Ratios to a plain energy and force call in the same mode, one structure a call, interleaved. The decisions "
        "include the plain call; the rank-8 score and the exact covariance are by themselves."
    )
    return ["", "## Costs", "", "| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads), *lines, "", about]


def markdown(results: Mapping[str, Any]) -> str:
    """All tables, from the rows alone."""
    values = _values(results)
    about = made_by(results, "equimd bench calibration")
    body = [*_sigmas(values), *_rates(values), *_costs(values)]
    return "\n".join(["# Calibration", "", *body, "", about, ""])


def plot(case: str, pieces: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """Error against sigma of forces, a panel a split, of the first seed; below the diagonal a method is too careful."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = next(iter(pieces.values()))["methods"]
    splits = list(next(iter(methods.values()))["splits"])
    figure, axes = plt.subplots(1, len(splits), figsize=(4.1 * len(splits), 4.6), layout="constrained", squeeze=False)
    for axis, split in zip(axes[0], splits, strict=True):
        _panel(axis, methods, split)
        where = f", {split.replace('K', ' K')}" if split.endswith("K") else ""
        axis.set_title(f"{TITLES.get(case, case)}{where}", fontsize=9)
        axis.set_xlabel("predicted σ (meV/Å)")
    axes[0][0].set_ylabel("root mean squared error (meV/Å)")
    lines, names = axes[0][0].get_legend_handles_labels()
    columns = max(2, min(3, len(splits)))
    figure.legend(lines, names, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _panel(axis: Any, methods: Mapping[str, Any], split: str) -> None:
    ends = []
    for name, method in methods.items():
        of = METHODS[str(method_of(name))]
        curve = method["splits"][split]["forces"]["error_against_sigma"]
        x, y = ([1e3 * v for v in curve[key]] for key in ("sigma", "rmse"))
        axis.plot(x, y, "o-", color=of.colour, ms=3, lw=1, label=of.label)
        ends += [min(*x, *y), max(*x, *y)]
    low, high = 0.8 * min(ends), 1.25 * max(ends)
    axis.plot([low, high], [low, high], "--", color="0.5", lw=1, label="ideal")
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    plain_log(axis)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
