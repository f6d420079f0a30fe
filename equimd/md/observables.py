"""What is read off a trajectory: distances, velocities, drift, bonds. NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from equimd.data.lattice import Lattice
from equimd.errors import DataError

BOND_TOLERANCE = 0.5  # Angstrom; Fu et al. 2022, "Forces are not Enough"
LIGHT_CM_PER_FS = 2.99792458e-5  # speed of light
MAX_BINS_BYTES = 1 << 26  # distances computed at once


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
        longest = max(float(_distances(frames[k : k + step], i, j, lattice).max()) for k in parts)
        max_distance = np.nextafter(longest, np.inf)
    edges = np.linspace(0.0, max_distance, bins + 1)
    counts = np.zeros(bins)
    for k in range(0, len(frames), step):
        counts += np.histogram(_distances(frames[k : k + step], i, j, lattice), edges)[0]
    return 0.5 * (edges[1:] + edges[:-1]), counts / (len(frames) * len(i) * np.diff(edges))


def _distances(x: np.ndarray, i: np.ndarray, j: np.ndarray, lattice: Lattice | None) -> np.ndarray:
    """(..., P) Angstrom, between atoms i and j of positions (..., n, 3)."""
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
    deviation = np.abs(_distances(x, pairs[:, 0], pairs[:, 1], lattice) - lengths)
    deviation = np.where(np.isfinite(deviation), deviation, np.inf)
    broken = (deviation > tolerance).any(-1)
    stable = np.where(broken.any(0), broken.argmax(0), len(x))
    over_time = deviation.max(0)
    return BondStability(stable, over_time.max(-1), over_time.argmax(-1))
