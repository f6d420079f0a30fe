"""Which frames may be used: new ones, each once, parted so that neighbours in time stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data.dataset import ArrayDataset, ConcatDataset, DatasetInfo, Subset
from equimd.data.frames import Frames
from equimd.data.given import part_name
from equimd.errors import DataError, UncertaintyError
from equimd.run import Run
from equimd.tasks.calibrate.frames import (
    Contents,
    check_apart,
    partition,
    temperature_of,
    training_frames,
    usable_frames,
)
from tests.training.toy import toy_file, toy_frames


def walk(n: int, step: float, seed: int = 0) -> Frames:
    """Frames of a slow random walk: neighbours in time are alike."""
    rng = np.random.default_rng(seed)
    x = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    path = x + np.cumsum(step * rng.normal(size=(n, 3, 3)), 0)
    return Frames.build(np.array([8, 1, 1]), path, np.zeros(n), np.zeros((n, 3, 3)))


def test_parts_are_disjoint_and_all_frames_serve() -> None:
    parts = partition(ArrayDataset(toy_frames(200)), 0.05)
    rows = np.concatenate([parts.fit, parts.select, parts.threshold])
    assert parts.method == "random"
    assert np.array_equal(np.sort(rows), np.arange(200))
    assert parts.sizes == {"fit": 80, "select": 40, "threshold": 80}
    assert parts.to_json()["rows"]["fit"] == parts.fit.tolist()


def test_a_small_rate_takes_more_frames_for_the_threshold() -> None:
    assert partition(ArrayDataset(toy_frames(150)), 0.01).sizes == {"fit": 31, "select": 20, "threshold": 99}


def test_whole_trajectories_stay_together_and_in_order() -> None:
    trajectory = np.arange(300) % 6
    data = ArrayDataset(toy_frames(300), trajectory=trajectory, time_index=np.arange(300)[::-1])
    parts = partition(data, 0.05)
    assert parts.method == "trajectory"
    owners = [set(trajectory[rows].tolist()) for rows in (parts.fit, parts.select, parts.threshold)]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 6
    assert np.array_equal(np.sort(trajectory[parts.threshold]), trajectory[parts.threshold])
    first = parts.threshold[trajectory[parts.threshold] == trajectory[parts.threshold[0]]]
    assert (np.diff(first) < 0).all()  # time runs against the rows here


def test_neighbours_in_time_are_parted_by_a_gap() -> None:
    parts = partition(ArrayDataset(walk(400, 0.02)), 0.05)
    assert parts.method == "blocks"
    assert parts.fit.max() < parts.select.min() <= parts.select.max() < parts.threshold.min()
    assert parts.select.min() - parts.fit.max() > 1
    assert sum(parts.sizes.values()) < 400


def test_too_few_frames_are_refused_with_the_number_it_takes() -> None:
    with pytest.raises(UncertaintyError, match="138 calibration frames: a false-alarm rate of 0.01 takes 139") as error:
        partition(ArrayDataset(toy_frames(138)), 0.01)
    assert "1 more frames" in str(error.value)


def test_frames_of_the_training_are_refused() -> None:
    seen = Contents.of(ArrayDataset(toy_frames(10)))
    with pytest.raises(UncertaintyError, match="3 of the 10 are training frames and 1 of the 10 are validation frames"):
        check_apart(
            seen,
            {"training": seen.hashes[:3], "validation": seen.hashes[9:], "test": seen.hashes[:0]},
            what="calibration",
            where="x",
        )
    others = Contents.of(ArrayDataset(toy_frames(4, seed=7))).hashes
    check_apart(seen, {"training": others}, what="calibration", where="x")


def test_each_frame_once_and_only_with_forces() -> None:
    frames = Frames.concatenate([toy_frames(5), toy_frames(3), toy_frames(4, seed=2, forces=False)])
    data = ArrayDataset(frames)
    kept, warnings = usable_frames(data, Contents.of(data), what="calibration")
    assert len(kept) == 5
    assert [w.split()[0] for w in warnings] == ["3", "4"]
    bare = ArrayDataset(toy_frames(4, forces=False))
    with pytest.raises(UncertaintyError, match="no calibration frame has forces"):
        usable_frames(bare, Contents.of(bare), what="calibration")


def test_contents_know_compositions() -> None:
    assert Contents.of(ArrayDataset(toy_frames(6, mixed=True))).compositions == ("H2", "H2O")


def test_the_temperature_is_what_all_files_say() -> None:
    def data(value: object) -> ArrayDataset:
        return ArrayDataset(toy_frames(2), DatasetInfo(extra={"temperature": value}))

    assert temperature_of(data(300)) == 300.0
    assert temperature_of(Subset(data(300), [0])) == 300.0
    assert temperature_of(ConcatDataset([data(300), data(300.0)])) == 300.0
    assert temperature_of(ConcatDataset([data(300), data(600)])) is None
    assert temperature_of(data("hot")) is None


def test_a_whole_bundled_set_means_its_part() -> None:
    assert part_name("bundled:ethanol", "calibration") == "bundled:ethanol-calibration"
    assert part_name("bundled:ethanol-test", "calibration") == "bundled:ethanol-test"
    assert part_name("ethanol.xyz", "test") == "ethanol.xyz"


def test_training_frames_are_found_by_content(run: Run, folder: Path, tmp_path: Path) -> None:
    expected = run.hashes("train")
    assert Contents.of(training_frames(run)).hashes == expected
    moved = tmp_path / "moved.xyz"  # other frames come first now
    lines = toy_file(tmp_path / "more.xyz", n=7, seed=9).read_text() + (folder / "train.xyz").read_text()
    moved.write_text(lines)
    assert Contents.of(training_frames(run, [str(moved)])).hashes == expected
    with pytest.raises(DataError, match="50 of the 50 frames the run was trained on are not in there"):
        training_frames(run, [str(tmp_path / "more.xyz")])
