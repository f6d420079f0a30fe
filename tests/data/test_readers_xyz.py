"""xyz and extended XYZ: every line read or refused, keys in any case, encodings, units of programs, cells."""

from __future__ import annotations

import bz2
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.data.dataset import notes
from equimd.data.readers.images import read_images
from equimd.data.readers.structures import read_structures
from equimd.errors import DataError
from equimd.units import BOHR, HARTREE

WATER = "O 0.0 0.0 0.119262\nH 0.0 0.763239 -0.477047\nH 0.0 -0.763239 -0.477047\n"


def _frames(n: int, comment: str = "", rows: str = WATER) -> str:
    return "".join(f"3\n{comment}\n{rows}" for _ in range(n))


def _write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_blank_lines_between_and_after_frames(tmp_path: Path) -> None:
    text = "\n\n".join(_frames(1, "a b") for _ in range(5)) + "\n \n\t\n"
    assert len(open_dataset(_write(tmp_path / "a.xyz", text))) == 5
    assert len(open_dataset(_write(tmp_path / "a.xyz", text.replace("\n", "\r\n")))) == 5
    assert len(read_structures(_write(tmp_path / "a.xyz", text.replace("\n", "\r")))) == 5
    assert len(open_dataset(_write(tmp_path / "a.xyz", _frames(2).rstrip()))) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_frames(2) + "end of file\n", "line 11 is 'end of file' where the number of atoms of frame 2"),
        (_frames(2) + "H 0 0 0\n", "where the number of atoms"),
        (_frames(3)[:-12], "line 15 has 3 values"),
        (_frames(3)[:-40], "ends within frame 2, after 2 of 3 atoms"),
        (_frames(2) + "3\n", "ends within frame 2, after 0 of 3 atoms"),
        (_frames(1).replace("3\n", "4\n", 1) + _frames(1), "line 6 has 1 values"),
        (_frames(1).replace("0.119262", "0.1x"), "line 3: '0.1x' cannot be read as positions"),
        (_frames(1).replace("0.119262", "******"), "cannot be read as positions"),
        (_frames(1).replace("O", "Q"), "'Q' is no element"),
        (_frames(1).replace("O", "X"), "frame 0, atom 0: 'X' is a dummy atom"),
        (_frames(1).replace("O", "Bq"), "dummy atom"),
        (_frames(1).replace("O", "0"), "dummy atom"),
        (_frames(1).replace("O", "119"), "no element"),
        (_frames(1).replace("0.119262", "nan"), "frame 0, atom 0: positions are NaN"),
        ("0\n\n", "line 1 is '0'"),
        (_frames(1, "Properties=species:S:1:pos:R:3:forces:R:3"), "has 4 values, expected 7"),
        (_frames(1, "Properties=species:S:1:pos:R:2"), "expected 3 for an atom"),
        (_frames(1, "Properties=species:S:1"), "expected 1 for an atom"),
        (_frames(1, "Properties=species:S"), "NAME:KIND:COLUMNS"),
        (_frames(1, "Properties=species:S:1:pos:R:3 Properties=species:S:1:pos:R:2"), "stands twice"),
        (_frames(1, "energy=-1 energy=-2"), "'energy' stands twice"),
        (_frames(1, "charge=1 charge=0"), "'charge' stands twice"),
        (_frames(1, "x" * 2_000_000), "2,000,000 characters"),
        (_frames(1, "energy=-1.0 energy_unit=furlong"), "energy_unit is 'furlong'"),
        (_frames(1, 'Lattice="1 2 3 4"'), "nine numbers"),
        (_frames(1, 'Lattice="1 0 0 0 nan 0 0 0 1"'), "nine numbers"),
        (_frames(1, 'Lattice="5 0 0 5 0 0 0 0 5"'), "not independent"),
        (_frames(1, 'pbc="T T T"'), "absent or zero"),
        (_frames(1, 'Lattice="0 0 0 0 0 0 0 0 0" pbc="T T T"'), "absent or zero"),
        (_frames(1, 'Lattice="5 0 0 0 5 0 0 0 5" pbc="T maybe"'), "three of T and F"),
    ],
)  # fmt: skip
def test_lines_that_belong_to_no_frame_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = _write(tmp_path / "a.xyz", text)
    for read in (open_dataset, read_structures):
        with pytest.raises(DataError) as caught:
            read(path)
        assert words in str(caught.value) and str(path) in str(caught.value)


def test_encodings_are_told_apart(tmp_path: Path) -> None:
    text = _frames(2, "Wasser bei 25 °C, Å")
    expected = open_dataset(_write(tmp_path / "a.xyz", text)).frames().positions
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"):
        found = open_dataset(_write(tmp_path / "a.xyz", text.encode(encoding))).frames()
        assert np.array_equal(found.positions, expected), encoding


