"""Dihedral angles, by which tests of conformers count them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def dihedral(positions: np.ndarray, atoms: Sequence[int]) -> np.ndarray:
    """(T,) dihedral angles (degrees, -180 to 180) of four atoms in positions (T, n, 3); 180 is trans."""
    i, j, k, m = (positions[:, a] for a in atoms)
    axis = (k - j) / np.linalg.norm(k - j, axis=1, keepdims=True)
    left, right = i - j, m - k
    left = left - (left * axis).sum(1, keepdims=True) * axis
    right = right - (right * axis).sum(1, keepdims=True) * axis
    return np.asarray(np.degrees(np.arctan2((np.cross(axis, left) * right).sum(1), (left * right).sum(1))))
