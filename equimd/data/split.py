"""Splits into training, validation and test frames: disjoint by construction, and honest about time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from equimd.data.dataset import Dataset
from equimd.data.leakage import time_warnings
from equimd.data.paths import read_text
from equimd.data.readers.npz import load_array, load_arrays
from equimd.errors import ConfigError, DataError
from equimd.files import STRANGE, write_atomic
from equimd.shown import Shown

FORMAT_VERSION = 1
Method = Literal["random", "blocks", "trajectory", "files"]
PARTS = ("train", "val", "test")


@dataclass(frozen=True, repr=False)
class Split(Shown):
    """Rows of a data set: int64, disjoint, each part in ascending order.

    Attributes:
        warnings: what a reader of test errors must know, such as test frames that neighbour training frames in time.
        method, seed, n_frames: how it was made, and of how many frames.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    warnings: list[str] = field(default_factory=list)
    method: str = ""
    seed: int | None = None
    n_frames: int = 0

    def __post_init__(self) -> None:
        joined = np.concatenate([self.train, self.val, self.test])
        if len(np.unique(joined)) != len(joined):
            raise DataError(f"{len(joined) - len(np.unique(joined))} frames are in more than one part of the split")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Frames for training, validation, test."""
        return len(self.train), len(self.val), len(self.test)

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        content = {
            "format": "equimd-split",
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "seed": self.seed,
            "n_frames": self.n_frames,
            "warnings": self.warnings,
            **{name: getattr(self, name).tolist() for name in PARTS},
        }
        write_atomic(path, json.dumps(content))

    @classmethod
    def load(cls, path: str | Path) -> Split:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: missing, damaged, or of a newer format.
        """
        try:
            content = json.loads(Path(path).read_text())
            version = int(content["format_version"])
            parts = [np.array(content[name], np.int64).reshape(-1) for name in PARTS]
            warnings = [str(text) for text in content.get("warnings", [])]
        except FileNotFoundError as error:
            raise DataError("no such split file", where=str(path)) from error
        except (OSError, *STRANGE) as error:
            raise DataError(f"not a readable split ({error})", where=str(path), hint="make the split again") from error
        if version > FORMAT_VERSION:
            raise DataError(
                f"split of format version {version}, this equimd reads up to {FORMAT_VERSION}",
                where=str(path),
                hint="update equimd",
            )
        meta = {k: content.get(k) for k in ("method", "seed", "n_frames")}
        return cls(
            parts[0],
            parts[1],
            parts[2],
            warnings=warnings,
            method=meta["method"] or "",
            seed=meta["seed"],
            n_frames=meta["n_frames"] or 0,
        )


def make_split(
    data: Dataset,
    *,
    sizes: Sequence[int] | None = None,
    fractions: Sequence[float] | None = None,
    method: Method = "random",
    seed: int = 0,
    subset_size: int | None = None,
    index_files: Mapping[str, str | Path] | Sequence[str | Path | None] | None = None,
) -> Split:
    """Split a data set.

    Args:
        data: the frames.
        sizes: frames for (train, val, test); or
        fractions: shares of them, at most 1 in sum. Default 0.8, 0.1, 0.1.
        method: ``random``; ``blocks``: contiguous in time (trajectories one after the other), train, val, test in
            this order, parted by the frames left over; ``trajectory``: whole trajectories to one part
            each; ``files``: rows given in ``index_files``.
        seed: of everything drawn.
        subset_size: use only so many frames: a random choice (``random``), or evenly spaced ones (``blocks``).
        index_files: {part: file} or (train, val, test) files of 0-based rows (.csv, .txt, .npy, .npz). Without a
            ``val`` file but with ``sizes``, validation frames are drawn from the training rows.

    Raises:
        ConfigError: sizes or fractions that make no sense, or a part that needs frames and gets none.
        DataError: more frames asked for than there are, rows out of range, or parts that overlap.
    """
    n_frames = len(data)
    if method not in ("random", "blocks", "trajectory", "files"):
        raise ConfigError(f"unknown split method '{method}'", hint="random, blocks, trajectory or files")
    if method == "files" or index_files is not None:
        parts = _from_files(index_files, sizes, seed, n_frames)
        method = "files"
    else:
        if subset_size is not None and not 1 <= subset_size <= n_frames:
            raise DataError(
                f"a subset of {subset_size} frames was asked for, the data have {n_frames}",
                where=data.info.path or None,
                hint=f"--subset-size between 1 and {n_frames}",
            )
        available = n_frames if subset_size is None else subset_size
        wanted = _sizes(sizes, fractions, available)
        if method == "random":
            order = np.random.default_rng(seed).permutation(n_frames)[:available]
            parts = _cut(order, wanted)
        elif method == "blocks":
            parts = _blocks(data, wanted, available)
        else:
            parts = _trajectories(data, wanted, seed)
    train, val, test = (np.sort(np.asarray(p, np.int64)) for p in parts)
    warnings = time_warnings(data, np.concatenate([train, val]), test)
    return Split(train, val, test, warnings, method, seed, n_frames)


