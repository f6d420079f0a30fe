"""The electronic state is a whole number, not stated, or refused; one reader for files, ASE and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from equimd.data import Frames, open_dataset
from equimd.data.state import read_state
from equimd.errors import DataError


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({}, (0, 0, False)),
        ({"charge": 0}, (0, 0, True)),
        ({"charge": -1, "spin": 2}, (-1, 2, True)),
        ({"Total_Charge": np.float64(1.0), "MULTIPLICITY": np.int32(3)}, (1, 3, True)),
        ({"spin": 1}, (0, 1, False)),
        ({"charge": np.array([2])}, (2, 0, True)),
        ({"charge": 1, "total_charge": 1.0}, (1, 0, True)),
    ],
)
def test_states_as_they_are_stated(info: dict[str, Any], state: tuple[int, int, bool]) -> None:
    assert tuple(read_state(info, where="x")) == state
    block = Frames.from_ase([Atoms("H", info=info)])
    assert (block.charge[0], block.spin[0], block.charge_stated[0]) == state


@pytest.mark.parametrize(
    "value",
    [0.5, True, False, np.True_, None, float("nan"), float("inf"), "+1", "no", "", [0, 1], np.array([[1, 2]]), 1e30,
     {"a": 1}, 1 + 0j, b"1"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["charge", "multiplicity"])
def test_garbage_is_refused_with_file_frame_and_value(key: str, value: object) -> None:
    with pytest.raises(DataError, match=key) as caught:
        read_state({key: value}, where="a.xyz, frame 3")
    assert str(caught.value).startswith("a.xyz, frame 3: ") and str(value)[:20] in caught.value.what
    with pytest.raises(DataError, match=key):
        Frames.from_ase([Atoms("H", info={key: value})])


def test_statements_that_differ_and_multiplicities_below_one_are_refused() -> None:
    with pytest.raises(DataError, match="charge is '1', total_charge is '0'"):
        read_state({"charge": 1, "total_charge": 0}, where="x")
    with pytest.raises(DataError, match=r"spin is '-1'"):
        read_state({"spin": -1}, where="x")


@pytest.mark.parametrize(
    ("comment", "state"),
    [
        ("no charge or spin stated", (0, 0, False)),
        ("charge 1", (0, 0, False)),
        ("", (0, 0, False)),
        ("Properties=species:S:1:pos:R:3 charge=0 spin=1", (0, 1, True)),
        ("PROPERTIES=species:S:1:pos:R:3 Charge=+1 Multiplicity=2", (1, 2, True)),
        ('charge="-1"', (-1, 0, True)),
        ("charge = 1.0D0, spin = 2", (1, 2, True)),
    ],
)
def test_comment_lines(tmp_path: Path, comment: str, state: tuple[int, int, bool]) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n{comment}\nH 0 0 0\nH 0 0 0.74\n")
    block = open_dataset(path).frames()
    assert (block.charge[0], block.spin[0], block.charge_stated[0]) == state


@pytest.mark.parametrize("words", ["charge", "charge=0.5", "charge=T", "charge=none", "spin=nan", 'charge="1 2"'])
def test_garbage_in_comment_lines(tmp_path: Path, words: str) -> None:
    path = tmp_path / "a.xyz"
    frame = "2\nProperties=species:S:1:pos:R:3 {}\nH 0 0 0\nH 0 0 0.74\n"
    path.write_text(frame.format("charge=0") + frame.format(words))
    with pytest.raises(DataError, match="expected") as caught:
        open_dataset(path)
    assert f"{path}, frame 1" in str(caught.value)


@pytest.mark.parametrize(
    "values", [np.array([0.5, 0]), np.array([True, False]), np.array(["1", "0"]), np.array([np.nan, 0])]
)
def test_garbage_in_arrays(tmp_path: Path, values: np.ndarray) -> None:
    x = np.array([[[0, 0, 0], [0, 0, 0.74]]] * 2)
    np.savez(tmp_path / "a.npz", z=[1, 1], R=x, E=[-31.7, -31.6], charge=values)
    with pytest.raises(DataError, match="charge"):
        open_dataset(tmp_path / "a.npz", energy_unit="eV")


def test_stated_neutral_is_kept_through_store_and_xyz(tmp_path: Path) -> None:
    from equimd.data.convert import write_frames
    from equimd.data.dataset import ArrayDataset

    x = np.array([[[0, 0, 0], [0, 0, 0.74]]] * 3)
    block = Frames.build(
        np.array([1, 1]), x, charge=np.array([0, 0, 1]), spin=np.array([1, 0, 0]),
        charge_stated=np.array([True, False, True]),
    )  # fmt: skip
    for name in ("a.h5", "a.xyz"):
        write_frames(tmp_path / name, ArrayDataset(block))
        again = open_dataset(tmp_path / name).frames()
        assert np.array_equal(again.charge_stated, block.charge_stated), name
        assert np.array_equal(again.charge_spin, block.charge_spin), name
    atoms = block.to_ase()
    assert [a.info for a in atoms] == [{"charge": 0, "spin": 1}, {}, {"charge": 1}]
