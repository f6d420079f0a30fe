"""Neighbour lists: torch-cluster where it is installed, an exact pure-torch twin, vesin for periodic or large systems.

All three return the same set of edges (j -> i, every ordered pair closer than the cutoff, no self pairs but through a
lattice image); tests hold them equal. ``edge_index`` (2, E): row 0 the source j, row 1 the target i.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
import torch
from torch import Tensor

from equimd.data.cells import periodic_cells
from equimd.errors import ConfigError, DataError

BACKENDS = ("auto", "torch", "torch-cluster", "vesin")
TORCH_MAX_ATOMS = 128  # above, the n^2 distances of the pure-torch twin cost more than a cell list


@cache
def has_torch_cluster() -> bool:
    """Whether torch-cluster can be imported (its compiled part must fit the installed torch)."""
    if importlib.util.find_spec("torch_cluster") is None:
        return False
    try:
        import torch_cluster  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def choose_backend(largest: int, periodic: bool) -> str:
    """What ``auto`` means for structures of up to ``largest`` atoms."""
    if periodic:
        return "vesin"
    if largest <= TORCH_MAX_ATOMS:
        return "torch"
    return "torch-cluster" if has_torch_cluster() and largest < 2000 else "vesin"


def neighbor_list(
    positions: Tensor,
    n_atoms: Tensor,
    cutoff: float,
    *,
    cell: Tensor | None = None,
    pbc: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """All ordered pairs closer than ``cutoff`` within each structure.

    Args:
        positions: (N, 3) Angstrom, structure after structure.
        n_atoms: (B,) atoms of each structure, summing to N.
        cutoff: Angstrom.
        cell: (B, 3, 3) Angstrom, rows are lattice vectors.
        pbc: (B, 3) bool.
        backend: one of ``BACKENDS``.

    Returns:
        edge_index (2, E) int64, and edge_shifts (E, 3) Angstrom added to r_j (None if nothing is periodic).

    Raises:
        ConfigError: unknown backend, torch-cluster asked for and absent, or one that cannot do periodic systems.
        DataError: positions that are not finite (torch-cluster would return no edges, silently), or a periodic
            direction without a lattice vector of its own.
    """
    periodic = pbc is not None and bool(pbc.any())
    if backend == "auto":
        backend = choose_backend(int(n_atoms.max()) if len(n_atoms) else 0, periodic)
    if backend not in BACKENDS:
        raise ConfigError(f"unknown neighbour backend '{backend}'", hint="one of " + ", ".join(BACKENDS))
    if periodic and backend != "vesin":
        raise ConfigError(f"neighbour backend '{backend}' cannot do periodic systems", hint="use vesin, or auto")
    if not bool(torch.isfinite(positions).all()):
        raise DataError("positions are NaN or infinite", where="neighbour list")
    positions = positions.detach()
    if not len(n_atoms):
        return torch.zeros(2, 0, dtype=torch.int64, device=positions.device), None
    if backend == "torch":
        return _torch_pairs(positions, n_atoms, cutoff), None
    if backend == "torch-cluster":
        return _torch_cluster_pairs(positions, n_atoms, cutoff), None
    return _vesin_pairs(positions, n_atoms, cutoff, cell, pbc, periodic)


def _torch_pairs(positions: Tensor, n_atoms: Tensor, cutoff: float) -> Tensor:
    """Exact all-pairs distances, structures padded to the largest."""
    size, count = int(n_atoms.max()), len(n_atoms)
    slot = torch.arange(size, device=positions.device)
    real = slot[None] < n_atoms[:, None]
    padded = positions.new_zeros(count, size, 3)
    padded[real] = positions
    index = torch.full((count, size), -1, dtype=torch.int64, device=positions.device)
    index[real] = torch.arange(len(positions), device=positions.device)
    # explicit differences: cdist's matrix-product form loses digits near the cutoff
    distance2 = (padded[:, :, None] - padded[:, None]).square().sum(-1)
    pair = (distance2 < cutoff * cutoff) & real[:, :, None] & real[:, None]
    pair &= ~torch.eye(size, dtype=torch.bool, device=positions.device)
    b, i, j = pair.nonzero(as_tuple=True)
    return torch.stack([index[b, j], index[b, i]])


def _torch_cluster_pairs(positions: Tensor, n_atoms: Tensor, cutoff: float) -> Tensor:
    if not has_torch_cluster():
        what = "torch-cluster is not installed, or was built for another torch"
        raise ConfigError(what, hint="pip install 'equimd[cluster]'")
    import torch_cluster

    batch = torch.repeat_interleave(torch.arange(len(n_atoms), device=positions.device), n_atoms)
    # its default of 32 neighbours drops the rest silently: ask for as many as there can be
    limit = max(int(n_atoms.max()), 1)
    edges = torch_cluster.radius_graph(positions, cutoff, batch=batch, loop=False, max_num_neighbors=limit)
    vectors = positions[edges[0]] - positions[edges[1]]
    return edges[:, vectors.square().sum(-1) < cutoff * cutoff]


def _vesin_pairs(
    positions: Tensor, n_atoms: Tensor, cutoff: float, cell: Tensor | None, pbc: Tensor | None, periodic: bool
) -> tuple[Tensor, Tensor | None]:
    import vesin

    points = positions.to(torch.float64).cpu().numpy()
    edges, shifts, start = [], [], 0
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True)
    for k, n in enumerate(n_atoms.tolist()):
        flags = pbc[k].cpu().numpy() if pbc is not None else np.zeros(3, bool)
        box = cell[k].to(torch.float64).cpu().numpy() if cell is not None and flags.any() else np.zeros((3, 3))
        periodic_cells(box[None], flags[None], f"neighbour list, frame {k}")
        if flags.any() and not flags.all():  # vesin wants a cell of full rank even for slabs
            box = _complete_cell(box, flags, points[start : start + n], cutoff)
        i, j, s = finder.compute(points=points[start : start + n], box=box, periodic=flags, quantities="ijS")
        edges.append(np.stack([j, i]).astype(np.int64) + start)
        shifts.append(s.astype(np.float64) @ box)
        start += n
    index = torch.from_numpy(np.concatenate(edges, 1)).to(positions.device)
    if not periodic:
        return index, None
    return index, torch.from_numpy(np.concatenate(shifts)).to(positions)


def _complete_cell(box: np.ndarray, flags: np.ndarray, points: np.ndarray, cutoff: float) -> np.ndarray:
    """Fill the rows of open directions with vectors long enough to hold all atoms."""
    from ase.geometry import complete_cell

    box = np.where(flags[:, None], box, 0.0)
    full = np.array(complete_cell(box))
    span = float(np.ptp(points, axis=0).sum()) + 2 * cutoff if len(points) else 2 * cutoff
    scale = span / np.linalg.norm(full, axis=1)
    return np.where(flags[:, None], full, full * scale[:, None])
