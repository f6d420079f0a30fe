"""Splits: disjoint, reproducible, refused when they cannot be, and warned about when they flatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data import ArrayDataset, Frames, Split, make_split, open_dataset
from equimd.data.alignment import rmsd
from equimd.data.leakage import correlated_lag, neighbour_share
from equimd.errors import ConfigError, DataError

from .molecules import ETHANOL, ethanol


def _walk(n_frames: int, memory: float, seed: int = 0) -> Frames:
    """Frames whose displacements keep the share ``memory`` from one to the next."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.0, 0.1, (n_frames, 9, 3))
    for k in range(1, n_frames):
        noise[k] = memory * noise[k - 1] + np.sqrt(1 - memory**2) * noise[k]
    return Frames.build(ETHANOL, ethanol(1).positions + noise)


@pytest.fixture
def data() -> ArrayDataset:
    return ArrayDataset(ethanol(100), trajectory=np.repeat(np.arange(10), 10))


@pytest.mark.parametrize("method", ["random", "blocks", "trajectory"])
def test_parts_are_disjoint_of_the_asked_size_and_reproducible(data: ArrayDataset, method: str) -> None:
    one, two = (make_split(data, sizes=(60, 20, 20), method=method, seed=5) for _ in range(2))
    assert one.sizes == (60, 20, 20)
    rows = np.concatenate([one.train, one.val, one.test])
    assert len(np.unique(rows)) == 100 and rows.dtype == np.int64
    assert np.array_equal(one.train, two.train) and np.array_equal(one.test, two.test)


def test_seed_matters_and_subset_is_kept_to(data: ArrayDataset) -> None:
    a, b = (make_split(data, fractions=(0.8, 0.1, 0.1), subset_size=50, seed=s) for s in (1, 2))
    assert a.sizes == (40, 5, 5) and not np.array_equal(a.train, b.train)


def test_blocks_are_contiguous_in_time_and_apart() -> None:
    order = np.random.default_rng(0).permutation(100)
    data = ArrayDataset(ethanol(100), time_index=order)
    split = make_split(data, sizes=(50, 20, 20), method="blocks")
    times = [np.sort(order[p]) for p in (split.train, split.val, split.test)]
    for t in times:
        assert np.array_equal(t, np.arange(t[0], t[0] + len(t)))
    assert times[1][0] - times[0][-1] == 6 and times[2][0] - times[1][-1] == 6  # the ten left over part the blocks


