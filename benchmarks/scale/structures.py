"""Structures as varied in size and composition as OMol25's, with charges and spins, labelled by a formula.

Sites of a cubic lattice that are nearest to a random centre, by a random ellipsoid, moved at random: compact, with some
50 atoms within 5 Angstrom of one inside, as in molecules. Sizes are spread evenly on a logarithmic scale.

The formula has a wall and a well for each pair of atoms, smooth everywhere, and forces that are its exact gradient; the
state adds a constant.

Beside them frames of one molecule, ethanol, that is held together by springs between all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from equimd.data.frames import Frames
from equimd.data.store_write import write_store

SIZES = (2, 350)  # atoms
ELEMENTS = {1: 0.45, 6: 0.28, 8: 0.08, 7: 0.07, 9: 0.02, 16: 0.02, 17: 0.02, 15: 0.01, 14: 0.01, 35: 0.01, 3: 0.01,
            11: 0.01, 26: 0.005, 30: 0.005}  # fmt: skip
SPACING, JITTER = 2.2, 0.12  # Angstrom
WALL, SOFT = 0.3, 0.35  # eV at the sum of the radii, and Angstrom over which it falls by e
WELL, WIDTH = 0.15, 0.5  # eV, Angstrom
REACH = 6.0  # Angstrom, beyond which atoms do not see each other
EACH = 13.6  # eV a proton, the bulk of an atom's energy
BLOCK = 256  # frames that are in memory at once
SPRING, SHAKEN = 5.0, 0.05  # eV/A^2 between all atoms of ethanol, and Angstrom by which each is moved
ETHANOL = "ethanol"


def radii(numbers: np.ndarray) -> np.ndarray:
    """Covalent radii, Angstrom."""
    from ase.data import covalent_radii

    return covalent_radii[numbers]


def labels(numbers: np.ndarray, positions: np.ndarray, charge: int, spin: int) -> tuple[float, np.ndarray]:
    """Energy, eV, and forces (n, 3), eV/Angstrom, of one structure of n atoms."""
    square = np.square(positions[:, None] - positions).sum(-1)
    i, j = np.nonzero(np.triu(square < REACH**2, 1))
    between, r = positions[i] - positions[j], np.sqrt(square[i, j])
    size = radii(numbers)
    apart = r - (size[i] + size[j])
    wall = WALL * np.exp(-apart / SOFT)
    well = WELL * np.exp(-np.square((apart - SOFT) / WIDTH))
    left = 1 - np.square(r / REACH)  # times its cube, all ends smoothly at REACH
    energy = float(((wall - well) * left**3).sum())
    energy += 0.5 * charge**2 + 0.1 * (spin - 1) - EACH * float(numbers.sum())
    slope = (2 * well * (apart - SOFT) / WIDTH**2 - wall / SOFT) * left**3
    slope -= (wall - well) * 6 * np.square(left) * r / REACH**2
    pull = -(slope / r)[:, None] * between
    forces = np.stack([np.bincount(i, x, len(numbers)) - np.bincount(j, x, len(numbers)) for x in pull.T], 1)
    return energy, forces


def structure(rng: np.random.Generator, sizes: tuple[int, int] = SIZES) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Atomic numbers (n,), positions (n, 3), charge and multiplicity of one structure, drawn at random."""
    low, high = np.log(sizes[0]), np.log(sizes[1] + 1)
    n = min(int(np.exp(rng.uniform(low, high))), sizes[1])
    shape = rng.uniform(0.6, 1.6, 3)
    reach = np.ceil(shape * (n / (4 * shape.prod())) ** (1 / 3)).astype(int) + 1
    sites = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in reach], indexing="ij"), -1).reshape(-1, 3)
    centre = rng.uniform(-0.5, 0.5, 3)
    near = np.argpartition(np.square((sites - centre) / shape).sum(1), n - 1)[:n]
    positions = SPACING * sites[near] + rng.normal(0.0, JITTER, (n, 3))
    share = rng.dirichlet(20 * np.array(list(ELEMENTS.values())) + 0.02)
    numbers = rng.choice(np.array(list(ELEMENTS), np.uint8), n, p=share)
    charge = int(rng.choice([0, 0, 0, 0, -1, 1, -2, 2]))
    spin = 1 + (int(numbers.sum()) - charge) % 2 + 2 * int(rng.random() < 0.1)
    return numbers, positions, charge, spin


def frames(seed: list[int], count: int, sizes: tuple[int, int] = SIZES) -> Iterator[Frames]:
    """Labelled structures, in blocks."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        made = [structure(rng, sizes) for _ in range(min(BLOCK, count - start))]
        told = [labels(*one) for one in made]
        width = max(len(numbers) for numbers, *_ in made)
        yield Frames.build(
            np.stack([np.pad(numbers, (0, width - len(numbers))) for numbers, *_ in made]),
            np.stack([np.pad(x, ((0, width - len(x)), (0, 0))) for _, x, *_ in made]),
            np.array([energy for energy, _ in told]),
            np.stack([np.pad(f, ((0, width - len(f)), (0, 0))) for _, f in told]),
            charge=np.array([charge for _, _, charge, _ in made]),
            spin=np.array([spin for *_, spin in made]),
        )


def ethanol_frames(seed: list[int], count: int) -> Iterator[Frames]:
    """Labelled frames of ethanol, in blocks."""
    from ase.build import molecule

    rng, atoms = np.random.default_rng(seed), molecule("CH3CH2OH")
    rest, n = atoms.get_all_distances(), len(atoms)
    rest += np.eye(n)  # nothing is divided by zero
    for start in range(0, count, 16 * BLOCK):
        shape = (min(16 * BLOCK, count - start), n, 3)
        positions = atoms.positions + rng.normal(0.0, SHAKEN, shape)
        between = positions[:, :, None] - positions[:, None]
        apart = np.sqrt(np.square(between).sum(-1)) + np.eye(n)
        longer = apart - rest
        energy = 0.25 * SPRING * np.square(longer).sum((1, 2)) - EACH * atoms.numbers.sum()
        forces = -SPRING * ((longer / apart)[..., None] * between).sum(2)
        yield Frames.build(atoms.numbers, positions, energy, forces)


def write_shards(folder: Path, count: int, shards: int, seed: int = 0, sizes: tuple[int, int] | str = SIZES) -> None:
    """``shards`` stores of ``count`` structures together, of so many atoms or of ethanol; those that are there already
    stay."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.linspace(0, count, shards + 1).round().astype(int)
    for k in range(shards):
        path = folder / f"part{k}.h5"
        if not path.exists():
            size = int(ends[k + 1] - ends[k])
            made = ethanol_frames([seed, k], size) if isinstance(sizes, str) else frames([seed, k], size, sizes)
            write_store(path, made, theory="formula, no chemistry")
