"""Which frames a calibration may use, and for what: never those the model learned from, never one for two purposes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from equimd.chemistry import formula
from equimd.data.content import Hashes, content_hashes
from equimd.data.dataset import Dataset, Subset, hashes_of, iterate_blocks, time_index
from equimd.data.frames import Frames
from equimd.data.given import GivenData, given_names, open_given
from equimd.data.leakage import correlated_lag, time_warnings
from equimd.data.reference import by_composition
from equimd.data.split import Split, make_split
from equimd.errors import DataError, RunError, UncertaintyError
from equimd.guard.screen import MIN_FRAMES
from equimd.guard.thresholds import needed
from equimd.run import Run
from equimd.training.setup import SPLIT_FILE

#: Shares of the calibration frames: to fit forms of recalibration, to choose among them, for thresholds.
SHARES = (0.4, 0.2, 0.4)
PARTS = ("fit", "select", "threshold")


@dataclass(frozen=True)
class Contents:
    """What one pass over some frames found.

    Attributes:
        hashes: of each frame. compositions: Hill formulas that occur, in order.
        has_forces, has_energy: (N,) bool.
    """

    hashes: Hashes
    compositions: tuple[str, ...]
    has_forces: np.ndarray
    has_energy: np.ndarray

    @classmethod
    def of(cls, data: Dataset) -> Contents:
        hashes, names, flags = [], set[str](), []
        for block in iterate_blocks(data):
            hashes.append(content_hashes(block))
            names |= formulas(block)
            flags.append(np.stack([block.has_forces, block.has_energy], 1))
        known = np.concatenate(flags) if flags else np.zeros((0, 2), bool)
        return cls(Hashes.joined(hashes), tuple(sorted(names)), known[:, 0], known[:, 1])


def formulas(block: Frames) -> set[str]:
    """Hill formulas that occur."""
    return {formula(np.frombuffer(key, np.uint8)) for key, _ in by_composition(block.numbers, block.energy)}


def strangers(compositions: Iterable[str], train: Dataset) -> list[str]:
    """Those that no frame of ``train`` has, in order; it is read as far as that takes."""
    missing = set(compositions)
    for block in iterate_blocks(train):
        if not missing:
            break
        missing -= formulas(block)
    return sorted(missing)


def training_frames(run: Run, moved_to: GivenData = ()) -> Dataset:
    """The frames the run was trained on, in order, recognised by their content.

    Args:
        moved_to: where they are now, if not where the run's settings say.

    Raises:
        RunError: the run does not say what it was trained on.
        DataError: the files are missing, or hold other frames.
    """
    expected = run.hashes("train")
    if not len(expected):
        raise RunError("the run has no train_hashes.txt: its training frames cannot be told", where=str(run.path))
    c = run.config.dataset
    moved = given_names(moved_to) != ()
    hint = "--train-data FILE says where the training frames are"
    try:
        data = open_given(moved_to if moved else c.data, c.reading)
    except DataError as error:
        raise DataError(error.what, where=error.where, hint=error.hint if moved else hint) from None
    rows = Split.load(run.path / SPLIT_FILE).train
    if len(rows) == len(expected) and int(rows.max()) < len(data):
        found = Subset(data, rows)
        if hashes_of(found) == expected:
            return found
    there = hashes_of(data)
    missing = int((~expected.within(there)).sum())
    if missing:
        what = f"{missing} of the {len(expected)} frames the run was trained on are not in there"
        raise DataError(what, where=data.info.path, hint=hint)
    order = np.argsort(there.values, kind="stable")
    last = np.searchsorted(there.values, expected.values, side="right", sorter=order) - 1
    return Subset(data, order[last])


def check_apart(contents: Contents, others: dict[str, Hashes], *, what: str, where: str) -> None:
    """Refuse frames that served another purpose.

    Args:
        others: purpose, as ``training``, to hashes of its frames.

    Raises:
        UncertaintyError: some are the same; the numbers are told.
    """
    shared = {name: int(contents.hashes.within(known).sum()) for name, known in others.items()}
    if any(shared.values()):
        counts = " and ".join(f"{n} of the {len(contents.hashes)} are {name} frames" for name, n in shared.items() if n)
        raise UncertaintyError(
            f"{what} frames must be new to the model: {counts}", where=where, hint="frames that were held out"
        )


def usable_frames(data: Dataset, contents: Contents, *, what: str) -> tuple[Dataset, list[str]]:
    """The frames with forces, each once, and what to warn of.

    Raises:
        UncertaintyError: none has forces.
    """
    _, first = np.unique(contents.hashes.values, return_index=True)
    once = np.zeros(len(data), bool)
    once[first] = True
    keep = once & contents.has_forces
    warnings = []
    if not keep.any():
        raise UncertaintyError(f"no {what} frame has forces to compare with", where=data.info.path or None)
    if not once.all():
        warnings.append(f"{int((~once).sum())} {what} frames are there twice: each is used once")
    if not contents.has_forces.all():
        warnings.append(f"{int((~contents.has_forces).sum())} {what} frames have no forces: left out")
    return (data if keep.all() else Subset(data, np.flatnonzero(keep))), warnings


@dataclass(frozen=True)
class Partition:
    """Rows of the calibration frames, disjoint; those for thresholds in order of time within each trajectory.

    Attributes:
        method: ``trajectory``: whole ones to a part each; ``blocks``: contiguous in time; ``random``.
    """

    fit: np.ndarray
    select: np.ndarray
    threshold: np.ndarray
    method: str
    seed: int

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in PARTS}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rows = {name: getattr(self, name).tolist() for name in PARTS}
        return {"method": self.method, "seed": self.seed, "frames": self.sizes, "rows": rows}


def partition(data: Dataset, alpha: float, seed: int = 0) -> Partition:
    """Parts of the calibration frames, such that neighbours in time are not on both sides of a border.

    Whole trajectories where there are three or more; else at random, unless frames then neighbour each other in time
    (:mod:`equimd.data.leakage`): then contiguous in time with a gap.

    Raises:
        UncertaintyError: too few frames for a false-alarm rate ``alpha``; says how many it takes.
    """
    n, least = len(data), needed(alpha)
    if n < least + 2 * MIN_FRAMES:
        raise UncertaintyError(
            f"{n} calibration frames: a false-alarm rate of {alpha:g} takes {least + 2 * MIN_FRAMES} "
            f"({least} for the threshold, {MIN_FRAMES} to fit and {MIN_FRAMES} to choose the form of recalibration)",
            where=data.info.path or None,
            hint=f"{least + 2 * MIN_FRAMES - n} more frames, or a higher --false-alarm-rate",
        )
    parts = _whole_trajectories(data, least, seed)
    if parts is not None:
        fit, select, threshold = parts
        return Partition(fit, select, in_time(data, threshold), "trajectory", seed)
    fit, select, threshold = _cut(data, n, least, "random", seed)
    method = "random"
    if time_warnings(data, np.concatenate([fit, select]), threshold):
        gap = min(correlated_lag(data, seed=seed), n // 20)
        spared = n - 2 * gap if n - 2 * gap >= least + 2 * MIN_FRAMES else n
        (fit, select, threshold), method = _cut(data, spared, least, "blocks", seed), "blocks"
    return Partition(fit, select, in_time(data, threshold), method, seed)


def _sizes(n: int, least: int) -> tuple[int, int, int]:
    threshold = max(min(math.ceil(SHARES[2] * n), n - 2 * MIN_FRAMES), least)
    select = max(round((n - threshold) * SHARES[1] / (SHARES[0] + SHARES[1])), MIN_FRAMES)
    return n - threshold - select, select, threshold


def _cut(data: Dataset, n: int, least: int, method: str, seed: int) -> list[np.ndarray]:
    split = make_split(data, sizes=_sizes(n, least), method=method, seed=seed)  # type: ignore[arg-type]
    return [split.train, split.val, split.test]


def _whole_trajectories(data: Dataset, least: int, seed: int) -> list[np.ndarray] | None:
    """Trajectories in random order, each to the part that lacks most; None if a part then has too few frames."""
    trajectory = np.asarray(data.trajectory)
    ids, counts = np.unique(trajectory, return_counts=True)
    if len(ids) < len(PARTS):
        return None
    wanted = np.array(_sizes(len(data), least), float)
    have, owner = np.zeros(3), np.empty(len(ids), np.int64)
    for k in np.random.default_rng(seed).permutation(len(ids)):
        owner[k] = int(np.argmax((wanted - have) / wanted))
        have[owner[k]] += counts[k]
    if (have < (MIN_FRAMES, MIN_FRAMES, least)).any():
        return None
    part = owner[np.searchsorted(ids, trajectory)]
    return [np.flatnonzero(part == k) for k in range(3)]


def in_time(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows ordered by trajectory, then by time."""
    steps = time_index(data)
    time = np.arange(len(data)) if steps is None else steps
    return rows[np.lexsort((np.asarray(time)[rows], np.asarray(data.trajectory)[rows]))]


def temperature_of(data: Dataset) -> float | None:
    """K, where every file of the data states the same."""
    parts = getattr(data, "parts", None) or ([data.parent] if isinstance(data, Subset) else None)
    if parts:
        found = {temperature_of(p) for p in parts}
        return found.pop() if len(found) == 1 else None
    for key in ("temperature", "temperature_K"):
        value = data.info.extra.get(key)
        if isinstance(value, Real) and float(value) > 0:
            return float(value)
    return None
