"""What training and other commands cost as data grow.

Of structures of 2 to 350 atoms in shards (``mixed``, trained on by atoms), of 20 to 40 atoms, hardly two of the same
composition (``compositions``), and of one molecule (``ethanol``), for each number of frames: they are made, once. A
training of so many steps is watched: time from the command to the first step, frames and atoms a second, the share of
waiting for data, memory at most and what it grew by. Another is killed halfway and gone on with: do its batches repeat
those of the first? Of ethanol also what it takes to inspect, to convert, to look for held-out frames among them (leaks)
and to calibrate on as many frames.

Writes scale.json and scale.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from equimd.benchmarks.options import Options, say
from equimd.benchmarks.pieces import piece
from equimd.benchmarks.results import Row, made_by, merge
from equimd.benchmarks.scale.structures import ETHANOL, SIZES, write_shards
from equimd.benchmarks.scale.training import most_resident
from equimd.errors import MachineError
from equimd.files import write_atomic
from equimd.run import Run
from equimd.tasks.train import train

FRAMES, SHARDS, MAX_ATOMS, STEPS = (20_000,), 80, 1000, 60
HELD_OUT, TRAINED = 1000, "3m"  # frames to calibrate with, and the training of the model that is calibrated
UNITS = {
    "first_step_s": "s", "compiling_s": "s", "frames_per_s": "1/s", "atoms_per_s": "1/s", "waiting_share": "1",
    "peak_MiB": "MiB", "growth_MiB": "MiB", "same_batches": "1", "bytes_per_frame": "B",
}  # fmt: skip
HEADS = (
    "on disk, B/frame", "first step, s", "compiling, s", "frames/s", "atoms/s", "waiting", "peak, MiB", "grown, MiB",
    "same batches",
)  # fmt: skip
COMMAND_UNITS = {"seconds": "s", "peak_MiB": "MiB"}
COMMANDS = {
    "inspect": "data inspect {data}",
    "convert": "data convert {data} --out {out}.h5 --overwrite",
    "leaks": "data inspect {held_out} --against {data}",
    "calibrate": "calibrate {run} --data {held_out} --no-halt --overwrite",
}


@dataclass(frozen=True)
class Kind:
    """Structures, and how they are trained on: sizes in atoms or ETHANOL; by atoms, or 10 frames a batch."""

    sizes: tuple[int, int] | str
    by_atoms: bool = False
    commands: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "mixed": Kind(SIZES, by_atoms=True),
    "compositions": Kind((20, 40)),
    "ethanol": Kind(ETHANOL, commands=COMMANDS),
}


def run(
    options: Options,
    *,
    kind: str = "mixed",
    frames: Sequence[int] = FRAMES,
    shards: int = SHARDS,
    max_atoms: int = MAX_ATOMS,
    steps: int = STEPS,
    sizes: tuple[int, int] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Run the suite; returns the table's path.

    Args:
        kind: of the structures. frames: numbers of them. shards: files that they are in. sizes: their atoms, if others.
        max_atoms: of a batch, where it is by atoms. steps: of a training. model: settings beside those of the preset.
    """
    work, asked = (options.work / "scale").resolve(), KINDS[kind]
    for count in frames:
        of = sizes or asked.sizes
        data = work / f"{kind}-{count}-in-{shards}" / ("-".join(map(str, of)) if isinstance(of, tuple) else of)
        say(f"scale: {count:,} structures ({kind}) in {shards} shards")
        write_shards(data, count, shards, options.seeds[0], of)
        validation = min(200, count // 10)
        training = {
            "splits": [count - validation, validation, 0], "num_epochs": 1000, "preset": options.preset or "small",
            "seed": options.seeds[0], "checkpoint_interval": 5.0, "threads": 1, **(model or {}),
            **({"max_atoms_per_batch": max_atoms} if asked.by_atoms else {"batch_size_train": 10}),
        }  # fmt: skip
        settings = {"data": str(data), "frames": count, "steps": steps, "options": training}
        found = piece(work, f"training-{kind}-{count}", settings, lambda s=settings: _measured(work, s))  # type: ignore[misc]
        _save(options, _rows(kind, count, found, settings))
        if not asked.commands:
            continue
        held_out, trained = work / f"{kind}-held-out", work / f"trained-{kind}-{count}"
        write_shards(held_out, min(HELD_OUT, count), 1, options.seeds[0] + 1, of)
        if not (trained / "model.safetensors").exists():
            shutil.rmtree(trained, ignore_errors=True)
            train(str(data), out=trained, **{"max_time": TRAINED, **training})
        for name, words in asked.commands.items():
            told = words.format(data=data, held_out=held_out, run=trained, out=work / "converted")
            one = piece(work, f"{name}-{kind}-{count}", {"words": told, **settings}, lambda t=told: _command(t, work))  # type: ignore[misc]
            _save(options, _command_rows(kind, count, name, one, settings))
    return options.out / "scale.md"


def _save(options: Options, rows: Sequence[Row]) -> None:
    write_atomic(options.out / "scale.md", markdown(merge(options.out / "scale.json", "scale", rows, {})))


def _command(words: str, folder: Path) -> dict[str, float]:
    """Seconds and memory at most of ``equimd WORDS`` on one thread."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "equimd.cli", *words.split()], cwd=folder, stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as started:  # fmt: skip
        peak = 0.0
        while started.poll() is None:
            peak = max(peak, most_resident(started.pid))
            time.sleep(0.05)
    if started.returncode:
        raise MachineError(f"equimd {words} ended with exit code {started.returncode}", where=str(folder))
    return {"seconds": time.monotonic() - began, "peak_MiB": peak}


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
        "first_step_s": first["seconds"] - first["compiling"],
        "compiling_s": first["compiling"],
        "frames_per_s": sum(line["frames"] for line in lines[1:]) / spent,
        "atoms_per_s": sum(line["atoms"] for line in lines[1:]) / spent,
        "bytes_per_frame": sum(p.stat().st_size for p in Path(settings["data"]).iterdir()) / settings["frames"],
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


def _rows(kind: str, count: int, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Row]:
    options, units = settings["options"], UNITS
    atoms = options.get("max_atoms_per_batch")
    batches = f"atoms-{atoms}" if atoms else f"frames-{options['batch_size_train']}"
    return _about(f"{kind}/{count}/{batches}", found, units, settings)


def _command_rows(kind: str, count: int, name: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Row]:
    return _about(f"{kind}/{count}/{name}", found, COMMAND_UNITS, settings)


def _about(name: str, found: Mapping[str, Any], units: Mapping[str, str], settings: Mapping[str, Any]) -> list[Row]:
    options, (kind, count, _) = settings["options"], name.split("/")
    atoms = options.get("max_atoms_per_batch")
    command = f"equimd bench scale --kind {kind} --frames {count} --steps {settings['steps']}"
    command += f" --atoms {atoms}" if atoms else ""
    return [
        Row(
            f"scale/{name}/{key}",
            float(found[key]),
            unit,
            command,
            options["preset"],
            None,
            int(count),
            options["seed"],
        )
        for key, unit in units.items()
    ]


def markdown(results: Mapping[str, Any]) -> str:
    """The tables: trainings, and other commands."""
    values = {row["name"]: row["value"] for row in results["rows"]}
    trainings = [f"| structures | number | batches | {' | '.join(HEADS)} |", "|---|---|---|" + "---|" * len(HEADS)]
    commands = ["| command | structures | number | time, s | peak, MiB |", "|---|---|---|---|---|"]
    for kind, count, what in _cases(values):
        v = {
            name.rsplit("/", 1)[1]: x for name, x in values.items() if name.startswith(f"scale/{kind}/{count}/{what}/")
        }
        if what in COMMANDS:
            commands.append(f"| {what} | {kind} | {int(count):,} | {v['seconds']:.0f} | {v['peak_MiB']:.0f} |")
            continue
        cells = [
            f"{v['bytes_per_frame']:.0f}",
            f"{v['first_step_s']:.0f}",
            f"{v['compiling_s']:.0f}",
            f"{v['frames_per_s']:.1f}",
            f"{v['atoms_per_s']:.0f}",
        ]
        cells += [f"{100 * v['waiting_share']:.1f} %", f"{v['peak_MiB']:.0f}", f"{v['growth_MiB']:.0f}"]
        cells += ["yes" if v["same_batches"] else "no"]
        by, size = what.split("-")
        batches = f"up to {size} atoms" if by == "atoms" else f"{size} frames"
        trainings.append(f"| {kind} | {int(count):,} | {batches} | {' | '.join(cells)} |")
    text = (
        "mixed: structures of 2 to 350 atoms, of various elements, charges and spins. compositions: the same of 20 to "
        "40 atoms, hardly two of one composition. ethanol: one molecule. All labelled by a formula, in shards. "
        "First step: from the command on, with imports and one pass over all frames; compiling the step is counted "
        "beside it, as it is in a training. Grown: memory at most in the later half of the steps, less that in the "
        "earlier one. Same batches: a training that was killed halfway and gone on with took the same batches."
    )
    made = made_by(dict(results), "equimd bench scale")
    tables = [*trainings, ""] + ([*commands, ""] if len(commands) > 2 else [])
    return "\n".join(["# Training on more and more data", "", *tables, text, "", made, ""])


def _cases(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """(kind, number of structures, batches or command) of the rows, in the order of the tables."""
    found = {(kind, count, what) for _, kind, count, what, _ in (name.split("/") for name in names)}
    return sorted(found, key=lambda case: (list(KINDS).index(case[0]), case[2], int(case[1])))
