"""What is read off a trajectory: means with their sampling errors, bonds, torsions, h(r), vibrations, flags, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from equimd.chemistry import formula
from equimd.errors import DataError
from equimd.guard.limits import Limits
from equimd.md.observables import (
    TORSION_BINS,
    Drift,
    Estimate,
    Well,
    between,
    dihedrals,
    distances,
    distances_by_frame,
    estimate,
    vibrational_spectrum,
    wells,
)
from equimd.md.recorded import Recorded, gathered
from equimd.md.summary import WIDTH, of_runs
from equimd.md.trajectory import Columns
from equimd.progress import Callback
from equimd.tasks.generate.torsions import quartets
from equimd.tasks.trajectory.source import Source
from equimd.tasks.trajectory.uncertain import FRAMES as SAMPLED
from equimd.tasks.trajectory.uncertain import ModelErrors, Sampled, uncertain
from equimd.units import KB
from equimd.uq.draws import Ensembles

FRAMES = 50_000  # of bonds and torsions, over all replicas
EDGES = np.linspace(-180, 180, TORSION_BINS + 1)
MEANS = {"potential_energy": "eV", "temperature": "K", "force_sigma": "eV/A"}


@dataclass(frozen=True)
class Bond:
    """The length of a bond, Angstrom; ``atoms`` are its indices, ``name`` says them with their elements."""

    atoms: tuple[int, int]
    name: str
    length: Estimate


@dataclass(frozen=True)
class Torsion:
    """Angles about a single bond.

    Attributes:
        atoms: four indices in a chain; ``name`` says them with their elements.
        angle: (72,) centres of bins of 5 degrees, -180 to 180, 0 where the outer atoms are on one side.
        share: (72,) of the frames in each. wells: conformers, with their populations.
        share_error: (72,) standard error, of sampling. share_model: (72,) what the error of the model makes of it, one
            standard deviation; None where it is not known.
        free_energy: (72,) eV, -kT ln of the share, 0 where it is largest, NaN where no frame is; with its errors. None
            where the temperature is not known.
    """

    atoms: tuple[int, int, int, int]
    name: str
    angle: np.ndarray
    share: np.ndarray
    wells: tuple[Well, ...]
    share_error: np.ndarray
    share_model: np.ndarray | None = None
    free_energy: np.ndarray | None = None
    free_energy_error: np.ndarray | None = None
    free_energy_model: np.ndarray | None = None


@dataclass(frozen=True)
class Curve:
    """A function of one variable: ``x`` and ``y``, and what they are, with units.

    Of h(r) ``error`` is the sampling error of ``y``, ``model`` what the error of the model makes of it.
    """

    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, str]
    error: np.ndarray | None = None
    model: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """What a trajectory tells; see :class:`equimd.tasks.trajectory.call.AnalysisResult`, which has these fields."""

    formula: str
    n_frames: int
    interval_fs: float | None
    time_ps: float | None
    means: dict[str, Estimate]
    drift: Drift | None
    bonds: tuple[Bond, ...]
    torsions: tuple[Torsion, ...]
    distances: Curve | None
    vibrations: Curve | None
    velocity_autocorrelation: Curve | None
    flagged: tuple[dict[str, Any], ...]
    events: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...]
    model: ModelErrors | None
    no_model: str


def measured(
    source: Source, *, errors: bool = True, run: str | None = None, progress: Callback | None = None
) -> Measured:
    """All that is known of a trajectory.

    Args:
        errors: those of the model too, where its run is calibrated; ``run`` is its folder, if it has moved.
        progress: of the frames whose features are computed for them.

    Raises:
        DataError: a damaged file, or atoms that overlap in the reference geometry. RunError, UncertaintyError: a
            ``run`` that is none, of another model, or not calibrated.
    """
    runs, left_out = list(source.runs.values()), list(source.notes)
    sampled = Sampled.of(source)
    drawn = uncertain(source, sampled, run, progress) if errors else "they were not asked for"
    ensembles, about = (None, None) if isinstance(drawn, str) else (drawn.ensembles, drawn.about)
    limits = Limits.from_reference(source.system, torch.tensor(source.reference))
    found = of_runs(runs, limits)
    correlation, spectrum = _vibrations(found["velocity_autocorrelation"], left_out)
    h = found.get("distances")
    if h is None:
        left_out.append("h(r): of open molecules alone")
    slope = found["drift_meV_per_atom_per_ps"]
    if slope is None:
        left_out.append("drift: the conserved quantity or the times are not known, or fewer than eight frames")
    interval, length = _times(runs)
    averages = means([run.columns for run in runs], left_out)
    if ensembles is not None and about is not None and "potential_energy" in averages:
        whole, varying = ensembles.energy_errors(_energies(runs))
        averages["potential_energy"] = averages["potential_energy"]._replace(model=whole)
        about = replace(about, energy=varying)
    return Measured(
        formula(source.system.numbers.numpy()),
        found["n_frames"],
        interval,
        length,
        averages,
        None if slope is None else Drift(slope, found["drift_error"]),
        _bonds(source, limits.bonds, sampled, ensembles),
        _torsions(source, left_out, sampled, ensembles),
        None if h is None else _distances(h, sampled, ensembles),
        spectrum,
        correlation,
        tuple(_flagged(source.runs)),
        tuple(_events(source)),
        tuple(left_out),
        about,
        drawn if isinstance(drawn, str) else "",
    )


def _energies(runs: Sequence[Recorded]) -> np.ndarray:
    return gathered(runs, lambda part: part.observables["potential_energy"], SAMPLED)[0]


def _times(runs: Sequence[Recorded]) -> tuple[float | None, float | None]:
    """fs between the first two frames, and ps from the first to the last of the longest run; None where not known."""
    times = [run.columns.time for run in runs if len(run) > 1]
    if not times or not all(np.isfinite(t).all() for t in times):
        return None, None
    return float(times[0][1] - times[0][0]), max(float(t[-1] - t[0]) for t in times) / 1000


def means(replicas: Sequence[Columns], left_out: list[str]) -> dict[str, Estimate]:
    """Of each quantity of :data:`MEANS`, with its sampling error; ``left_out`` is told which could not be had."""
    lengths, out = [len(c.step) for c in replicas], {}
    which = np.repeat(np.arange(len(replicas)), lengths)
    for name in MEANS:
        known = [c.observables.get(name, np.full(n, np.nan)) for c, n in zip(replicas, lengths, strict=True)]
        try:
            out[name] = estimate(np.concatenate(known), which)
        except DataError:
            left_out.append(f"{name.replace('_', ' ')}: not known, or not of every frame")
    return out


def _symbols(source: Source, atoms: Sequence[int]) -> str:
    from ase.data import chemical_symbols

    return "-".join(f"{chemical_symbols[int(source.system.numbers[k])]}{k}" for k in atoms)


def _bonds(source: Source, pairs: np.ndarray, sampled: Sampled, ensembles: Ensembles | None) -> tuple[Bond, ...]:
    """Of each bonded pair of the reference geometry."""
    if not len(pairs):
        return ()
    lattice = source.system.lattice
    runs, i, j = list(source.runs.values()), pairs[:, 0], pairs[:, 1]
    lengths, which = gathered(runs, lambda part: distances(part.positions, i, j, lattice), FRAMES)
    found = [estimate(lengths[:, k], which) for k in range(len(pairs))]
    if ensembles is not None:
        model = ensembles.errors(distances(sampled.positions, i, j, lattice))
        found = [of._replace(model=float(m)) for of, m in zip(found, model, strict=True)]
    return tuple(Bond((int(i), int(j)), _symbols(source, (i, j)), of) for (i, j), of in zip(pairs, found, strict=True))


def _distances(h: Mapping[str, Any], sampled: Sampled, ensembles: Ensembles | None) -> Curve:
    """h(r) of all frames, with the errors of those that were sampled."""
    x, y = np.array(h["r_A"]), np.array(h["h_per_A"])
    each = distances_by_frame(sampled.positions, WIDTH, len(x))
    error = np.array([estimate(column, sampled.which).error for column in each.T])
    return Curve(x, y, ("distance_A", "h_per_A"), error, None if ensembles is None else ensembles.errors(each))


def _torsions(
    source: Source, left_out: list[str], sampled: Sampled, ensembles: Ensembles | None
) -> tuple[Torsion, ...]:
    found = torsion_profiles(source)
    if ensembles is not None and found:
        angles = dihedrals(sampled.positions, np.array([t.atoms for t in found]))
        found = tuple(_with_model(t, of, ensembles, source) for t, of in zip(found, angles.T, strict=True))
    if not found:
        left_out.append("torsions: no bond about which a turn gives another conformer, or a periodic system")
    return found


def torsion_profiles(source: Source) -> tuple[Torsion, ...]:
    """How the angles about single bonds of an open molecule are distributed, over all replicas."""
    if source.system.periodic:
        return ()
    chains = quartets(source.system.numbers.numpy(), source.reference)
    if not len(chains):
        return ()
    angles, which = gathered(list(source.runs.values()), lambda part: dihedrals(part.positions, chains), FRAMES)
    out = []
    for chain, of in zip(chains.tolist(), angles.T, strict=True):
        inside = _in_bins(of)
        share = inside.mean(0)
        error = np.array([estimate(column, which).error if column.any() else 0.0 for column in inside.T])
        free, free_error = None, None
        if source.temperature:
            free = _free_energy(share, source.temperature)
            free_error = KB * source.temperature * _over(error, share)
        one = (chain[0], chain[1], chain[2], chain[3])
        out.append(
            Torsion(one, _symbols(source, one), (EDGES[1:] + EDGES[:-1]) / 2, share, tuple(wells(of, which)), error,
                    free_energy=free, free_energy_error=free_error)
        )  # fmt: skip
    return tuple(out)


def _in_bins(angles: np.ndarray) -> np.ndarray:
    """(T, 72) 1.0 in the bin that each angle is in."""
    inside = np.zeros((len(angles), TORSION_BINS), np.float32)
    inside[np.arange(len(angles)), np.clip(np.digitize(angles, EDGES) - 1, 0, TORSION_BINS - 1)] = 1
    return inside


def _over(error: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.divide(error, share, out=np.full(len(share), np.nan), where=share > 0)


def _free_energy(share: np.ndarray, temperature: float) -> np.ndarray:
    """eV, -kT ln of shares (..., bins), 0 where the last axis has its largest; NaN where no frame is."""
    relative = np.where(share > 0, share, np.nan) / share.max(-1, keepdims=True)
    return -KB * temperature * np.log(relative)


def _with_model(torsion: Torsion, angles: np.ndarray, ensembles: Ensembles, source: Source) -> Torsion:
    """With what the model's error makes of the shares of bins and wells, and of the free energy."""
    shares = ensembles.averages(_in_bins(angles))
    model = shares.std(0)
    low, high = (np.array([getattr(w, end) for w in torsion.wells]) for end in ("low", "high"))
    populations = ensembles.errors(np.stack(between(angles, low, high), 1))
    known = [
        w._replace(population=w.population._replace(model=float(m)))
        for w, m in zip(torsion.wells, populations, strict=True)
    ]
    # to first order, which is what an expansion of the share can give, where a draw could make it negative
    free = KB * float(source.temperature or 0) * _over(model, torsion.share)
    return replace(torsion, wells=tuple(known), share_model=model, free_energy_model=free)


