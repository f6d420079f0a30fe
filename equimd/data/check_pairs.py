"""Pairs of frames for the dataset doctor: do energies follow from forces, are rows correlated, are frames shared?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from equimd.data.alignment import align, rmsd
from equimd.data.cells import frame_differences, nearest_images
from equimd.data.check_frames import Labels, groups, labels_of, same_as_next, uniform
from equimd.data.dataset import ArrayDataset, Dataset, Subset, iterate_blocks
from equimd.data.frames import Frames

#: Longest displacement (A, norm over all atoms) over which the trapezoid rule is trusted.
MAX_DISPLACEMENT = 0.3
#: Bound on the third derivative of the energy along a unit displacement, eV/A^3: rMD17 has 6 in the median and up
#: to 77, the strained frames of QM7-X up to 184. In a small molecule a displacement may be all along one stiff bond:
#: there the bound follows from force and curvature, V''' = -3 a V'' - 2 a^2 V' for a Morse bond of range parameter a.
THIRD_DERIVATIVE = 200.0
MORSE_RANGE = 2.8  # 1/A, of the stiffest bond there is, in N2
#: Noise and rounding that energies may have, eV: four times that of MD17.
NOISE = 0.005
MIN_PAIRS = 10
_SAMPLE = 2000
_STRETCH = 40
_MAX_PAIRS_OF_ATOMS = 300
_CELLS = 500  # each of its own takes milliseconds


@dataclass(frozen=True)
class Consistency:
    """Whether dE = -F dR between near frames. ``verdict``: ok, scale or unrelated; ``rows``: frames that are off."""

    pairs: int
    slope: float
    correlation: float
    residual: float
    worst: float
    verdict: str
    explanation: str
    rows: np.ndarray

    def sentence(self) -> str:
        """What was found, where it is not that all is well."""
        if self.verdict == "scale":
            return (
                f"energy differences of {self.pairs} near pairs are {self.slope:.4g} times the work of the forces"
                f"{self.explanation}: energies and forces are in different units or have the wrong sign"
            )
        if self.verdict == "unrelated":
            return (
                f"energy differences of {self.pairs} near pairs do not follow from the forces "
                f"(correlation {self.correlation:.2f}): labels of another frame, or not of one surface"
            )
        return (
            f"{len(self.rows)} frames of {self.pairs} near pairs have energy differences that forces do not explain, "
            f"up to {self.worst * 1e3:.0f} meV off"
        )


def consistency(data: Dataset, stats: Labels, units_known: bool = True) -> Consistency | None:
    """Compare energy differences with the trapezoid work of the forces, between rows that are near each other.

    dE = -(F1 + F2)/2 dR up to |E'''| d^3 / 12, with d the length of the displacement; pairs are weighted by that
    bound. Open molecules are aligned first (and the forces rotated), which leaves energies alone. None where fewer
    than ten pairs are near. Single pairs are judged where units are known; the ratio of energies to the work of the
    forces needs no units.
    """
    candidates = _near_candidates(data, stats)
    if len(candidates) < MIN_PAIRS:
        return None
    pairs = _work(data.frames(candidates[:, 0]), data.frames(candidates[:, 1]))
    candidates = candidates[pairs.kept]
    difference, work, error = pairs.difference, pairs.work, pairs.error
    if len(candidates) < MIN_PAIRS or not np.any(work):
        return None
    weight = error**-2  # pairs that the trapezoid rule says little about count little
    slope = float(np.sum(weight * work * difference) / np.sum(weight * work**2))
    related = _correlation(work, difference, weight)
    off = np.abs(difference - work)
    verdict, explanation = "ok", ""
    if abs(related) < 0.8 and np.median(off / error) > 0.5 * np.median(np.abs(difference) / error):
        verdict = "unrelated"
    elif abs(related) > 0.8 and abs(slope - 1) > 0.4:  # the units people confuse differ by 1.9 at least
        verdict, explanation = "scale", _explain_slope(slope)
    bad = off > error
    rows = np.unique(candidates[bad].ravel()) if verdict == "ok" and units_known else np.zeros(0, np.int64)
    residual = float(np.sqrt(np.mean(off**2)))
    return Consistency(len(candidates), slope, related, residual, float(off.max()), verdict, explanation, rows)


def sampled_consistency(data: Dataset, limit: int = _SAMPLE) -> Consistency | None:
    """:func:`consistency` of at most ``limit`` frames of ``data``, in stretches of neighbouring rows: takes seconds."""
    rows = np.arange(len(data))
    if len(rows) > limit:
        starts = np.linspace(0, len(data) - _STRETCH, limit // _STRETCH).astype(np.int64)
        rows = np.unique(starts[:, None] + np.arange(_STRETCH))
    part = Subset(data, rows)
    return consistency(part, labels_of(iterate_blocks(part)))


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Weighted correlation of two series; 0 where one is constant."""
    w = weight / weight.sum()
    dx, dy = x - np.sum(w * x), y - np.sum(w * y)
    spread = np.sum(w * dx**2) * np.sum(w * dy**2)
    return float(np.sum(w * dx * dy) / np.sqrt(spread)) if spread > 0 else 0.0


def most_consistent(candidates: Mapping[str, Frames]) -> str | None:
    """Of frames that differ in their energies alone, those whose energy differences the forces explain best.

    None where too few frames are near, or the best is not clearly better than the next.
    """
    off: dict[str, float] = {}
    for name, block in candidates.items():
        data = ArrayDataset(block)
        near = _near_candidates(data, labels_of([block]))
        pairs = _work(data.frames(near[:, 0]), data.frames(near[:, 1])) if len(near) >= MIN_PAIRS else None
        if pairs is None or len(pairs.work) < MIN_PAIRS:
            return None
        off[name] = float(np.sqrt(np.mean(((pairs.difference - pairs.work) / pairs.error) ** 2)))
    best, second = sorted(off, key=lambda name: off[name])[:2]
    return best if off[best] < 0.8 * off[second] else None


def _explain_slope(slope: float) -> str:
    from equimd.units import BOHR, ENERGY_UNITS

    if abs(slope + 1) < 0.1:
        return " (gradients stored as forces?)"
    if abs(abs(slope) * BOHR - 1) < 0.1:
        return " (forces per Bohr? then --force-unit Hartree/Bohr with --energy-unit Hartree, or eV/Bohr)"
    if abs(abs(slope) / 10 - 1) < 0.1 or abs(abs(slope) * 10 - 1) < 0.1:
        return " (forces per nm? then state them with --force-unit)"
    for one, f in ENERGY_UNITS.items():
        for other, g in ENERGY_UNITS.items():
            if one != other and abs(abs(slope) * g / f - 1) < 0.05:
                return f" (energies in {other} and forces in {one}/length?)"
    return ""


def _near_candidates(data: Dataset, stats: Labels) -> np.ndarray:
    """(P, 2) rows that may be near: neighbours in the file, and nearest frames of a sample where those are not."""
    usable = stats.has_forces & stats.has_energy & (stats.n_atoms > 1)
    surface = stats.surface
    row = np.flatnonzero(same_as_next(data.trajectory) & same_as_next(surface) & usable[:-1] & usable[1:])
    if len(row) > _SAMPLE:
        row = row[np.linspace(0, len(row) - 1, _SAMPLE).astype(np.int64)]
    pairs = np.stack([row, row + 1], 1)
    if len(pairs) >= MIN_PAIRS:
        probe = pairs[np.linspace(0, len(pairs) - 1, 50).astype(np.int64)]
        if _work(data.frames(probe[:, 0]), data.frames(probe[:, 1])).kept.sum() >= MIN_PAIRS:
            return pairs
    nearest = [pairs]
    rows = np.flatnonzero(usable)
    for members in groups(surface[rows], 3):
        like = rows[members]
        chosen = np.linspace(0, len(like) - 1, min(len(like), _SAMPLE)).astype(np.int64)
        nearest.append(_nearest_within(data, like[chosen]))
    return np.unique(np.concatenate(nearest), axis=0)


def _nearest_within(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """(P, 2) each row with its nearest other row by interatomic distances."""
    described = _descriptors(data.frames(rows))
    other, _ = _nearest(described, described, skip_self=True)
    return np.sort(np.stack([rows, rows[other]], 1), axis=1)


@dataclass(frozen=True)
class _Pairs:
    """Pairs of near frames: dE, trapezoid work and its largest error (eV), and which pairs (B,) were near enough."""

    difference: np.ndarray
    work: np.ndarray
    error: np.ndarray
    kept: np.ndarray


def _work(first: Frames, second: Frames) -> _Pairs:
    """Energy differences and the work of the forces of the pairs that are near enough."""
    difference = second.energy - first.energy
    work, third = np.zeros(len(first)), np.zeros(len(first))
    length = np.full(len(first), np.inf)
    for n in np.unique(first.n_atoms):
        k = np.flatnonzero(first.n_atoms == n)
        r1, r2, f1, f2 = first.positions[k, :n], second.positions[k, :n], first.forces[k, :n], second.forces[k, :n]
        free = ~np.asarray(first.pbc[k].any(1))
        turn = np.tile(np.eye(3), (len(k), 1, 1))
        turn[free] = align(r2[free], r1[free])[0]
        shift = np.where(free, 1.0, 0.0)[:, None, None]
        dr = (r2 - shift * r2.mean(1, keepdims=True)) @ turn - (r1 - shift * r1.mean(1, keepdims=True))
        dr = nearest_images(dr, first.cell[k], first.pbc[k])
        length[k] = np.sqrt((dr**2).sum((1, 2)))
        length[k[(first.cell[k] != second.cell[k]).any((1, 2))]] = np.inf  # forces do not tell the work of a strain
        work1, work2 = (f1 * dr).sum((1, 2)), (f2 @ turn * dr).sum((1, 2))
        work[k] = -0.5 * (work1 + work2)
        third[k] = _third_derivative(work1, work2, dr)
    kept = (length < MAX_DISPLACEMENT) & (length > 1e-6)
    error = NOISE + np.maximum(THIRD_DERIVATIVE, third[kept]) * length[kept] ** 3 / 12
    return _Pairs(difference[kept], work[kept], error, kept)


def _third_derivative(work1: np.ndarray, work2: np.ndarray, dr: np.ndarray) -> np.ndarray:
    """(B,) bound on |E'''| along dr (B, n, 3), eV/A^3, as if the bond that changes most were the stiffest there is.

    Args:
        work1, work2: (B,) eV, the forces of the two frames times dr.
    """
    d = np.sqrt((dr**2).sum((1, 2))).clip(1e-9)
    stretch = np.minimum(np.sqrt(2.0), 2 * np.sqrt((dr**2).sum(-1)).max(1) / d)  # of a bond, per unit displacement
    force, curvature = np.maximum(np.abs(work1), np.abs(work2)) / d, np.abs(work2 - work1) / d**2
    return 3 * MORSE_RANGE * stretch * curvature + 2 * (MORSE_RANGE * stretch) ** 2 * force


@dataclass(frozen=True)
class Correlation:
    """How correlated neighbouring rows are.

    ``frames``: integrated correlation time in rows; ``neighbour_ratio``: median distance of neighbouring rows over
    that of random pairs, about 1 where rows are in no order.
    """

    frames: float
    n_effective: int
    neighbour_ratio: float

    @property
    def correlated(self) -> bool:
        """Whether rows are not independent draws, so that a random split leaks."""
        return self.neighbour_ratio < 0.7 or self.frames > 2


def correlation(data: Dataset, stats: Labels) -> Correlation | None:
    """Estimate the correlation along rows from interatomic distances; None for fewer than 50 frames or mixed molecules.

    The time is the largest integrated autocorrelation time over a few slow distances (Sokal's window, 6 times the
    time), averaged over trajectories; n_effective = N / (1 + 2 time).
    """
    n = len(data)
    if n < 50 or not uniform(stats.composition) or stats.n_atoms[0] < 2:
        return None
    starts = np.flatnonzero(np.r_[True, ~same_as_next(data.trajectory)])
    series: list[np.ndarray] = []
    for start, end in zip(starts, np.r_[starts[1:], n], strict=True):
        if end - start >= 10 and len(series) < 20:
            block = data.frames(np.arange(start, min(end, start + 5 * _SAMPLE)))
            if block.pbc.any() and (block.cell != block.cell[0]).any():
                block = block.take(np.arange(min(len(block), _CELLS)))
            series.append(_sorted_descriptors(block))
    if not series:
        return None
    spread = np.concatenate(series)
    keep = spread.std(0) > 1e-6
    if not keep.any():
        return None
    series, spread = [s[:, keep] for s in series], spread[:, keep]
    neighbour = np.concatenate([np.linalg.norm(np.diff(s, axis=0), axis=1) for s in series])
    mixed = np.random.default_rng(0).permutation(len(spread))
    random = np.linalg.norm(spread - spread[mixed], axis=1)[mixed != np.arange(len(spread))]
    ratio = float(np.median(neighbour) / np.median(random)) if np.median(random) > 0 else 1.0
    time = _integrated_time(series)
    return Correlation(time, max(1, int(n / (1 + 2 * time))), ratio)


def _integrated_time(series: list[np.ndarray]) -> float:
    """Largest integrated autocorrelation time, in rows, over the columns; about 0 for rows in no order."""
    mean = np.concatenate(series).mean(0)
    longest = max(len(s) for s in series)
    total, weight = np.zeros((longest, series[0].shape[1])), np.zeros(longest)
    for s in series:
        padded = np.fft.rfft(s - mean, 2 * len(s), axis=0)
        total[: len(s)] += np.fft.irfft(np.abs(padded) ** 2, axis=0)[: len(s)]
        weight[: len(s)] += np.arange(len(s), 0, -1)
    rho = total / weight[:, None]
    rho = rho / rho[0]
    times = np.cumsum(rho[1:], axis=0)
    window = np.arange(1, len(times) + 1)[:, None] >= 6 * np.maximum(times + 0.5, 0.5)
    stop = np.where(window.any(0), window.argmax(0), len(times) - 1)
    return float(max(times[stop, np.arange(times.shape[1])].max(), 0.0))


def _descriptors(block: Frames) -> np.ndarray:
    """(B, d) interatomic distances of frames of one element sequence, at most 300 of them, chosen evenly."""
    n = int(block.n_atoms[0])
    i, j = np.triu_indices(n, 1)
    if len(i) > _MAX_PAIRS_OF_ATOMS:
        chosen = np.random.default_rng(0).choice(len(i), _MAX_PAIRS_OF_ATOMS, replace=False)
        i, j = i[chosen], j[chosen]
    return np.asarray(np.linalg.norm(frame_differences(block, i, j), axis=-1))


def _sorted_descriptors(block: Frames) -> np.ndarray:
    """(B, d) interatomic distances, sorted within each pair of elements: swapping like atoms (a methyl group that
    turns) leaves them as they are, as it does energies."""
    n = int(block.n_atoms[0])
    numbers = block.numbers[0, :n].astype(np.int64)
    i, j = np.triu_indices(n, 1)
    kind = np.minimum(numbers[i], numbers[j]) * 256 + np.maximum(numbers[i], numbers[j])
    columns = []
    for k in np.unique(kind):
        chosen = np.flatnonzero(kind == k)[:_MAX_PAIRS_OF_ATOMS]
        d = np.linalg.norm(frame_differences(block, i[chosen], j[chosen]), axis=-1)
        columns.append(np.sort(d, axis=1))
    return np.concatenate(columns, axis=1)


def _nearest(query: np.ndarray, reference: np.ndarray, skip_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Index of and distance to the nearest ``reference`` row of each ``query`` row (Euclidean)."""
    index = np.empty(len(query), np.int64)
    square = np.empty(len(query))
    norms = (reference**2).sum(1)
    for start in range(0, len(query), 256):
        q = query[start : start + 256]
        d = norms[None] - 2 * q @ reference.T + (q**2).sum(1)[:, None]
        if skip_self:
            d[np.arange(len(q)), start + np.arange(len(q))] = np.inf
        index[start : start + 256] = d.argmin(1)
        square[start : start + 256] = d.min(1)
    return index, np.sqrt(np.maximum(square, 0.0))


