"""What a finished run amounts to, read back from its trajectories: temperature, drift, bonds, distances, vibrations.

Read back, not added up on the way, so that a run that was killed and resumed has the summary of one that was not. A
block of frames at a time, so that long trajectories need no more memory than short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.errors import DataError
from equimd.guard.limits import Limits
from equimd.md.observables import (
    BOND_TOLERANCE,
    bond_stability,
    distance_distribution,
    linear_drift,
    velocity_autocorrelation,
)
from equimd.md.recorded import BLOCK, Recorded
from equimd.md.trajectory import Columns

MAX_FRAMES = 20_000  # of h(r) and of the velocity autocorrelation, per replica
BINS, WIDTH = 800, 0.05  # of h(r): up to 40 Angstrom, written as far as there are any
LAGS_FS = 1000.0  # of the velocity autocorrelation
PER_PS = 1e6  # eV/fs -> meV/ps


def summarize(paths: Sequence[Path], limits: Limits) -> dict[str, Any]:
    """The part of summary.json that the trajectories tell; ``None`` where there are too few frames to tell.

    Args:
        paths: H5MD files of the replicas; those that are missing halted before their first frame.
        limits: whose bonds are watched.

    Returns:
        As :func:`of_runs`.
    """
    return of_runs([Recorded.of(p) for p in paths if p.is_file()], limits)


def of_runs(runs: Sequence[Recorded], limits: Limits) -> dict[str, Any]:
    """What some replicas tell; ``None`` where there are too few frames to tell, or observables are not known.

    Returns:
        ``temperature_K_mean``, ``drift_meV_per_atom_per_ps`` (of the conserved quantity, mean over replicas),
        ``drift_error``, ``bonds``, ``distances`` (h(r), open molecules) and ``velocity_autocorrelation``.
    """
    columns = [run.columns for run in runs]
    out: dict[str, Any] = {
        "n_frames": sum(len(c.step) for c in columns),
        "temperature_K_mean": _mean([c.observables["temperature"] for c in columns if "temperature" in c.observables]),
        **_drift(columns, limits.system.n_atoms),
        "bonds": _bonds(runs, limits),
    }
    if limits.system.n_atoms > 1 and not limits.system.periodic:
        out["distances"] = _distances(runs)
    out["velocity_autocorrelation"] = _velocities(runs)
    return out


def _mean(values: Sequence[np.ndarray]) -> float | None:
    every = np.concatenate(values) if values else np.zeros(0)
    return float(every.mean()) if len(every) else None


def _drift(columns: Sequence[Columns], n_atoms: int) -> dict[str, float | list[float] | None]:
    """Slope of the conserved quantity: the mean over replicas, and its standard error from the blocks of each."""
    found = []
    for c in columns:
        try:
            found.append(linear_drift(c.time, c.observables["conserved"]))
        except (DataError, KeyError):
            continue  # too short, or not known
    if not found:
        return {"drift_meV_per_atom_per_ps": None, "drift_error": None}
    slopes = np.array([d.slope for d in found]) * (PER_PS / n_atoms)
    errors = np.array([d.error for d in found]) * (PER_PS / n_atoms)
    return {
        "drift_meV_per_atom_per_ps": float(slopes.mean()),
        "drift_error": float(np.sqrt(np.square(errors).sum()) / len(errors)),
        "drift_of_replicas": slopes.tolist(),
    }


def _bonds(runs: Sequence[Recorded], limits: Limits) -> dict[str, Any]:
    """The criterion of Fu et al. 2022 for each replica: how long all bonds held, and which strayed farthest."""
    replicas = []
    for run in runs:
        unstable, worst, bond = None, 0.0, 0
        for part in run.blocks(size=BLOCK):
            found = bond_stability(part.positions, limits.bonds, limits.bond_lengths, lattice=limits.system.lattice)
            if unstable is None and int(found.stable_frames) < len(part):
                unstable = float(part.time[int(found.stable_frames)])
            if float(found.worst) > worst:
                worst, bond = float(found.worst), int(found.worst_bond)
        pair = limits.bonds[bond].tolist() if len(limits.bonds) else []
        stable = None if unstable is None else unstable / 1000
        replicas.append({"unstable_after_ps": stable, "largest_deviation_A": worst, "atoms": pair})
    return {
        "tolerance_A": BOND_TOLERANCE,
        "n_unstable": sum(r["unstable_after_ps"] is not None for r in replicas),
        "replicas": replicas,
    }


def _distances(runs: Sequence[Recorded]) -> dict[str, Any] | None:
    """h(r) over all replicas, in bins of one width whatever the run."""
    total, frames = np.zeros(BINS), 0
    for run in runs:
        for part in run.blocks(MAX_FRAMES, BLOCK):
            r, h = distance_distribution(part.positions, max_distance=BINS * WIDTH, bins=BINS)
            total, frames = total + h * len(part), frames + len(part)
    if not frames:
        return None
    used = int(np.flatnonzero(total).max(initial=0)) + 1
    return {"r_A": np.round(r[:used], 6).tolist(), "h_per_A": (total[:used] / frames).tolist()}


def _velocities(runs: Sequence[Recorded]) -> dict[str, Any] | None:
    """Mass-weighted autocorrelation, the mean over replicas with equally many frames behind each lag."""
    found, weights, step = [], [], 0.0
    for run in runs:
        if len(run) < 4 or not (interval := float(run.columns.time[1] - run.columns.time[0])) > 0:
            continue
        step = interval
        part = run.read(slice(max(0, len(run) - MAX_FRAMES), None))
        lags = min(len(part) // 2, int(LAGS_FS / step) + 1)
        try:
            found.append(velocity_autocorrelation(part.velocities, weights=part.masses, n_lags=lags))
        except DataError:
            continue  # atoms at rest
        weights.append(len(part))
    if not found:
        return None
    lags = min(map(len, found))
    mean = np.average([f[:lags] for f in found], axis=0, weights=weights)
    return {"time_fs": (step * np.arange(lags)).tolist(), "c": mean.tolist()}