def _sizes(sizes: Sequence[int] | None, fractions: Sequence[float] | None, available: int) -> tuple[int, int, int]:
    """Whole numbers of frames for the three parts."""
    if sizes is not None and fractions is not None:
        raise ConfigError("both sizes and fractions of the split are given", hint="give one of them")
    given: Sequence[float] = sizes if sizes is not None else fractions if fractions is not None else (0.8, 0.1, 0.1)
    if len(given) != 3:
        raise ConfigError(f"{len(given)} split sizes given", hint="three: train, validation, test")
    if any(not np.isfinite(s) or s < 0 for s in given):
        raise ConfigError(f"negative split: {', '.join(map(str, given))}", hint="sizes are 0 or larger")
    if sizes is not None:
        wanted = tuple(int(s) for s in sizes)
        if any(w != s for w, s in zip(wanted, sizes, strict=True)):
            raise ConfigError(f"split sizes {', '.join(map(str, sizes))} are not whole numbers", hint="use fractions")
    else:
        if sum(given) > 1 + 1e-9:
            raise ConfigError(f"split fractions {', '.join(map(str, given))} add up to more than 1")
        wanted = tuple(round(s * available + 1e-9) for s in given)
        over = sum(wanted) - available
        wanted = (wanted[0] - max(over, 0), wanted[1], wanted[2])
    if wanted[0] < 1:
        raise ConfigError(f"the training part of the split is empty ({', '.join(map(str, given))} of {available})")
    for name, share, number in zip(PARTS, given, wanted, strict=True):
        if share > 0 and number < 1:
            raise ConfigError(f"the {name} part of the split is empty: {share} of {available} frames")
    if sum(wanted) > available:
        raise DataError(
            f"the split asks for {wanted[0]} + {wanted[1]} + {wanted[2]} = {sum(wanted)} frames, there are {available}",
            hint="smaller --splits, or more data",
        )
    return wanted[0], wanted[1], wanted[2]


def _cut(order: np.ndarray, wanted: Sequence[int]) -> list[np.ndarray]:
    """Consecutive pieces of ``order``."""
    ends = np.cumsum(wanted)
    return [order[end - size : end] for end, size in zip(ends, wanted, strict=True)]


def _blocks(data: Dataset, wanted: tuple[int, int, int], available: int) -> list[np.ndarray]:
    """Contiguous blocks in time order, parted by the frames that are left over."""
    order = np.lexsort((_time(data), data.trajectory))
    if available < len(order):
        order = order[np.linspace(0, len(order) - 1, available).astype(np.int64)]
    spare = len(order) - sum(wanted)
    used = [part for part in range(3) if wanted[part]]
    gap = spare // max(1, len(used) - 1)  # frames that nobody uses part the blocks
    parts, start = [np.zeros(0, np.int64)] * 3, 0
    for part in used:
        parts[part] = order[start : start + wanted[part]]
        start += wanted[part] + gap
    return parts


def _time(data: Dataset) -> np.ndarray:
    from equimd.data.dataset import time_index

    steps = time_index(data)
    return np.arange(len(data)) if steps is None else steps