def nearest_frames(data: Dataset, query: Dataset, limit: int = _SAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """For up to ``limit`` open frames of ``query``, the RMSD (A) to the nearest frame of ``data``.

    Frames are compared with those of the same element sequence, up to 20,000 of ``data``.

    Returns:
        rows of ``query`` that had a counterpart, and their RMSD.
    """
    rows = np.unique(np.linspace(0, len(query) - 1, min(len(query), limit)).astype(np.int64))
    known = np.unique(np.linspace(0, len(data) - 1, min(len(data), 20_000)).astype(np.int64))
    a, b = data.frames(known), query.frames(rows)
    out_rows, out = [], []
    keys_a = [x[x > 0].tobytes() if not p.any() else b"" for x, p in zip(a.numbers, a.pbc, strict=True)]
    keys_b = [x[x > 0].tobytes() if not p.any() else b"" for x, p in zip(b.numbers, b.pbc, strict=True)]
    for key in sorted(set(keys_a) & set(keys_b) - {b""}):
        ka = np.flatnonzero([k == key for k in keys_a])
        kb = np.flatnonzero([k == key for k in keys_b])
        fa, fb = a.take(ka), b.take(kb)
        if fa.n_atoms[0] < 2:
            continue
        index, _ = _nearest(_descriptors(fb), _descriptors(fa))
        out_rows.append(rows[kb])
        out.append(rmsd(fa.positions[index], fb.positions))
    if not out:
        return np.zeros(0, np.int64), np.zeros(0)
    joined = np.concatenate(out_rows)
    order = np.argsort(joined)
    return joined[order], np.concatenate(out)[order]
