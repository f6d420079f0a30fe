"""The dataset doctor: what a data set holds, and what is wrong with it.

Every finding is a :class:`Problem` with a code that scripts can rely on, a severity and the frames it concerns:

- ``error``: training on it would learn something false (units, energies against forces, leakage, labels that disagree);
- ``warning``: some frames deserve a look (clashes, duplicates, missing labels, outliers);
- ``note``: true of the data and worth knowing (net forces, correlation in time, energies only).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from equimd.data.check_frames import (
    CLASH_RATIO,
    FORCE_LIMIT,
    FrameStatistics,
    energy_outliers,
    frame_statistics,
)
from equimd.data.check_pairs import Consistency, Correlation, consistency, correlation, nearest_frames
from equimd.data.dataset import ConcatDataset, Dataset, iterate_blocks, notes

SEVERITIES = ("error", "warning", "note")
NET_FORCE = 0.005  # eV/A; a converged calculation stays below, MD17 reaches 0.02; twenty times this is a warning
NET_TORQUE = 0.01  # eV
NEAR_RMSD = 0.05  # A; frames of MD at 300 K closer than this are a few fs apart


@dataclass(frozen=True)
class Problem:
    """One finding. ``frames`` are the rows concerned, at most the first 100; ``count`` is how many there are."""

    code: str
    message: str
    severity: str
    frames: tuple[int, ...] = ()
    count: int = 0

    def as_dict(self) -> dict[str, object]:
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "frames": list(self.frames),
            "n_frames": self.count,
        }


@dataclass
class Report:
    """What :func:`inspect` found; energies in eV, lengths in Angstrom where the units are known."""

    path: str
    format: str
    n_frames: int
    n_atoms: tuple[int, int]
    elements: tuple[int, ...]
    units: dict[str, str]
    has_energy: bool
    has_forces: bool
    statistics: dict[str, float | int | None] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, code: str, severity: str, message: str, rows: np.ndarray | None = None) -> None:
        """Add a finding about the frames ``rows`` (row numbers)."""
        found = np.zeros(0, np.int64) if rows is None else np.asarray(rows)
        self.problems.append(Problem(code, message, severity, tuple(int(r) for r in found[:100]), len(found)))

    def worst(self) -> str | None:
        """The gravest severity among the problems, None without problems."""
        return next((s for s in SEVERITIES if any(p.severity == s for p in self.problems)), None)

    def as_dict(self) -> dict[str, object]:
        """JSON: the keys that scripts rely on, then the statistics."""
        from ase.data import chemical_symbols

        return {
            "path": self.path,
            "format": self.format,
            "n_frames": self.n_frames,
            "n_atoms": list(self.n_atoms),
            "elements": [chemical_symbols[z] for z in self.elements],
            "units": self.units,
            "has_energy": self.has_energy,
            "has_forces": self.has_forces,
            "statistics": self.statistics,
            "problems": [p.as_dict() for p in self.problems],
        }


def inspect(data: Dataset, *, against: Dataset | None = None, near_rmsd: float = NEAR_RMSD) -> Report:
    """Examine a data set, block by block, so that memory does not grow with it.

    Open it with ``open_dataset(path, check_units=False)``, so that wrong units are reported and not refused.

    Args:
        against: a second data set, of which none should be in the first (test against training, say).
        near_rmsd: frames of the two closer than this (A, after alignment) count as leaked.
    """
    stats = frame_statistics(iterate_blocks(data))
    labelled = bool(stats.has_energy.any()), bool(stats.has_forces.any())
    n_atoms = data.n_atoms
    info = data.info
    length = info.units.length
    sizes = (int(n_atoms.min()), int(n_atoms.max())) if len(data) else (0, 0)
    report = Report(
        info.path, info.format, len(data), sizes, data.elements,
        {
            "energy": info.units.energy, "forces": info.units.forces, "length": length,
            "source": info.units.source, "note": info.units.note,
        },
        *labelled,
    )  # fmt: skip
    if not len(data):
        report.add("empty", "error", "the data set has no frames")
        return report
    for note in notes(data):
        report.add("read_as", "note", note)
    units_known = _check_units(report, data)
    _check_labels(report, stats)
    _check_geometry(report, stats)
    if units_known:
        _check_forces(report, stats)
    _check_duplicates(report, stats)
    _check_state(report, stats)
    _check_pairs(report, data, stats, units_known)
    if against is not None:
        _check_leakage(report, data, stats, against, near_rmsd)
    _describe(report, stats, units_known)
    report.problems.sort(key=lambda p: SEVERITIES.index(p.severity))
    return report


def _parts(data: Dataset) -> list[Dataset]:
    return list(data.parts) if isinstance(data, ConcatDataset) else [data]


def _check_units(report: Report, data: Dataset) -> bool:
    """The readers' verdict on each file; False where a unit is not known."""
    known = True
    for part in _parts(data):
        problem = part.info.extra.get("units_problem")
        if isinstance(problem, dict):
            where = f"{part.info.path}: " if len(_parts(data)) > 1 else ""
            probable = problem.get("probable_energy_unit")
            hint = f"; probably {probable}, stated with --energy-unit" if probable and probable != "eV" else ""
            report.add(str(problem.get("code", "units_unknown")), "error", f"{where}{problem.get('message', '')}{hint}")
        elif part.info.units.source == "unknown":
            report.add("units_unknown", "error", part.info.units.note or "the file states no unit")
        else:
            continue
        known = False
        report.units["source"] = "unknown"
    return known


