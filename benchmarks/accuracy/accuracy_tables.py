"""Table and plot of the accuracy suite, published figures beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from equimd.benchmarks.results import made_by
from equimd.plots import finish, plain_log

MAE, RMSE = ("energy_mae_meV", "forces_mae_meV_per_A"), ("energy_rmse_meV", "forces_rmse_meV_per_A")
HEAD = ["| molecule | split | model | training time | energy {} (meV) | forces {} (meV/A) |", "|" + " --- |" * 6]


def label(variant: str) -> str:
    """The variant's name in tables and plots."""
    if variant == "schnetpack-painn":
        return "SchNetPack PaiNN, rerun"
    for key in ("seed", "lmax"):
        variant = variant.replace(f"-{key}", f", {key} ")
    return f"equimd, {variant.replace('-', ', ')}"


def duration(seconds: float) -> str:
    """A training time as tables have it."""
    return f"{seconds / 60:g} min" if seconds < 7200 else f"{seconds / 3600:g} h"


def _time(row: dict[str, Any]) -> str:
    return f"{duration(row['budget_s'])}, 1 thread"


def _grouped(results: dict[str, Any]) -> dict[tuple[str, str, str, str], dict[str, dict[str, Any]]]:
    """Rows by (data set, molecule, split, variant), then metric."""
    found: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        dataset, molecule, split, variant, metric = row["name"].split("/")
        found.setdefault((dataset, molecule, split, variant), {})[metric] = row
    return found


def _line(molecule: str, split: str, variant: str, rows: dict[str, dict[str, Any]], metrics: tuple[str, str]) -> str:
    one = rows[metrics[1]]
    more = one["preset"].partition(", ")[2]
    name = label(variant) + (f"; {more}" if more else "")
    if variant == "schnetpack-painn":
        name = f"{label(variant)} ({one['preset']})"
    energy, forces = (rows[m]["value"] for m in metrics)
    return f"| {molecule} | {split} | {name} | {_time(one)} | {energy:.2f} | {forces:.2f} |"


def _rmd17(groups: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    own = {k[1:]: v for k, v in groups.items() if k[0] == "rmd17" and "-n" not in k[2]}
    lines = [line.format("MAE", "MAE") for line in HEAD]
    lines += [_line(*key, rows, MAE) for key, rows in own.items()]
    for name, table in RMD17.items():
        for molecule in sorted({key[0] for key in own} & set(table)):
            energy, forces = table[molecule]
            lines.append(f"| {molecule} | - | {name}, published | - | {energy} | {forces} |")
    return lines if own else []


def _by_size(
    groups: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]],
) -> dict[tuple[str, str, str], list[dict[str, dict[str, Any]]]]:
    """Rows of the learning curves, the smallest training set first, by molecule, split and variant."""
    small = {k[1:] for k in groups if k[0] == "rmd17" and "-n" in k[2]}
    kinds = sorted({(molecule, split.split("-n")[0], variant) for molecule, split, variant in small})
    found: dict[tuple[str, str, str], list[dict[str, dict[str, Any]]]] = {kind: [] for kind in kinds}
    for (dataset, molecule, split, variant), rows in groups.items():
        if dataset == "rmd17" and (kind := (molecule, split.split("-n")[0], variant)) in found:
            found[kind].append(rows)
    return {kind: sorted(each, key=lambda rows: rows[MAE[1]]["n_train"]) for kind, each in found.items()}