def test_packed_files_are_unpacked(tmp_path: Path) -> None:
    text = _frames(3).encode()
    assert len(open_dataset(_write(tmp_path / "a.xyz.gz", gzip.compress(text)))) == 3
    assert len(read_structures(_write(tmp_path / "a.xyz.bz2", bz2.compress(text)))) == 3
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_dataset(_write(tmp_path / "a.xyz.gz", gzip.compress(text)[:-10]))
    with pytest.raises(DataError, match="unpacks to more than"):
        open_dataset(_write(tmp_path / "a.xyz.bz2", bz2.compress(b" " * 30_000_000)))


def test_isotopes_numbers_and_cases_of_symbols(tmp_path: Path) -> None:
    rows = "o 0 0 0.119262\nD 0 0.763239 -0.477047\nT 0 -0.763239 -0.477047\n"
    (atoms,) = read_structures(_write(tmp_path / "a.xyz", _frames(1, "heavy water", rows)))
    assert atoms.get_chemical_formula() == "H2O"
    np.testing.assert_allclose(atoms.get_masses(), [15.999, 2.014102, 3.016049], atol=1e-3)
    rows = "8 0 0 0.119262\n1 0 0.763239 -0.477047\n1 0 -0.763239 -0.477047\n"
    assert open_dataset(_write(tmp_path / "a.xyz", _frames(1, "", rows))).frames().numbers.tolist() == [[8, 1, 1]]
    text = _frames(1, "Properties=species:S:1:Z:I:1:pos:R:3", rows.replace("8 ", "O 8 ").replace("1 0", "H 1 0"))
    assert open_dataset(_write(tmp_path / "a.xyz", text)).frames().numbers.tolist() == [[8, 1, 1]]
    with pytest.raises(DataError, match="symbol O and atomic number 7 differ"):
        open_dataset(_write(tmp_path / "a.xyz", text.replace("O 8", "O 7")))


def test_fortran_numbers(tmp_path: Path) -> None:
    rows = WATER.replace("0.119262", "1.19262D-1").replace("-0.477047", "-4.77047d-01")
    text = _frames(1, "energy=-1.379D+02 Properties=species:S:1:pos:R:3", rows)
    block = open_dataset(_write(tmp_path / "a.xyz", text)).frames()
    assert block.positions[0, 0, 2] == 0.119262 and block.energy[0] == -137.9


@pytest.mark.parametrize("key", ["Lattice", "lattice", "LATTICE"])
@pytest.mark.parametrize("name", ["Properties", "properties"])
def test_keys_in_any_case(tmp_path: Path, key: str, name: str) -> None:
    rows = WATER.replace("\n", " 0.1 0.2 0.3\n")
    text = _frames(2, f'{key}="9 0 0 1 9 0 0 0 9" {name}=species:S:1:pos:R:3:force:R:3 energy=-2079', rows)
    block = open_dataset(_write(tmp_path / "a.xyz", text)).frames()
    assert block.cell[0].tolist() == [[9, 0, 0], [1, 9, 0], [0, 0, 9]] and block.pbc.all()
    assert block.forces[1, 2].tolist() == [0.1, 0.2, 0.3]
    block = open_dataset(_write(tmp_path / "a.xyz", text.replace(key, f'PBC="T F T" {key}'))).frames()
    assert block.pbc.tolist() == [[True, False, True]] * 2


def test_cells_of_zeros_and_slabs(tmp_path: Path) -> None:
    block = open_dataset(_write(tmp_path / "a.xyz", _frames(1, 'Lattice="0 0 0 0 0 0 0 0 0"'))).frames()
    assert not block.pbc.any() and not block.cell.any()
    block = open_dataset(_write(tmp_path / "a.xyz", _frames(1, 'Lattice="5 0 0 0 5 0 0 0 0"'))).frames()
    assert block.pbc.tolist() == [[True, True, False]]


CP2K = " i =        0, time =        0.000, E =       -76.4260256586"


