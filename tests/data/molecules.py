"""Small structures and files that the data tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equimd.data.frames import Frames

ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
# an ethanol geometry (Angstrom) in this order of atoms
_GEOMETRY = np.array(
    [[1.168, -0.382, 0.0], [0.0, 0.561, 0.0], [-1.190, -0.214, 0.0], [-1.946, 0.381, 0.0], [0.042, 1.208, 0.886],
     [0.042, 1.208, -0.886], [2.115, 0.170, 0.0], [1.129, -1.024, 0.886], [1.129, -1.024, -0.886]]
)  # fmt: skip
STIFFNESS = 39.0  # eV/A^2
ENERGY = -4210.0  # eV, ethanol with all electrons


def ethanol(n_frames: int = 60, seed: int = 0, temperature: float = 300.0) -> Frames:
    """Thermal frames of a harmonic ethanol: forces -k x, energies E0 + k x^2 / 2, in eV and Angstrom."""
    rng = np.random.default_rng(seed)
    width = np.sqrt(8.617e-5 * temperature / STIFFNESS)
    x = rng.normal(0.0, width, (n_frames, 9, 3))
    energy = ENERGY + 0.5 * STIFFNESS * (x**2).sum((1, 2))
    return Frames.build(ETHANOL, _GEOMETRY + x, energy, -STIFFNESS * x)


def mixed(n_frames: int = 20, seed: int = 1) -> Frames:
    """Ethanol and water frames in turn, some without labels, with charge and spin."""
    rng = np.random.default_rng(seed)
    water = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
    numbers = np.zeros((n_frames, 9), np.int64)
    positions, forces = np.zeros((n_frames, 9, 3)), np.zeros((n_frames, 9, 3))
    energy = np.zeros(n_frames)
    for k in range(n_frames):
        z, r, e = (ETHANOL, _GEOMETRY, ENERGY) if k % 2 else (np.array([8, 1, 1]), water, -2079.0)
        n = len(z)
        x = rng.normal(0.0, 0.026, (n, 3))
        numbers[k, :n], positions[k, :n], forces[k, :n] = z, r + x, -STIFFNESS * x
        energy[k] = e + 0.5 * STIFFNESS * (x**2).sum()
    energy[3] = np.nan
    forces[4] = np.nan
    charge = np.where(np.arange(n_frames) == 5, -1, 0)
    return Frames.build(numbers, positions, energy, forces, charge=charge, spin=np.ones(n_frames, np.int64))


def save_md17(path: Path, block: Frames, energy: float = 1.0, length: float = 1.0, **more: np.ndarray) -> Path:
    """An sGDML npz of ``block``, in units of ``energy`` eV and ``length`` Angstrom."""
    arrays = {
        "E": (block.energy / energy)[:, None],
        "F": block.forces * (length / energy),
        "R": block.positions / length,
        "z": block.numbers[0] if (block.numbers == block.numbers[0]).all() else block.numbers,
    }
    if np.isnan(block.forces).all():
        del arrays["F"]
    np.savez(path, **{**arrays, **more})
    return path


def assert_same(a: Frames, b: Frames, rtol: float = 0.0) -> None:
    """All fields equal, NaN where NaN."""
    for name in ("numbers", "pbc", "charge", "spin"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name in ("positions", "energy", "forces", "cell"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol, err_msg=name)
