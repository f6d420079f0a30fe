"""What one pass over all frames leaves for the dataset doctor: sums, extremes and the first rows of each finding, and
for each frame no more than its energy, half its hash, and what is not the same in all of them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from equimd.data.check_frames import CLASH_RATIO, FORCE_LIMIT, Labels, block_statistics
from equimd.data.content import Hashes, among, content_hashes
from equimd.data.dataset import Dataset, iterate_blocks
from equimd.data.frames import Frames

SHOWN = 100  # rows of a finding that are kept
NET_FORCE = 0.005  # eV/A; a converged calculation stays below, MD17 reaches 0.02; twenty times this is a warning
NET_TORQUE = 0.01  # eV


@dataclass
class Rows:
    """Rows of frames that something is true of: the first :data:`SHOWN`, and how many there are."""

    first: tuple[int, ...] = ()
    count: int = 0

    @classmethod
    def of(cls, rows: np.ndarray) -> Rows:
        """All of them, ascending."""
        return cls(tuple(int(row) for row in rows[:SHOWN]), len(rows))

    def add(self, mask: np.ndarray, start: int) -> None:
        """Frames of the block that begins at row ``start``."""
        found = np.flatnonzero(mask) + start
        self.first += tuple(int(row) for row in found[: SHOWN - len(self.first)])
        self.count += len(found)


@dataclass
class Span:
    """Number, sum and extremes of the finite ones of some values."""

    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        finite = np.asarray(values[np.isfinite(values)], np.float64)
        self.count, self.total = self.count + len(finite), self.total + float(finite.sum())
        self.low, self.high = min(self.low, float(finite.min(initial=np.inf))), max(self.high, _largest(finite))

    def get(self, value: float) -> float | None:
        """``value``, unless there were none."""
        return value if self.count else None


def _largest(values: np.ndarray) -> float:
    return float(values.max(initial=-np.inf))


class _Column:
    """(N,) numbers, which take no memory as long as they are all the same."""

    def __init__(self, length: int, dtype: type) -> None:
        self.values: np.ndarray = np.broadcast_to(np.zeros(1, dtype), length)

    def put(self, start: int, values: np.ndarray) -> None:
        if start == 0 and len(values):
            self.values = np.broadcast_to(values[:1].astype(self.values.dtype), len(self.values))
        if not self.values.flags.writeable:
            if (values == self.values[:1]).all():
                return
            self.values = self.values.copy()
        self.values[start : start + len(values)] = values


class Tally:
    """Everything that :func:`equimd.data.check.inspect` says of single frames.

    Attributes:
        keys: (N,) uint64, the first half of each content hash; sorted once they are all there.
        spans: of a value a frame, by the field of ``FrameStatistics``.
        states: frames of each charge and multiplicity. impossible: the first with a state that cannot be.
    """

    def __init__(self, data: Dataset) -> None:
        n = len(data)
        self.energy, self.keys = np.full(n, np.nan), np.zeros(n, np.uint64)
        self._kept = {name: _Column(n, np.int64) for name in ("n_atoms", "charge", "spin", "composition")}
        self._kept |= {name: _Column(n, np.bool_) for name in ("has_energy", "has_forces")}
        self.missing_energy, self.missing_forces, self.zero_forces, self.clash, self.large_forces, self.wrong_state = (
            Rows() for _ in range(6)
        )
        self.net = {"net_force": Rows(), "torque": Rows()}
        self.spans: dict[str, Span] = defaultdict(Span)
        self.states: dict[tuple[int, int], Rows] = defaultdict(Rows)
        self.closest, self.impossible = (math.inf, 0), ""
        start = 0
        for block in iterate_blocks(data):
            self._add(block, start)
            start += len(block)
        self.keys.sort()

    @property
    def labels(self) -> Labels:
        """What is known of each frame."""
        return Labels(energy=self.energy, **{name: column.values for name, column in self._kept.items()})

    def _add(self, block: Frames, start: int) -> None:
        s = block_statistics(block)
        self.energy[start : start + len(block)] = s.energy
        self.keys[start : start + len(block)] = half(content_hashes(block))
        for name, column in self._kept.items():
            column.put(start, getattr(s, name))
        for name in ("net_force", "torque", "max_force", "min_distance", "n_atoms", "zero_force_atoms"):
            self.spans[name].add(getattr(s, name))
        self.spans["energy_per_atom"].add(s.energy / s.n_atoms)
        self.spans["mean_force_square"].add(s.force_square / (3 * s.n_atoms))
        self.missing_energy.add(~s.has_energy, start)
        self.missing_forces.add(~s.has_forces, start)
        self.zero_forces.add(s.zero_force_atoms > 0, start)
        for name, least in (("net_force", NET_FORCE), ("torque", NET_TORQUE)):
            self.net[name].add(getattr(s, name) > least, start)
        self.large_forces.add(s.max_force > FORCE_LIMIT, start)
        clash = s.distance_ratio < CLASH_RATIO
        self.clash.add(clash, start)
        if clash.any():
            rows = np.flatnonzero(clash)
            worst = int(rows[np.argmin(s.min_distance[rows])])
            self.closest = min(self.closest, (float(s.min_distance[worst]), start + worst))
        self._add_states(s.charge, s.spin, s.protons, start)

    def _add_states(self, charge: np.ndarray, spin: np.ndarray, protons: np.ndarray, start: int) -> None:
        electrons, unpaired = protons - charge, spin - 1
        wrong = (spin > 0) & ((electrons < unpaired) | ((electrons - unpaired) % 2 != 0))
        if wrong.any() and not self.impossible:
            k = int(np.argmax(wrong))
            self.impossible = f"{spin[k]} with {electrons[k]} electrons (charge {charge[k]:+d})"
        self.wrong_state.add(wrong, start)
        for c, m in np.unique(np.stack([charge, spin], 1), axis=0).tolist():
            self.states[c, m].add((charge == c) & (spin == m), start)


def half(hashes: Hashes) -> np.ndarray:
    """(N,) uint64, the first half of each: enough to look for candidates by."""
    return hashes.values.view(np.uint64).reshape(-1, 2)[:, 0]


def frames_with(data: Dataset, ordered: np.ndarray) -> tuple[np.ndarray, Hashes]:
    """Rows of the frames whose key is among the sorted ones, and their whole hashes: another pass over the frames."""
    rows, found, start = [np.zeros(0, np.int64)], [], 0
    for block in iterate_blocks(data):
        hashes = content_hashes(block)
        hit = np.flatnonzero(among(half(hashes), ordered))
        rows.append(hit + start)
        found.append(Hashes(hashes.values[hit]))
        start += len(block)
    return np.concatenate(rows), Hashes.joined(found)