def _check_labels(report: Report, stats: FrameStatistics) -> None:
    total = report.n_frames
    rows = np.flatnonzero(~stats.has_energy)
    if len(rows) == total:
        report.add("missing_energy", "warning", "no frame has an energy")
    elif len(rows):
        report.add("missing_energy", "warning", f"{len(rows)} of {total} frames have no energy", rows)
    rows = np.flatnonzero(~stats.has_forces)
    if len(rows) == total:
        report.add("missing_forces", "note", "no frame has forces: training on it needs --forces-weight 0")
    elif len(rows):
        report.add("missing_forces", "warning", f"{len(rows)} of {total} frames have no or incomplete forces", rows)
    rows = np.flatnonzero(stats.zero_force_atoms > 0)
    if len(rows):
        most = int(stats.zero_force_atoms.max())
        message = (
            f"exactly zero force on up to {most} atoms of a frame: forces of constrained atoms may have been zeroed"
        )
        report.add("zero_forces", "warning", message, rows)


def _check_geometry(report: Report, stats: FrameStatistics) -> None:
    rows = np.flatnonzero(stats.distance_ratio < CLASH_RATIO)
    if len(rows):
        worst = rows[np.argmin(stats.min_distance[rows])]
        message = (
            f"{len(rows)} frames have atoms closer than {CLASH_RATIO:g} of the sum of their covalent radii; "
            f"closest {stats.min_distance[worst]:.3f} A in frame {worst}"
        )
        report.add("clash", "warning", message, rows)


def _check_forces(report: Report, stats: FrameStatistics) -> None:
    """Checks in absolute units, made where the units are known."""
    net = np.where(np.isfinite(stats.net_force), stats.net_force, 0.0)
    torque = np.where(np.isfinite(stats.torque), stats.torque, 0.0)
    for code, values, unit, least in (("net_force", net, "eV/A", NET_FORCE), ("net_torque", torque, "eV", NET_TORQUE)):
        if values.max() > least:
            severity = "warning" if values.max() > 20 * least else "note"
            rows = np.flatnonzero(values > least)
            message = (
                f"{code.replace('_', ' ')} up to {values.max():.3g} {unit}, above {least:g} on {len(rows)} frames: "
                "labels with numerical noise (an energy without a field has none)"
            )
            report.add(code, severity, message, rows)
    largest = np.where(np.isfinite(stats.max_force), stats.max_force, 0.0)
    rows = np.flatnonzero(largest > FORCE_LIMIT)
    if len(rows):
        message = f"{len(rows)} frames have forces above {FORCE_LIMIT:g} eV/A, up to {largest.max():.0f}"
        report.add("large_forces", "warning", message, rows)
    rows, limit = energy_outliers(stats)
    if len(rows):
        message = f"energies of {len(rows)} frames lie further than {limit:.2f} eV from what their composition has here"
        report.add("energy_outliers", "warning", message, rows)


def _check_duplicates(report: Report, stats: FrameStatistics) -> None:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(stats.hashes):
        groups[key].append(row)
    repeated = [rows for rows in groups.values() if len(rows) > 1]
    if not repeated:
        return
    later = np.sort(np.concatenate([rows[1:] for rows in repeated]))
    report.add("duplicates", "warning", f"{len(later)} frames repeat an earlier frame's geometry", later)
    conflicting = [rows for rows in repeated if np.ptp(stats.energy[rows]) > 1e-3]
    if conflicting:
        spread = max(float(np.ptp(stats.energy[rows])) for rows in conflicting)
        message = f"{len(conflicting)} geometries occur with different energies, up to {spread:.3g} eV apart"
        report.add("conflicting_labels", "error", message, np.sort(np.concatenate(conflicting)))


