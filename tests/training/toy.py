"""Water as three springs, alone or mixed with hydrogen molecules: small enough that a training takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write

from equimd.config import RunConfig, parse_config
from equimd.data.frames import Frames

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
HYDROGEN = np.array([[0.0, 0.0, 0.37], [0.0, 0.0, -0.37]])
OFFSET = {3: -2078.5, 2: -31.7}  # eV, about their total energies
SPRING = 20.0  # eV/A^2

SMALL = {
    "lmax": 1,
    "radial_basis": "gaussian",
    "num_features": 8,
    "num_layers": 1,
    "num_rbf": 6,
    "num_readout": 4,
    "compile": "off",
    "threads": 1,
}


def springs(positions: np.ndarray, rest: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy, eV, and forces, eV/A, of springs between all pairs, at rest in the geometry ``rest``."""
    energy, forces = OFFSET[len(rest)], np.zeros_like(positions)
    for i in range(len(rest)):
        for j in range(i):
            d = positions[i] - positions[j]
            r, r0 = np.linalg.norm(d), np.linalg.norm(rest[i] - rest[j])
            energy += 0.5 * SPRING * (r - r0) ** 2
            pull = -SPRING * (r - r0) * d / r
            forces[i] += pull
            forces[j] -= pull
    return energy, forces


def toy_frames(n: int = 40, seed: int = 0, *, mixed: bool = False, energy: bool = True, forces: bool = True) -> Frames:
    """Thermally displaced molecules with the labels asked for."""
    rng = np.random.default_rng(seed)
    blocks = []
    for k in range(n):
        rest, z = (HYDROGEN, [1, 1]) if mixed and k % 3 == 2 else (WATER, [8, 1, 1])
        x = rest + rng.normal(0.0, 0.05, rest.shape)
        e, f = springs(x, rest)
        blocks.append(
            Frames.build(np.array(z), x[None], np.array([e]) if energy else None, f[None] if forces else None)
        )
    return Frames.concatenate(blocks)


def toy_file(path: Path, n: int = 40, seed: int = 0, **options: Any) -> Path:
    """The same as extended XYZ."""
    write(path, toy_frames(n, seed, **options).to_ase(), format="extxyz")
    return path


def toy_config(data: Path | tuple[str, ...], **options: Any) -> RunConfig:
    """Settings of a training that takes a second."""
    names = data if isinstance(data, tuple) else str(data)
    values = {"data": names, "splits": (24, 8, 8), "energy_unit": "eV", "num_epochs": 2, "batch_size_train": 8}
    return parse_config({**values, **SMALL, **options})


def option_list(**options: Any) -> list[str]:
    """The same settings as command line options."""
    out = []
    for key, value in {**SMALL, **options}.items():
        values = value if isinstance(value, tuple) else (value,)
        out += [f"--{key.replace('_', '-')}", *(str(v) for v in values)]
    return out
