"""What was tried for the default settings: short trainings that differ in a few, judged on validation frames.

200 training frames of rMD17 are few enough that a model's way of generalising decides, and 6000 steps long enough to
learn them: what is left of the error is not a matter of the time of training. 500 other frames of the training file
judge; no test frame is read. Each try is a run of ``equimd train``, resumed where it was interrupted and not repeated.
Beside its errors stands what a step of dynamics costs, by count (:mod:`equimd.benchmarks.work`).
Writes search.json, search.md.
"""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks.accuracy.accuracy_suite import equimd, option
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.options import Options, rmd17_files
from equimd.benchmarks.pieces import fingerprint, piece
from equimd.benchmarks.results import Row, made_by, merge
from equimd.benchmarks.work import pairs_within, step_flop
from equimd.config import parse_config
from equimd.data.given import open_given
from equimd.files import file_digest

N_TRAIN, N_VAL, EPOCHS = 200, 500, 150
COMMON = {"compile": "on", "threads": 1, "val_interval": 30}
SQUARED = {"loss": "mse", "energy_weight": 0.01, "forces_weight": 0.99}
#: by name, what differs from lmax 2 with as many tensors as scalars
AS_MANY: dict[str, dict[str, Any]] = {
    "lmax 2": {},
    "no tensor products": {"tensor_products": False},
    "lmax 1": {"lmax": 1},
    "Gaussians": {"radial_basis": "gaussian"},
    "Gaussians, lmax 1": {"radial_basis": "gaussian", "lmax": 1},
    "Gaussians, lmax 1, squared loss": {"radial_basis": "gaussian", "lmax": 1, **SQUARED},
    "8 Bessel functions, lmax 1": {"radial_basis": "bessel", "num_rbf": 8, "lmax": 1},
    "10 functions, lmax 1": {"num_rbf": 10, "lmax": 1},
    "32 functions, lmax 1": {"num_rbf": 32, "lmax": 1},
    "5 layers, lmax 1": {"num_layers": 5, "lmax": 1},
    "weight decay 0.5, lmax 1": {"weight_decay": 0.5, "lmax": 1},
    "64 features": {"num_features": 64},
    "2 layers": {"num_layers": 2},
    "weight decay 0.5": {"weight_decay": 0.5},
    "lmax 3": {"lmax": 3},
    "4 layers": {"num_layers": 4},
    "192 features": {"num_features": 192},
    "cutoff 4": {"cutoff": 4.0},
    "squared loss": SQUARED,
    "energy weight 0.01": {"energy_weight": 0.01, "forces_weight": 0.99},
    "energy weight 0.5": {"energy_weight": 0.5, "forces_weight": 0.5},
    "rate 1e-3": {"lr": 1e-3},
    "rate 4e-3": {"lr": 4e-3},
    "constant rate": {"lr_schedule": "constant"},
    "no average of the weights": {"ema_decay": 0.0},
    "average over 1000 steps": {"ema_decay": 0.999},
    "batches of 10": {"batch_size_train": 10},
    "batches of 2": {"batch_size_train": 2},
}
#: by name, what differs from the defaults
FEWER: dict[str, dict[str, Any]] = {
    "default": {},
    "32 tensors": {"num_tensors": 32},
    "32 tensors, lmax 2": {"num_tensors": 32, "lmax": 2},
}
TRIES = {
    name: {"lmax": 2, "num_tensors": changed.get("num_features", 128), **changed} for name, changed in AS_MANY.items()
} | FEWER
METRICS = {
    "val_forces_mae_meV_per_A": "meV/A",
    "val_energy_mae_meV": "meV",
    "train_forces_mae_meV_per_A": "meV/A",
    "seconds": "s",
}
WORK = "step_MFLOP"