def _check_state(report: Report, stats: FrameStatistics) -> None:
    """Charge and multiplicity belong to a structure; 0 in spin means that none is stated."""
    electrons, unpaired = stats.protons - stats.charge, stats.spin - 1
    rows = np.flatnonzero((stats.spin > 0) & ((electrons < unpaired) | ((electrons - unpaired) % 2 != 0)))
    if len(rows):
        k = rows[0]
        message = (
            f"{len(rows)} frames have a multiplicity that their number of electrons cannot have, the first one "
            f"{stats.spin[k]} with {electrons[k]} electrons (charge {stats.charge[k]:+d})"
        )
        report.add("impossible_state", "warning", message, rows)
    states, counts = np.unique(np.stack([stats.charge, stats.spin], 1), axis=0, return_counts=True)
    if len(states) < 2:
        return
    listed = ", ".join(
        f"charge {c:+d} spin {s or 'not stated'} ({n})" for (c, s), n in zip(states.tolist(), counts, strict=True)
    )
    common = states[np.argmax(counts)]
    rows = np.flatnonzero((stats.charge != common[0]) | (stats.spin != common[1]))
    message = f"several charges or multiplicities: {listed}; a model must be told them (charge_spin)"
    report.add("mixed_charge_spin", "warning", message, rows)


def _check_pairs(report: Report, data: Dataset, stats: FrameStatistics, units_known: bool) -> None:
    time = correlation(data, stats)
    if time is not None:
        _report_correlation(report, time)
    if stats.has_forces.any() and stats.has_energy.any():
        found = consistency(data, stats, units_known)
        if found is not None:
            _report_consistency(report, found)


def _report_correlation(report: Report, time: Correlation) -> None:
    report.statistics["correlation_time_frames"] = time.frames
    report.statistics["n_effective"] = time.n_effective
    report.statistics["neighbour_distance_ratio"] = time.neighbour_ratio
    if time.correlated:
        message = (
            f"neighbouring rows are correlated: about {time.n_effective:,} independent of {report.n_frames:,} "
            f"(correlation time {time.frames:.3g} rows); a random split leaks, split by blocks"
        )
        report.add("time_correlation", "note", message)


def _report_consistency(report: Report, found: Consistency) -> None:
    report.statistics["energy_force_pairs"] = found.pairs
    report.statistics["energy_force_slope"] = found.slope
    report.statistics["energy_force_residual_meV"] = found.residual * 1e3
    if found.verdict != "ok":
        report.add("energy_force_mismatch", "error", found.sentence())
    elif len(found.rows):
        report.add("energy_force_outliers", "warning", found.sentence(), found.rows)


def _check_leakage(report: Report, data: Dataset, stats: FrameStatistics, against: Dataset, near_rmsd: float) -> None:
    known = set(stats.hashes)
    rows, start = [], 0
    for block in iterate_blocks(against):
        rows += [start + k for k, key in enumerate(block.content_hashes()) if key in known]
        start += len(block)
    if rows:
        message = f"{len(rows)} of {len(against)} frames of the other data set are in this one"
        report.add("leakage", "error", message, np.array(rows))
    examined, distance = nearest_frames(data, against)
    if not len(examined):
        return
    report.statistics["nearest_rmsd_median"] = float(np.median(distance))
    report.statistics["nearest_rmsd_min"] = float(distance.min())
    near = np.setdiff1d(examined[distance < near_rmsd], rows)
    if len(near):
        message = (
            f"{len(near)} of {len(examined)} examined frames of the other data set have a near twin here "
            f"(RMSD below {near_rmsd:g} A)"
        )
        # independent runs of a small molecule meet by chance now and then
        report.add("near_leakage", "warning" if len(near) > 0.02 * len(examined) else "note", message, near)


def _describe(report: Report, stats: FrameStatistics, units_known: bool) -> None:
    def reduce(values: np.ndarray, how: Callable[[np.ndarray], float]) -> float | None:
        finite = values[np.isfinite(values)]
        return float(how(finite)) if len(finite) else None

    report.statistics = {
        "n_compositions": len(set(stats.composition.tolist())),
        "energy_per_atom_min_eV": reduce(stats.energy / stats.n_atoms, np.min),
        "energy_per_atom_max_eV": reduce(stats.energy / stats.n_atoms, np.max),
        "energy_std_eV": reduce(stats.energy, np.std),
        "forces_rms_eV_per_A": reduce(stats.force_square / (3 * stats.n_atoms), lambda v: float(np.sqrt(v.mean()))),
        "forces_max_eV_per_A": reduce(stats.max_force, np.max),
        "net_force_max_eV_per_A": reduce(stats.net_force, np.max),
        "net_torque_max_eV": reduce(stats.torque, np.max),
        "min_distance_A": reduce(stats.min_distance, np.min),
        **report.statistics,
    }
    if not units_known:  # numbers of unknown unit are not eV
        for key in list(report.statistics):
            if key.endswith(("_eV", "_eV_per_A", "_meV")):
                report.statistics[key] = None
