"""Atomic reference energies: exact where they are determined, float64 throughout, and least norm where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data import ArrayDataset, Frames, fit_atomic_energies, isolated_atom_energies, open_dataset
from equimd.data.dataset import DatasetInfo
from equimd.errors import DataError

from .molecules import ethanol, mixed

ATOMS = {1: -13.6, 6: -1027.0, 8: -2038.0}


def _compositions(n_frames: int, noise: float = 0.0) -> ArrayDataset:
    """Random molecules of H, C, O with energies that are sums over atoms."""
    rng = np.random.default_rng(0)
    numbers = np.zeros((n_frames, 12), np.int64)
    for k in range(n_frames):
        n = rng.integers(2, 13)
        numbers[k, :n] = rng.choice(list(ATOMS), n)
    energy = sum(e * (numbers == z).sum(1) for z, e in ATOMS.items()) + noise * rng.normal(size=n_frames)
    return ArrayDataset(Frames.build(numbers, rng.normal(size=(n_frames, 12, 3)) * 3, energy))


def test_recovers_the_energies_exactly_and_streams() -> None:
    data = _compositions(3000)  # several blocks
    fitted = fit_atomic_energies(data, np.arange(3000))
    assert fitted.shape == (119,) and fitted.dtype == np.float64
    for z, e in ATOMS.items():
        assert abs(fitted[z] - e) < 1e-9
    assert np.count_nonzero(fitted) == 3


def test_agrees_with_plain_least_squares_over_all_frames() -> None:
    data = _compositions(500, noise=1.0)
    rows = np.arange(0, 500, 3)
    block = data.frames(rows)
    counts = np.stack([(block.numbers == z).sum(1) for z in ATOMS], 1).astype(float)
    expected = np.linalg.lstsq(counts, block.energy, rcond=None)[0]
    np.testing.assert_allclose(fit_atomic_energies(data, rows)[list(ATOMS)], expected, rtol=1e-10)


def test_one_molecule_alone_takes_the_least_norm() -> None:
    block = ethanol(50)
    fitted = fit_atomic_energies(ArrayDataset(block), np.arange(50))
    assert abs(fitted[block.numbers[0]].sum() - block.energy.mean()) < 1e-9
    np.testing.assert_allclose(fitted[[6, 8]] / fitted[1], [2 / 6, 1 / 6])


def test_frames_without_energy_are_left_out() -> None:
    block = mixed()
    fitted = fit_atomic_energies(ArrayDataset(block))
    assert np.isfinite(fitted).all()
    with pytest.raises(DataError, match="no frame has an energy"):
        fit_atomic_energies(ArrayDataset(block, DatasetInfo(path="mol.xyz")), [3])


def test_isolated_atoms(tmp_path: Path, shared_data: Path) -> None:
    atoms = isolated_atom_energies(shared_data / "acac" / "isolated_atoms.xyz")
    assert atoms.shape == (119,) and np.isfinite(atoms).sum() == 3
    np.testing.assert_allclose(atoms[1], -13.568422178253735)
    molecules = open_dataset(shared_data / "acac" / "train_300K.xyz").frames()
    binding = molecules.energy - atoms[molecules.numbers].sum(1)
    assert -100 < binding.mean() < -50  # acetylacetone, 15 atoms
    with pytest.raises(DataError, match="no isolated atom"):
        isolated_atom_energies(shared_data / "acac" / "train_300K.xyz")
