"""Boxes of liquid water made by code: molecules on a lattice at the density of the liquid, shifted and turned."""

from __future__ import annotations

import math

import numpy as np

VOLUME = 29.9  # cubic Angstrom a molecule, at 1 g/cm3
BOND, ANGLE = 0.9572, math.radians(104.52)
SHIFT = 0.15  # Angstrom, largest along each axis


def water(atoms: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At least so many atoms in a nearly cubic box.

    Returns:
        numbers (n,), positions (n, 3) and cell (3, 3), Angstrom.
    """
    molecules = math.ceil(atoms / 3)
    side = math.ceil(round(molecules ** (1 / 3), 6))
    counts = (side, side, math.ceil(molecules / side**2))
    spacing = VOLUME ** (1 / 3)
    rng = np.random.default_rng(seed)
    sites = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1).reshape(-1, 3) * spacing
    sites = sites + rng.uniform(-SHIFT, SHIFT, sites.shape)
    half = 0.5 * ANGLE
    shape = BOND * np.array([[0, 0, 0], [math.sin(half), 0, math.cos(half)], [-math.sin(half), 0, math.cos(half)]])
    turns, _ = np.linalg.qr(rng.normal(size=(len(sites), 3, 3)))
    positions = sites[:, None] + shape @ turns
    return np.tile([8, 1, 1], len(sites)), positions.reshape(-1, 3), np.diag(np.array(counts) * spacing)
