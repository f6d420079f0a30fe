"""Frames: what is checked when a block is built, and that nothing of the caller's is written into."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.data.frames import Frames
from equimd.errors import DataError

from .molecules import ETHANOL, assert_same, ethanol, mixed


def test_build_copies_and_fills_missing_labels() -> None:
    positions = np.random.default_rng(0).normal(size=(2, 9, 3))
    kept = positions.copy()
    block = Frames.build(ETHANOL, positions)
    block.positions[:] = 7.0
    assert np.array_equal(positions, kept)
    assert np.isnan(block.energy).all() and np.isnan(block.forces).all()
    assert not block.has_energy.any() and not block.has_forces.any()
    assert (block.n_atoms == 9).all()


def test_padding_is_zero_even_where_the_file_has_rubbish() -> None:
    positions = np.ones((2, 3, 3))
    positions[1, 2] = np.nan
    forces = np.ones((2, 3, 3))
    forces[1, 2] = np.nan
    block = Frames.build(np.array([[8, 1, 1], [8, 1, 0]]), positions, forces=forces)
    assert (block.positions[1, 2] == 0).all() and (block.forces[1, 2] == 0).all()
    assert block.has_forces.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((4, 9))}, "shape"),
        ({"numbers": np.ones(5, int)}, "atomic numbers have shape"),
        ({"numbers": np.full(9, 6.5)}, "not whole"),
        ({"numbers": np.full(9, 119)}, "outside"),
        ({"numbers": np.array([0, *[1] * 8])}, "must stand after"),
        ({"numbers": np.zeros(9, int)}, "without atoms"),
        ({"positions": np.full((4, 9, 3), np.nan)}, "NaN"),
        ({"energy": np.zeros(3)}, "3 energies for 4 frames"),
        ({"forces": np.zeros((4, 8, 3))}, "forces"),
        ({"cell": np.zeros((3, 3))}, "shape"),
    ],
)
def test_bad_arrays_are_refused(change: dict, message: str) -> None:
    arrays = {"numbers": ETHANOL, "positions": np.zeros((4, 9, 3)), **change}
    with pytest.raises(DataError, match=message):
        Frames.build(**arrays)


def test_take_orders_trims_and_copies() -> None:
    block = mixed()
    part = block.take([2, 0])
    assert part.numbers.shape == (2, 3)
    assert np.array_equal(part.energy, block.energy[[2, 0]])
    part.positions[:] = 0
    assert np.abs(block.positions[0]).max() > 0


def test_concatenate_keeps_frames_without_forces() -> None:
    block = mixed()
    parts = [block.take([k]) for k in range(len(block))]
    assert_same(Frames.concatenate(parts), block)


def test_ase_round_trip() -> None:
    block = mixed()
    assert_same(Frames.from_ase(block.to_ase(), labels=True), block, rtol=1e-15)


def test_from_ase_reads_raw_forces_and_charge_names() -> None:
    from ase.constraints import FixAtoms

    atoms = ethanol(1).to_ase()[0]
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.info.update(total_charge_e=1, multiplicity=2)
    block = Frames.from_ase([atoms], labels=True)
    assert np.array_equal(block.forces[0], ethanol(1).forces[0])
    assert np.array_equal(block.charge_spin, [[1, 2]])


def test_hash_sees_geometry_not_labels() -> None:
    a, b = ethanol(3), ethanol(3)
    b.energy[:] = 0.0
    assert a.content_hashes() == b.content_hashes()
    b.positions[1, 0, 0] += 1e-3
    assert [x == y for x, y in zip(a.content_hashes(), b.content_hashes(), strict=True)] == [True, False, True]
