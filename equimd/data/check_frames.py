"""Statistics of single frames for the dataset doctor: distances, force sums, labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from equimd.data.frames import Frames

#: Atoms closer than this share of the sum of their covalent radii clash: C-H 0.64, C-C 0.91, O-H 0.58 A.
CLASH_RATIO = 0.6
#: eV/A on one atom: no bonded geometry of a thermal ensemble has more.
FORCE_LIMIT = 50.0
_CHUNK_ELEMENTS = 20_000_000


@dataclass
class Labels:
    """One value a frame, (N,) each; ``composition`` is a label of the element sequence."""

    n_atoms: np.ndarray
    energy: np.ndarray
    has_energy: np.ndarray
    has_forces: np.ndarray
    charge: np.ndarray
    spin: np.ndarray
    composition: np.ndarray

    @property
    def surface(self) -> np.ndarray:
        """(N,) a label of the energy surface a frame lies on: its composition and its electronic state."""
        parts = [self.composition, self.charge, self.spin]
        if all(uniform(part) for part in parts):
            return np.zeros_like(self.has_energy)
        return np.unique(np.stack(parts, 1), axis=0, return_inverse=True)[1].reshape(-1)


@dataclass
class FrameStatistics(Labels):
    """More of them. Without forces (or energy) the values that need them are NaN.

    ``net_force`` and ``torque`` are norms (eV/A, eV; torque about the centroid, NaN for periodic frames);
    ``force_square`` the sum of squared components; ``distance_ratio`` the smallest distance over the sum of the two
    covalent radii, infinite for lone atoms; ``protons`` the sum of atomic numbers.
    """

    net_force: np.ndarray
    torque: np.ndarray
    force_square: np.ndarray
    max_force: np.ndarray
    zero_force_atoms: np.ndarray
    min_distance: np.ndarray
    distance_ratio: np.ndarray
    protons: np.ndarray


def uniform(values: np.ndarray) -> bool:
    """Whether all values are the same."""
    return bool((values == values[:1]).all())


def same_as_next(values: np.ndarray) -> np.ndarray:
    """(N-1,) bool, which values are followed by the same one."""
    return np.asarray(values[:-1] == values[1:])


def labels_of(blocks: Iterable[Frames]) -> Labels:
    """Of all frames of ``blocks``, in order."""
    parts = [block_statistics(block, geometry=False) for block in blocks]
    return Labels(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Labels)})


def block_statistics(block: Frames, *, geometry: bool = True) -> FrameStatistics:
    """Of the frames of a block; without ``geometry``, no distances."""
    real = (block.numbers > 0)[..., None]
    has_forces = block.has_forces
    forces = np.where(real, block.forces, 0.0)
    forces[~has_forces] = np.nan
    centre = block.positions.sum(1) / np.maximum(block.n_atoms, 1)[:, None]
    arm = np.where(real, block.positions - centre[:, None], 0.0)
    torque = np.linalg.norm(np.cross(arm, forces).sum(1), axis=-1)
    torque[block.pbc.any(1)] = np.nan
    size = np.linalg.norm(forces, axis=-1)
    zero = ((size == 0) & real[..., 0]).sum(1)
    zero[(zero == block.n_atoms) | ~has_forces] = 0  # a lone atom, or nothing but zeros
    distance, ratio = _closest(block) if geometry else (np.full(len(block), np.inf),) * 2
    return FrameStatistics(
        n_atoms=block.n_atoms,
        energy=block.energy,
        has_energy=block.has_energy,
        has_forces=has_forces,
        net_force=np.linalg.norm(forces.sum(1), axis=-1),
        torque=torque,
        force_square=(forces**2).sum((1, 2)),
        max_force=size.max(1, initial=0.0) if size.shape[1] else np.zeros(len(block)),
        zero_force_atoms=zero,
        min_distance=distance,
        distance_ratio=ratio,
        charge=block.charge,
        spin=block.spin,
        protons=block.numbers.astype(np.int64).sum(1),
        composition=_compositions(block),
    )


def _compositions(block: Frames) -> np.ndarray:
    """(B,) int64 labels, equal for equal sequences of elements, the same in every block."""
    rows, inverse = np.unique(block.numbers, axis=0, return_inverse=True)
    labels = [int.from_bytes(hashlib.blake2b(r[r > 0].tobytes(), digest_size=7).digest(), "big") for r in rows]
    return np.array(labels, np.int64)[inverse.reshape(-1)] if len(rows) else np.zeros(0, np.int64)


def _closest(block: Frames) -> tuple[np.ndarray, np.ndarray]:
    """(B,) smallest distance and smallest distance over the sum of covalent radii; infinite for lone atoms."""
    from ase.data import covalent_radii

    radii = np.resize(np.asarray(covalent_radii, float), 256)
    distance = np.full(len(block), np.inf)
    ratio = np.full(len(block), np.inf)
    width = block.numbers.shape[1]
    step = max(1, _CHUNK_ELEMENTS // max(width * width * 3, 1))
    open_rows = np.flatnonzero(~block.pbc.any(1))
    pairs = np.triu(np.ones((width, width), bool), 1)
    for start in range(0, len(open_rows) if width > 1 else 0, step):
        rows = open_rows[start : start + step]
        x, z = block.positions[rows], block.numbers[rows]
        d = np.sqrt(((x[:, :, None] - x[:, None]) ** 2).sum(-1))
        d[~((z[:, :, None] > 0) & (z[:, None] > 0) & pairs)] = np.inf
        distance[rows] = d.min((1, 2))
        ratio[rows] = (d / (radii[z][:, :, None] + radii[z][:, None])).min((1, 2))
    for row in np.flatnonzero(block.pbc.any(1)):
        distance[row], ratio[row] = _closest_periodic(block, int(row), radii)
    return distance, ratio


def _closest_periodic(block: Frames, row: int, radii: np.ndarray) -> tuple[float, float]:
    from ase.neighborlist import primitive_neighbor_list

    n = int(block.n_atoms[row])
    z = block.numbers[row, :n]
    cutoff = 2.0 * float(radii[z].max())
    i, j, d = primitive_neighbor_list("ijd", block.pbc[row], block.cell[row], block.positions[row, :n], cutoff)
    if not len(d):
        return np.inf, np.inf
    return float(d.min()), float((d / (radii[z[i]] + radii[z[j]])).min())


def groups(labels: np.ndarray, least: int) -> Iterator[slice | np.ndarray]:
    """The rows of each label that at least so many have, ascending."""
    if uniform(labels):
        if len(labels) >= least:
            yield slice(None)
        return
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(labels[order]) != 0])
    counts = np.diff(np.r_[starts, len(order)])
    for start, count in zip(starts[counts >= least].tolist(), counts[counts >= least].tolist(), strict=True):
        yield order[start : start + count]


def energy_outliers(stats: Labels) -> tuple[np.ndarray, float]:
    """Rows whose energy is far from what is usual, and the distance (eV) beyond which it is.

    Usual is the median of the frames of the same element sequence and electronic state; far is 20 times the median
    deviation, and at least 2 eV. Groups with fewer than 20 frames are left out: nothing is usual yet.
    """
    rows, limit = [np.zeros(0, np.int64)], 0.0
    for members in groups(stats.surface, 20):
        energy, known = stats.energy[members], stats.has_energy[members]
        if np.count_nonzero(known) < 20:
            continue
        usual = np.median(energy[known], overwrite_input=True)
        far = max(20 * float(np.median(np.abs(energy[known] - usual), overwrite_input=True)), 2.0)
        limit = max(limit, far)
        out = np.flatnonzero(np.abs(energy - usual) > far)
        rows.append(out if isinstance(members, slice) else members[out])
    return np.sort(np.concatenate(rows)), limit