def test_whole_trajectories_go_to_one_part(data: ArrayDataset) -> None:
    split = make_split(data, sizes=(55, 15, 20), method="trajectory", seed=2)
    owners = [set(data.trajectory[p].tolist()) for p in (split.train, split.val, split.test)]
    assert not (owners[0] & owners[1] or owners[0] & owners[2] or owners[1] & owners[2])
    with pytest.raises(DataError, match="1 trajectories cannot be split into 2"):
        make_split(ArrayDataset(ethanol(20)), sizes=(10, 5, 0), method="trajectory")
    with pytest.raises(DataError, match="do not fill"):
        make_split(data, sizes=(99, 1, 0), method="trajectory")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sizes": (90, 20, 0)}, DataError, "= 110 frames, there are 100"),
        ({"sizes": (50, 20, 0), "subset_size": 60}, DataError, "= 70 frames, there are 60"),
        ({"subset_size": 101}, DataError, "101 frames was asked for, the data have 100"),
        ({"subset_size": 0}, DataError, "a subset of 0"),
        ({"sizes": (0, 10, 10)}, ConfigError, "training part of the split is empty"),
        ({"sizes": (10, -1, 10)}, ConfigError, "negative"),
        ({"sizes": (10, 5)}, ConfigError, "2 split sizes"),
        ({"sizes": (10.5, 5, 5)}, ConfigError, "not whole"),
        ({"fractions": (0.9, 0.2, 0.1)}, ConfigError, "more than 1"),
        ({"fractions": (0.9, 0.001, 0.0)}, ConfigError, "val part of the split is empty"),
        ({"fractions": (0.5, float("nan"), 0.1)}, ConfigError, "negative|nan"),
        ({"sizes": (1, 1, 1), "fractions": (0.1, 0.1, 0.1)}, ConfigError, "both"),
        ({"method": "astrology"}, ConfigError, "unknown split method"),
        ({"method": "files"}, ConfigError, "no training part"),
    ],
)
def test_impossible_splits_are_refused(data: ArrayDataset, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make_split(data, **options)


def test_index_files_of_every_kind(data: ArrayDataset, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "train.csv", np.arange(60), fmt="%d")
    np.save(tmp_path / "val.npy", np.arange(60, 80))
    np.savez(tmp_path / "test.npz", np.arange(80, 100))
    files = {"train": tmp_path / "train.csv", "val": tmp_path / "val.npy", "test": tmp_path / "test.npz"}
    split = make_split(data, index_files=files)
    assert split.sizes == (60, 20, 20) and split.method == "files" and split.test[0] == 80
    (tmp_path / "rows.txt").write_text("3, 1\n2\n")
    assert make_split(data, index_files=(tmp_path / "rows.txt", None, None)).train.tolist() == [1, 2, 3]
    # rMD17: validation frames are drawn from the published training rows
    split = make_split(data, index_files=(files["train"], None, files["test"]), sizes=(50, 10, 20), seed=1)
    assert split.sizes == (50, 10, 20) and split.val.max() < 60 and not set(split.val) & set(split.train)
    with pytest.raises(DataError, match="index files leave 10"):
        make_split(data, index_files=(files["train"], None, files["test"]), sizes=(50, 20, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [("1\n100", "rows 1 to 100 of data with 100"), ("-1", "rows -1"), ("1\n1", "listed twice"), ("", "is empty"),
     ("a", "not a list"), ("0.5", "not whole")],
)  # fmt: skip
def test_bad_index_files(data: ArrayDataset, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        make_split(data, index_files=(tmp_path / "rows.csv", None, None))


def test_index_files_that_overlap_or_are_missing(data: ArrayDataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("1\n2\n3")
    with pytest.raises(DataError, match="3 rows are in both the train and the test file"):
        make_split(data, index_files={"train": tmp_path / "a.csv", "test": tmp_path / "b.csv"})
    with pytest.raises(DataError, match="no such index file"):
        make_split(data, index_files={"train": tmp_path / "none.csv"})
    with pytest.raises(ConfigError, match="trane"):
        make_split(data, index_files={"trane": tmp_path / "a.csv"})


def test_save_and_load(data: ArrayDataset, tmp_path: Path) -> None:
    split = make_split(data, sizes=(60, 20, 0), seed=9)
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json")
    for name in ("train", "val", "test"):
        assert np.array_equal(getattr(again, name), getattr(split, name))
    assert (again.method, again.seed, again.n_frames, again.warnings) == ("random", 9, 100, split.warnings)
    text = (tmp_path / "split.json").read_text()
    (tmp_path / "split.json").write_text(text[:50])
    with pytest.raises(DataError, match="not a readable split"):
        Split.load(tmp_path / "split.json")
    (tmp_path / "split.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(DataError, match="version 2"):
        Split.load(tmp_path / "split.json")
    with pytest.raises(DataError, match="more than one part"):
        Split(np.arange(3), np.arange(2, 4), np.arange(9, 10))


def test_rmsd_ignores_rotation_but_not_reflection() -> None:
    from scipy.spatial.transform import Rotation

    a = ethanol(20, temperature=3000.0).positions
    turned = np.einsum("pij,pnj->pni", Rotation.random(20, random_state=0).as_matrix(), a) + 3.0
    assert rmsd(a, turned).max() < 1e-6
    assert rmsd(a, a * [-1, 1, 1]).min() > 1e-2


def test_lag_of_a_known_process() -> None:
    """Displacements with memory m have correlation m^lag; 0.99^lag stays above 0.9 up to lag 10, so 8 of the powers."""
    assert correlated_lag(ArrayDataset(_walk(2000, 0.99))) == 8
    assert correlated_lag(ArrayDataset(_walk(2000, 0.0))) == 0
    assert correlated_lag(ArrayDataset(ethanol(2))) == 0


def test_share_of_neighbours() -> None:
    assert neighbour_share(np.array([0, 100]), np.array([3, 50, 98, 200]), 5) == 0.5
    assert neighbour_share(np.array([]), np.array([1]), 5) == 0.0


def test_warning_only_where_test_frames_neighbour_training_frames() -> None:
    walk = ArrayDataset(_walk(1000, 0.99))
    (warning,) = make_split(walk, sizes=(800, 100, 100)).warnings
    assert "within 8 consecutive rows" in warning and "blocks" in warning
    assert make_split(walk, sizes=(700, 100, 100), method="blocks").warnings == []
    shuffled = walk.frames(np.random.default_rng(0).permutation(1000))
    assert make_split(ArrayDataset(shuffled), sizes=(800, 100, 100)).warnings == []
    # with known steps order does not matter, distance in time does
    near, far = (ArrayDataset(shuffled, time_index=np.random.default_rng(0).permutation(1000) * s) for s in (1, 500))
    (warning,) = make_split(near, sizes=(800, 100, 100)).warnings
    assert "time steps" in warning
    assert make_split(far, sizes=(800, 100, 100)).warnings == []
    # another trajectory is no neighbour
    parts = ArrayDataset(_walk(1000, 0.99), trajectory=np.arange(1000) // 500)
    assert make_split(parts, sizes=(500, 0, 500), method="trajectory").warnings == []


def test_real_data(shared_data: Path) -> None:
    md17 = open_dataset(shared_data / "md17" / "md17_ethanol_2000.npz")
    (warning,) = make_split(md17, sizes=(1600, 200, 200)).warnings
    assert warning.startswith("100% of the test frames")
    assert make_split(md17, sizes=(1500, 200, 200), method="blocks").warnings == []
    for name in ("rmd17/rmd17_ethanol_train_01.npz", "ccsd/ethanol_ccsd_t-train.npz", "acac/train_300K.xyz",
                 "qm7x/qm7x_250_small.npz"):  # fmt: skip
        assert make_split(open_dataset(shared_data / name), fractions=(0.8, 0.1, 0.1)).warnings == []
