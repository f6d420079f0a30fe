"""The best superposition of structures with the same atoms in the same order (Kabsch, Acta Cryst. A 32, 922 (1976))."""

from __future__ import annotations

import numpy as np


def align(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (B, 3, 3) and centred, rotated ``moving`` (B, n, 3) closest to the centred ``fixed``."""
    a = moving - moving.mean(1, keepdims=True)
    b = fixed - fixed.mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("bni,bnj->bij", a, b))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, -1] *= sign[:, None]
    rotation = u @ vt
    return rotation, a @ rotation


def rmsd(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B,) root mean square deviation (A) of (B, n, 3) structures after alignment."""
    _, moved = align(second, first)
    centred = first - first.mean(1, keepdims=True)
    return np.asarray(np.sqrt(((moved - centred) ** 2).sum(-1).mean(-1)))
