"""Do test frames neighbour training frames in time? Errors measured on such frames flatter the model.

Two frames count as neighbours when they are correlated to 90 % or more: two frames of a stationary trajectory with
correlation c differ by sqrt(1 - c) times what two unrelated ones do, so by less than 0.32 times. The lag over which
that holds is measured, on aligned geometries, in the order the frames stand in.
Files that know the step of each frame (rMD17's ``old_indices``) need no such measurement of order: steps are compared.
"""

from __future__ import annotations

import numpy as np

from equimd.data.alignment import rmsd
from equimd.data.dataset import Dataset, time_index

#: RMSD of two frames over that of unrelated ones at 90 % correlation, sqrt(1 - 0.9).
CORRELATED = float(np.sqrt(0.1))
#: Warn when more than this share of the test frames has a neighbour in the training data.
SHARE = 0.1
#: Steps within which frames of MD with the usual 0.5 fs step are neighbours: 5 fs, half a period of a C-H stretch.
STEPS = 10
_SAMPLE = 64


def correlated_lag(data: Dataset, *, seed: int = 0) -> int:
    """The largest lag in rows, a power of two, at which frames are still neighbours; 0 for rows in no time order.

    Only pairs of the same trajectory and the same atoms are compared.
    """
    n = len(data)
    rng = np.random.default_rng(seed)
    typical = _median_rmsd(data, rng.integers(0, n, 4 * _SAMPLE), rng.integers(0, n, 4 * _SAMPLE)) if n > 2 else None
    if typical is None or typical <= 0:
        return 0
    lag, found = 1, 0
    while lag <= n // 2:
        start = rng.integers(0, n - lag, _SAMPLE)
        near = _median_rmsd(data, start, start + lag)
        if near is None or near > CORRELATED * typical:
            break
        found, lag = lag, lag * 2
    return found


def _median_rmsd(data: Dataset, first: np.ndarray, second: np.ndarray) -> float | None:
    """Median RMSD of pairs of rows; None where fewer than a quarter of them can be compared."""
    trajectory = data.trajectory
    keep = (trajectory[first] == trajectory[second]) & (first != second) & (data.n_atoms[first] > 1)
    if keep.sum() < len(first) // 4:
        return None
    a, b = data.frames(first[keep]), data.frames(second[keep])
    values = []
    for na in np.unique(a.n_atoms):
        same = (a.n_atoms == na) & (b.n_atoms == na)
        same[same] = (a.numbers[same][:, :na] == b.numbers[same][:, :na]).all(1)
        if same.any():
            values.append(rmsd(a.positions[same][:, :na], b.positions[same][:, :na], a.cell[same], a.pbc[same]))
    joined = np.concatenate(values) if values else np.zeros(0)
    return float(np.median(joined)) if len(joined) >= len(first) // 4 else None


def neighbour_share(train: np.ndarray, test: np.ndarray, reach: int) -> float:
    """Share of the ``test`` positions on a time axis with a ``train`` position within ``reach``."""
    if not len(test) or not len(train):
        return 0.0
    axis = np.sort(train)
    right = np.searchsorted(axis, test)
    after = np.abs(axis[np.minimum(right, len(axis) - 1)] - test)
    before = np.abs(axis[np.maximum(right - 1, 0)] - test)
    return float(np.mean(np.minimum(after, before) <= reach))


def time_warnings(data: Dataset, train: np.ndarray, test: np.ndarray) -> list[str]:
    """What to say about test frames that neighbour training (or validation) frames in time; usually nothing."""
    if not len(test) or not len(train):
        return []
    steps = time_index(data)
    known = steps is not None
    if known:
        axis, reach = np.asarray(steps), STEPS
    else:
        axis, reach = np.arange(len(data)), correlated_lag(data)
        if reach == 0:
            return []
    trajectory = data.trajectory
    hits = [
        neighbour_share(axis[train[trajectory[train] == t]], axis[test[trajectory[test] == t]], reach)
        * np.mean(trajectory[test] == t)
        for t in np.unique(trajectory[test])
    ]
    share = float(sum(hits))
    if share <= SHARE:
        return []
    unit = "time steps of the trajectory" if known else "consecutive rows, over which geometries are 90 % correlated,"
    return [
        f"{share:.0%} of the test frames lie within {reach} {unit} of a training or validation frame: "
        "test errors will look better than on new frames; split by blocks or by trajectory instead"
    ]
