"""Periodic boundary conditions: crystals, slabs, and cells smaller than the cutoff."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.data.frames import Frames
from equimd.errors import ConfigError
from tests.data.test_lattice import random_cell
from tests.physics import random_cells

CELL = np.array([[2.9, 0.0, 0.0], [0.4, 3.1, 0.0], [-0.3, 0.5, 3.3]])  # triclinic, each height below the cutoff of 3.5
SCALED = np.array([[0.05, 0.1, 0.1], [0.5, 0.55, 0.45], [0.95, 0.6, 0.9]])
NUMBERS = np.array([[8, 6, 1]])
ALL, SLAB, WIRE = (True, True, True), (True, True, False), (False, False, True)


def crystal(pbc: tuple[bool, bool, bool] = ALL, cell: np.ndarray = CELL) -> Frames:
    return Frames.build(NUMBERS, (SCALED @ cell)[None], cell=cell[None], pbc=np.array([pbc]))


def supercell(frames: Frames, repeats: tuple[int, int, int]) -> Frames:
    """The same crystal in a larger cell, the original atoms first."""
    shifts = np.array(list(np.ndindex(*repeats))) @ frames.cell[0]
    positions = (frames.positions[0][None] + shifts[:, None]).reshape(1, -1, 3)
    cell = frames.cell * np.array(repeats)[None, :, None]
    return Frames.build(np.tile(frames.numbers, len(shifts)), positions, cell=cell, pbc=frames.pbc)


def cluster(frames: Frames, reach: float) -> Frames:
    """The open cluster of all images within ``reach`` of the cell's atoms, the cell's own first: brute force."""
    lengths = np.linalg.norm(frames.cell[0], axis=1)
    counts = np.where(frames.pbc[0], np.ceil(2 * reach / lengths) + 2, 0).astype(int)
    grid = np.array(list(np.ndindex(*(2 * counts + 1)))) - counts
    grid = grid[np.argsort(np.abs(grid).sum(1), kind="stable")]
    own = frames.positions[0]
    points = (own[None] + (grid @ frames.cell[0])[:, None]).reshape(-1, 3)
    numbers = np.tile(frames.numbers[0], len(grid))
    near = np.linalg.norm(points[:, None] - own[None], axis=-1).min(1) < reach
    return Frames.build(numbers[near][None], points[near][None])


@pytest.mark.parametrize("pbc", [ALL, SLAB, (False, True, True), (True, False, False), WIRE], ids=str)
def test_random_cells_against_all_images(make_case, pbc) -> None:
    """Skewed, left-handed and tiny cells: the model on the pairs that trying every image finds."""
    case, rng, flags = make_case("float64"), np.random.default_rng(sum(pbc)), np.array(pbc)
    for n in (1, 2, 3, 4):
        cell, positions = random_cell(rng), rng.uniform(0.0, 3.0, (n, 3))
        frames = Frames.build(rng.choice([1, 6, 8], (1, n)), positions[None], cell=cell[None], pbc=flags[None])
        batch = case.batch(frames)
        every = random_cells.by_all_images(batch, positions, cell, flags, case.model.config.cutoff)
        a, b = case.model(batch), case.model(every)
        for key in ("energy", "forces"):  # the shifts of the pairs are rounded to 1e-6 Angstrom
            case.same(a[key], b[key], 1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2], ids=list(random_cells.KINDS))
def test_random_cells_against_all_images_and_in_dynamics(seed, tmp_path) -> None:
    assert random_cells.tried(seed, tmp_path) == []


@pytest.mark.parametrize("pbc", [ALL, SLAB, WIRE], ids=["crystal", "slab", "wire"])
def test_supercell_has_the_energy_and_forces_of_its_cells(case, pbc) -> None:
    small = crystal(pbc)
    repeats = tuple(2 if p else 1 for p in pbc)
    count = int(np.prod(repeats))
    a, b = case(small), case(supercell(small, repeats))
    assert a["forces"].abs().max() > 1e-2
    case.same(b["energy"] / count, a["energy"], case.tolerances.symmetry)
    case.same(b["features"] / count, a["features"], case.tolerances.symmetry)
    case.same(b["forces"], a["forces"].repeat(count, 1), case.tolerances.symmetry)


@pytest.mark.parametrize("pbc", [ALL, SLAB, WIRE], ids=["crystal", "slab", "wire"])
def test_forces_are_those_of_an_atom_deep_in_a_cluster(dtype, make_case, pbc) -> None:
    """Two layers of messages reach two cutoffs far: the direct head's forces there are the crystal's."""
    case = make_case(dtype, "direct")
    frames = crystal(pbc)
    big = cluster(frames, 2 * case.model.config.cutoff + 0.1)
    assert np.array_equal(big.numbers[0, :3], NUMBERS[0])
    case.same(case(frames)["forces"], case(big, "torch")["forces"][:3], case.tolerances.symmetry)


@pytest.mark.parametrize("pbc", [ALL, SLAB], ids=["crystal", "slab"])
def test_wrapping_and_translation_change_nothing(case, pbc) -> None:
    frames = crystal(pbc)
    before = case(frames)
    hops = np.array([[3, 0, 0], [-1, 2, -4], [0, -5, 1]]) * np.array(pbc)
    wrapped = case(replace(frames, positions=frames.positions + hops @ CELL))
    moved = frames.positions + np.array([1.7, -2.2, 0.9])
    scaled = moved @ np.linalg.inv(CELL)
    crossed = np.where(np.array(pbc), scaled - np.floor(scaled), scaled) @ CELL
    assert np.abs(crossed - moved).max() > 1.0, "some atoms crossed the boundary"
    for after in (wrapped, case(replace(frames, positions=crossed))):
        for key in ("energy", "features", "forces"):
            case.same(after[key], before[key], case.tolerances.symmetry)


def test_the_open_direction_of_a_slab_is_open(case) -> None:
    """The cell's row along an open direction means nothing, nor does the vacuum."""
    frames = crystal(SLAB)
    other = frames.cell.copy()
    other[0, 2] = [0.0, 0.0, 40.0]
    none = frames.cell.copy()
    none[0, 2] = 0.0
    before = case(frames)
    for cell in (other, none):
        after = case(replace(frames, cell=cell))
        case.same(after["energy"], before["energy"])
        case.same(after["forces"], before["forces"])


