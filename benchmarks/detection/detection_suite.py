"""Whether the guard speaks before the model is wrong: runs at the training temperature and far above it.

From a model trained on the bundled 300 K ethanol, with thresholds calibrated for the length of these runs:

- runs at 300 K and at 1000 K, from 300 K frames, that only record; the rules are applied to them afterwards: the halt
  threshold, the flag threshold, and an error bound of tau (``--uq-threshold`` of that value);
- GFN2-xTB forces on every 10th frame, on the first frame of every flagged event, and on the frame that would halt;
- a frame is bad where its largest force error exceeds tau, the 99 % quantile of that of the 300 K calibration frames,
  fixed before any of these runs;
- some runs again in real halt mode.

Everything is kept in pieces: an interrupted suite goes on. Writes detection.json, detection.md and detection.png.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks import models
from equimd.benchmarks.accuracy import accuracy_suite
from equimd.benchmarks.arguments import parse
from equimd.benchmarks.detection.detection_runs import DT, QUICK, Bench, DetectionSize, measure, prepare, real, record
from equimd.benchmarks.options import Options
from equimd.benchmarks.pieces import MeasuredRow, piece
from equimd.benchmarks.results import merge
from equimd.files import file_digest

MOLECULES = (models.BUNDLED,)
PARTS = ("runs", "real")


def run(
    options: Options,
    *,
    parts: Sequence[str] = PARTS,
    quick: bool = False,
    runs: int | None = None,
    time_ps: float | None = None,
    label_every: int | None = None,
    workers: int | None = None,
) -> Path:
    """Run the suite with the first of the seeds; returns the table's path.

    Args:
        runs, time_ps, label_every: of :class:`DetectionSize`, where they are not as there.
        workers: processes that label; None: one a core.
    """
    size = QUICK if quick else DetectionSize()
    changed = {"runs": runs, "label_every": label_every, "steps": None if time_ps is None else round(2000 * time_ps)}
    size = DetectionSize(**{**asdict(size), **{k: v for k, v in changed.items() if v}})
    case, seed = models.case(models.BUNDLED), options.seeds[0]
    bench = prepare(case, options, seed, size)
    work = options.work / "detection"
    settings = {"model": bench.calibration.model_sha256, "created": bench.calibration.created, **asdict(size)}
    found: dict[float, Any] = {}
    for temperature in size.temperatures:
        recorded = record(bench, temperature, size, work)
        found[temperature] = piece(
            work,
            f"runs-{temperature:g}K-seed{seed}",
            {**settings, "temperature": temperature},
            lambda t=temperature, r=recorded: measure(bench, t, r, size, work, workers),  # type: ignore[misc]
        )
        if "real" in parts and temperature != size.temperatures[0]:
            found[temperature]["real"] = piece(
                work,
                f"real-{temperature:g}K-seed{seed}",
                {**settings, "temperature": temperature},
                lambda t=temperature, r=recorded: real(bench, t, r, size),  # type: ignore[misc]
            )["runs"]
    return _write(bench, found, case, options)


def rows(bench: Bench, found: dict[float, Any], case: models.Case, options: Options) -> Iterator[MeasuredRow]:
    """The figures of all temperatures."""
    for temperature, piece_ in found.items():
        split, stories, frames = case.row_of(f"{temperature:g}K"), piece_["runs"], piece_["frames"]
        values: dict[str, tuple[float | None, str, Any]] = {
            "guard/runs": (len(stories), "runs", None),
            "guard/runs_with_bad_frame": (sum(s["bad"] is not None for s in stories), "runs", None),
            "guard/physical_halts": (sum(s["physical"] is not None for s in stories), "runs", None),
            "guard/labelled_frames": (sum(s["labelled"] for s in stories), "frames", None),
            "guard/sampled_frames": (frames["n"], "frames", None),
            "guard/bad_share": (frames["bad_share"], "1", None),
            "guard/auroc_bad": (frames["auroc"], "1", None),
            "guard/spearman": (frames["spearman"], "1", None),
        }
        for rule, shares in frames["rules"].items():
            values |= {f"{rule}/{key}": told for key, told in _of_rule(rule, stories).items()}
            values |= {f"{rule}/{key}": (share, "1", None) for key, share in shares.items()}
        fired, unit, _ = values["halt/runs"]
        values["halt/runs"] = (fired, unit, piece_["expected_halts"])
        if "real" in piece_:
            same = [r for r in piece_["real"] if r["halted"] == r["alarm"]]
            values["halt/real_runs"] = (len(piece_["real"]), "runs", None)
            values["halt/real_halts_at_alarm"] = (len(same), "runs", None)
        if temperature == next(iter(found)):
            values["guard/tau"] = (bench.tau, "eV/A", None)
            values |= {f"{rule}/threshold": (v, "eV/A", None) for rule, v in piece_["thresholds"].items()}
        for metric, (value, unit, interval) in values.items():
            if value is not None:
                yield _row(f"{split}/{metric}", value, unit, interval, case, options, bench.seed)


def _of_rule(rule: str, stories: Sequence[dict[str, Any]]) -> dict[str, tuple[float | None, str, Any]]:
    """What one rule made of the runs: whether its first alarm was in time, and by how much."""
    fired = [s for s in stories if s["first"][rule] is not None]
    bad = [s for s in stories if s["bad"] is not None]
    leads = [DT * (s["bad"] - s["first"][rule]) for s in fired if s["bad"] is not None]
    broken = [s for s in stories if s["physical"] is not None]
    saved = [DT * (s["physical_step"] - s["first"][rule]) for s in broken]
    return {
        "runs": (len(fired), "runs", None),
        "before_bad": (sum(lead >= 0 for lead in leads), "runs", None),
        "missing": (sum(s["first"][rule] is None for s in bad), "runs", None),
        "without_bad": (sum(s["bad"] is None for s in fired), "runs", None),
        "lead_median": (float(np.median(leads)) if leads else None, "fs", None),
        "lead_least": (min(leads) if leads else None, "fs", None),
        "before_physical": (sum(time > 0 for time in saved) if broken else None, "runs", None),
        "lead_physical_median": (float(np.median(saved)) if saved else None, "fs", None),
    }


def _row(
    name: str, value: float, unit: str, interval: Any, case: models.Case, options: Options, seed: int
) -> MeasuredRow:
    command = f"equimd bench detection --budget {options.budget_s / 60:g}m --seeds {seed}"
    preset = accuracy_suite.preset_name(options)
    return MeasuredRow(name, value, unit, command, preset, options.budget_s, case.n_train, seed, interval=interval)


def _write(bench: Bench, found: dict[float, Any], case: models.Case, options: Options) -> Path:
    from equimd.benchmarks.detection import detection_tables

    hashes = {path.name: file_digest(path) for path in models.files(case, options)}
    merge(options.out / "detection.json", "detection", rows(bench, found, case, options), hashes)
    results = json.loads((options.out / "detection.json").read_text())
    table = options.out / "detection.md"
    table.write_text(detection_tables.markdown(results))
    detection_tables.plot(found, options.out / "detection.png")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options, more = parse(
        __doc__,
        argv,
        molecules=MOLECULES,
        seeds=(0,),
        parts=PARTS,
        runs=0,
        time_ps=0.0,
        label_every=0,
        workers=0,
    )
    print(run(options, **{k: v or None if k not in ("parts", "quick") else v for k, v in more.items()}).read_text())
