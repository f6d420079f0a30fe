"""The one format of benchmark results: a JSON file of rows, and a Markdown table beside it.

``{suite, created, machine, versions, data_sha256,
rows: [{name, value, unit, command, preset, budget_s, n_train, seed}]}``
Row names read ``<dataset>/<molecule>/<split>/<variant>/<metric>``. Rows are merged by name, so that a suite can be run
molecule by molecule, or go on where it was interrupted. ``machine`` and ``versions`` are those of the latest rows; a
row that was made with others has its own.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from equimd.benchmarks.suites import SUITES
from equimd.errors import DataError
from equimd.files import locked, versions, write_atomic

FEW = 4  # names of rows in the sentence about where they were made


@dataclass(frozen=True)
class Row:
    """One figure, and everything needed to make it again."""

    name: str
    value: float
    unit: str
    command: str
    preset: str
    budget_s: float | None
    n_train: int | None
    seed: int | None


def machine() -> dict[str, Any]:
    """Processor, cores, memory and accelerator, without a host name."""
    import torch

    model = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith("flags"):
                flags = ", AVX-512" if "avx512f" in line else ""
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": model + flags, "cores": os.cpu_count(), "memory_GiB": round(memory), "accelerator": device}


def merge(path: Path, suite: str, rows: Iterable[Row], data_sha256: dict[str, str]) -> dict[str, Any]:
    """Put rows into a results file, replacing those of the same name; returns the whole file.

    Processes that measure side by side wait for each other: no row is lost.
    """
    with locked(path.parent, wait=True):
        old = json.loads(path.read_text()) if path.exists() else {"rows": [], "data_sha256": {}}
        merged = _merged(old, suite, rows, data_sha256)
        write_atomic(path, _text(merged))
    return merged


def _merged(old: dict[str, Any], suite: str, rows: Iterable[Row], data_sha256: dict[str, str]) -> dict[str, Any]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    here = {"machine": machine(), "versions": versions()}
    new = {r.name: {**asdict(r), "created": created} for r in rows}
    kept = [row for row in old["rows"] if row["name"] not in new]
    for row in kept:
        row |= {key: old[key] for key in here if key not in row and old.get(key, here[key]) != here[key]}
    return {
        "suite": suite,
        "created": created,
        **here,
        "data_sha256": {**old["data_sha256"], **data_sha256},
        "rows": sorted([*kept, *new.values()], key=lambda row: row["name"]),
    }


def _text(results: dict[str, Any]) -> str:
    """As JSON, a line a row: a figure measured again changes one line."""
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in results["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def made_by(results: dict[str, Any], command: str) -> str:
    """The sentence below a table: command, date, machine; and which rows come from another day or machine.

    It starts from the latest rows; where that leaves more than a few others to be named, from those that leave fewest.
    """
    latest = _where(results["created"], results["machine"], results["versions"])
    made: dict[str, str] = {}  # where each row was made, by name
    for row in results["rows"]:
        about = (row.get(key, results[key]) for key in ("created", "machine", "versions"))
        made[row["name"]] = _where(*about)
    places: dict[str, set[str]] = {}  # by the beginning of names
    for name, where in made.items():
        for begin in _beginnings(name):
            places.setdefault(begin, set()).add(where)
    names: dict[str, set[str]] = {latest: set()}  # as briefly as can be, by where their rows were made
    for name, where in made.items():
        names.setdefault(where, set()).add(next(b for b in _beginnings(name) if len(places[b]) == 1))
    count = sum(map(len, names.values()))
    first = latest if count - len(names[latest]) <= FEW else max(names, key=lambda where: len(names[where]))
    others = [f"{', '.join(sorted(names[where]))}: on {where}." for where in names if where != first and names[where]]
    return " ".join([f"Made by `{command}` on {first}.", *others])


def _beginnings(name: str) -> list[str]:
    """Of a row's name, from data set and molecule on to all of it."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(2, len(parts) + 1)]


def _where(created: str, on: dict[str, Any], using: dict[str, str]) -> str:
    return f"{created[:10]}, {on['processor']}, {on['cores']} cores; torch {using['torch']}"


def join(folder: Path) -> Path:
    """Write ``report.md``: every suite's table that is in ``folder``, with its plots; returns its path.

    Raises:
        DataError: there are no results.
    """
    found = [name for name in SUITES if (folder / f"{name}.json").is_file() and (folder / f"{name}.md").is_file()]
    if not found:
        raise DataError("no results here", where=str(folder), hint="equimd bench accuracy --help")
    parts = ["# Benchmarks", ""]
    for name in found:
        table = (folder / f"{name}.md").read_text().strip()
        parts += [table.replace("\n# ", "\n## ").replace("# ", "## ", 1), ""]
        for image in sorted(folder.glob(f"{name}*.png")):
            parts += [f"![{image.stem.replace('-', ' ')}]({image.name})", ""]
    path = folder / "report.md"
    path.write_text("\n".join(parts))
    return path
