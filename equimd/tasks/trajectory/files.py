"""An analysis as files: JSON with everything, a CSV table of each quantity, and the figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from equimd.files import plain, replacing_folder, write_atomic, write_json
from equimd.md.observables import Estimate
from equimd.md.recorded import Recorded
from equimd.tasks.trajectory.measure import MEANS, Curve, Measured, Torsion
from equimd.tasks.trajectory.plot import figure
from equimd.tasks.trajectory.source import Source

JSON_FILE, PLOT_FILE = "analysis.json", "analysis.png"
UNITS = {"eV": "eV", "K": "K", "eV/A": "eV_per_A"}
PROFILE = ("torsion", "angle_degrees", "share", "error", "model", "free_energy_eV", "free_energy_error_eV",
           "free_energy_model_eV")  # fmt: skip
CURVES = ("distances", "vibrations", "velocity_autocorrelation")


def as_json(source: Source, found: Measured) -> dict[str, Any]:
    """Everything, in plain values; units are in the keys."""
    out: dict[str, Any] = {
        "source": source.name,
        "formula": found.formula,
        "n_atoms": source.system.n_atoms,
        "replicas": list(source.runs),
        "n_frames": found.n_frames,
        "interval_fs": found.interval_fs,
        "time_ps": found.time_ps,
    }
    for name, unit in MEANS.items():
        out[f"{name}_{UNITS[unit]}"] = found.means[name]._asdict() if name in found.means else None
    slope, error = found.drift or (None, None)
    out |= {"conserved_quantity": source.conserved, "drift_meV_per_atom_per_ps": slope, "drift_error": error}
    out["bonds"] = [{"atoms": b.atoms, "name": b.name, "length_A": b.length._asdict()} for b in found.bonds]
    out["torsions"] = [
        {**asdict(t), "wells": [{**w._asdict(), "population": w.population._asdict()} for w in t.wells]}
        for t in found.torsions
    ]
    for name in CURVES:
        curve: Curve | None = getattr(found, name)
        out[name] = None if curve is None else dict(zip(curve.labels, (curve.x, curve.y), strict=True))
    if found.distances is not None:
        out["distances"] |= {"error": found.distances.error, "model": found.distances.model}
    out |= {"model_errors": None if found.model is None else asdict(found.model), "no_model_errors": found.no_model}
    return plain({**out, "flagged": found.flagged, "events": found.events, "left_out": found.left_out})


def write(source: Source, found: Measured, folder: Path) -> None:
    """The folder, in the place of what :func:`equimd.files.check_output` let pass.

    Raises:
        MachineError: the disk is full.
    """
    with replacing_folder(folder) as new:
        write_json(new / JSON_FILE, as_json(source, found))
        means: list[Sequence[Any]] = [(f"{k} ({MEANS[k]})", *of) for k, of in found.means.items()]
        if found.drift is not None:
            means.append(("drift (meV/atom/ps)", *found.drift, None, None, None))
        _csv(new / "means.csv", ("quantity", *Estimate._fields), means)
        _csv(new / "bonds.csv", ("bond", *(f"{k}_A" for k in Estimate._fields[:3]), "n_effective", "model_A"),
             [(b.name, *b.length) for b in found.bonds])  # fmt: skip
        if found.torsions:
            names = [t.name for t in found.torsions]
            shares = zip(found.torsions[0].angle, *(t.share for t in found.torsions), strict=True)
            _csv(new / "torsions.csv", ("angle_degrees", *names), shares)
            rows = [
                (t.name, *w[:3], w.population.mean, w.population.error, w.population.model)
                for t in found.torsions for w in t.wells
            ]  # fmt: skip
            columns = ("torsion", "centre_degrees", "low_degrees", "high_degrees", "population", "error", "model")
            _csv(new / "wells.csv", columns, rows)
            _csv(new / "torsion_errors.csv", PROFILE, [row for t in found.torsions for row in _profile(t)])
        for name in CURVES:
            curve: Curve | None = getattr(found, name)
            if curve is not None:
                errors = {k: v for k in ("error", "model") if (v := getattr(curve, k)) is not None}
                _csv(
                    new / f"{name}.csv", (*curve.labels, *errors), zip(curve.x, curve.y, *errors.values(), strict=True)
                )
        _csv(new / "flagged.csv", ("replica", "step", "time_ps", "force_sigma_eV_per_A"),
             [tuple(f.values()) for f in found.flagged])  # fmt: skip
        _csv(new / "frames.csv", *_frames(source.runs))
        figure(source, found, new / PLOT_FILE)


def _profile(t: Torsion) -> Iterable[Sequence[Any]]:
    """A row of :data:`PROFILE` for each bin of a torsion; empty cells where something is not known."""
    columns = (t.share, t.share_error, t.share_model, t.free_energy, t.free_energy_error, t.free_energy_model)
    for k, angle in enumerate(t.angle):
        cells = [None if c is None or not np.isfinite(c[k]) else float(c[k]) for c in columns]
        yield (t.name, float(angle), *cells)


def _frames(runs: Mapping[int, Recorded]) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    """What is one number a frame, of every frame."""
    names = sorted(set.intersection(*(set(run.columns.observables) for run in runs.values())))
    rows = (
        (replica, int(run.columns.step[k]), float(run.columns.time[k]), *(run.columns.observables[n][k] for n in names))
        for replica, run in runs.items()
        for k in range(len(run))
    )
    return ("replica", "step", "time_fs", *names), rows


def _csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([f"{v:.10g}" if isinstance(v, float) else v for v in row] for row in rows)
    write_atomic(path, text.getvalue())
