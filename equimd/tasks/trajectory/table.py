"""The result of an analysis as text: short enough for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from equimd.md.observables import Estimate, Well
from equimd.shown import with_error
from equimd.tasks.trajectory.measure import MEANS, Measured

MOST = 12  # lines of bonds, torsions and events
FEW = 10  # independent values, below which an error is a guess


def table(name: str, replicas: int, found: Measured) -> str:
    """Means with their errors, bonds, torsions, what the guard said, and what could not be had."""
    lines = [_head(name, replicas, found), *_means(found)]
    if found.bonds:
        lines += ["", f"{'bond (A)':<16}{'mean':<24}{'std':>7}"]
        rows = [f"{b.name:<16}{_mean(b.length, 4):<24}{b.length.std:>7.3f}" for b in found.bonds]
        lines += _some(rows, "bonds")
    if found.torsions:
        lines += ["", f"{'torsion':<16}angle and share of the frames of each well"]
        lines += _some([f"{t.name:<16}" + ", ".join(map(_well, t.wells)) for t in found.torsions], "torsions")
    lines += _guard(found)
    if found.left_out:
        lines += ["", *(f"left out: {line}" for line in found.left_out)]
    return "\n".join(lines)


def _head(name: str, replicas: int, found: Measured) -> str:
    many = f"{replicas} replicas, " if replicas > 1 else ""
    often = "" if found.interval_fs is None else f" every {found.interval_fs:g} fs"
    long = "" if found.time_ps is None else f", {found.time_ps:g} ps{' each' if replicas > 1 else ''}"
    return f"{name}: {found.formula}, {many}{found.n_frames:,} frames{often}{long}"


def _means(found: Measured) -> list[str]:
    if not found.means and found.drift is None:
        return []
    lines = ["", f"{'':<25}{'mean':<26}{'std':>9}{'independent':>14}"]
    for key, of in found.means.items():
        title = f"{key.replace('_', ' ')} ({MEANS[key]})"
        lines.append(f"{title:<25}{_mean(of, 3):<26}{of.std:>9.4g}{of.n_effective:>14,.0f}")
    if found.drift is not None:
        lines.append(f"{'drift (meV/atom/ps)':<25}{with_error(*found.drift)}")
    if any(of.n_effective < FEW for of in found.means.values()):
        lines.append(f"fewer than {FEW} independent values: errors are guesses, a longer run tells")
    return lines


def _mean(of: Estimate, least: int) -> str:
    return with_error(of.mean, of.error, least)


def _well(w: Well) -> str:
    share = with_error(100 * w.population.mean, 100 * w.population.error, 0)
    return f"{w.centre:.0f} ({share} %)"


def _guard(found: Measured) -> list[str]:
    if not (found.flagged or found.events):
        return []
    lines = ["", f"flagged: {len(found.flagged):,} of {found.n_frames:,} saved frames"]
    rows = []
    for e in found.events:
        what = "refused" if e.get("action") == "halt" else "flagged"
        rows.append(f"  {what}: replica {e.get('replica', 0)}, step {e.get('step')}, {e.get('reason')}")
    return lines + _some(rows, "events")


def _some(rows: Sequence[str], what: str) -> list[str]:
    more = [f"... and {len(rows) - MOST} more {what} (--json has all)"] if len(rows) > MOST else []
    return [*rows[:MOST], *more]