def _trajectories(data: Dataset, wanted: tuple[int, int, int], seed: int) -> list[np.ndarray]:
    """Whole trajectories, in random order, to the parts that lack most; what is too much is thinned out evenly."""
    ids, counts = np.unique(data.trajectory, return_counts=True)
    used = [part for part in range(3) if wanted[part]]
    if len(ids) < len(used):
        raise DataError(
            f"{len(ids)} trajectories cannot be split into {len(used)} parts by trajectory",
            where=data.info.path or None,
            hint="use blocks: contiguous in time within a trajectory",
        )
    lacking = {part: wanted[part] for part in used}
    chosen: dict[int, list[int]] = {part: [] for part in used}
    for k in np.random.default_rng(seed).permutation(len(ids)):
        part = max(lacking, key=lambda p: lacking[p] / wanted[p])
        if lacking[part] > 0:
            chosen[part].append(int(ids[k]))
            lacking[part] -= int(counts[k])
    short = {PARTS[p]: wanted[p] - lack for p, lack in lacking.items() if lack > 0}
    if short:
        raise DataError(
            f"whole trajectories of {counts.min()} to {counts.max()} frames do not fill the split {wanted}: "
            + ", ".join(f"{name} gets {number}" for name, number in short.items()),
            where=data.info.path or None,
            hint="smaller sizes, or blocks",
        )
    parts = [np.zeros(0, np.int64)] * 3
    for part in used:
        rows = np.flatnonzero(np.isin(data.trajectory, chosen[part]))
        parts[part] = rows[np.linspace(0, len(rows) - 1, wanted[part]).astype(np.int64)]
    return parts


def _from_files(
    files: Mapping[str, str | Path] | Sequence[str | Path | None] | None,
    sizes: Sequence[int] | None,
    seed: int,
    n_frames: int,
) -> list[np.ndarray]:
    """Rows from index files; validation drawn from the training rows where no file gives it."""
    named = dict(files) if isinstance(files, Mapping) else dict(zip(PARTS, files or (), strict=False))
    unknown = sorted(set(named) - set(PARTS))
    if unknown or named.get("train") is None:
        raise ConfigError(
            f"index files for {', '.join(unknown) or 'no training part'}", hint="index files for train, val and test"
        )
    rows = {name: read_index(path, n_frames) for name, path in named.items() if path is not None}
    parts = [rows.get(name, np.zeros(0, np.int64)) for name in PARTS]
    if sizes is not None:
        parts = _thin(parts, "val" in rows, sizes, seed)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = np.intersect1d(parts[a], parts[b])
        if len(both):
            raise DataError(
                f"{len(both)} rows are in both the {PARTS[a]} and the {PARTS[b]} file, the first is {both[0]}",
                hint="a frame belongs to one part",
            )
    return parts


def _thin(parts: list[np.ndarray], has_val: bool, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """The asked number of rows of each file."""
    if len(sizes) != 3 or min(sizes) < 0 or sizes[0] < 1:
        raise ConfigError(f"split sizes {', '.join(map(str, sizes))}", hint="three, the first above 0")
    rng = np.random.default_rng(seed)
    pools = [rng.permutation(p) for p in parts]
    if not has_val:
        pools[0], pools[1] = pools[0][: sizes[0]], pools[0][sizes[0] :]
    for name, pool, size in zip(PARTS, pools, sizes, strict=True):
        if size > len(pool):
            raise DataError(f"{size} {name} frames were asked for, the index files leave {len(pool)}")
    return [pool[:size] for pool, size in zip(pools, sizes, strict=True)]


def read_index(path: str | Path, n_frames: int) -> np.ndarray:
    """Rows from a .npy, .npz (its only array), or text file (one a line, or separated by commas).

    Raises:
        DataError: missing, not whole numbers, empty, repeated, or outside the data.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such index file", where=str(path))
    try:
        if path.suffix in (".npy", ".npz"):
            values = load_array(path) if path.suffix == ".npy" else next(iter(load_arrays(path).values()))
        else:
            values = np.array([float(w) for w in read_text(path).replace(",", " ").split()])
        if values.size and values.dtype.kind not in "fiu":
            raise ValueError(f"it holds {values.dtype}")
        rows = values.astype(np.float64).reshape(-1)
    except (ValueError, DataError) as error:
        what = error.what if isinstance(error, DataError) else error
        raise DataError(f"not a list of row numbers ({what})", where=str(path)) from error
    if not rows.size:
        raise DataError("the index file is empty", where=str(path))
    if not np.array_equal(rows, np.rint(rows)):
        raise DataError("row numbers are not whole numbers", where=str(path))
    if rows.min() < 0 or rows.max() >= n_frames:
        raise DataError(
            f"rows {rows.min():.0f} to {rows.max():.0f} of data with {n_frames} frames",
            where=str(path),
            hint=f"rows are counted from 0 to {n_frames - 1}",
        )
    if len(np.unique(rows)) != len(rows):
        raise DataError(f"{len(rows) - len(np.unique(rows))} rows are listed twice", where=str(path))
    return rows.astype(np.int64)
