"""The result of an analysis as text: short enough for a terminal."""

from __future__ import annotations

from dataclasses import replace

from equimd.md.observables import Well
from equimd.shown import digits, with_error
from equimd.tables import Table
from equimd.tasks.trajectory.measure import MEANS, Measured

MOST = 12  # lines of bonds, torsions and events
FEW = 10  # independent values, below which an error is a guess


def parts(name: str, replicas: int, found: Measured) -> list[Table | str]:
    """Means with their errors, bonds, torsions, what the guard said, and what could not be had."""
    told = [_head(name, replicas, found), *_means(found)]
    if found.bonds:
        rows = [[b.name, b.length.told(4), f"{b.length.std:.3f}"] for b in found.bonds]
        told += _some(Table(rows, ("bond (A)", "mean", "std"), left=(0, 1)), "bonds")
    if found.torsions:
        rows = [[t.name, ", ".join(map(_well, t.wells))] for t in found.torsions]
        told += _some(Table(rows, ("torsion", "angle and share of the frames of each well"), left=(0, 1)), "torsions")
    told += ["", *(found.model.words() if found.model is not None else [f"no errors of the model: {found.no_model}"])]
    told += _guard(found)
    if found.left_out:
        told += ["", *(f"left out: {line}" for line in found.left_out)]
    return told


def _head(name: str, replicas: int, found: Measured) -> str:
    many = f"{replicas} replicas, " if replicas > 1 else ""
    often = "" if found.interval_fs is None else f" every {found.interval_fs:g} fs"
    long = "" if found.time_ps is None else f", {found.time_ps:g} ps{' each' if replicas > 1 else ''}"
    return f"{name}: {found.formula}, {many}{found.n_frames:,} frames{often}{long}"


def _means(found: Measured) -> list[Table | str]:
    if not found.means and found.drift is None:
        return []
    rows = [
        [f"{key.replace('_', ' ')} ({MEANS[key]})", of.told(3), digits(of.std), f"{of.n_effective:,.0f}"]
        for key, of in found.means.items()
    ]
    if found.drift is not None:
        rows.append(["drift (meV/atom/ps)", with_error(*found.drift), "", ""])
    lines: list[Table | str] = ["", Table(rows, ("", "mean", "std", "independent"), left=(0, 1))]
    if any(of.n_effective < FEW for of in found.means.values()):
        lines.append(f"fewer than {FEW} independent values: errors are guesses, a longer run tells")
    return lines


def _well(w: Well) -> str:
    return f"{w.centre:.0f} ({w.population.told(0, times=100)} %)"


def _guard(found: Measured) -> list[Table | str]:
    if not (found.flagged or found.events):
        return []
    count = f"flagged: {len(found.flagged):,} of {found.n_frames:,} saved frames"
    rows = [
        [
            "refused" if e.get("action") == "halt" else "flagged",
            *(str(e.get(key, 0)) for key in ("replica", "step")),
            str(e.get("reason")),
        ]
        for e in found.events
    ]
    events = _some(Table(rows, ("", "replica", "step", "why"), left=(0, 3)), "events") if rows else []
    return ["", count, *events]


def _some(table: Table, what: str) -> list[Table | str]:
    """The first rows of a table, below an empty line."""
    more = len(table.rows) - MOST
    tail = [f"... and {more} more {what} (--json has all)"] if more > 0 else []
    return ["", replace(table, rows=table.rows[:MOST]), *tail]
