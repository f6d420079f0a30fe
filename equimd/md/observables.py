"""What is read off a trajectory: means, distances, velocities, drift, bonds, torsions. Arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equimd.data.lattice import Lattice
from equimd.errors import DataError
from equimd.shown import with_errors
from equimd.uq.resampling import correlation_time

BOND_TOLERANCE = 0.5  # Angstrom; Fu et al. 2022, "Forces are not Enough"
LIGHT_CM_PER_FS = 2.99792458e-5  # speed of light
MAX_BINS_BYTES = 1 << 26  # distances computed at once
TORSION_BINS = 72  # of 5 degrees
SMOOTHED = 2.0  # bins: width of the Gaussian that smooths a histogram of angles before its wells are told apart
SADDLE, LEAST = 0.5, 0.01  # a well ends where the density is below half its peak, and holds 1 % of the frames


class Estimate(NamedTuple):
    """A mean over correlated values.

    Attributes:
        mean, std: of the values.
        error: standard error of the mean, of sampling alone; infinite of a single independent value.
        n_effective: how many independent values they are worth.
        model: what the error of the model makes of the mean, one standard deviation; None where it is not known.
    """

    mean: float
    error: float
    std: float
    n_effective: float
    model: float | None = None

    def told(self, least: int, times: float = 1.0) -> str:
        """``value ± model ± sampling``, times a factor (100 for %); ``least`` decimals if there is no error."""
        model = None if self.model is None else times * self.model
        return with_errors(times * self.mean, model, times * self.error, least)


def estimate(values: np.ndarray, trajectory: np.ndarray | None = None) -> Estimate:
    """Mean and its sampling error, from the integrated autocorrelation time (Sokal 1989).

    Args:
        values: (T,), in the order of time within each trajectory.
        trajectory: (T,) which one each is of; None: all of one.

    Raises:
        DataError: no values, or some that are not finite.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise DataError(f"values of shape {x.shape} that are not all finite have no mean", where="mean")
    n = len(x) / correlation_time(x, trajectory)
    std = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    return Estimate(float(x.mean()), std / float(np.sqrt(n)) if n > 1 else float("inf"), std, n)


