"""What a training costs as data grow: structures of 2 to 350 atoms in shards, batches by atoms.

For each number of frames the shards are made, once. A training of so many steps is watched: time from the command to
the first step, frames and atoms a second, the share of waiting for data, memory at most and what it grew by. Another is
killed halfway and gone on with: do its batches repeat those of the first?

Writes scale.json and scale.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import Options, say
from equimd.benchmarks.pieces import piece
from equimd.benchmarks.results import Row, made_by, merge
from equimd.benchmarks.scale.structures import SIZES, write_shards
from equimd.errors import MachineError
from equimd.files import write_atomic
from equimd.run import Run

FRAMES, SHARDS, MAX_ATOMS, STEPS = (20_000,), 80, 1000, 60
UNITS = {
    "first_step_s": "s", "frames_per_s": "1/s", "atoms_per_s": "1/s", "waiting_share": "1", "peak_MiB": "MiB",
    "growth_MiB": "MiB", "same_batches": "1",
}  # fmt: skip
HEADS = ("first step, s", "frames/s", "atoms/s", "waiting", "peak, MiB", "grown, MiB", "same batches")


def run(
    options: Options,
    *,
    frames: Sequence[int] = FRAMES,
    shards: int = SHARDS,
    max_atoms: int = MAX_ATOMS,
    steps: int = STEPS,
    sizes: tuple[int, int] = SIZES,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Run the suite; returns the table's path.

    Args:
        frames: numbers of structures. shards: files that they are in. sizes: their atoms.
        max_atoms: of a batch. steps: of a training. model: settings beside those of the preset.
    """
    work = options.work / "scale"
    for count in frames:
        data = work / f"mixed-{count}-in-{shards}-{sizes[0]}-{sizes[1]}"
        say(f"scale: {count:,} structures in {shards} shards")
        write_shards(data, count, shards, options.seeds[0], sizes)
        validation = min(200, count // 10)
        training = {
            "splits": [count - validation, validation, 0], "max_atoms_per_batch": max_atoms, "num_epochs": 1000,
            "preset": options.preset or "small", "seed": options.seeds[0], "checkpoint_interval": 5.0, "threads": 1,
            **(model or {}),
        }  # fmt: skip
        settings = {"data": str(data), "steps": steps, "options": training}
        found = piece(work, f"training-{count}", settings, lambda s=settings: _measured(work, s))  # type: ignore[misc]
        new = _rows(count, found, settings)
        results = merge(options.out / "scale.json", "scale", new, {})
        write_atomic(options.out / "scale.md", markdown(results))
    return options.out / "scale.md"


def _measured(work: Path, settings: Mapping[str, Any]) -> dict[str, float]:
    """The figures of :data:`UNITS` of a training, and whether one that is killed halfway repeats its batches."""
    whole, cut = ({**settings, "run": str(work / n), "log": str(work / f"{n}.jsonl")} for n in ("whole", "cut"))
    for one in (whole, cut):
        shutil.rmtree(one["run"], ignore_errors=True)
        Path(one["log"]).unlink(missing_ok=True)
    process(whole)
    process(cut, kill_at=max(1, settings["steps"] // 2))
    process(cut)
    lines = noted(whole)
    first, last = lines[0], lines[-1]
    held, half = [line["rss_MiB"] for line in lines], len(lines) // 2
    spent = last["seconds"] - first["seconds"]
    steps = {line["step"]: line["digest"] for line in lines}
    again = noted(cut)
    return {
        "first_step_s": first["seconds"],
        "frames_per_s": sum(line["frames"] for line in lines[1:]) / spent,
        "atoms_per_s": sum(line["atoms"] for line in lines[1:]) / spent,
        "waiting_share": Run.open(whole["run"]).info["waiting_share"],
        "peak_MiB": max(line["peak_MiB"] for line in lines),
        "growth_MiB": max(held[half:]) - max(held[:half]),
        "same_batches": float(
            {line["step"] for line in again} == set(steps)
            and all(line["digest"] == steps[line["step"]] for line in again)
        ),
    }


def noted(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a training's log; the last one may be cut by a kill."""
    path = Path(settings["log"])
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def process(settings: Mapping[str, Any], kill_at: int | None = None) -> None:
    """Train in a process of its own, which is killed when so many steps are noted."""
    told = json.dumps({**settings, "began": time.time()})
    command = [sys.executable, "-m", "equimd.benchmarks.scale.training", told]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as started:
        while kill_at is not None and started.poll() is None:
            if len(noted(settings)) >= kill_at:
                started.kill()
            time.sleep(0.1)
    if started.returncode and kill_at is None:
        raise MachineError(f"a training ended with exit code {started.returncode}", where=settings["run"])


def _rows(count: int, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Row]:
    options = settings["options"]
    name = f"scale/mixed/{count}/atoms-{options['max_atoms_per_batch']}"
    command = (
        f"equimd bench scale --frames {count} --atoms {options['max_atoms_per_batch']} --steps {settings['steps']}"
    )
    return [
        Row(f"{name}/{key}", float(found[key]), unit, command, options["preset"], None, count, options["seed"])
        for key, unit in UNITS.items()
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """The table."""
    values = {row["name"]: row["value"] for row in results["rows"]}
    cases = sorted({tuple(name.split("/")[2:4]) for name in values}, key=lambda case: (int(case[0]), case[1]))
    lines = ["# Training on more and more data", "", f"| frames | batches | {' | '.join(HEADS)} |"]
    lines.append("|---|---|" + "---|" * len(HEADS))
    for count, batches in cases:
        v = {key: values[f"scale/mixed/{count}/{batches}/{key}"] for key in UNITS}
        cells = [f"{v['first_step_s']:.0f}", f"{v['frames_per_s']:.1f}", f"{v['atoms_per_s']:.0f}"]
        cells += [f"{100 * v['waiting_share']:.1f} %", f"{v['peak_MiB']:.0f}", f"{v['growth_MiB']:.0f}"]
        cells += ["yes" if v["same_batches"] else "no"]
        lines.append(f"| {int(count):,} | up to {batches.removeprefix('atoms-')} atoms | {' | '.join(cells)} |")
    text = (
        "Structures of 2 to 350 atoms, of various elements, charges and spins, labelled by a formula, in shards. "
        "First step: from the command on, imports and one pass over all frames included. Grown: memory "
        "at most in the later half of the steps, less that in the earlier one. Same batches: a training that was "
        "killed halfway and gone on with took the same batches."
    )
    return "\n".join([*lines, "", text, "", made_by(dict(results), "equimd bench scale"), ""])