@pytest.mark.parametrize(
    ("comment", "program"),
    [
        (CP2K, "CP2K"),
        (" i = 3, E = -76.4260256586", "CP2K"),
        (" E = -76.4260256586", "CP2K"),
        ("i=0, time=0.000, E=-76.4260256586", "CP2K"),
        ("energy = -76.4260256586 Hartree", "the word 'hartree'"),
        ("Energy=-76.4260256586 energy_unit=Ha", "'energy_unit'"),
        ("Coordinates from ORCA-job water E -76.4260256586", "ORCA"),
        (" energy: -76.4260256586 gnorm: 0.000441 xtb: 6.7.1 (edcfbbe)", "xtb"),
    ],
)
def test_energies_in_hartree_that_a_comment_gives_away(tmp_path: Path, comment: str, program: str) -> None:
    path = _write(tmp_path / "a.xyz", _frames(2, comment))
    data = open_dataset(path)
    assert data.info.units.energy == "Hartree" and program in notes(data)[0]
    np.testing.assert_allclose(data.frames().energy, -76.4260256586 * HARTREE, rtol=1e-14)
    stated = open_dataset(path, energy_unit="eV", length_unit="Angstrom")
    np.testing.assert_allclose(stated.frames().energy, -76.4260256586)


def test_units_of_forces_and_lengths_in_a_comment(tmp_path: Path) -> None:
    rows = WATER.replace("\n", " 0.01 0.02 0.03\n")
    units = "energy_unit=Hartree force_unit=Hartree/Bohr length_unit=Ang"
    comment = f"energy=-76.4 {units} Properties=species:S:1:pos:R:3:forces:R:3"
    data = open_dataset(_write(tmp_path / "a.xyz", _frames(2, comment, rows)))
    assert data.info.units.source == "stated" and data.info.units.forces == "Hartree/Bohr"
    np.testing.assert_allclose(data.frames().forces[0, 0], np.array([0.01, 0.02, 0.03]) * HARTREE / BOHR)


@pytest.mark.parametrize("key", ["cell", "box", "unit_cell", "Lattice_Vectors"])
def test_lattices_under_other_names(tmp_path: Path, key: str) -> None:
    block = open_dataset(_write(tmp_path / "a.xyz", _frames(1, f'{key}="9 0 0 0 9 0 0 0 9"'))).frames()
    assert block.pbc.all() and block.cell[0, 2, 2] == 9.0