def distance_distribution(
    positions: np.ndarray, *, max_distance: float | None = None, bins: int = 200, lattice: Lattice | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distribution h(r) of interatomic distances (Fu et al. 2022, section 4.1).

    h(r) = 1/(N(N-1)) sum_i sum_{j != i} delta(r - |x_i - x_j|), averaged over frames; its integral over all r is 1.

    Args:
        positions: (..., n, 3) Angstrom, any number of frames.
        lattice: of periodic frames: distances are those of the nearest images.
        max_distance: upper edge of the last bin, Angstrom; None: the longest distance found.

    Returns:
        Centres of the bins, Angstrom, and densities, 1/Angstrom.

    Raises:
        DataError: no frames, fewer than two atoms, or positions that are not finite.
    """
    frames = np.asarray(positions, np.float64)
    if frames.ndim < 2 or frames.shape[-1] != 3 or frames.shape[-2] < 2 or not frames.size:
        raise DataError(f"positions of shape {frames.shape} have no distances", where="h(r)")
    frames = frames.reshape(-1, *frames.shape[-2:])
    if not np.isfinite(frames).all():
        raise DataError("positions are not finite", where="h(r)")
    i, j = np.triu_indices(frames.shape[1], 1)
    step = max(1, MAX_BINS_BYTES // (len(i) * 24))
    if max_distance is None:
        parts = range(0, len(frames), step)
        longest = max(float(distances(frames[k : k + step], i, j, lattice).max()) for k in parts)
        max_distance = np.nextafter(longest, np.inf)
    edges = np.linspace(0.0, max_distance, bins + 1)
    counts = np.zeros(bins)
    for k in range(0, len(frames), step):
        counts += np.histogram(distances(frames[k : k + step], i, j, lattice), edges)[0]
    return 0.5 * (edges[1:] + edges[:-1]), counts / (len(frames) * len(i) * np.diff(edges))


def distances_by_frame(positions: np.ndarray, width: float, bins: int) -> np.ndarray:
    """(T, bins) h(r) of each of T frames (T, n, 3) of an open molecule, 1/Angstrom, in bins of a width from 0 on."""
    i, j = np.triu_indices(positions.shape[1], 1)
    step, found = max(1, MAX_BINS_BYTES // (len(i) * 24)), np.zeros((len(positions), bins), np.float32)
    for start in range(0, len(positions), step):
        place = (distances(positions[start : start + step], i, j) / width).astype(np.int64)
        frame = np.broadcast_to(np.arange(len(place))[:, None] * bins, place.shape)
        counts = np.bincount((frame + place)[place < bins], minlength=len(place) * bins)
        found[start : start + step] = counts.reshape(-1, bins)
    return found / (len(i) * width)


def distances(x: np.ndarray, i: np.ndarray, j: np.ndarray, lattice: Lattice | None = None) -> np.ndarray:
    """(..., P) Angstrom, between atoms i and j of positions (..., n, 3); nearest images, given a lattice."""
    delta = x[..., i, :] - x[..., j, :]
    if lattice is not None:
        delta = lattice.nearest(delta)
    return np.asarray(np.linalg.norm(delta, axis=-1))


def velocity_autocorrelation(
    velocities: np.ndarray, *, weights: np.ndarray | None = None, n_lags: int | None = None
) -> np.ndarray:
    """C(t) = <sum_i w_i v_i(s) . v_i(s + t)> / <sum_i w_i v_i(s)^2>, over all start times s.

    Args:
        velocities: (T, ..., n, 3), equally spaced in time; middle axes (replicas) are averaged over.
        weights: (n,) w_i, such as the masses; None: all 1.
        n_lags: how many lags; None: T // 2.

    Returns:
        (n_lags,) with C(0) = 1.

    Raises:
        DataError: fewer than two frames, or velocities that are all zero or not finite.
    """
    v = np.asarray(velocities, np.float64)
    length = len(v) if v.ndim >= 3 else 0
    if length < 2 or not np.isfinite(v).all():
        raise DataError(f"velocities of shape {v.shape} have no autocorrelation", where="velocity autocorrelation")
    n_lags = min(length // 2 if n_lags is None else n_lags, length)
    w = np.ones(v.shape[-2]) if weights is None else np.asarray(weights, np.float64)
    # Wiener-Khinchin; zero padding keeps the ends from meeting
    padded = 1 << (2 * length - 1).bit_length()
    total = np.zeros(padded // 2 + 1)
    for atom in range(v.shape[-2]):
        spectrum = np.fft.rfft(v[..., atom, :].reshape(length, -1), padded, axis=0)
        total += w[atom] * (spectrum.real**2 + spectrum.imag**2).sum(1)
    correlation = np.fft.irfft(total, padded)[:n_lags] / (length - np.arange(n_lags))
    if not correlation[0] > 0:
        raise DataError("all velocities are zero", where="velocity autocorrelation")
    return correlation / correlation[0]


def vibrational_spectrum(time: np.ndarray, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vibrational density of states: the cosine transform of the velocity autocorrelation, under a Hann window.

    Args:
        time: (T,) lags from 0 in equal steps, fs. correlation: (T,) C(t).

    Returns:
        Wavenumbers from 0 to that of half a period a step, 1/cm, and densities, cm, of positive parts that integrate
        to 1. Vibrations that are faster than that appear folded back below it.

    Raises:
        DataError: fewer than four lags, or steps that are not equal.
    """
    t, c = np.asarray(time, np.float64), np.asarray(correlation, np.float64)
    if t.shape != c.shape or t.ndim != 1 or len(t) < 4 or not np.isfinite(c).all():
        raise DataError(f"{len(np.atleast_1d(c))} lags: a spectrum needs four or more finite ones", where="spectrum")
    if not (t[1] > t[0] and np.allclose(np.diff(t), t[1] - t[0])):
        raise DataError("the lags are not in equal steps", where="spectrum")
    windowed = c * np.cos(0.5 * np.pi * np.arange(len(t)) / len(t)) ** 2
    padded = 8 * (1 << (len(t) - 1).bit_length())
    even = np.zeros(padded)  # C(-t) = C(t): the transform is real
    even[: len(t)], even[padded - len(t) + 1 :] = windowed, windowed[:0:-1]
    density = np.fft.rfft(even).real
    wavenumber = np.fft.rfftfreq(padded, t[1] - t[0]) / LIGHT_CM_PER_FS
    return wavenumber, density / max(float(np.clip(density, 0, None).sum()) * wavenumber[1], 1e-300)


def dihedrals(positions: np.ndarray, quartets: np.ndarray) -> np.ndarray:
    """(..., k) torsion angles in degrees, -180 to 180, 0 where the outer atoms are on one side (IUPAC).

    Args:
        positions: (..., n, 3) Angstrom, not wrapped into a cell. quartets: (k, 4) indices of atoms in a chain.
    """
    x, q = np.asarray(positions, np.float64), np.asarray(quartets, np.int64).reshape(-1, 4)
    first, middle, last = (x[..., q[:, k + 1], :] - x[..., q[:, k], :] for k in range(3))
    left, right = np.cross(first, middle), np.cross(middle, last)
    sine = (np.cross(left, right) * middle).sum(-1) / np.linalg.norm(middle, axis=-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(-1)))


