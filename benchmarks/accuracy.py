"""Accuracy on rMD17 by the published protocol: 950 + 50 frames of train_0N, 1000 of test_0N.

    python -m equimd.benchmarks.accuracy --data DIR --molecules ethanol aspirin --budget 45m

``DIR`` holds rmd17_<molecule>_{train,test}_0N.npz (``equimd data fetch rmd17 <molecule>`` puts them there). Each model
is trained by ``equimd train`` in a process of its own; a finished run is not repeated and an interrupted one is
resumed. ``--schnetpack PYTHON`` trains SchNetPack's PaiNN beside them, for the same time on the same frames, with the
Python of an environment that has schnetpack. Writes accuracy.json, accuracy.md and accuracy.png. Errors: mean absolute,
energies in meV a molecule, forces in meV/Angstrom a component, as the literature gives them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import Row, merge, sha256

PEER = Path(__file__).parent / "peers" / "schnetpack_painn.py"
PROTOCOL = {"data", "test_data", "splits", "forces", "max_time", "threads", "seed"}
METRICS = {"energy_mae_meV": "meV", "forces_mae_meV_per_A": "meV/A"}
# MAE of energy (meV) and forces (meV/A) as their papers print them. PaiNN: Schuett et al. 2021, on 1000 frames with the
# original MD17 labels, which are noisier than the revised ones that the others and equimd use.
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "PaiNN (MD17 labels)": {
        "aspirin": (6.9, 16.1),
        "ethanol": (2.7, 10.0),
        "malonaldehyde": (3.9, 13.8),
        "salicylic": (4.9, 9.1),
    },
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of rmd17_<molecule>_{train,test}_0N.npz")
    parser.add_argument("--molecules", nargs="+", default=["ethanol", "aspirin"])
    parser.add_argument("--split", default="01")
    parser.add_argument("--variants", nargs="+", choices=("conservative", "direct"), default=["conservative"])
    parser.add_argument("--budget", default="45m", help="training time of a model, compilation included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schnetpack", metavar="PYTHON", help="train SchNetPack's PaiNN too, with this Python")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="where the trained models are kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def duration(options: argparse.Namespace) -> float:
    """The training time in seconds."""
    from equimd.config import parse_duration

    return float(str(parse_duration(options.budget)))


def train(options: argparse.Namespace, molecule: str, variant: str) -> Path:
    """Train one model, or finish or reuse the run that is there; returns its folder."""
    files = {part: options.data / f"rmd17_{molecule}_{part}_{options.split}.npz" for part in ("train", "test")}
    run = options.runs / f"{molecule}-{options.split}-{variant}-{options.budget}-seed{options.seed}"
    command = [
        "train", "--data", str(files["train"]), "--splits", "950", "50", "0", "--test-data", str(files["test"]),
        "--forces", variant, "--max-time", options.budget, "--threads", "1", "--seed", str(options.seed),
        "--out", str(run),
    ]  # fmt: skip
    if (run / "test.json").exists():
        return run
    todo = ["train", "--resume", str(run)] if run.exists() else command
    subprocess.run([sys.executable, "-m", "equimd.cli.main", *todo], check=True)
    return run


def settings(run: Path) -> dict[str, Any]:
    """The settings of a run that are not today's defaults: what its command line must say."""
    from equimd.config import RunConfig, flat_config, parse_config, read_config

    found = flat_config(parse_config(read_config(run / "config.yaml"), where=str(run)))
    default = flat_config(RunConfig())
    return {key: value for key, value in found.items() if value != default[key]}


def option(key: str, value: Any) -> list[str]:
    """A setting as it is written on the command line, files without their folder."""
    if key == "max_time":
        value = f"{value / 60:g}m"
    values = value if isinstance(value, list) else [value]
    return [f"--{key.replace('_', '-')}", *(Path(str(v)).name for v in values)]


def rows(options: argparse.Namespace, molecule: str, variant: str, run: Path) -> list[Row]:
    """The figures of a finished run."""
    found: dict[str, Any] = json.loads((run / "test.json").read_text())
    stated = settings(run)
    shown = shlex.join(["equimd", "train", *(word for item in stated.items() for word in option(*item))])
    extra = [" ".join(option(*item)) for item in stated.items() if item[0] not in PROTOCOL]
    preset = ", ".join(["default", *extra])
    name = f"rmd17/{molecule}/{options.split}/{variant}"
    budget = duration(options)
    return [
        Row(f"{name}/{metric}", found[metric], unit, shown, preset, budget, 950, options.seed)
        for metric, unit in METRICS.items()
    ]


