"""Files that are damaged, or made to do harm: refused with what is wrong, never followed, allocated or unpickled."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from equimd.data import StoreDataset, open_dataset
from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset
from equimd.data.readers.npz import load_array, load_arrays
from equimd.errors import DataError

from .grouped_store import write_grouped
from .molecules import ETHANOL, assert_same, ethanol, mixed, save_md17


def _npz(path: Path, header: bytes, data: bytes = b"", version: bytes = b"\x01\x00", name: str = "E.npy") -> Path:
    """An archive with one array of this header."""
    width = 2 if version == b"\x01\x00" else 4
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }".ljust(60, b" ") + b"(",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        b"{'descr': '<f8', 'fortran_order': 'no', 'shape': (1,)}",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': [1]}",
        b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}",
        b"{'descr': [('a', [(1, 2)])], 'fortran_order': False, 'shape': (1,)}",
        b"{'descr': '<f8', 'fortran_order': False}",
        b"[" * 5000,
        b"\xff\xfe",
        b"__import__('os').system('true')",
        b"",
    ],
)
def test_headers_of_arrays(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(DataError, match="not a readable npz"):
        open_dataset(_npz(tmp_path / "a.npz", header, b"\0" * 8))


def test_pickles_are_named_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "run",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("E.npy", buffer.getvalue())
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Trap()))
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    with pytest.raises(DataError, match="a PyTorch file"):
        open_dataset(tmp_path / "a.pt")
    with pytest.raises(DataError, match="pickled Python objects"):
        load_arrays(tmp_path / "a.npz")
    with pytest.raises(DataError, match="pickled Python objects"):
        load_array(tmp_path / "a.npy")
    with pytest.raises(DataError, match="pickled Python objects"):
        open_dataset(tmp_path / "a.pkl")
    assert not (tmp_path / "run").exists()


def test_an_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    shape = 2_000_000_000
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("E.npy", b"\0")
        archive.filelist[0].file_size = shape  # as a damaged directory claims
    with pytest.raises(DataError, match="claim"):
        load_arrays(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", b"no arrays")
    with pytest.raises(DataError, match="without arrays"):
        load_arrays(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("E.npy", b"\0")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("E.npy", b"\0")
    with pytest.raises(DataError, match="two arrays"):
        load_arrays(tmp_path / "c.zip")


def test_arrays_keep_their_layout(tmp_path: Path) -> None:
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.array(3, ">i4"), "c": np.array(["x", "yy"]),
              "d": np.zeros((0, 3)), "e": np.array([True, False])}  # fmt: skip
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found = load_arrays(tmp_path / "a.npz")
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in arrays.items())
    found["a"][0, 0] = 7.0  # readers hand over arrays that may be written to


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """In the format of before, a group for each composition."""
    write_grouped(tmp_path / "a.h5", ArrayDataset(mixed()))
    return tmp_path / "a.h5"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    write_frames(tmp_path / "flat.h5", ArrayDataset(mixed()))
    return tmp_path / "flat.h5"


def _damage_any(kind: str, file: h5py.File, group: h5py.Group, atoms: h5py.Group) -> None:
    """Change one thing that stores of both formats have: ``group`` has the energies, ``atoms`` the positions."""
    if kind == "a group for an array":
        del group["energy"]
        group.create_group("energy")
    elif kind == "a huge array":
        shape = (10**11 // atoms["positions"][0].size, *atoms["positions"].shape[1:])
        del atoms["positions"]
        atoms.create_dataset("positions", shape=shape, chunks=(1, *shape[1:]), dtype="f8")
    elif kind == "text for numbers":
        del atoms["numbers"]
        atoms["numbers"] = "CCO"
    elif kind == "atomic number 0":
        atoms["numbers"][0] = 0
    elif kind == "a list for a count":
        file.attrs["n_frames"] = [1, 2, 3]
    elif kind == "a word for a version":
        file.attrs["format_version"] = "new"
    elif kind == "another file":
        del group["energy"]
        group["energy"] = h5py.ExternalLink("/dev/zero", "/")
    elif kind == "raw values of another file":
        n = len(group["energy"])
        del group["energy"]
        group.create_dataset("energy", (n,), "f8", external=[("/dev/zero", 0, 8 * n)])


def _damage(kind: str, file: h5py.File, group: h5py.Group) -> None:
    """Change one thing in a store of a group for each composition."""
    _damage_any(kind, file, group, group)
    if kind == "no index":
        del file["index"]
    elif kind == "a negative row":
        file["index/row"][0] = -1
    elif kind == "a row beyond":
        file["index/row"][0] = 10**9
    elif kind == "a composition beyond":
        file["index/group"][0] = 99
    elif kind == "a composition missing":
        file.move(group.name, group.name.replace("000000", "000007"))
    elif kind == "a charge of 0.5":
        del group["charge_stated"]
        group["charge"] = np.full(len(group["energy"]), 0.5)


KINDS = ("no index", "a group for an array", "a negative row", "a row beyond", "a composition beyond",
         "a composition missing", "a huge array", "text for numbers", "atomic number 0", "a list for a count",
         "a word for a version", "a charge of 0.5", "another file", "raw values of another file")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_stores(store: Path, kind: str) -> None:
    with h5py.File(store, "r+") as file:
        names = list(file["composition"])
        _damage(kind, file, file["composition"][names[0]])
    with pytest.raises(DataError) as caught:
        open_dataset(store).frames()
    assert str(store) in str(caught.value)


def _damage_flat(kind: str, file: h5py.File) -> None:
    """Change one thing in a store."""
    atoms, frames = file["atoms"], file["frames"]
    _damage_any(kind, file, frames, atoms)
    if kind in ("no first", "no numbers", "no positions"):
        del (frames if kind == "no first" else atoms)[kind.split()[1]]
    elif kind == "a frame of no atoms":
        frames["first"][1] = 0
    elif kind == "frames that begin beyond":
        frames["first"][1] = 10**9
    elif kind == "frames that begin before":
        frames["first"][0] = -1
    elif kind == "fewer atoms than it says":
        frames["first"][-1] += 1
    elif kind == "an element that is not listed":
        atoms["numbers"][0] = 92
    elif kind == "no elements":
        del file.attrs["elements"]
    elif kind == "elements that are none":
        file.attrs["elements"] = [0, 1, 6, 8]
    elif kind == "a count below zero":
        file.attrs["n_frames"] = -1
    elif kind == "a charge of 0.5":
        del frames["charge"]
        frames["charge"] = np.full(len(frames["energy"]), 0.5)
    elif kind == "trajectories of fewer frames":
        del frames["trajectory"]
        frames["trajectory"] = np.zeros(3, np.int64)


FLAT_KINDS = (
    "no first", "no numbers", "no positions", "a group for an array", "a frame of no atoms", "frames that begin beyond",
    "frames that begin before", "fewer atoms than it says", "a huge array", "text for numbers", "atomic number 0",
    "an element that is not listed", "no elements", "elements that are none", "a list for a count",
    "a count below zero", "a word for a version", "a charge of 0.5", "trajectories of fewer frames", "another file",
    "raw values of another file",
)  # fmt: skip


@pytest.mark.parametrize("kind", FLAT_KINDS)
def test_damaged_flat_stores(flat: Path, kind: str) -> None:
    with h5py.File(flat, "r+") as file:
        _damage_flat(kind, file)
    with pytest.raises(DataError) as caught:
        open_dataset(flat).frames()
    assert str(flat) in str(caught.value)


def test_compositions_are_ordered_by_number_not_by_text(store: Path) -> None:
    """Past 999,999 compositions the names have another digit."""
    expected = open_dataset(store).frames()
    with h5py.File(store, "r+") as file:
        root = file["composition"]
        for name in list(root):
            number, formula = name.split("_")
            root.move(name, f"{int(number) + 10:0{2 if number == '000000' else 3}d}_{formula}")
        assert sorted(root)[0].startswith("011")
        file["index/group"][...] = file["index/group"][...] + 10
        for k in range(10):  # the compositions before these
            group = root.create_group(f"{k:06d}_H")
            group["numbers"] = np.array([1], np.uint8)
            for field, shape in (("positions", (0, 1, 3)), ("energy", (0,))):
                group.create_dataset(field, shape, "f8", maxshape=(None, *shape[1:]))
    assert_same(StoreDataset(store).frames(), expected)


def test_hdf5_links_that_lead_back_or_out(tmp_path: Path) -> None:
    block = ethanol(5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("molecule")
        for name, array in (("E", block.energy), ("F", block.forces), ("R", block.positions), ("z", ETHANOL)):
            group[name] = array
        group["self"] = group
        group["root"] = h5py.SoftLink("/")
        group["out"] = h5py.ExternalLink("/dev/zero", "/")
        group["forces_mask"] = h5py.ExternalLink("/dev/zero", "/")
        group["dangling"] = h5py.SoftLink("/nowhere")
    assert_same(open_dataset(tmp_path / "a.h5").frames(), block)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    block = ethanol(3)
    cases: tuple[dict, ...] = (
        {"E": block.energy + 1j}, {"F": block.forces.astype("S20")}, {"z": ETHANOL.astype(bool)}, {"R": np.array(0)},
        {"R": block.positions[None]}, {"z": np.array(["C"] * 8 + ["X"])}, {"N": np.array([9.5, 9, 8.5])},
        {"E": block.energy > 0},
    )  # fmt: skip
    for bad in cases:
        arrays = {"E": block.energy, "F": block.forces, "R": block.positions, "z": ETHANOL, **bad}
        if "N" in bad:
            arrays |= {"R": block.positions.reshape(-1, 3), "z": np.tile(ETHANOL, 3)}
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError):
            open_dataset(tmp_path / "a.npz")
    assert len(open_dataset(save_md17(tmp_path / "a.npz", block))) == 3