class Well(NamedTuple):
    """A conformer, as angles about one bond tell it.

    Attributes:
        centre: circular mean of the angles in it, degrees, -180 to 180. low, high: its ends; it may reach over 180.
        population: share of the frames.
    """

    centre: float
    low: float
    high: float
    population: Estimate


def wells(angles: np.ndarray, trajectory: np.ndarray | None = None) -> list[Well]:
    """The conformers that torsion angles (T,) in degrees fall into, by rising centre.

    A histogram of 5 degrees, smoothed by 10, has a well for each peak from which the density falls to half, and that
    holds a hundredth of the frames; others are part of the next.
    """
    a = (np.asarray(angles, np.float64) + 180) % 360 - 180
    counts = np.histogram(a, TORSION_BINS, (-180, 180))[0].astype(np.float64)
    turns = np.minimum(np.arange(TORSION_BINS), TORSION_BINS - np.arange(TORSION_BINS)) / SMOOTHED
    kernel = np.fft.rfft(np.exp(-0.5 * turns**2))
    smooth = np.clip(np.fft.irfft(np.fft.rfft(counts) * kernel, TORSION_BINS), 0, None)
    peaks = np.flatnonzero((smooth > np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1)) & (smooth > 0)).tolist()
    while True:
        saddles = [_lowest(smooth, p, peaks[(k + 1) % len(peaks)]) for k, p in enumerate(peaks)]
        edges = -180 + 360 / TORSION_BINS * (np.array(saddles) + 0.5)
        inside = between(a, np.roll(edges, 1), edges)
        higher = np.maximum(smooth[saddles], smooth[np.roll(saddles, 1)])
        shallow = [k for k, p in enumerate(peaks) if higher[k] > SADDLE * smooth[p] or inside[k].mean() < LEAST]
        if len(peaks) == 1 or not shallow:
            break
        peaks.pop(min(shallow, key=lambda k: smooth[peaks[k]]))
    found = []
    for k, within in enumerate(inside):
        centre = np.degrees(np.angle(np.exp(1j * np.radians(a[within])).mean()))
        ends = np.roll(edges, 1)[k], edges[k]
        found.append(Well(float(centre), float(ends[0]), float(ends[1]), estimate(within.astype(float), trajectory)))
    return sorted(found, key=lambda w: w.centre)


def _lowest(smooth: np.ndarray, start: int, stop: int) -> int:
    """The bin of least density on the way up from one bin to another, round the circle."""
    way = np.arange(start, stop if stop > start else stop + len(smooth) + 1) % len(smooth)
    return int(way[smooth[way].argmin()])


