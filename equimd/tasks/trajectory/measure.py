"""What is read off a trajectory: means with their sampling errors, bonds, torsions, h(r), vibrations, flags, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    dihedrals,
    distances,
    estimate,
    vibrational_spectrum,
    wells,
)
from equimd.md.recorded import Recorded, gathered
from equimd.md.summary import of_runs
from equimd.md.trajectory import Columns
from equimd.tasks.generate.torsions import quartets
from equimd.tasks.trajectory.source import Source

FRAMES = 50_000  # of bonds and torsions, over all replicas
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
    """

    atoms: tuple[int, int, int, int]
    name: str
    angle: np.ndarray
    share: np.ndarray
    wells: tuple[Well, ...]


@dataclass(frozen=True)
class Curve:
    """A function of one variable: ``x`` and ``y``, and what they are, with units."""

    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, str]


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


def measured(source: Source) -> Measured:
    """All that is known of a trajectory.

    Raises:
        DataError: a damaged file, or atoms that overlap in the reference geometry.
    """
    runs, left_out = list(source.runs.values()), list(source.notes)
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
    return Measured(
        formula(source.system.numbers.numpy()),
        found["n_frames"],
        interval,
        length,
        means([run.columns for run in runs], left_out),
        None if slope is None else Drift(slope, found["drift_error"]),
        _bonds(source, limits.bonds),
        _torsions(source, left_out),
        None if h is None else Curve(np.array(h["r_A"]), np.array(h["h_per_A"]), ("distance_A", "h_per_A")),
        spectrum,
        correlation,
        tuple(_flagged(source.runs)),
        tuple(_events(source)),
        tuple(left_out),
    )


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


def _bonds(source: Source, pairs: np.ndarray) -> tuple[Bond, ...]:
    """Of each bonded pair of the reference geometry."""
    if not len(pairs):
        return ()
    lattice = source.system.lattice
    runs, i, j = list(source.runs.values()), pairs[:, 0], pairs[:, 1]
    lengths, which = gathered(runs, lambda part: distances(part.positions, i, j, lattice), FRAMES)
    return tuple(
        Bond((int(i), int(j)), _symbols(source, (i, j)), estimate(lengths[:, k], which))
        for k, (i, j) in enumerate(pairs)
    )


def _torsions(source: Source, left_out: list[str]) -> tuple[Torsion, ...]:
    found = torsion_profiles(source)
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
    edges = np.linspace(-180, 180, TORSION_BINS + 1)
    out = []
    for chain, of in zip(chains.tolist(), angles.T, strict=True):
        share = np.histogram(of, edges)[0] / len(of)
        one = (chain[0], chain[1], chain[2], chain[3])
        out.append(Torsion(one, _symbols(source, one), (edges[1:] + edges[:-1]) / 2, share, tuple(wells(of, which))))
    return tuple(out)


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
