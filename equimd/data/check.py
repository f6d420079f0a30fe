"""The dataset doctor: what a data set holds, and what is wrong with it.

Every finding is a :class:`Problem` with a code that scripts can rely on, a severity and the frames it concerns:

- ``error``: training on it would learn something false (units, energies against forces, leakage, labels that disagree);
- ``warning``: some frames deserve a look (clashes, duplicates, missing labels, outliers);
- ``note``: true of the data and worth knowing (net forces, correlation in time, energies only).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from equimd.data.check_frames import CLASH_RATIO, FORCE_LIMIT, energy_outliers, same_as_next, uniform
from equimd.data.check_pairs import Consistency, Correlation, consistency, correlation, nearest_frames
from equimd.data.check_tally import NET_FORCE, NET_TORQUE, SHOWN, Rows, Tally, frames_with, half
from equimd.data.dataset import ConcatDataset, Dataset, notes

SEVERITIES = ("error", "warning", "note")
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

    def add(self, code: str, severity: str, message: str, rows: np.ndarray | Rows | None = None) -> None:
        """Add a finding about the frames ``rows`` (row numbers)."""
        found = rows if isinstance(rows, Rows) else Rows.of(np.zeros(0, np.int64) if rows is None else rows)
        self.problems.append(Problem(code, message, severity, found.first, found.count))

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
    """Examine a data set, block by block: memory grows by some 30 bytes a frame.

    Open it with ``open_dataset(path, check_units=False)``, so that wrong units are reported and not refused.

    Args:
        against: a second data set, of which none should be in the first (test against training, say).
        near_rmsd: frames of the two closer than this (A, after alignment) count as leaked.
    """
    tally = Tally(data)
    labelled = tally.missing_energy.count < len(data), tally.missing_forces.count < len(data)
    info = data.info
    length = info.units.length
    sizes = (int(tally.spans["n_atoms"].low), int(tally.spans["n_atoms"].high)) if len(data) else (0, 0)
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
    _check_labels(report, tally)
    _check_geometry(report, tally)
    if units_known:
        _check_forces(report, tally)
    _check_duplicates(report, data, tally)
    _check_state(report, tally)
    _check_pairs(report, data, tally, units_known)
    if against is not None:
        _check_leakage(report, data, tally, against, near_rmsd)
    _describe(report, tally, units_known)
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


def _check_labels(report: Report, tally: Tally) -> None:
    total, missing = report.n_frames, tally.missing_energy
    if missing.count == total:
        report.add("missing_energy", "warning", "no frame has an energy")
    elif missing.count:
        report.add("missing_energy", "warning", f"{missing.count} of {total} frames have no energy", missing)
    missing = tally.missing_forces
    if missing.count == total:
        report.add("missing_forces", "note", "no frame has forces: training on it needs --forces-weight 0")
    elif missing.count:
        message = f"{missing.count} of {total} frames have no or incomplete forces"
        report.add("missing_forces", "warning", message, missing)
    if tally.zero_forces.count:
        most = int(tally.spans["zero_force_atoms"].high)
        message = (
            f"exactly zero force on up to {most} atoms of a frame: forces of constrained atoms may have been zeroed"
        )
        report.add("zero_forces", "warning", message, tally.zero_forces)


def _check_geometry(report: Report, tally: Tally) -> None:
    if tally.clash.count:
        distance, worst = tally.closest
        message = (
            f"{tally.clash.count} frames have atoms closer than {CLASH_RATIO:g} of the sum of their covalent radii; "
            f"closest {distance:.3f} A in frame {worst}"
        )
        report.add("clash", "warning", message, tally.clash)


def _check_forces(report: Report, tally: Tally) -> None:
    """Checks in absolute units, made where the units are known."""
    for name, unit, least in (("net_force", "eV/A", NET_FORCE), ("torque", "eV", NET_TORQUE)):
        rows, largest = tally.net[name], tally.spans[name].high
        if rows.count:
            code = name if name == "net_force" else "net_torque"
            severity = "warning" if largest > 20 * least else "note"
            message = (
                f"{code.replace('_', ' ')} up to {largest:.3g} {unit}, above {least:g} on {rows.count} frames: "
                "labels with numerical noise (an energy without a field has none)"
            )
            report.add(code, severity, message, rows)
    if tally.large_forces.count:
        largest = tally.spans["max_force"].high
        message = f"{tally.large_forces.count} frames have forces above {FORCE_LIMIT:g} eV/A, up to {largest:.0f}"
        report.add("large_forces", "warning", message, tally.large_forces)
    far, limit = energy_outliers(tally.labels)
    if len(far):
        message = f"energies of {len(far)} frames lie further than {limit:.2f} eV from what their composition has here"
        report.add("energy_outliers", "warning", message, far)


def _check_duplicates(report: Report, data: Dataset, tally: Tally) -> None:
    again = tally.keys[1:][same_as_next(tally.keys)]
    if not len(again):
        return
    rows, hashes = frames_with(data, np.unique(again))
    order = np.argsort(hashes.values, kind="stable")
    rows, first = rows[order], np.r_[True, hashes.values[order][1:] != hashes.values[order][:-1]]
    later = np.sort(rows[~first])
    if not len(later):
        return
    report.add("duplicates", "warning", f"{len(later)} frames repeat an earlier frame's geometry", later)
    energy, starts = tally.energy[rows], np.flatnonzero(first)
    spread = np.maximum.reduceat(energy, starts) - np.minimum.reduceat(energy, starts)
    conflicting = spread > 1e-3
    if conflicting.any():
        message = (
            f"{int(conflicting.sum())} geometries occur with different energies, up to "
            f"{spread[conflicting].max():.3g} eV apart"
        )
        report.add("conflicting_labels", "error", message, np.sort(rows[conflicting[np.cumsum(first) - 1]]))


def _check_state(report: Report, tally: Tally) -> None:
    """Charge and multiplicity belong to a structure; 0 in spin means that none is stated."""
    if tally.wrong_state.count:
        message = (
            f"{tally.wrong_state.count} frames have a multiplicity that their number of electrons cannot have, the "
            f"first one {tally.impossible}"
        )
        report.add("impossible_state", "warning", message, tally.wrong_state)
    states = sorted(tally.states.items())
    if len(states) < 2:
        return
    listed = ", ".join(f"charge {c:+d} spin {s or 'not stated'} ({rows.count})" for (c, s), rows in states)
    common = max(states, key=lambda state: state[1].count)[0]
    others = [rows for state, rows in states if state != common]
    first = sorted(row for rows in others for row in rows.first)[:SHOWN]
    message = f"several charges or multiplicities: {listed}; a model must be told them (charge_spin)"
    report.add("mixed_charge_spin", "warning", message, Rows(tuple(first), sum(rows.count for rows in others)))


def _check_pairs(report: Report, data: Dataset, tally: Tally, units_known: bool) -> None:
    labels = tally.labels
    time = correlation(data, labels)
    if time is not None:
        _report_correlation(report, time)
    if report.has_forces and report.has_energy:
        found = consistency(data, labels, units_known)
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


def _check_leakage(report: Report, data: Dataset, tally: Tally, against: Dataset, near_rmsd: float) -> None:
    rows, hashes = frames_with(against, tally.keys)
    if len(rows):
        shared = hashes.within(frames_with(data, np.sort(half(hashes)))[1])
        rows = rows[shared]
    if len(rows):
        message = f"{len(rows)} of {len(against)} frames of the other data set are in this one"
        report.add("leakage", "error", message, rows)
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


def _describe(report: Report, tally: Tally, units_known: bool) -> None:
    spans, known, composition = tally.spans, tally.labels.has_energy, tally.labels.composition
    each, square = spans["energy_per_atom"], spans["mean_force_square"]
    energy = tally.energy if known.all() else tally.energy[known]
    report.statistics = {
        "n_compositions": 1 if uniform(composition) else len(np.unique(composition)),
        "energy_per_atom_min_eV": each.get(each.low),
        "energy_per_atom_max_eV": each.get(each.high),
        "energy_std_eV": float(np.std(energy)) if len(energy) else None,
        "forces_rms_eV_per_A": square.get(float(np.sqrt(square.total / max(square.count, 1)))),
        "forces_max_eV_per_A": spans["max_force"].get(spans["max_force"].high),
        "net_force_max_eV_per_A": spans["net_force"].get(spans["net_force"].high),
        "net_torque_max_eV": spans["torque"].get(spans["torque"].high),
        "min_distance_A": spans["min_distance"].get(spans["min_distance"].low),
        **report.statistics,
    }
    if not units_known:  # numbers of unknown unit are not eV
        for key in list(report.statistics):
            if key.endswith(("_eV", "_eV_per_A", "_meV")):
                report.statistics[key] = None