def run(options: Options, *, tries: Sequence[str] = tuple(TRIES), epochs: int = EPOCHS) -> Path:
    """Try what was not tried yet; returns the table's path."""
    path = options.out / "search.json"
    for molecule in options.molecules:
        data = rmd17_files(options.data, molecule)[0]
        merge(path, "search", _works(molecule, data), {data.name: file_digest(data)})
        for name in tries:
            settings = {**COMMON, **TRIES[name], "num_epochs": epochs, "seed": options.seeds[0]}
            variant = _variant(name)
            title = f"{molecule}-{variant}"
            every = {**parse_config(settings).model_dump(), "sha256": file_digest(data)}
            place = options.work / "search" / f"{title}-{fingerprint(every)}"
            found = piece(
                place.parent,
                title,
                every,
                lambda s=settings, d=data, p=place: _train(d, s, p),  # type: ignore[misc]
            )
            new = [
                Row(
                    f"rmd17/{molecule}/01-n{N_TRAIN}/{variant}/{metric}",
                    found[metric],
                    unit,
                    found["command"],
                    name,
                    None,
                    N_TRAIN,
                    options.seeds[0],
                )
                for metric, unit in METRICS.items()
            ]
            table = options.out / "search.md"
            table.write_text(markdown(merge(path, "search", new, {data.name: file_digest(data)})))
    return options.out / "search.md"


def _variant(name: str) -> str:
    """A try as the names of rows have it."""
    return name.replace(" ", "-").replace(",", "").replace(".", "_")


def _works(molecule: str, data: Path) -> list[Row]:
    """What a step of dynamics costs with each of the tries, trained or not."""
    positions = open_given(str(data)).frames(np.arange(20)).positions
    found = []
    for name, changed in TRIES.items():
        model = parse_config({**COMMON, **changed}).model
        flop = step_flop(model, positions.shape[1], pairs_within(positions, model.cutoff))
        found.append(
            Row(
                f"rmd17/{molecule}/01-n{N_TRAIN}/{_variant(name)}/{WORK}",
                round(flop / 1e6, 1),
                "MFLOP",
                "python -m equimd.benchmarks.search",
                name,
                None,
                N_TRAIN,
                None,
            )
        )
    return found


def _train(data: Path, settings: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """One training, or the rest of one that was interrupted; its last errors and what it took. Its folder is removed.

    Raises:
        MachineError: it failed.
    """
    words = ["equimd", "train", "--data", data.name, "--splits", str(N_TRAIN), str(N_VAL), "0"]
    words += [word for item in settings.items() for word in option(*item)]
    given = [str(data) if word == data.name else word for word in words[2:]]
    equimd("train", *(["--resume", str(run)] if run.exists() else [*given, "--out", str(run)]))
    with (run / "metrics.csv").open() as stream:
        last = list(csv.DictReader(stream))[-1]
    shutil.rmtree(run)
    errors = {metric: float(last[metric]) for metric in METRICS if metric in last}
    return {**errors, "seconds": float(last["time_s"]), "command": shlex.join(words)}


def markdown(results: Mapping[str, Any]) -> str:
    """The tries of each molecule, best first."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in results["rows"]:
        _, molecule, _, _, metric = row["name"].split("/")
        found.setdefault((molecule, row["preset"]), {})[metric] = row["value"]
    first, last = next(iter(METRICS)), "seconds"
    lines = [
        "# Search",
        "",
        f"{N_TRAIN} training frames of rMD17, {EPOCHS} epochs of batches of 5, errors on {N_VAL} other frames of the "
        "training file; mean absolute errors, forces in meV/A, energies in meV. Settings are those of lmax 2 with as "
        "many tensors as scalars but for what is named; of those of which the number of tensors is named, and of the "
        "default, today's defaults. Seconds are of the whole training, on a shared machine, compilation included; "
        "MFLOP is the floating-point work of a step of dynamics, by count.",
        "",
        "| molecule | settings | forces | energy | forces, training frames | seconds | MFLOP |",
        "|" + " --- |" * 7,
    ]
    tried = {key: m for key, m in found.items() if first in m}
    for (molecule, name), m in sorted(tried.items(), key=lambda item: (item[0][0], item[1][first])):
        values = " | ".join(f"{m[metric]:.1f}" for metric in METRICS if metric != last)
        lines.append(f"| {molecule} | {name} | {values} | {m[last]:.0f} | {m[WORK]:.0f} |")
    measured = [row for row in results["rows"] if not row["name"].endswith(WORK)]
    lines += ["", made_by({**results, "rows": measured}, "python -m equimd.benchmarks.search"), ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m equimd.benchmarks.search``."""
    options, more = parse(__doc__, argv, molecules=("ethanol",), seeds=(0,), parts=tuple(TRIES))
    print(run(options, tries=more["parts"], epochs=30 if more["quick"] else EPOCHS).read_text())


if __name__ == "__main__":
    main()