def _curves(groups: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    heads = ["molecule", "model", "training frames", "training time", "energy MAE (meV)", "forces MAE (meV/A)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    curves = _by_size(groups)
    for (molecule, _, variant), sizes in curves.items():
        for rows in sizes:
            energy, forces = (rows[metric] for metric in MAE)
            cells = [molecule, label(variant), str(forces["n_train"]), duration(forces["budget_s"])]
            cells += [f"{row['value']:.2f}" for row in (energy, forces)]
            lines.append("| " + " | ".join(cells) + " |")
    return ["", "Learning curves on rMD17:", "", *lines] if curves else []


def _gap(groups: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    own = {k[1:]: v[MAE[1]] for k, v in groups.items() if k[0] == "rmd17" and "-n" not in k[2]}
    own = {k: v for k, v in own.items() if k[2].startswith("conservative")}
    names = [name for name, table in RMD17.items() if any(molecule in table for molecule, _, _ in own)]
    if not names:
        return []
    lines = ["| molecule | split | model | training time | " + " | ".join(names) + " |"]
    lines += ["|" + " --- |" * (4 + len(names))]
    for (molecule, split, variant), row in own.items():
        known = [RMD17[name].get(molecule) for name in names]
        cells = ["-" if k is None else f"{row['value'] / figure(k[1]):.2f}" for k in known]
        lines.append(f"| {molecule} | {split} | {label(variant)} | {_time(row)} | {' | '.join(cells)} |")
    about = "Force errors over the published ones, of a range over its upper end; below 1 equimd is the more accurate:"
    return ["", about, "", *lines]


def _others(groups: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]]) -> list[str]:
    lines = []
    for dataset, metrics, published, title in (
        ("acac", RMSE, ACAC, "Acetylacetone, trained at 300 K; root-mean-square errors, as its literature prints them"),
        ("ccsd", MAE, {}, "Ethanol by CCSD(T)"),
    ):
        own = {k[1:]: v for k, v in groups.items() if k[0] == dataset}
        if own:
            name = "RMSE" if metrics is RMSE else "MAE"
            lines += ["", f"{title}:", "", *(line.format(name, name) for line in HEAD)]
            lines += [_line(*key, rows, metrics) for key, rows in own.items()]
            for name, table in published.items():
                for split in sorted({key[1] for key in own} & set(table)):
                    lines.append(f"| acetylacetone | {split} | {name}, published | - | {' | '.join(table[split])} |")
    return lines


def markdown(results: dict[str, Any]) -> str:
    """The tables: rMD17 with published figures below, the ratios to these; learning curves; the other data sets."""
    groups = _grouped(results)
    about = made_by(results, "equimd bench accuracy")
    return "\n".join(
        ["# Accuracy", "", *_rmd17(groups), *_gap(groups), *_curves(groups), *_others(groups), "", about, ""]
    )


def plot(results: dict[str, Any], path: Path) -> bool:
    """Bars of the force error on rMD17, a group a molecule; returns whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars: dict[str, dict[str, float]] = {}
    for (dataset, molecule, split, variant), rows in _grouped(results).items():
        if dataset == "rmd17" and "-n" not in split and "-seed" not in variant:
            bars.setdefault(label(variant), {}).setdefault(molecule, rows[MAE[1]]["value"])
    molecules = sorted({m for found in bars.values() for m in found})
    if not molecules:
        return False
    for name, table in RMD17.items():
        if known := {m: figure(table[m][1]) for m in molecules if m in table}:
            bars[f"{name}, published"] = known
    figure_, axes = plt.subplots(figsize=(1.8 + 2.6 * len(molecules), 3.8), layout="constrained")
    width = 0.84 / len(bars)
    present = {m: [name for name, found in bars.items() if m in found] for m in molecules}
    for name, found in bars.items():
        # a molecule's bars stand side by side, without gaps for models that it lacks
        x = [
            k + (present[m].index(name) - (len(present[m]) - 1) / 2) * width
            for k, m in enumerate(molecules)
            if m in found
        ]
        drawn = axes.bar(x, [found[m] for m in molecules if m in found], width * 0.92, label=name)
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=8)
    axes.set_xticks(range(len(molecules)), molecules)
    axes.set_ylabel("force MAE (meV/Å)")
    axes.margins(y=0.12)
    finish(figure_, axes, path, min(3, len(molecules), len(bars)))
    return True


def plot_curves(results: dict[str, Any], path: Path) -> bool:
    """The force error against the number of training frames; returns whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = _by_size(_grouped(results))
    if not curves:
        return False
    figure_, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    for (molecule, split, variant), sizes in curves.items():
        rows = [each[MAE[1]] for each in sizes]
        name = f"{molecule} {split}, {label(variant)}"
        axes.plot([r["n_train"] for r in rows], [r["value"] for r in rows], marker="o", label=name)
    counts = sorted({each[MAE[1]]["n_train"] for sizes in curves.values() for each in sizes})
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_log(axes)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlabel("training frames")
    axes.set_ylabel("force MAE (meV/Å)")
    finish(figure_, axes, path, 1)
    return True


def write(results: dict[str, Any], out: Path) -> None:
    """Tables and plots beside the results."""
    (out / "accuracy.md").write_text(markdown(results))
    plot(results, out / "accuracy.png")
    plot_curves(results, out / "accuracy-curves.png")


#: Errors as the literature prints them, to stand beside those measured here. Energies in meV, forces in meV/Angstrom.
#:
#: Mean absolute errors on rMD17, trained on 950 + 50 frames; the PaiNN of its paper was trained on the original MD17
#: labels, which are noisier. Sources:
#:
#: - PaiNN: Schuett, Unke, Gastegger, ICML 2021 (PMLR 139, 9377), table 1, converted from kcal/mol;
#: - NequIP: Batzner et al., Nature Communications 13, 2453 (2022), l = 3;
#: - MACE: Batatia et al., NeurIPS 2022. Later papers quote its force errors on malonaldehyde and salicylic acid
#:   differently (4.1 and 5.0, 3.1 and 3.8); the range is printed.
#:
#: By name and molecule: (energy, forces), as printed.
RMD17: dict[str, dict[str, tuple[str, str]]] = {
    "PaiNN (MD17 labels)": {
        "aspirin": ("6.9", "16.1"),
        "ethanol": ("2.7", "10.0"),
        "malonaldehyde": ("3.9", "13.8"),
        "salicylic": ("4.9", "9.1"),
    },
    "NequIP": {
        "aspirin": ("2.3", "8.2"),
        "ethanol": ("0.4", "2.8"),
        "malonaldehyde": ("0.8", "5.1"),
        "salicylic": ("0.7", "4.0"),
    },
    "MACE": {
        "aspirin": ("2.2", "6.6"),
        "ethanol": ("0.4", "2.1"),
        "malonaldehyde": ("0.8", "4.1-5.0"),
        "salicylic": ("0.9", "3.1-3.8"),
    },
}

#: Root-mean-square errors on acetylacetone, trained on 500 frames of 300 K, by split: Batatia et al., "MACE", NeurIPS
#: 2022, both.
ACAC: dict[str, dict[str, tuple[str, str]]] = {
    "NequIP": {"300K-300K": ("0.8", "5.9"), "300K-600K": ("6.0", "27.8")},
    "MACE": {"300K-300K": ("0.9", "5.1"), "300K-600K": ("4.6", "22.4")},
}


def figure(printed: str) -> float:
    """A printed error as a number; the upper end of a range."""
    return float(printed.split("-")[-1])
