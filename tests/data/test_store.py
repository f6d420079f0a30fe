"""The store: what goes in comes out, in order, lazily, in workers; and what is broken says so."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from equimd.data import ArrayDataset, Dataset, Frames, StoreDataset, open_dataset, write_store
from equimd.errors import DataError, MachineError, UnitsError

from .grouped_store import write_grouped
from .molecules import assert_same, ethanol, mixed


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Mixed frames with trajectories and times."""
    data = ArrayDataset(mixed(), trajectory=np.arange(20) // 10, time_index=np.arange(20) * 5)
    write_store(tmp_path / "a.h5", data, theory="PBE", license="CC0", command="made by a test", extra={"seed": 3})
    return tmp_path / "a.h5"


@pytest.mark.parametrize("in_memory", ["auto", True, False])
def test_round_trip_keeps_everything(store: Path, in_memory: bool | str) -> None:
    data = StoreDataset(store, in_memory=in_memory)
    assert isinstance(data, Dataset)
    assert_same(data.frames(), mixed())
    rows = [7, 0, 19, 7]
    assert_same(data.frames(rows), mixed().take(rows))
    assert len(data.frames([])) == 0
    assert np.array_equal(data.n_atoms, mixed().n_atoms) and data.elements == (1, 6, 8)
    assert data.trajectory.tolist() == [0] * 10 + [1] * 10
    assert data.time_index is not None and data.time_index.tolist() == list(range(0, 100, 5))
    data.verify()


def test_it_opens_by_content_and_says_where_it_comes_from(store: Path) -> None:
    data = open_dataset(store.rename(store.with_name("frames.xyz")))
    assert data.info.format == "store" and data.info.units.source == "stated"
    assert data.info.extra["theory"] == "PBE" and data.info.extra["command"] == "made by a test"
    assert data.info.extra["seed"] == 3
    with pytest.raises(UnitsError, match="by definition"):
        open_dataset(store.with_name("frames.xyz"), energy_unit="kcal/mol")


def test_atoms_lie_one_after_the_other(store: Path) -> None:
    with h5py.File(store) as file:
        assert file["frames/first"][()].tolist() == [0, *np.cumsum(mixed().n_atoms).tolist()]
        positions = file["atoms/positions"]
        assert positions.dtype == np.float64 and positions.shape == (int(mixed().n_atoms.sum()), 3)
        assert positions.chunks is None and positions.id.get_offset() > 0  # in one piece: it can be mapped
        assert "pbc" not in file["frames"]  # open molecules take no room for cells
        assert file.attrs["elements"].tolist() == [1, 6, 8]


def test_large_stores_are_mapped_and_never_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.data.store_write.MEMORY_LIMIT", 1000)
    monkeypatch.setattr("equimd.data.store.MEMORY_LIMIT", 1000)
    write_store(tmp_path / "a.h5", [mixed()], compression="gzip")
    data = StoreDataset(tmp_path / "a.h5")
    assert_same(data.frames([3, 17, 3]), mixed().take([3, 17, 3]))
    arrays = data._layout._arrays
    assert isinstance(arrays["/atoms/positions"], np.memmap) and isinstance(arrays["/frames/energy"], np.memmap)
    assert_same(pickle.loads(pickle.dumps(data)).frames(), mixed())
    data.frames([3]).positions[:] = 0  # what is handed over may be written to
    data.verify()


@pytest.mark.parametrize("in_memory", ["auto", False])
def test_a_group_a_composition_as_it_once_was(tmp_path: Path, in_memory: bool | str) -> None:
    """Format versions 1 and 2 open, and are converted without a change of content."""
    block = replace(mixed(), weight=np.linspace(0.5, 2, 20))
    made = ArrayDataset(block, trajectory=np.arange(20) // 10, time_index=np.arange(20) * 5)
    digest = write_grouped(tmp_path / "old.h5", made)
    old = StoreDataset(tmp_path / "old.h5", in_memory=in_memory)
    assert old.info.extra["format_version"] == 2 and old.content_sha256 == digest
    assert_same(old.frames(), block)
    assert_same(old.frames([7, 0, 19, 7]), block.take([7, 0, 19, 7]))
    old.verify()
    assert write_store(tmp_path / "new.h5", old) == digest
    new = StoreDataset(tmp_path / "new.h5")
    assert new.trajectory.tolist() == old.trajectory.tolist() and new.time_index.tolist() == old.time_index.tolist()
    assert_same(new.frames(), block)


def test_every_frame_its_own_composition(tmp_path: Path) -> None:
    """Frames come back in their order, whatever they are made of."""
    rng = np.random.default_rng(0)
    frames = [
        Frames.build(np.sort(rng.integers(1, 90, n)), rng.normal(size=(1, n, 3)), rng.normal(size=1))
        for n in rng.integers(1, 30, 200)
    ]
    write_store(tmp_path / "a.h5", (Frames.concatenate(frames[k : k + 50]) for k in range(0, 200, 50)))
    data = StoreDataset(tmp_path / "a.h5", in_memory=False)
    rows = rng.permutation(200)[:40]
    assert_same(data.frames(rows), Frames.concatenate([frames[k] for k in rows]))
    assert (tmp_path / "a.h5").stat().st_size < 200 * (30 * 25 + 100) + 20000


def test_blocks_are_streamed_and_content_hash_does_not_depend_on_how(tmp_path: Path) -> None:
    whole = mixed()
    blocks = (whole.take(np.arange(k, min(k + 3, 20))) for k in range(0, 20, 3))
    streamed = write_store(tmp_path / "a.h5", blocks, trajectory=np.arange(20))
    at_once = write_store(tmp_path / "b.h5", ArrayDataset(whole), compression="gzip")
    assert streamed == at_once
    assert_same(StoreDataset(tmp_path / "a.h5", in_memory=False).frames(), whole)
    assert_same(StoreDataset(tmp_path / "b.h5", in_memory=False).frames(), whole)
    whole.energy[0] += 1e-12 * abs(whole.energy[0])
    assert write_store(tmp_path / "c.h5", [whole]) != at_once


def test_periodic_cells_and_late_labels(tmp_path: Path) -> None:
    """Fields that first occur in a later block leave the earlier frames without them."""
    first = Frames.build(np.array([8, 1, 1]), mixed().positions[:1, :3])
    later = Frames.build(
        np.array([8, 1, 1]), mixed().positions[:1, :3], np.array([-2079.0]), np.ones((1, 3, 3)),
        np.eye(3)[None] * 9, np.ones((1, 3), bool), np.array([1]), np.array([2]),
    )  # fmt: skip
    write_store(tmp_path / "a.h5", [first, later, first])
    block = StoreDataset(tmp_path / "a.h5").frames()
    assert_same(block, Frames.concatenate([first, later, first]))


def _read(data: StoreDataset, row: int) -> float:
    return float(data.frames([row]).energy[0])


def test_it_survives_worker_processes(store: Path) -> None:
    """A handle opened here is neither pickled nor shared; forked and pickled copies open their own."""
    import torch

    data = StoreDataset(store, in_memory=False)
    expected = [_read(data, k) for k in range(20)]
    assert np.array_equal([_read(pickle.loads(pickle.dumps(data)), 1)], expected[1:2])

    class Items(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, k: int) -> float:
            return _read(data, k)

    loader = torch.utils.data.DataLoader(Items(), batch_size=5, num_workers=2, multiprocessing_context="fork")
    got = torch.cat(list(loader)).numpy()
    assert np.array_equal(got, expected, equal_nan=True)
    data.close()
    assert np.array_equal(_read(data, 0), expected[0])


def test_an_interrupted_write_leaves_the_old_file_alone(store: Path) -> None:
    before = store.read_bytes()

    def broken():
        yield ethanol(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(store, broken())
    assert store.read_bytes() == before and list(store.parent.iterdir()) == [store]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no frames"):
        write_store(tmp_path / "a.h5", iter([]))
    with pytest.raises(DataError, match="2 trajectory numbers for 3 frames"):
        write_store(tmp_path / "a.h5", [ethanol(3)], trajectory=np.zeros(2))
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot write"):
        write_store(tmp_path / "file" / "a.h5", [ethanol(3)])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_truncated_newer_and_foreign_files(store: Path, tmp_path: Path) -> None:
    whole = store.read_bytes()
    for size in (100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(DataError, match="truncated"):
            open_dataset(tmp_path / "cut.h5")
    with h5py.File(store, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(DataError, match="format version 99"):
        open_dataset(store)
    with pytest.raises(DataError, match="no such file"):
        StoreDataset(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="not an equimd store"):
        StoreDataset(tmp_path / "other.h5")


def test_changed_content_is_found_by_verify(store: Path) -> None:
    with h5py.File(store, "a") as file:
        file["frames/energy"][0] += 1e-6
    with pytest.raises(DataError, match="SHA-256"):
        StoreDataset(store).verify()


def test_missing_parts_are_named(store: Path) -> None:
    with h5py.File(store, "a") as file:
        del file["frames/first"]
    with pytest.raises(DataError, match="incomplete"):
        open_dataset(store)


def test_shards_are_one_data_set(tmp_path: Path) -> None:
    """A folder of them, or a pattern, in the order of their numbers."""
    whole, folder = mixed(), tmp_path / "shards"
    folder.mkdir()
    for k in range(11):
        write_store(folder / f"part-{k}.h5", [whole.take([k])], trajectory=np.array([k % 2]))
    for given in (folder, f"{folder}/part-*.h5", f"{folder}/part-?.h5"):
        data = open_dataset(given)
        expected = whole.take(np.arange(11 if "?" not in str(given) else 10))
        assert_same(data.frames(), expected)
        assert_same(data.frames([9, 2, 9]), whole.take([9, 2, 9]))
    assert_same(open_dataset(f"{folder}/part-*.h5@-1").frames(), whole.take([10]))
    with pytest.raises(DataError, match="no file matches"):
        open_dataset(f"{folder}/piece*.h5")
    (folder / "run.json").touch()  # a run keeps frames for training, validation and test: no data set
    with pytest.raises(DataError, match="the folder holds neither"):
        open_dataset(folder)