def test_large_box_equals_the_open_molecule(case, make_frames) -> None:
    frames = make_frames(6)
    boxed = replace(frames, cell=30.0 * np.eye(3)[None], pbc=np.ones((1, 3), bool))
    a, b = case(frames), case(boxed)
    case.same(b["energy"], a["energy"])
    case.same(b["forces"], a["forces"])


def test_periodic_and_open_structures_share_a_batch(case, make_frames) -> None:
    frames = Frames.concatenate([make_frames(5), crystal(), make_frames(4, seed=2), crystal(SLAB)])
    batch = case.batch(frames)
    assert batch.num_slots == 0
    together = case.model(batch)
    singles = [case(frames.take([k])) for k in range(4)]
    case.same(together["energy"], torch.cat([s["energy"] for s in singles]))
    case.same(together["forces"], torch.cat([s["forces"] for s in singles]))


def test_one_atom_sees_its_own_images(case) -> None:
    cell = np.diag([2.0, 2.5, 3.0])[None]
    frames = Frames.build(np.array([[6]]), np.zeros((1, 1, 3)), cell=cell, pbc=np.ones((1, 3), bool))
    crystal, alone = case(frames), case(replace(frames, pbc=np.zeros((1, 3), bool)))
    assert (crystal["energy"] - alone["energy"]).abs() > 1e-3
    assert crystal["forces"].abs().max() < case.tolerances.symmetry


def test_periodic_forces_match_central_differences(make_case) -> None:
    case, frames = make_case("float64"), crystal()
    step = case.tolerances.difference_step
    moves = np.eye(9).reshape(9, 3, 3) * step
    rows = np.zeros(9, int)
    plus, minus = (case(replace(frames.take(rows), positions=frames.positions + s * moves))["energy"] for s in (1, -1))
    case.same(((minus - plus) / (2 * step)).view(3, 3), case(frames)["forces"], case.tolerances.difference)
    assert case(frames)["forces"].sum(0).abs().max() < 1e-12


def test_double_precision_batches_fit_a_single_precision_model(make_case) -> None:
    from equimd.data.batch import Batch

    case = make_case("float32")
    batch = Batch.from_frames(crystal(), case.model.config.cutoff, dtype=torch.float64)
    out = case.model(batch)
    assert out["forces"].dtype == torch.float32
    case.same(out["energy"], case(crystal())["energy"])


@pytest.mark.parametrize("neighbors", ["dense", "torch", "torch-cluster"])
def test_layouts_that_cannot_do_it_refuse(make_case, neighbors) -> None:
    with pytest.raises(ConfigError, match="periodic"):
        make_case("float64").batch(crystal(), neighbors)
