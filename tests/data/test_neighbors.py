"""The neighbour backends return the same edges, and the right ones."""

from __future__ import annotations

import builtins
import importlib.util

import numpy as np
import pytest
import torch

from equimd.data import neighbors
from equimd.data.neighbors import choose_backend, has_torch_cluster, neighbor_list
from equimd.errors import ConfigError, DataError

CUTOFF = 5.0
needs_torch_cluster = pytest.mark.skipif(
    not has_torch_cluster(), reason="torch-cluster is not installed for this torch"
)
OPEN_BACKENDS = ["torch", pytest.param("torch-cluster", marks=needs_torch_cluster), "vesin"]


@pytest.fixture(params=OPEN_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def random_structures(sizes: list[int], *, density: float = 0.05, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    points = [rng.uniform(0, (n / density) ** (1 / 3), (n, 3)) for n in sizes]
    return torch.from_numpy(np.concatenate(points)), torch.tensor(sizes)


def edge_set(index: torch.Tensor) -> set[tuple[int, int]]:
    pairs = list(zip(*index.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)), "an edge is listed twice"
    return set(pairs)


def brute_force(positions: torch.Tensor, n_atoms: torch.Tensor, cutoff: float = CUTOFF) -> set[tuple[int, int]]:
    structure = np.repeat(np.arange(len(n_atoms)), n_atoms.numpy())
    x = positions.double().numpy()
    near = np.linalg.norm(x[:, None] - x[None], axis=-1) < cutoff
    near &= (structure[:, None] == structure[None]) & ~np.eye(len(x), dtype=bool)
    return {(int(j), int(i)) for i, j in zip(*near.nonzero(), strict=True)}


SIZES = [[1], [2], [3], [9], [21], [1, 1, 1], [4, 1, 17, 2, 9], [64], [30, 150, 3]]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_pair_and_no_other(backend, sizes) -> None:
    positions, n_atoms = random_structures(sizes)
    index, shifts = neighbor_list(positions, n_atoms, CUTOFF, backend=backend)
    assert shifts is None
    assert index.dtype == torch.int64
    assert index.shape[0] == 2
    assert edge_set(index) == brute_force(positions, n_atoms)


@pytest.mark.parametrize("sizes", [[120], [40, 90], [300]], ids=str)
def test_more_than_32_neighbours_are_all_kept(backend, sizes) -> None:
    """torch-cluster keeps 32 neighbours of an atom by default and drops the rest without a word."""
    positions, n_atoms = random_structures(sizes, density=0.3, seed=1)
    index, _ = neighbor_list(positions, n_atoms, CUTOFF, backend=backend)
    assert torch.bincount(index[1]).max() > 64
    assert edge_set(index) == brute_force(positions, n_atoms)


def test_all_atoms_within_reach_of_each_other(backend) -> None:
    positions, n_atoms = random_structures([50], density=10.0)
    index, _ = neighbor_list(positions, n_atoms, CUTOFF, backend=backend)
    assert index.shape[1] == 50 * 49


def test_edges_come_in_both_directions(backend) -> None:
    positions, n_atoms = random_structures([30, 20])
    edges = edge_set(neighbor_list(positions, n_atoms, CUTOFF, backend=backend)[0])
    assert edges == {(i, j) for j, i in edges}


def test_atoms_in_any_order_and_structures_on_top_of_each_other(backend) -> None:
    """Structures may overlap in space, and their atoms may be sorted in no way: only the structure counts."""
    rng = np.random.default_rng(5)
    positions = torch.from_numpy(rng.permutation(rng.normal(size=(60, 3)) * 4))
    n_atoms = torch.tensor([7, 30, 1, 22])
    index, _ = neighbor_list(positions, n_atoms, CUTOFF, backend=backend)
    assert edge_set(index) == brute_force(positions, n_atoms)


def test_nothing_in_reach(backend) -> None:
    positions = torch.tensor([[0.0, 0, 0], [9.0, 0, 0], [0.0, 9, 0]], dtype=torch.float64)
    for n_atoms in (torch.tensor([3]), torch.tensor([1, 1, 1])):
        index, _ = neighbor_list(positions, n_atoms, CUTOFF, backend=backend)
        assert index.shape == (2, 0)
        assert index.dtype == torch.int64


def test_no_structures_at_all(backend) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    index, shifts = neighbor_list(torch.zeros(0, 3), none, CUTOFF, backend=backend)
    assert index.shape == (2, 0)
    assert index.dtype == torch.int64
    assert shifts is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_exactly_at_the_cutoff_is_no_pair(backend, dtype) -> None:
    below = float(np.nextafter(np.float32(5), np.float32(0)))
    positions = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [0.0, below, 0], [3.0, -4.0, 0]], dtype=dtype)
    edges = edge_set(neighbor_list(positions, torch.tensor([4]), CUTOFF, backend=backend)[0])
    assert {e for e in edges if 0 in e} == {(0, 2), (2, 0)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_positions_is_kept(backend, dtype) -> None:
    """Far from the origin too: differences, not a matrix product of large numbers."""
    positions, n_atoms = random_structures([80])
    positions = (positions + 1000.0).to(dtype)
    assert edge_set(neighbor_list(positions, n_atoms, CUTOFF, backend=backend)[0]) == brute_force(positions, n_atoms)


def test_backends_agree_on_what_auto_chooses() -> None:
    for sizes in SIZES:
        positions, n_atoms = random_structures(sizes, seed=3)
        auto, _ = neighbor_list(positions, n_atoms, CUTOFF)
        assert edge_set(auto) == brute_force(positions, n_atoms)


def test_positions_are_left_alone_and_need_no_gradient(backend) -> None:
    positions, n_atoms = random_structures([12])
    kept = positions.clone()
    index, _ = neighbor_list(positions.requires_grad_(True), n_atoms, CUTOFF, backend=backend)
    assert not index.requires_grad
    assert torch.equal(positions.detach(), kept)


# periodic


def images(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> set[tuple[int, int, tuple]]:
    """Every (j, i, lattice vector) closer than cutoff, by trying all images; the vector rounded to 1e-6 Angstrom."""
    spread = np.ptp(positions, axis=0).max() + cutoff
    heights = np.array([1 / np.linalg.norm(row) for row in np.linalg.inv(cell).T])
    reach = np.where(pbc, np.ceil(2 * spread / heights) + 1, 0).astype(int)
    out = set()
    for step in np.ndindex(*(2 * reach + 1)):
        n = np.array(step) - reach
        shift = n @ cell
        vectors = positions[None] + shift - positions[:, None]  # [i, j] = r_j + shift - r_i
        near = np.linalg.norm(vectors, axis=-1) < cutoff
        if not n.any():
            near &= ~np.eye(len(positions), dtype=bool)
        out |= {(int(j), int(i), rounded(shift)) for i, j in zip(*near.nonzero(), strict=True)}
    return out


def rounded(vector: np.ndarray) -> tuple:
    return tuple((np.rint(np.asarray(vector) * 1e6) + 0.0).astype(int).tolist())


CELLS = {
    "cubic": 6.0 * np.eye(3),
    "triclinic": np.array([[7.0, 0.0, 0.0], [2.5, 6.0, 0.0], [-1.5, 2.0, 8.0]]),
    "left-handed": np.array([[0.0, 6.0, 0.0], [7.0, 0.0, 0.0], [0.0, 1.0, 8.0]]),
    "smaller than the cutoff": np.array([[2.0, 0.0, 0.0], [0.7, 2.2, 0.0], [0.3, -0.4, 2.5]]),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("n", [1, 5])
def test_every_image_and_no_other(name, pbc, n) -> None:
    cell, flags = CELLS[name], np.array(pbc, bool)
    # atoms in the cell and outside of it: nobody has to wrap
    positions = np.random.default_rng(n).uniform(-0.5, 1.5, (n, 3)) @ cell
    index, shifts = neighbor_list(
        torch.from_numpy(positions),
        torch.tensor([n]),
        CUTOFF,
        cell=torch.from_numpy(cell)[None],
        pbc=torch.from_numpy(flags)[None],
    )
    found = {(j, i, rounded(s)) for (j, i), s in zip(index.T.tolist(), shifts.numpy(), strict=True)}
    assert len(found) == index.shape[1]
    assert found == images(positions, cell, flags, CUTOFF)


def test_each_structure_of_a_batch_has_its_own_cell() -> None:
    rng = np.random.default_rng(2)
    cells = [6.0 * np.eye(3), np.zeros((3, 3)), CELLS["triclinic"], np.diag([5.5, 9.0, 0.0])]
    flags = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    sizes = [4, 6, 3, 5]
    points = [rng.uniform(0, 6, (n, 3)) for n in sizes]
    index, shifts = neighbor_list(
        torch.from_numpy(np.concatenate(points)),
        torch.tensor(sizes),
        CUTOFF,
        cell=torch.from_numpy(np.stack(cells)),
        pbc=torch.from_numpy(flags),
    )
    expected, start = set(), 0
    for x, cell, pbc in zip(points, cells, flags, strict=True):
        full = cell + np.diag(np.where(pbc, 0.0, 1.0)) * (np.linalg.norm(cell, axis=1) == 0)
        expected |= {(j + start, i + start, s) for j, i, s in images(x, full, pbc, CUTOFF)}
        start += len(x)
    assert {(j, i, rounded(s)) for (j, i), s in zip(index.T.tolist(), shifts.numpy(), strict=True)} == expected


def test_empty_periodic_results() -> None:
    index, shifts = neighbor_list(
        torch.zeros(1, 3),
        torch.tensor([1]),
        CUTOFF,
        cell=20.0 * torch.eye(3)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    assert index.shape == (2, 0)
    assert shifts.shape == (0, 3)


# refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["auto", "torch", "torch-cluster", "vesin"])
def test_positions_that_are_no_numbers_are_refused(bad, backend) -> None:
    """torch-cluster would answer with no edges at all."""
    positions, n_atoms = random_structures([5])
    positions[2, 1] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        neighbor_list(positions, n_atoms, CUTOFF, backend=backend)


def test_unknown_backends_are_refused() -> None:
    positions, n_atoms = random_structures([3])
    with pytest.raises(ConfigError) as caught:
        neighbor_list(positions, n_atoms, CUTOFF, backend="matscipy")
    assert "matscipy" in caught.value.what
    assert "vesin" in caught.value.hint


@pytest.mark.parametrize("backend", ["torch", "torch-cluster"])
def test_backends_that_cannot_do_periodic_systems_refuse(backend) -> None:
    positions, n_atoms = random_structures([3])
    with pytest.raises(ConfigError, match="periodic"):
        neighbor_list(
            positions,
            n_atoms,
            CUTOFF,
            cell=torch.eye(3)[None],
            pbc=torch.tensor([[True, False, False]]),
            backend=backend,
        )


@pytest.mark.parametrize(
    "cell", [np.zeros((3, 3)), np.diag([4.0, 4.0, 0.0]), np.array([[4.0, 0, 0], [8.0, 0, 0], [0, 0, 4.0]])]
)
def test_a_periodic_direction_needs_a_lattice_vector(cell) -> None:
    positions, n_atoms = random_structures([3])
    with pytest.raises(DataError, match="cell"):
        neighbor_list(
            positions, n_atoms, CUTOFF, cell=torch.from_numpy(cell)[None], pbc=torch.ones(1, 3, dtype=torch.bool)
        )


def test_torch_cluster_asked_for_and_absent(monkeypatch) -> None:
    positions, n_atoms = random_structures([3])
    monkeypatch.setattr(neighbors, "has_torch_cluster", lambda: False)
    with pytest.raises(ConfigError) as caught:
        neighbor_list(positions, n_atoms, CUTOFF, backend="torch-cluster")
    assert "equimd[cluster]" in caught.value.hint


def test_a_torch_cluster_that_does_not_import_counts_as_absent(monkeypatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: object, **kwargs: object) -> object:
        if name == "torch_cluster":
            raise OSError("undefined symbol")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(builtins, "__import__", broken)
    has_torch_cluster.cache_clear()
    try:
        assert not has_torch_cluster()
    finally:
        has_torch_cluster.cache_clear()


def test_auto_never_needs_torch_cluster(monkeypatch) -> None:
    assert choose_backend(9, periodic=True) == "vesin"
    assert choose_backend(9, periodic=False) == "torch"
    assert choose_backend(100_000, periodic=False) == "vesin"
    monkeypatch.setattr(neighbors, "has_torch_cluster", lambda: False)
    assert {choose_backend(n, periodic=False) for n in (1, 128, 129, 1000, 5000)} == {"torch", "vesin"}