def between(angles: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """(T,) bool for each stretch of the circle, degrees, the whole of it where it begins and ends at one angle."""
    widths = np.where(low == high, 360.0, (high - low) % 360)
    return [(angles - start) % 360 < width for start, width in zip(low, widths, strict=True)]


class Drift(NamedTuple):
    """A linear trend: slope in units of value per time, and its standard error."""

    slope: float
    error: float


def linear_drift(time: np.ndarray, values: np.ndarray, *, blocks: int = 20) -> Drift:
    """Slope of a least-squares line, with an error that holds for correlated residuals.

    The residuals are split into consecutive blocks, whose contributions to the slope are taken as independent (the
    cluster-robust variance of Liang and Zeger 1986 with blocks as clusters): right when a block is longer than the
    correlation time, as the usual formula is not.

    Args:
        time, values: (T,), such as the conserved quantity of one replica, eV, against fs.
        blocks: number of blocks; fewer if there are not two points for each.

    Raises:
        DataError: fewer than eight points, no spread in time, or values that are not finite.
    """
    t, y = np.asarray(time, np.float64), np.asarray(values, np.float64)
    if t.shape != y.shape or t.ndim != 1 or len(t) < 8 or not (np.isfinite(t) & np.isfinite(y)).all():
        raise DataError(f"{len(np.atleast_1d(y))} values: a drift needs eight or more finite ones", where="drift")
    centred = t - t.mean()
    norm = float(centred @ centred)
    if norm == 0:
        raise DataError("all values are of the same time", where="drift")
    slope = float(centred @ (y - y.mean())) / norm
    residual = y - y.mean() - slope * centred
    blocks = max(4, min(blocks, len(t) // 2))

    def per_block(x: np.ndarray) -> np.ndarray:
        return np.array([float(part.sum()) for part in np.array_split(x, blocks)])

    sums, first, second = per_block(centred * residual), per_block(centred), per_block(centred**2)
    # what fitting the line took out of the residuals, exact for white noise
    left = norm - float(first @ first) / len(t) - float(second @ second) / norm
    return Drift(slope, float(np.sqrt(float(sums @ sums) / (norm * left))))


class BondStability(NamedTuple):
    """Which frames hold all bonds, per replica.

    Attributes:
        stable_frames: (...) number of frames before the first broken bond; all of them if none broke.
        worst: (...) largest deviation of any bond in any frame, Angstrom.
        worst_bond: (...) index of that bond.
    """

    stable_frames: np.ndarray
    worst: np.ndarray
    worst_bond: np.ndarray


def bond_stability(
    positions: np.ndarray,
    bonds: np.ndarray,
    lengths: np.ndarray,
    *,
    lattice: Lattice | None = None,
    tolerance: float = BOND_TOLERANCE,
) -> BondStability:
    """The criterion of Fu et al. 2022: a frame is unstable when | |x_i - x_j| - b_ij | > ``tolerance`` for any bond.

    Args:
        positions: (T, ..., n, 3) Angstrom; a frame that is not finite is unstable.
        bonds: (b, 2) atom indices; ``lengths``: (b,) reference lengths, Angstrom (both from ``Limits``).
        lattice: of periodic frames, whose bonds are those of nearest images.

    Raises:
        DataError: no frames.
    """
    x, pairs = np.asarray(positions, np.float64), np.asarray(bonds, np.int64).reshape(-1, 2)
    if x.ndim < 3 or not len(x):
        raise DataError(f"positions of shape {x.shape} hold no frames", where="bond stability")
    if not len(pairs):
        count = np.full(x.shape[1:-2], len(x))
        return BondStability(count, np.zeros(count.shape), np.zeros(count.shape, np.int64))
    deviation = np.abs(distances(x, pairs[:, 0], pairs[:, 1], lattice) - lengths)
    deviation = np.where(np.isfinite(deviation), deviation, np.inf)
    broken = (deviation > tolerance).any(-1)
    stable = np.where(broken.any(0), broken.argmax(0), len(x))
    over_time = deviation.max(0)
    return BondStability(stable, over_time.max(-1), over_time.argmax(-1))