def schnetpack(options: argparse.Namespace, molecule: str) -> list[Row]:
    """SchNetPack's PaiNN on the same frames for the same time; a finished training is not repeated."""
    files = [options.data / f"rmd17_{molecule}_{part}_{options.split}.npz" for part in ("train", "test")]
    seconds = duration(options)
    kept = options.runs / f"{molecule}-{options.split}-schnetpack-{options.budget}.json"
    if not kept.exists():
        command = [options.schnetpack, str(PEER), *map(str, files), f"{seconds / 60:g}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout)
    found = json.loads(kept.read_text())
    shown = shlex.join(["python", f"benchmarks/peers/{PEER.name}", *[f.name for f in files], f"{seconds / 60:g}"])
    name = f"rmd17/{molecule}/{options.split}/schnetpack-painn"
    preset = f"schnetpack {found['version']}"
    return [Row(f"{name}/{m}", found[m], unit, shown, preset, seconds, 950, 0) for m, unit in METRICS.items()]


def label(variant: str) -> str:
    """The variant's name in tables and plots."""
    return "SchNetPack PaiNN, rerun" if variant == "schnetpack-painn" else f"equimd, {variant}"


def markdown(results: dict[str, Any]) -> str:
    """One table: a molecule and variant a line, published figures below, set apart."""
    values: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        _, molecule, split, variant, metric = row["name"].split("/")
        values.setdefault((molecule, split, variant), {})[metric] = row
    lines = [
        "| molecule | split | model | training time | energy MAE (meV) | forces MAE (meV/A) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (molecule, split, variant), found in values.items():
        energy, forces = (found[m]["value"] for m in METRICS)
        one = found["forces_mae_meV_per_A"]
        name = label(variant) + one["preset"].removeprefix("default").replace(", --", "; --")
        minutes = f"{one['budget_s'] / 60:.0f} min, 1 thread"
        lines.append(f"| {molecule} | {split} | {name} | {minutes} | {energy:.2f} | {forces:.2f} |")
    for name, table in PUBLISHED.items():
        for molecule in sorted({key[0] for key in values} & set(table)):
            energy, forces = table[molecule]
            lines.append(f"| {molecule} | - | {name}, published | - | {energy} | {forces} |")
    m = results["machine"]
    made = f"Made by `python -m equimd.benchmarks.accuracy` on {results['created'][:10]}"
    about = f"{made}, {m['processor']}, {m['cores']} cores; torch {results['versions']['torch']}."
    return "\n".join(["# Accuracy on rMD17", "", *lines, "", about, ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of the force error, a group a molecule."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars: dict[str, dict[str, float]] = {}
    for row in results["rows"]:
        _, molecule, _, variant, metric = row["name"].split("/")
        if metric == "forces_mae_meV_per_A":
            bars.setdefault(label(variant), {})[molecule] = row["value"]
    molecules = sorted({m for found in bars.values() for m in found})
    for name, table in PUBLISHED.items():
        bars[f"{name}, published"] = {m: table[m][1] for m in molecules if m in table}
    figure, axes = plt.subplots(figsize=(1.5 + 2.2 * len(molecules), 3.6), layout="constrained")
    width = 0.8 / len(bars)
    for k, (name, found) in enumerate(bars.items()):
        x = [molecules.index(m) + (k - (len(bars) - 1) / 2) * width for m in found]
        drawn = axes.bar(x, list(found.values()), width * 0.92, label=name)
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=8)
    axes.set_xticks(range(len(molecules)), molecules)
    axes.set_ylabel("force MAE (meV/Å)")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(bars)))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def record(options: argparse.Namespace, molecule: str, found: list[Row]) -> None:
    """Add rows to the results file, and draw table and plot anew."""
    files = [options.data / f"rmd17_{molecule}_{part}_{options.split}.npz" for part in ("train", "test")]
    results = merge(options.out / "accuracy.json", "accuracy", found, {f.name: sha256(f) for f in files})
    (options.out / "accuracy.md").write_text(markdown(results))
    plot(results, options.out / "accuracy.png")


def main() -> None:
    """Run the suite."""
    options = arguments()
    for molecule in options.molecules:
        for variant in options.variants:
            record(options, molecule, rows(options, molecule, variant, train(options, molecule, variant)))
        if options.schnetpack:
            record(options, molecule, schnetpack(options, molecule))
    print((options.out / "accuracy.md").read_text())


if __name__ == "__main__":
    main()