def test_an_energy_under_a_name_of_its_own_is_spoken_of(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.xyz", _frames(2, "Etot=-2079.0 step=1 charge=0"))
    data = open_dataset(path)
    assert not data.frames().has_energy.any() and "called Etot (--energy-key)" in notes(data)[0]
    assert open_dataset(path, energy_key="etot").frames().energy.tolist() == [-2079.0] * 2


def test_files_and_blocks_beyond_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sparse.xyz"
    with open(path, "wb") as file:
        file.write(_frames(1).encode())
        file.truncate(1 << 42)
    with pytest.raises(DataError, match="GB of memory are free"):
        open_dataset(path)
    lone = "1\n\nHe 0 0 0\n"
    many = "400\n\n" + "".join(f"He {3 * k} 0 0\n" for k in range(400))
    monkeypatch.setattr("equimd.data.frames.free_memory", lambda: 1 << 25)
    with pytest.raises(DataError, match="601 frames padded to 400 atoms"):
        open_dataset(_write(tmp_path / "a.xyz", lone * 600 + many))


def test_frames_of_two_programs_in_one_file_are_refused(tmp_path: Path) -> None:
    text = _frames(1, CP2K) + _frames(1, "Properties=species:S:1:pos:R:3 energy=-2079.0")
    with pytest.raises(DataError, match="different programs"):
        open_dataset(_write(tmp_path / "a.xyz", text))


def test_cells_and_units_of_ipi(tmp_path: Path) -> None:
    head = "# CELL(abcABC):   20.0    20.0    30.0    90.0    90.0    90.0  Step:  1  Bead: 0 "
    path = _write(tmp_path / "a.xyz", _frames(2, head + "positions{angstrom}  cell{atomic_unit}"))
    block = open_dataset(path).frames()
    np.testing.assert_allclose(block.cell[0], np.diag([20.0, 20.0, 30.0]) * BOHR, atol=1e-12)
    assert block.pbc.all() and block.positions[0, 0, 2] == 0.119262
    path = _write(tmp_path / "a.xyz", _frames(1, head + "positions{atomic_unit}  cell{atomic_unit}"))
    np.testing.assert_allclose(read_structures(path)[0].positions[0, 2], 0.119262 * BOHR)
    for angles in ("10.0 10.0 170.0", "0 0 0", "nan 90 90"):
        path = _write(tmp_path / "a.xyz", _frames(1, f"# CELL(abcABC): 9 9 9 {angles} positions{{angstrom}} cell{{}}"))
        with pytest.raises(DataError, match="cell"):
            open_dataset(path)
    with pytest.raises(DataError, match="it holds forces"):
        open_dataset(_write(tmp_path / "a.xyz", _frames(1, head + "forces{atomic_unit}  cell{atomic_unit}")))


def test_constraints_and_unread_columns(tmp_path: Path) -> None:
    rows = WATER.replace("\n", " T\n", 1).replace("-0.477047\n", "-0.477047 F\n")
    (atoms,) = read_structures(
        _write(tmp_path / "a.xyz", _frames(1, "Properties=species:S:1:pos:R:3:move_mask:L:1", rows))
    )
    assert atoms.constraints[0].index.tolist() == [1, 2]
    found = read_images(_write(tmp_path / "a.xyz", _frames(1, "plain", WATER.replace("\n", " 0.1 0.2 0.3\n"))))
    assert "3 more columns" in found.notes[0]


@pytest.mark.parametrize("name", ["a@1.xyz", "@.xyz", "a b.xyz", "ä.xyz", "a:b.xyz", "-.xyz", "POSCAR.xyz"])
def test_names_of_files(tmp_path: Path, name: str) -> None:
    assert len(open_dataset(_write(tmp_path / name, _frames(2)))) == 2
    assert len(read_structures(tmp_path / name)) == 2


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.xyz")
    for path, words in (
        (tmp_path / "pipe.xyz", "named pipe"), ("/dev/zero", "a device"), (tmp_path / ("x" * 5000), "name too long"),
        ("a\0b", "cannot be opened"), (tmp_path / "none.xyz", "no such file"),
    ):  # fmt: skip
        for read in (open_dataset, read_structures):
            with pytest.raises(DataError, match=words):
                read(path)
    with pytest.raises(DataError, match="is a folder"):
        read_structures(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="cannot be opened"):
        open_dataset(tmp_path / "loop")


def test_a_folder_of_xyz_files(tmp_path: Path) -> None:
    for k in (10, 2, 1):
        _write(tmp_path / f"f{k}.extxyz", _frames(k, f"k={k}"))
    data = open_dataset(tmp_path)
    assert len(data) == 13 and data.trajectory.tolist() == [0] + [1] * 2 + [2] * 10
    (tmp_path / "sub").mkdir()
    _write(tmp_path / "sub" / "notes.txt", "x")
    with pytest.raises(DataError, match=r"neither[\s\S]*notes\.txt"):
        open_dataset(tmp_path / "sub")


def test_other_formats_by_ase(tmp_path: Path) -> None:
    import ase.io
    from ase.build import bulk

    crystal = bulk("Al", cubic=True)
    for name in ("POSCAR", "a.cif", "a.xsf", "a.json"):
        ase.io.write(tmp_path / name, crystal)
        block = open_dataset(tmp_path / name).frames()
        assert block.pbc.all() and block.numbers.tolist() == [[13] * 4], name
    text = (tmp_path / "POSCAR").read_text()
    assert read_structures(_write(tmp_path / "POSCAR", text.encode("utf-8-sig")))[0].pbc.all()
    with pytest.raises(DataError, match="does not know the element 'D'"):
        read_structures(_write(tmp_path / "POSCAR", text.replace("Al", "D")))
    ase.io.write(tmp_path / "XDATCAR", [crystal] * 3, format="vasp-xdatcar")
    assert len(read_structures(tmp_path / "XDATCAR")) == 3
    with pytest.raises(DataError, match="vasp-xdatcar"):
        read_structures(_write(tmp_path / "XDATCAR", (tmp_path / "XDATCAR").read_text()[:-100]))
    (tmp_path / "POSCAR").unlink()
    ase.io.write(tmp_path / "a.gro", crystal)
    assert len(read_structures(tmp_path / "a.gro")) == 1
    with pytest.raises(DataError, match="ASE reads 1 frames of gromacs, 3 begin"):
        read_structures(_write(tmp_path / "a.gro", (tmp_path / "a.gro").read_text() * 3))
    ase.io.write(tmp_path / "a.pdb", [crystal] * 2)
    assert len(read_structures(tmp_path / "a.pdb")) == 2
    with pytest.raises(DataError, match="pickled"):
        read_structures(_write(tmp_path / "a.traj", b"\x80\x04\x95\x00"))
    with pytest.raises(DataError, match="it is binary"):
        read_structures(_write(tmp_path / "a.bin", bytes(range(256))))


def test_structures_by_name_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (named,) = read_structures("ethanol")
    assert named.get_chemical_formula() == "C2H6O"
    (bundled,) = read_structures("bundled:ethanol-test@-1")
    assert bundled.get_chemical_formula() == "C2H6O"
    (tmp_path / "ethanol").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    assert read_structures("ethanol")[0].get_chemical_formula() == "H2"
    for strange in ("ethanole", "water@0", "missing.xyz"):
        with pytest.raises(DataError, match="no such file"):
            read_structures(strange)
