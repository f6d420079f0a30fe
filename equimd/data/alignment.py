"""The best superposition of structures with the same atoms in the same order (Kabsch, Acta Cryst. A 32, 922 (1976))."""

from __future__ import annotations

import numpy as np

from equimd.data.cells import nearest_images


def align(moving: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (B, 3, 3) and centred, rotated ``moving`` (B, n, 3) closest to the centred ``fixed``."""
    a = moving - moving.mean(1, keepdims=True)
    b = fixed - fixed.mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("bni,bnj->bij", a, b))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, -1] *= sign[:, None]
    rotation = u @ vt
    return rotation, a @ rotation


def rmsd(
    first: np.ndarray, second: np.ndarray, cell: np.ndarray | None = None, pbc: np.ndarray | None = None
) -> np.ndarray:
    """(B,) root mean square deviation (A) of (B, n, 3) structures after alignment.

    Periodic ones, of cells (B, 3, 3) periodic along pbc (B, 3), are not turned: atoms move to the nearest images.
    """
    _, moved = align(second, first)
    apart = moved - (first - first.mean(1, keepdims=True))
    if cell is not None and pbc is not None and pbc.any():
        held = pbc.any(1)
        apart[held] = nearest_images((second - first)[held], cell[held], pbc[held])
        apart[held] -= apart[held].mean(1, keepdims=True)
    return np.asarray(np.sqrt((apart**2).sum(-1).mean(-1)))
