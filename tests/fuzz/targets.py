"""What is tried: for each kind of input, valid ones, how they are spoiled, and what is done with one.

To add a kind, add an entry to ``TARGETS``.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz import runs
from tests.fuzz.mutate import TOKENS, spoil, spoil_text, spoil_value


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        valid: make valid inputs (files or folders) in an empty folder.
        spoil: make one input in an empty folder, from the valid ones and a generator of random numbers.
        use: what is done with an input. Ends with a result, or raises an EquimdError.
    """

    valid: Callable[[Path], list[Path]]
    spoil: Callable[[list[Path], random.Random, Path], Path]
    use: Callable[[Path], None]


def warm_up() -> None:
    """Import what reading an input imports, before time and memory are counted."""
    import ase.io
    import h5py

    import equimd.data.check
    import equimd.data.readers.atoms
    import equimd.data.readers.deepmd
    import equimd.data.readers.hdf5
    import equimd.data.readers.omol25
    import equimd.data.store
    import equimd.tasks.audit.tries
    import equimd.tasks.learn.report
    import equimd.tasks.simulate.session  # noqa: F401

    ase.io.formats.ioformats["traj"].module  # noqa: B018 (imports it)
    h5py.get_config()


def read_data(path: Path) -> None:
    """Open as data, read all frames, and have them examined."""
    from equimd.data import open_dataset
    from equimd.data.check import inspect

    data = open_dataset(path, check_units=False)
    inspect(data)
    open_dataset(path, energy_unit="eV", length_unit="Angstrom").frames()


def read_structures(path: Path) -> None:
    """Read as structures, besides as data."""
    from equimd.data.frames import Frames
    from equimd.data.readers.structures import read_structures as read

    Frames.from_ase(read(path))
    read_data(path)


def _frames(n: int = 3) -> Any:
    from tests.data.molecules import mixed

    block = mixed(2 * n + 6)
    return block.take(np.flatnonzero(block.has_energy & block.has_forces)[:n])


