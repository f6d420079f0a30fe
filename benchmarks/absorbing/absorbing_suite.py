"""Absorbing halted frames at once, without training, against halting and retraining.

Runs of bundled ethanol at 600 K by a model of few 300 K frames are halted where its calibrated error bound exceeds an
error. Each halt is answered by labels of the refused frame and of some before it (GFN2-xTB), in one of two ways:

- ``absorb``: the readout over all layers' features takes them in by the exact posterior, at the first halt of any run;
- ``retrain``: when all runs have halted, a warm start (``train --init``) on all labels, and a calibration.

Then the halted runs go on from their last good frames. Counted are labels and minutes until all runs come to their end
with few bad frames, one frame in a hundred labelled to judge by. Writes absorbing.json and absorbing.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks import models
from equimd.benchmarks.absorbing.guarded import Plan
from equimd.benchmarks.absorbing.learners import LEARNERS, Start, judged, loop
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.options import Options, say
from equimd.benchmarks.pieces import MeasuredRow, fingerprint, over_seeds, piece
from equimd.benchmarks.results import made_by, merge
from equimd.data import open_dataset
from equimd.data.bundled import paths
from equimd.data.dataset import ArrayDataset
from equimd.files import file_digest
from equimd.run import Run
from equimd.tasks.train import train

#: Figures of a variant: name, what it is called in the table, unit, form.
METRICS = (
    ("reached", "all runs complete, few bad frames", "1", "{:.0%}"),
    ("labels", "labels", "1", "{:.0f}"),
    ("minutes", "minutes", "min", "{:.1f}"),
    ("halts", "halts", "1", "{:.0f}"),
    ("passes", "passes", "1", "{:.1f}"),
    ("complete", "runs complete in the last pass", "1", "{:.1f}"),
    ("done", "steps done in it", "1", "{:.0%}"),
    ("bad_share", "bad frames in the last pass", "1", "{:.1%}"),
    ("fresh_complete", "fresh runs that the last model completes without a halt", "1", "{:.1f}"),
    ("fresh_done", "steps of fresh runs until they halt", "1", "{:.1%}"),
    ("fresh_bad_share", "bad frames of these", "1", "{:.1%}"),
    ("forces_mae_300K", "force MAE, 300 K (meV/A)", "meV/A", "{:.1f}"),
    ("forces_mae_600K", "force MAE, 600 K (meV/A)", "meV/A", "{:.1f}"),
)


def run(options: Options, *, parts: Sequence[str] = tuple(LEARNERS), quick: bool = False, **more: Any) -> Path:
    """Run the suite; returns the table's path.

    Args:
        parts: ways to answer a halt. more: of :class:`Plan`.
    """
    plan = replace(Plan(), **more)
    if quick:
        plan = replace(plan, steps=100, replicas=2, labels=12, minutes=1.0, passes=1, retrain_s=5.0)
    found: dict[str, dict[int, Any]] = {}
    for seed in options.seeds:
        start = bundled(options, plan, seed)
        for name, values in measured(start, plan, parts).items():
            found.setdefault(name, {})[seed] = values
    files = {path.name: file_digest(path) for path in models.files(models.case(models.BUNDLED), options)}
    results = merge(options.out / "absorbing.json", "absorbing", rows(found, plan, options), files)
    table = options.out / "absorbing.md"
    table.write_text(markdown(results))
    return table


def bundled(options: Options, plan: Plan, seed: int) -> Start:
    """The first model: trained on some 300 K frames of bundled ethanol for the budget, if it is not there."""
    case = models.case(models.BUNDLED)
    held_out, rng = models.held_out(case, options, seed), np.random.default_rng(seed)
    known, test = open_dataset(paths("ethanol-train")).frames(), held_out.tests["300K"].frames()
    order = rng.permutation(len(known))[: plan.n_train + plan.n_val]
    parts = known.take(order[: plan.n_train]), known.take(order[plan.n_train :])
    calibration = held_out.calibration.frames(np.sort(rng.permutation(len(held_out.calibration))[: plan.n_calibration]))
    hot = held_out.tests["600K"].frames()
    settings = {"budget": options.budget_s, "preset": options.preset, "frames": [p.content_hashes() for p in parts]}
    folder = options.work / "absorbing" / fingerprint({**settings, "seed": seed})
    path = folder / "start"
    if not (path.exists() and Run.open(path).info.get("status") == "completed"):
        say(f"training on {plan.n_train} frames, seed {seed}")
        data: dict[str, Any] = {"val_data": ArrayDataset(parts[1]), "splits": (1.0, 0.0, 0.0)}
        budget = {"preset": options.preset, "max_time": options.budget_s, "threads": 1, "compile": "off", "seed": seed}
        train(ArrayDataset(parts[0]), **data, **budget, out=path, overwrite=True)
    starts, tests = test.take(rng.permutation(len(test))[: plan.replicas]), {"300K": test, "600K": hot}
    return Start(path, *parts, ArrayDataset(calibration), starts, tests, folder, seed)


def measured(start: Start, plan: Plan, parts: Sequence[str]) -> dict[str, Any]:
    """What the first model does, and each loop from it, in pieces that are kept."""
    known = start.calibrated(start.run)
    settings = {**asdict(plan), "model": known.sha256, "seed": start.seed, "starts": start.starts.content_hashes()}
    out = {"start": piece(start.folder, "start", settings, lambda: judged(known, start, plan))}
    for name in parts:
        out[name] = piece(start.folder, name, settings, lambda name=name: loop(name, start, plan))  # type: ignore[misc]
    return out


def rows(found: Mapping[str, Mapping[int, Any]], plan: Plan, options: Options) -> Iterator[MeasuredRow]:
    """The figures, means over seeds."""
    said = (
        f"{options.preset}, {options.budget_s / 60:g} min; {plan.replicas} runs of {plan.steps} steps, halted where "
        f"the bound exceeds the error beyond which a frame is bad; at most {plan.labels} labels, "
        f"{plan.minutes:g} min, {plan.passes} passes; {plan.retrain_s:g} s a warm start"
    )
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m equimd.benchmarks.absorbing --error {plan.error:g} --minutes {plan.minutes:g} --seeds {seeds}"
    for name, of_seed in found.items():
        for metric, _, unit, _ in METRICS:
            values = {seed: (v[metric], None) for seed, v in of_seed.items() if metric in v}
            if not values or (mean := over_seeds(values)) is None:
                continue
            row = f"bundled/ethanol/{plan.temperature:g}K-{1e3 * plan.error:.0f}meV/{name}/{metric}"
            about = (unit, command, said, options.budget_s, plan.n_train, options.seeds[0])
            yield MeasuredRow(row, mean.pop("value"), *about, **mean)


def markdown(results: Mapping[str, Any]) -> str:
    """A table, a column an error and a way to answer halts."""
    found: dict[tuple[float, str], dict[str, dict[str, Any]]] = {}
    for row in results["rows"]:
        *_, point, name, metric = row["name"].split("/")
        found.setdefault((1e-3 * float(point.split("-")[1].removesuffix("meV")), name), {})[metric] = row
    order = sorted(found, key=lambda key: (key[0], ("start", *LEARNERS).index(key[1])))
    head = [f"{name}, {error:g} eV/A" for error, name in order]
    lines = ["| | " + " | ".join(head) + " |", "|" + " --- |" * (1 + len(head))]
    for metric, title, _, form in METRICS:
        cells = [_cell(found[key].get(metric), form) for key in order]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    row = next(iter(found[order[0]].values()))
    notes = (
        f"Bundled ethanol at 600 K; {row['n_train']} frames of 300 K to begin with; {row['preset']}. Few: at most "
        f"{Plan.share:.0%}. Minutes of labels, runs and learning on one core, without judging. "
        f"Seeds of the first model: {', '.join(row['per_seed'])}."
    )
    end = made_by(results, "python -m equimd.benchmarks.absorbing")
    return "\n".join(["# Absorbing labels at once", "", *lines, "", notes, "", end, ""])


def _cell(row: Mapping[str, Any] | None, form: str) -> str:
    if row is None:
        return "-"
    each = row["per_seed"].values()
    return form.format(row["value"]) + (f" ({', '.join(form.format(v) for v in each)})" if len(each) > 1 else "")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    plan = Plan()
    own = {name: getattr(plan, name) for name in ("n_train", "steps", "error", "labels", "minutes", "retrain_s")}
    shared: dict[str, Any] = {"molecules": (models.BUNDLED,), "seeds": (0,), "parts": tuple(LEARNERS)}
    options, more = parse(__doc__, argv, **shared, budget="5m", preset="small", **own)
    options = replace(options, preset=more.pop("preset"))
    print(run(options, **more).read_text())