def _vibrations(found: Mapping[str, Any] | None, left_out: list[str]) -> tuple[Curve | None, Curve | None]:
    """The velocity autocorrelation, and the density of states that it is the transform of."""
    if found is None:
        left_out.append("vibrations: no velocities, no times, or fewer than four frames")
        return None, None
    time, c = np.array(found["time_fs"]), np.array(found["c"])
    correlation = Curve(time, c, ("lag_fs", "autocorrelation"))
    try:
        spectrum = vibrational_spectrum(time, c)
    except DataError as error:
        left_out.append(f"vibrations: {error.what}")
        return correlation, None
    return correlation, Curve(*spectrum, ("wavenumber_per_cm", "density_cm"))


def _flagged(runs: Mapping[int, Recorded]) -> list[dict[str, Any]]:
    """Saved frames that the guard flagged."""
    out = []
    for replica, run in runs.items():
        c = run.columns
        for row in np.flatnonzero(c.observables.get("flagged", np.zeros(len(run))) > 0):
            frame: dict[str, Any] = {"replica": replica, "step": int(c.step[row]), "time_ps": float(c.time[row]) / 1000}
            sigma = c.observables.get("force_sigma")
            out.append(frame | {"force_sigma_eV_per_A": None if sigma is None else float(sigma[row])})
    return out


def _events(source: Source) -> list[dict[str, Any]]:
    """What the guard halted at and flagged in the simulation, the worst frame of each event, with its reason."""
    keys = ("replica", "step", "action", "code", "reason", "score", "threshold", "flagged_steps")
    return [{k: a.info[k] for k in keys if k in a.info} for a in source.suspects]