def spoil_file(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    """Spoil the bytes, or the words, of one file."""
    source = rng.choice(valid)
    data = source.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    path = folder / source.name
    if text and rng.random() < 0.75:
        path.write_bytes(spoil_text(text, rng).encode("utf-8", errors="surrogatepass"))
    else:
        path.write_bytes(spoil(data, rng, [v.read_bytes() for v in valid]))
    return path


def _with_structure(change: Callable[[Path, random.Random], None], share: float = 0.5) -> Callable[..., Path]:
    """Spoil a file's contents by what its format knows, or its bytes, or both."""

    def spoil_it(valid: list[Path], rng: random.Random, folder: Path) -> Path:
        if rng.random() > share:
            return spoil_file(valid, rng, folder)
        source = rng.choice(valid)
        path = folder / source.name
        shutil.copy(source, path)
        with suppress(OSError, ValueError):  # a name that is taken by an earlier change
            change(path, rng)
        if rng.random() < 0.1:
            path.write_bytes(spoil(path.read_bytes(), rng, [path.read_bytes()]))
        return path

    return spoil_it


# -- text ------------------------------------------------------------------------------------------------------------


def _xyz(folder: Path) -> list[Path]:
    from equimd.data.convert import write_frames
    from equimd.data.dataset import ArrayDataset

    write_frames(folder / "a.xyz", ArrayDataset(_frames()))
    plain = "3\n{}\nO 0.0 0.0 0.119\nH 0.0 0.763 -0.477\nH 0.0 -0.763 -0.477\n"
    (folder / "b.xyz").write_text(plain.format("water") * 2)
    (folder / "c.xyz").write_text(plain.format(" i =  0, time =  0.000, E =  -17.1660256586") * 2)
    (folder / "d.extxyz").write_text(
        '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:force:R:3:move_mask:L:1 energy=-31.7 weight=2 '
        'pbc="T T F" charge=0 spin=1\nH 0 0 0 0 0 0.1 T\nD 0 0 0.74 0 0 -0.1 F\n'
    )
    (folder / "e.xyz").write_text(
        plain.format("# CELL(abcABC): 9 9 9 90 90 90 Step: 1 Bead: 0 positions{angstrom} cell{angstrom}")
    )
    return sorted(folder.iterdir())


_QM9 = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 2.1997*^-6\t 0.133923
1341.307\t1341.3284\t1341.365
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""  # noqa: E501


def _qm9(folder: Path) -> list[Path]:
    (folder / "a.xyz").write_text(_QM9)
    (folder / "b.xyz").write_text(_QM9 * 2)
    return sorted(folder.iterdir())


def _ase_files(folder: Path) -> list[Path]:
    import ase.io
    from ase.build import bulk, molecule

    crystal, water = bulk("Al", cubic=True), molecule("H2O")
    for name in ("POSCAR", "a.cif", "a.xsf", "a.cube", "a.gen", "a.pdb", "a.gro", "a.json", "a.res"):
        try:
            ase.io.write(folder / name, crystal)
        except Exception:  # a writer that wants more than a crystal
            (folder / name).unlink(missing_ok=True)
    ase.io.write(folder / "XDATCAR", [crystal, crystal], format="vasp-xdatcar")
    ase.io.write(folder / "b.pdb", [water, water])
    ase.io.write(folder / "a.traj", [water, water])
    ase.io.write(folder / "b.traj", _frames().to_ase())
    (folder / "dump.lammpstrj").write_text(
        "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n0 9\n0 9\n0 9\n"
        "ITEM: ATOMS id type x y z\n1 1 1.0 2.0 3.0\n"
    )
    return sorted(folder.iterdir())


def _noise(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    """Random bytes, words, or lines, under any name, with any of the magic numbers before them."""
    names = ("a.xyz", "a", "a.npz", "a.h5", "a.traj", "a.db", "a.cif", "POSCAR", "a.json", "a.aselmdb", "a.pdb",
             "OUTCAR", "a.out", "a.log", "a.dat", "vasprun.xml", "a.nc", "a.gpw", "a.data", "a.xyz.gz")  # fmt: skip
    magic = (b"", b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"SQLite format 3\0", b"CDF\x01",
             b"- of UlmASE-Trajectory", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"\xff\xfe", b"\xef\xbb\xbf",
             b"5\n\n", bytes(16) + b"\xde\xc0\xef\xbe\x01\0\0\0", b"<?xml version='1.0'?>", b"{",
             b"ITEM: TIMESTEP\n")  # fmt: skip
    path = folder / rng.choice(names)
    kind = rng.randrange(3)
    if kind == 0:
        body = rng.randbytes(rng.choice((0, 1, 10, 100, 5000)))
    elif kind == 1:
        body = " ".join(rng.choice(TOKENS) for _ in range(rng.randrange(200))).encode()
    else:
        body = "\n".join(" ".join(rng.choice(TOKENS) for _ in range(4)) for _ in range(rng.randrange(30))).encode()
    path.write_bytes(rng.choice(magic) + body)
    return path


# -- archives --------------------------------------------------------------------------------------------------------


def _npz(folder: Path) -> list[Path]:
    from tests.data.molecules import ETHANOL, ethanol, save_md17

    save_md17(folder / "a.npz", ethanol(4))
    save_md17(folder / "b.npz", _frames(2), lattice=np.eye(3) * 9, charge=np.zeros(2), pbc=True)
    block = ethanol(3)
    np.savez(folder / "c.npz", N=[9] * 3, numbers=np.tile(ETHANOL, 3), coords=block.positions.reshape(-1, 3),
             energies=block.energy, forces=block.forces.reshape(-1, 3), forces_mask=np.ones(27, bool))  # fmt: skip
    return sorted(folder.iterdir())


def _trajectories(folder: Path) -> list[Path]:
    from equimd.data.system import System
    from equimd.md.trajectory import Frame, TrajectoryWriter

    cell = np.array([[0.0, 9.0, 1.0], [8.0, 0.0, 0.0], [0.0, 3.0, 10.0]])
    for name, system in (
        ("a.h5", System.build([8, 1, 1])),
        ("b.h5", System.build([8, 1, 1], cell=cell, pbc=(True, True, True))),
    ):
        writer = TrajectoryWriter(folder / name, system)
        x = np.arange(9.0).reshape(3, 3)
        for step in range(4):
            writer.append(Frame(step, 0.5 * step, x + 0.1 * step, 0 * x, x, {"potential_energy": 0.1 * step}))
        writer.flush()
    return sorted(folder.iterdir())


def _spoil_array(array: np.ndarray, rng: random.Random) -> Any:
    """An array of another shape, type or content."""
    how = rng.randrange(9)
    if how == 0:
        return array[: rng.randrange(len(array) + 1)] if array.ndim else array
    if how == 1:
        return array.reshape(-1)
    if how == 2:
        return np.array(rng.choice((0, -1, 1.5, np.nan, 1e300, True, "x", 1j)))
    if how == 3:
        kind = rng.choice(("f2", "i1", "u8", ">f8", "S3", "U2", "?", "c16", "M8[s]"))
        with np.errstate(all="ignore"):
            try:
                return array.astype(kind)
            except (ValueError, TypeError):
                return array
    if how == 4:
        return np.zeros((0, *array.shape[1:]), array.dtype)
    if how == 5:
        return np.broadcast_to(array, (2, *array.shape)).copy()
    if array.size and array.dtype.kind in "fiu":
        out = np.array(array, np.float64 if array.dtype.kind == "f" else array.dtype)
        flat, at = out.reshape(-1), rng.randrange(array.size)
        values = (np.nan, np.inf, -1.0, 1e300, 0.0) if array.dtype.kind == "f" else (0, 1, 127, 100)
        flat[at:] = rng.choice(values) if how == 6 else flat[at:]
        flat[at] = rng.choice(values)
        return out
    return array


def _change_npz(path: Path, rng: random.Random) -> None:
    with np.load(path) as archive:
        arrays = {k: archive[k] for k in archive.files}
    for _ in range(rng.choice((1, 2))):
        key = rng.choice(sorted(arrays))
        if rng.random() < 0.25:
            arrays[rng.choice(("E", "F", "z", "cell", "pbc", "charge", "weight", "N", "md5", "force_mask"))] = arrays[
                key
            ]
        elif rng.random() < 0.2:
            del arrays[key]
        else:
            arrays[key] = _spoil_array(arrays[key], rng)
        if not arrays:
            break
    np.savez(path, **arrays)


def _change_hdf5(path: Path, rng: random.Random) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visit(found.append)
        for _ in range(rng.choice((1, 1, 2))):
            name, how = rng.choice(found), rng.randrange(8)
            if name not in file:
                continue
            item = file[name]
            if how == 0:
                del file[name]
            elif how == 1:
                file.move(
                    name, rng.choice(("x", "E", "positions", "energy", "numbers", "composition/9_x")) + str(len(name))
                )
            elif how == 2:
                file.attrs[rng.choice(sorted(file.attrs) or ["units"])] = rng.choice((-1, "x", 1e300, [1, 2], True, 99))
            elif how == 3 and isinstance(item, h5py.Group):
                with suppress(KeyError):  # of an earlier change
                    del item["again"]
                item["again"] = rng.choice((h5py.SoftLink("/"), h5py.ExternalLink("/dev/zero", "/"), item))
            elif isinstance(item, h5py.Dataset):
                value = _spoil_array(np.asarray(item[()]), rng)
                attributes = dict(item.attrs)
                del file[name]
                try:
                    file[name] = value
                except TypeError:
                    file[name] = "text"
                file[name].attrs.update(
                    attributes if rng.random() < 0.8 else {"units": rng.choice(("furlong", 3, "eV"))}
                )


def _hdf5(folder: Path) -> list[Path]:
    import h5py

    from tests.data.molecules import ETHANOL, ethanol

    block = ethanol(4)
    for name, depth in (("a.h5", ""), ("b.h5", "m/")):
        with h5py.File(folder / name, "w") as file:
            for key, array in (("E", block.energy), ("F", block.forces), ("R", block.positions), ("z", ETHANOL)):
                file.create_dataset(depth + key, data=array, compression="gzip" if depth and array.ndim > 1 else None)
            file[depth + "E"].attrs["units"] = "eV"
    return sorted(folder.iterdir())


def _stores(folder: Path) -> list[Path]:
    from dataclasses import replace

    from equimd.data.store import write_store
    from tests.data.molecules import mixed

    write_store(folder / "a.h5", [mixed(8)])
    write_store(folder / "b.h5", [replace(mixed(6), weight=np.arange(6.0))], compression="gzip")
    return sorted(folder.iterdir())


# -- databases -------------------------------------------------------------------------------------------------------


def _rows() -> dict[str, Any]:
    def array(a: np.ndarray) -> dict[str, Any]:
        return {"__ndarray__": [list(a.shape), str(a.dtype), a.ravel().tolist()]}

    block = _frames(3)
    rows: dict[str, Any] = {
        str(k + 1): {
            "numbers": array(block.numbers[k, :n].astype(np.int64)), "positions": array(block.positions[k, :n]),
            "energy": block.energy[k], "forces": array(block.forces[k, :n]), "cell": array(np.zeros((3, 3))),
            "pbc": array(np.zeros(3, bool)), "data": {"charge": 0, "spin": 1}, "key_value_pairs": {},
        }
        for k, n in enumerate(block.n_atoms)
    }  # fmt: skip
    return {**rows, "nextid": 4, "deleted_ids": [2]}


def _write_lmdb(path: Path, rows: dict[str, Any]) -> None:
    import lmdb

    path.unlink(missing_ok=True)
    env = lmdb.open(str(path), subdir=False, map_size=1 << 20, lock=False)
    with env.begin(write=True) as txn:
        for key, value in rows.items():
            data = value if isinstance(value, bytes) else zlib.compress(json.dumps(value).encode())
            txn.put(key.encode() or b"x", data)
    env.close()


def _lmdb(folder: Path) -> list[Path]:
    _write_lmdb(folder / "a.aselmdb", _rows())
    return [folder / "a.aselmdb"]


def _change_lmdb(path: Path, rng: random.Random) -> None:
    rows = _rows()
    key = rng.choice(sorted(rows))
    if rng.random() < 0.2:
        data = zlib.compress(json.dumps(rows[key]).encode())
        rows[key] = spoil(data, rng, [data, b"\x80\x04]."])
    else:
        rows[key] = spoil_value(rows[key], rng)
    _write_lmdb(path, rows)


def _databases(folder: Path) -> list[Path]:
    import ase.db

    block = _frames(3)
    for name, metadata in (
        ("a.db", None),
        ("b.db", {"_distance_unit": "Ang", "_property_unit_dict": {"energy": "eV"}}),
    ):
        with ase.db.connect(folder / name) as database:
            for k, atoms in enumerate(block.to_ase()):
                data = {"energy": np.array([block.energy[k]]), "forces": atoms.calc.results["forces"], "note": "x"}
                atoms.calc = atoms.calc if metadata is None else None
                database.write(atoms, data=data)
        if metadata is not None:
            ase.db.connect(folder / name).metadata = metadata
    return [folder / "a.db", folder / "b.db"]


def _change_database(path: Path, rng: random.Random) -> None:
    columns = ("numbers", "positions", "cell", "pbc", "masses", "momenta", "constraints", "energy", "free_energy",
               "forces", "key_value_pairs", "data", "id")  # fmt: skip
    with sqlite3.connect(path) as connection:
        column = rng.choice(columns)
        (old,) = connection.execute(f"SELECT {column} FROM systems LIMIT 1").fetchone()
        values: list[Any] = [None, 7, -1.5, "text", b"", b"\xff" * 24, "{}", "[1", "[" * 5000, 2**62, bytes(9)]
        values += [spoil(old, rng, [old])] * 6 if isinstance(old, bytes) and old else []
        values += [spoil_text(old, rng)] * 6 if isinstance(old, str) else []
        where = "WHERE id = 2" if rng.random() < 0.5 and column != "id" else ""
        try:
            connection.execute(f"UPDATE systems SET {column} = ? {where}", (rng.choice(values),))
            if rng.random() < 0.1:
                connection.execute(rng.choice(("DROP TABLE systems", "DELETE FROM systems", "DROP TABLE information")))
            if rng.random() < 0.2:
                junk = json.dumps(spoil_value({"_distance_unit": "Ang", "_property_unit_dict": {"energy": "eV"}}, rng))
                connection.execute("UPDATE information SET value = ? WHERE name = 'metadata'", (junk,))
        except sqlite3.Error:
            pass
    connection.close()


def _deepmd(folder: Path) -> list[Path]:
    from tests.data.test_readers_other import _deepmd as system

    return [system(folder / "system", 1)]


def _spoil_deepmd(valid: list[Path], rng: random.Random, folder: Path) -> Path:
    path = folder / "system"
    shutil.copytree(valid[0], path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    file, how = rng.choice(files), rng.randrange(4)
    if how == 0:
        file.unlink()
    elif file.suffix == ".npy" and how < 3:
        buffer = io.BytesIO()
        np.save(buffer, _spoil_array(np.load(file), rng))
        file.write_bytes(buffer.getvalue())
    else:
        file.write_bytes(spoil(file.read_bytes(), rng, [f.read_bytes() for f in files]))
    return path


TARGETS: dict[str, Target] = {
    "xyz": Target(_xyz, spoil_file, read_structures),
    "qm9": Target(_qm9, spoil_file, read_data),
    "ase": Target(_ase_files, spoil_file, read_structures),
    "noise": Target(lambda folder: [], _noise, read_structures),
    "npz": Target(_npz, _with_structure(_change_npz), read_data),
    "hdf5": Target(_hdf5, _with_structure(_change_hdf5), read_data),
    "store": Target(_stores, _with_structure(_change_hdf5), read_data),
    "trajectory": Target(_trajectories, _with_structure(_change_hdf5), read_structures),
    "aselmdb": Target(_lmdb, _with_structure(_change_lmdb), read_data),
    "database": Target(_databases, _with_structure(_change_database), read_data),
    "deepmd": Target(_deepmd, _spoil_deepmd, read_data),
    "run": Target(runs.folders, runs.spoil_folder, runs.open_folder),
    "notes": Target(runs.notes, runs.spoil_notes, runs.read_notes),
    "settings": Target(runs.settings_files, runs.spoil_settings, runs.read_settings),
    "options": Target(lambda folder: [], runs.words, runs.call),
}
