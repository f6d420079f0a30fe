"""The table of docs/reference/reliability.md, from benchmarks/results/reliability.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimd.benchmarks.results import Row, merge
from tests.kills.harness import Trial

FILE = "reliability.json"
#: What each fault is, and what happens then.
FAULTS = {
    "SIGKILL": ("killed outright at a random moment", "gone on with, to the same result to the bit"),
    "SIGINT": ("Ctrl-C at a random moment", "exit code 130 without a traceback, and the same result when gone on with"),
    "SIGTERM": (
        "SIGTERM at a random moment",
        "exit code 130 without a traceback, and the same result when gone on with",
    ),
    "full": ("a disk with 20 to 400 kB free", "done, or exit code 1, nothing half written, gone on with elsewhere"),
    "readonly": ("a folder that may not be written to", "exit code 2 before the work"),
    "twice": ("two processes in one folder", "one is refused (exit code 2), or both end well"),
    "nodes": (
        "two machines of two processes each train together",
        "losses and weights of one process, but for rounding",
    ),
    "node": (
        "one of two machines lost while they train together",
        "the other ends within a minute and says why; one process, and three, go on to the same weights",
    ),
    "stall": (
        "a process stopped while two machines train together",
        "named with its machine within four minutes; let go on, all end as if nothing was",
    ),
    "cells": (
        "skewed, left-handed and tiny cells drawn at random",
        "energies, forces and stress as by all images, and guarded dynamics without a halt",
    ),
    "fuzz": ("damaged and hostile inputs", "a result, or an error that says what is wrong"),
}


def save(trials: Iterable[Trial], folder: Path, command: str) -> None:
    """Counts of trials, and of those that went as they should, into the results file."""
    found: dict[tuple[str, str], list[bool]] = {}
    for t in trials:
        found.setdefault((t.fault, t.case), []).append(not t.wrong)
    save_counts({key: (len(good), sum(good)) for key, good in found.items()}, folder, command)


def save_counts(counts: Mapping[tuple[str, str], tuple[int, int]], folder: Path, command: str) -> None:
    """How many were tried, and how many of them went well, by fault and case."""
    kept: dict[str, Any] = {"command": command, "preset": "", "budget_s": None, "n_train": None, "seed": 0}
    rows = [
        Row(f"faults/{fault}/{case}/all/{metric}", value, "count", **kept)
        for (fault, case), pair in counts.items()
        for metric, value in zip(("tried", "good"), pair, strict=True)
    ]
    merge(folder / FILE, "reliability", rows, {})


def markdown(results: dict[str, Any]) -> str:
    """A line a fault: what was tried how often, what happened, and the command that repeats it."""
    lines = ["| fault | of | tried | what happened | how often | again |", "|---|---|---|---|---|---|"]
    rows = {row["name"]: row for row in results["rows"]}
    for fault, (what, happened) in FAULTS.items():
        named = [name.split("/")[2] for name in rows if name.startswith(f"faults/{fault}/") and name.endswith("/tried")]
        if not named:
            continue
        count = {
            metric: sum(int(rows[f"faults/{fault}/{case}/all/{metric}"]["value"]) for case in named)
            for metric in ("tried", "good")
        }
        made = dict.fromkeys(rows[f"faults/{fault}/{case}/all/tried"]["command"] for case in named)
        command = "`, `".join(made)
        lines.append(
            f"| {what} | {', '.join(named)} | {count['tried']:,} | {happened} | {count['good']:,} | `{command}` |"
        )
    return "\n".join(lines) + "\n"
